package charts

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"sigs.k8s.io/yaml"
)

// Fetcher is the door to the network. Errors say what to do about a server that does
// not answer, is not trusted, or wants a password.
type Fetcher interface {
	// Get opens an http or https URL: a repository's index or a chart's archive.
	Get(ctx context.Context, url string) (io.ReadCloser, error)
	// Tags lists a repository's tags, in any order.
	Tags(ctx context.Context, repository name.Repository) ([]string, error)
	// Manifest gets the manifest that a tag or digest names.
	Manifest(ctx context.Context, repository name.Repository, reference string) ([]byte, error)
	// Blob opens a blob of a repository.
	Blob(ctx context.Context, repository name.Repository, d v1.Descriptor) (io.ReadCloser, error)
}

const (
	maxRepoIndex = 64 << 20 // a repository's index.yaml
	maxManifest  = 4 << 20
)

func fetch(ctx context.Context, ref Ref, f Fetcher) (*Chart, error) {
	switch {
	case ref.Repo == "" && strings.HasPrefix(ref.Chart, "oci://"):
		return fetchOCI(ctx, strings.TrimPrefix(ref.Chart, "oci://"), ref.Version, f)
	case ref.Repo == "":
		return fetchURL(ctx, ref.Chart, "", f)
	case strings.HasPrefix(ref.Repo, "oci://"):
		return fetchOCI(ctx, strings.TrimSuffix(strings.TrimPrefix(ref.Repo, "oci://"), "/")+"/"+ref.Chart, ref.Version, f)
	case isURL(ref.Repo):
		return fetchRepo(ctx, ref, f)
	}
	return nil, fmt.Errorf("repository %q is not a URL: https://…, http://… or oci://… are known", ref.Repo)
}

// fetchURL gets an archive; sum is its SHA-256 in hex, "" if nobody said.
func fetchURL(ctx context.Context, from, sum string, f Fetcher) (*Chart, error) {
	data, err := get(ctx, from, maxArchive, f)
	if err != nil {
		return nil, err
	}
	if got := digest(data).Hex; sum != "" && got != sum {
		return nil, fmt.Errorf("%w: %s has sha256 %s, and the repository's index says %s", ErrDamaged, from, got, sum)
	}
	return Parse(data, from)
}

func get(ctx context.Context, from string, limit int64, f Fetcher) ([]byte, error) {
	r, err := f.Get(ctx, from)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := readAll(r, limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", from, err)
	}
	return data, nil
}

// repoIndex is what is read of a repository's index.yaml.
type repoIndex struct {
	Entries map[string][]repoEntry `json:"entries"`
}

type repoEntry struct {
	Version string   `json:"version"`
	URLs    []string `json:"urls"`
	Digest  string   `json:"digest"`
}

func fetchRepo(ctx context.Context, ref Ref, f Fetcher) (*Chart, error) {
	base, err := url.Parse(strings.TrimSuffix(ref.Repo, "/") + "/")
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", ref.Repo, err)
	}
	data, err := get(ctx, base.JoinPath("index.yaml").String(), maxRepoIndex, f)
	if err != nil {
		return nil, err
	}
	var index repoIndex
	if err := yaml.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("reading the index of repository %s: %w", ref.Repo, err)
	}
	entries, ok := index.Entries[ref.Chart]
	if !ok {
		return nil, fmt.Errorf("%w: repository %s has no chart %s", ErrNotFound, ref.Repo, ref.Chart)
	}
	versions := make([]string, len(entries))
	for i, e := range entries {
		versions[i] = e.Version
	}
	version, err := newest(versions, ref.Version)
	if err != nil {
		return nil, fmt.Errorf("chart %s of repository %s: %w", ref.Chart, ref.Repo, err)
	}
	entry := entries[slices.Index(versions, version)]
	if len(entry.URLs) == 0 {
		return nil, fmt.Errorf("%w: repository %s names no place to get %s %s from", ErrNotFound, ref.Repo, ref.Chart, version)
	}
	at, err := base.Parse(entry.URLs[0])
	if err != nil {
		return nil, fmt.Errorf("repository %s, chart %s: %w", ref.Repo, ref.Chart, err)
	}
	var c *Chart
	if at.Scheme == "oci" {
		c, err = fetchOCI(ctx, strings.TrimPrefix(at.String(), "oci://"), version, f)
	} else {
		c, err = fetchURL(ctx, at.String(), strings.ToLower(strings.TrimPrefix(entry.Digest, "sha256:")), f)
	}
	if err != nil {
		return nil, err
	}
	if c.Name != ref.Chart || !sameVersion(c.Version, version) {
		return nil, fmt.Errorf("%w: %s is chart %s %s, and the repository's index calls it %s %s", ErrDamaged, at, c.Name, c.Version, ref.Chart, version)
	}
	return c, nil
}

// fetchOCI pulls REGISTRY/PATH/NAME, of the tag or digest that it carries or else of
// the newest version that matches.
func fetchOCI(ctx context.Context, at, version string, f Fetcher) (*Chart, error) {
	repo, reference, err := splitOCI(at)
	if err != nil {
		return nil, err
	}
	if reference == "" {
		if reference, err = ociTag(ctx, repo, version, f); err != nil {
			return nil, err
		}
	}
	a, err := fetchArtifact(ctx, repo, reference, f)
	if err != nil {
		return nil, err
	}
	for _, l := range a.Layers {
		if l.Desc.MediaType != ContentMediaType {
			continue
		}
		sep := ":"
		if strings.Contains(reference, ":") {
			sep = "@"
		}
		c, err := Parse(l.Data, "oci://"+repo.Name()+sep+reference)
		if err != nil {
			return nil, err
		}
		if version != "" && !matches(version, c.Version) {
			return nil, fmt.Errorf("%s is version %s, and %s is wanted", c.Source, c.Version, version)
		}
		c.artifact = &a
		return c, nil
	}
	return nil, fmt.Errorf("%w: %s:%s has no layer with a chart", ErrNotChart, repo, reference)
}

func splitOCI(at string) (name.Repository, string, error) {
	reference, repo := "", at
	if before, after, ok := strings.Cut(at, "@"); ok {
		repo, reference = before, after
	}
	if i := strings.LastIndex(repo, ":"); i > strings.LastIndex(repo, "/") {
		if reference == "" {
			reference = repo[i+1:]
		}
		repo = repo[:i]
	}
	r, err := name.NewRepository(repo, name.StrictValidation)
	if err != nil {
		return r, "", fmt.Errorf("oci://%s: %w", at, err)
	}
	return r, reference, nil
}

// ociTag finds the tag of a version. An exact one needs no list, which some registries
// do not give.
func ociTag(ctx context.Context, repo name.Repository, version string, f Fetcher) (string, error) {
	if _, err := semver.StrictNewVersion(version); err == nil {
		return strings.ReplaceAll(version, "+", "_"), nil
	}
	tags, err := f.Tags(ctx, repo)
	if err != nil {
		return "", err
	}
	versions := make([]string, len(tags))
	for i, t := range tags {
		versions[i] = strings.ReplaceAll(t, "_", "+")
	}
	found, err := newest(versions, version)
	if err != nil {
		return "", fmt.Errorf("oci://%s: %w", repo, err)
	}
	return tags[slices.Index(versions, found)], nil
}

func fetchArtifact(ctx context.Context, repo name.Repository, reference string, f Fetcher) (Artifact, error) {
	raw, err := f.Manifest(ctx, repo, reference)
	if err != nil {
		return Artifact{}, err
	}
	if want, err := v1.NewHash(reference); err == nil && digest(raw) != want {
		return Artifact{}, fmt.Errorf("%w: the registry gave a manifest of %s for %s", ErrDamaged, digest(raw), want)
	}
	if len(raw) > maxManifest {
		return Artifact{}, fmt.Errorf("%w: its manifest has %d bytes", ErrRefused, len(raw))
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return Artifact{}, fmt.Errorf("%w: the manifest of %s:%s: %w", ErrNotChart, repo, reference, err)
	}
	if m.Config.MediaType != ConfigMediaType {
		return Artifact{}, fmt.Errorf("%w: %s:%s is of type %q; charts have %q", ErrNotChart, repo, reference, m.Config.MediaType, ConfigMediaType)
	}
	a := Artifact{Manifest: raw}
	if a.Config, err = blob(ctx, repo, m.Config, maxManifest, f); err != nil {
		return a, err
	}
	for _, d := range m.Layers {
		if d.MediaType != ContentMediaType && d.MediaType != proofMediaType {
			return a, fmt.Errorf("%w: %s:%s has a layer of type %q", ErrRefused, repo, reference, d.MediaType)
		}
		data, err := blob(ctx, repo, d, maxArchive, f)
		if err != nil {
			return a, err
		}
		a.Layers = append(a.Layers, Layer{d, data})
	}
	return a, nil
}

func blob(ctx context.Context, repo name.Repository, d v1.Descriptor, limit int64, f Fetcher) ([]byte, error) {
	if d.Size < 0 || d.Size > limit {
		return nil, fmt.Errorf("%w: blob %s has %d bytes, more than a chart may have", ErrRefused, d.Digest, d.Size)
	}
	r, err := f.Blob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := readAll(r, d.Size)
	if err != nil {
		return nil, fmt.Errorf("reading blob %s of %s: %w", d.Digest, repo, err)
	}
	switch got := digest(data); {
	case int64(len(data)) < d.Size:
		return nil, fmt.Errorf("%w: blob %s of %s ends after %d of %d bytes", ErrTruncated, d.Digest, repo, len(data), d.Size)
	case got != d.Digest:
		return nil, fmt.Errorf("%w: blob %s of %s has the digest %s", ErrDamaged, d.Digest, repo, got)
	}
	return data, nil
}
