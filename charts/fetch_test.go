package charts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// network is a Fetcher of what is in memory.
type network struct {
	urls  map[string][]byte
	repos map[string]*memoryRepo // by REGISTRY/PATH
	asked []string
}

type memoryRepo struct {
	manifests map[string][]byte // by tag and digest
	blobs     map[string][]byte
}

func (n *network) Get(_ context.Context, url string) (io.ReadCloser, error) {
	n.asked = append(n.asked, url)
	b, ok := n.urls[url]
	if !ok {
		return nil, fmt.Errorf("%s: 404", url)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (n *network) repo(r name.Repository) (*memoryRepo, error) {
	m, ok := n.repos[r.Name()]
	if !ok {
		return nil, fmt.Errorf("%s: 404", r)
	}
	return m, nil
}

func (n *network) Tags(_ context.Context, r name.Repository) ([]string, error) {
	n.asked = append(n.asked, "tags "+r.Name())
	m, err := n.repo(r)
	if err != nil {
		return nil, err
	}
	var tags []string
	for t := range m.manifests {
		if !strings.Contains(t, ":") {
			tags = append(tags, t)
		}
	}
	slices.Sort(tags)
	return tags, nil
}

func (n *network) Manifest(_ context.Context, r name.Repository, reference string) ([]byte, error) {
	n.asked = append(n.asked, "manifest "+r.Name()+" "+reference)
	m, err := n.repo(r)
	if err != nil {
		return nil, err
	}
	b, ok := m.manifests[reference]
	if !ok {
		return nil, fmt.Errorf("%s %s: 404", r, reference)
	}
	return b, nil
}

func (n *network) Blob(_ context.Context, r name.Repository, d v1.Descriptor) (io.ReadCloser, error) {
	m, err := n.repo(r)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(m.blobs[d.Digest.String()])), nil
}

// versioned is a chart of a version.
func versioned(t *testing.T, version string) *Chart {
	t.Helper()
	c, err := Parse(tgz(t, entry{name: "x/Chart.yaml", data: "apiVersion: v2\nname: x\nversion: " + version + "\n"}), "it")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func repoOf(t *testing.T, versions ...string) *memoryRepo {
	t.Helper()
	m := &memoryRepo{map[string][]byte{}, map[string][]byte{}}
	for _, v := range versions {
		c := versioned(t, v)
		a, err := c.Artifact()
		if err != nil {
			t.Fatal(err)
		}
		m.manifests[c.Tag()], m.manifests[a.Digest().String()] = a.Manifest, a.Manifest
		m.blobs[digest(a.Config).String()], m.blobs[c.Digest().String()] = a.Config, a.Layers[0].Data
	}
	return m
}

func TestOCI(t *testing.T) {
	repo := repoOf(t, "1.0.0", "1.2.0", "2.0.0-rc.1", "1.2.0+build.5", "v0.9.0")
	repo.manifests["latest"] = repo.manifests["1.0.0"]
	at := "registry.example.com/charts/x"
	n := &network{repos: map[string]*memoryRepo{at: repo}}
	second := digest(repo.manifests["1.2.0"]).String()
	for _, c := range []struct {
		ref           Ref
		version, from string
	}{
		{Ref{Chart: "oci://" + at}, "1.2.0", at + ":1.2.0"},
		{Ref{Chart: "oci://" + at, Version: "1.0.0"}, "1.0.0", at + ":1.0.0"},
		{Ref{Chart: "oci://" + at, Version: "~1"}, "1.2.0", at + ":1.2.0"},
		{Ref{Chart: "oci://" + at, Version: ">=2.0.0-0"}, "2.0.0-rc.1", at + ":2.0.0-rc.1"},
		{Ref{Chart: "oci://" + at, Version: "1.2.0+build.5"}, "1.2.0+build.5", at + ":1.2.0_build.5"},
		{Ref{Chart: "oci://" + at, Version: "v0.9.0"}, "v0.9.0", at + ":v0.9.0"},
		{Ref{Chart: "oci://" + at + ":1.0.0"}, "1.0.0", at + ":1.0.0"},
		{Ref{Chart: "oci://" + at + ":latest"}, "1.0.0", at + ":latest"},
		{Ref{Chart: "oci://" + at + "@" + second}, "1.2.0", at + "@" + second},
		{Ref{Chart: "oci://" + at + ":1.2.0@" + second}, "1.2.0", at + "@" + second},
		{Ref{Chart: "x", Repo: "oci://registry.example.com/charts/"}, "1.2.0", at + ":1.2.0"},
	} {
		got, err := Load(t.Context(), c.ref, n)
		if err != nil {
			t.Errorf("%s: %v", c.ref, err)
			continue
		}
		if got.Version != c.version || got.Source != "oci://"+c.from {
			t.Errorf("%s: got %s from %s", c.ref, got.Version, got.Source)
		}
		// As the registry has it: signatures are about those bytes.
		if a, err := got.Artifact(); err != nil || !bytes.Equal(a.Manifest, repo.manifests[a.Digest().String()]) {
			t.Errorf("%s: the manifest is another: %v", c.ref, err)
		}
	}
	n.asked = nil
	if _, err := Load(t.Context(), Ref{Chart: "oci://" + at, Version: "1.0.0"}, n); err != nil || slices.Contains(n.asked, "tags "+at) {
		t.Errorf("an exact version asks for %q, %v", n.asked, err)
	}
}

func TestOCIFaults(t *testing.T) {
	at := "registry.example.com/charts/x"
	for name, c := range map[string]struct {
		spoil func(m *memoryRepo)
		ref   Ref
		kind  error
		says  string
	}{
		"another manifest": {func(m *memoryRepo) {
			m.manifests["sha256:"+strings.Repeat("0", 64)] = m.manifests["1.0.0"]
		}, Ref{Chart: "oci://" + at + "@sha256:" + strings.Repeat("0", 64)}, ErrDamaged, "for sha256:0000"},
		"another blob": {func(m *memoryRepo) {
			for d, b := range m.blobs {
				b = slices.Clone(b)
				b[0] ^= 1
				m.blobs[d] = b
			}
		}, Ref{Chart: "oci://" + at}, ErrDamaged, "has the digest"},
		"a blob cut short": {func(m *memoryRepo) {
			for d, b := range m.blobs {
				m.blobs[d] = b[:len(b)/2]
			}
		}, Ref{Chart: "oci://" + at}, ErrTruncated, "ends after"},
		"a blob that goes on": {func(m *memoryRepo) {
			for d, b := range m.blobs {
				m.blobs[d] = append(slices.Clone(b), 'x')
			}
		}, Ref{Chart: "oci://" + at}, ErrRefused, "more than"},
		"an image": {func(m *memoryRepo) {
			m.manifests["1.0.0"] = bytes.Replace(m.manifests["1.0.0"], []byte(ConfigMediaType), []byte("application/vnd.oci.image.config.v1+json"), 1)
		}, Ref{Chart: "oci://" + at}, ErrNotChart, "is of type"},
		"a strange layer": {func(m *memoryRepo) {
			m.manifests["1.0.0"] = bytes.Replace(m.manifests["1.0.0"], []byte(ContentMediaType), []byte("application/x"), 1)
		}, Ref{Chart: "oci://" + at}, ErrRefused, "layer of type"},
		"no layer": {func(m *memoryRepo) {
			var mf v1.Manifest
			_ = json.Unmarshal(m.manifests["1.0.0"], &mf)
			mf.Layers = nil
			m.manifests["1.0.0"], _ = json.Marshal(mf)
		}, Ref{Chart: "oci://" + at}, ErrNotChart, "no layer with a chart"},
		"a lying size": {func(m *memoryRepo) {
			var mf v1.Manifest
			_ = json.Unmarshal(m.manifests["1.0.0"], &mf)
			mf.Layers[0].Size = 1 << 40
			m.manifests["1.0.0"], _ = json.Marshal(mf)
		}, Ref{Chart: "oci://" + at}, ErrRefused, "more than a chart may have"},
		"nonsense":          {func(m *memoryRepo) { m.manifests["1.0.0"] = []byte("{") }, Ref{Chart: "oci://" + at}, ErrNotChart, "manifest"},
		"a large manifest":  {func(m *memoryRepo) { m.manifests["1.0.0"] = make([]byte, maxManifest+1) }, Ref{Chart: "oci://" + at}, ErrRefused, "manifest"},
		"no such version":   {func(*memoryRepo) {}, Ref{Chart: "oci://" + at, Version: "^7"}, ErrNotFound, "there are 1.0.0"},
		"no such range":     {func(*memoryRepo) {}, Ref{Chart: "oci://" + at, Version: "one"}, nil, `version "one"`},
		"another tag's one": {func(m *memoryRepo) { m.manifests["3.0.0"] = m.manifests["1.0.0"] }, Ref{Chart: "oci://" + at, Version: "3.0.0"}, nil, "is version 1.0.0"},
		"no such place":     {func(*memoryRepo) {}, Ref{Chart: "oci://other.example.com/charts/x"}, nil, "404"},
		"no name":           {func(*memoryRepo) {}, Ref{Chart: "oci://registry.example.com/UPPER"}, nil, "UPPER"},
	} {
		t.Run(name, func(t *testing.T) {
			m := repoOf(t, "1.0.0")
			c.spoil(m)
			_, err := Load(t.Context(), c.ref, &network{repos: map[string]*memoryRepo{at: m}})
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v with %q", err, c.kind, c.says)
			}
		})
	}
}

func TestRepository(t *testing.T) {
	one, two := versioned(t, "1.0.0"), versioned(t, "2.0.0")
	index := func(digestOfTwo string) []byte {
		return fmt.Appendf(nil, `apiVersion: v1
entries:
  x:
  - {version: 2.0.0, urls: [charts/x-2.0.0.tgz], digest: %q}
  - {version: 1.0.0, urls: ["https://elsewhere.example.com/x-1.0.0.tgz"]}
  - {version: nonsense, urls: []}
  empty:
  - {version: 1.0.0}
  renamed:
  - {version: 1.0.0, urls: ["https://elsewhere.example.com/x-1.0.0.tgz"]}
  oci:
  - {version: 1.0.0, urls: ["oci://registry.example.com/charts/x"]}
`, digestOfTwo)
	}
	net := func(digestOfTwo string) *network {
		return &network{urls: map[string][]byte{
			"https://charts.example.com/stable/index.yaml":           index(digestOfTwo),
			"https://charts.example.com/stable/charts/x-2.0.0.tgz":   two.Archive(),
			"https://elsewhere.example.com/x-1.0.0.tgz":              one.Archive(),
			"https://bad.example.com/index.yaml":                     []byte("entries: ["),
			"https://bombs.example.com/index.yaml":                   []byte(aliases("entries")),
			"https://charts.example.com/stable/charts/truncated.tgz": two.Archive()[:50],
			"https://large.example.com/x.tgz":                        make([]byte, maxArchive+1),
		}, repos: map[string]*memoryRepo{"registry.example.com/charts/x": repoOf(t, "1.0.0")}}
	}
	const stable = "https://charts.example.com/stable"
	for _, c := range []struct {
		ref    Ref
		digest string
		want   string // version, or an error
		kind   error
	}{
		{Ref{Chart: "x", Repo: stable}, two.Digest().Hex, "2.0.0", nil},
		{Ref{Chart: "x", Repo: stable + "/"}, "sha256:" + strings.ToUpper(two.Digest().Hex), "2.0.0", nil},
		{Ref{Chart: "x", Repo: stable}, "", "2.0.0", nil},
		{Ref{Chart: "x", Repo: stable, Version: "1.0.0"}, "", "1.0.0", nil},
		{Ref{Chart: "x", Repo: stable, Version: "<2"}, "", "1.0.0", nil},
		{Ref{Chart: stable + "/charts/x-2.0.0.tgz"}, "", "2.0.0", nil},
		{Ref{Chart: "x", Repo: stable}, one.Digest().Hex, "the repository's index says", ErrDamaged},
		{Ref{Chart: "y", Repo: stable}, "", "has no chart y", ErrNotFound},
		{Ref{Chart: "x", Repo: stable, Version: "9.9.9"}, "", "there are 2.0.0, 1.0.0", ErrNotFound},
		{Ref{Chart: "empty", Repo: stable}, "", "names no place", ErrNotFound},
		{Ref{Chart: "renamed", Repo: stable}, "", "calls it renamed", ErrDamaged},
		{Ref{Chart: "oci", Repo: stable}, "", "calls it oci", ErrDamaged}, // its name is x
		{Ref{Chart: "x", Repo: "https://bad.example.com"}, "", "reading the index", nil},
		{Ref{Chart: "x", Repo: "https://bombs.example.com"}, "", "reading the index", nil},
		{Ref{Chart: "x", Repo: "https://none.example.com"}, "", "404", nil},
		{Ref{Chart: "x", Repo: "charts.example.com"}, "", "is not a URL", nil},
		{Ref{Chart: stable + "/charts/truncated.tgz"}, "", "ends early", ErrTruncated},
		{Ref{Chart: "https://large.example.com/x.tgz"}, "", "more than the 16 MiB", ErrRefused},
	} {
		got, err := Load(t.Context(), c.ref, net(c.digest))
		if err == nil {
			if got.Version != c.want {
				t.Errorf("%s: got %s, want %s", c.ref, got.Version, c.want)
			}
			continue
		}
		if !strings.Contains(err.Error(), c.want) || c.kind != nil && !errors.Is(err, c.kind) {
			t.Errorf("%s: got %v, want %q", c.ref, err, c.want)
		}
	}
}

// TestOffline never asks where nothing is to be fetched.
func TestOffline(t *testing.T) {
	for _, ref := range []Ref{{Chart: "oci://registry.example.com/x"}, {Chart: "x", Repo: "https://charts.example.com"}, {Chart: "https://example.com/x.tgz"}} {
		if _, err := Load(t.Context(), ref, nil); !errors.Is(err, ErrOffline) || !strings.Contains(err.Error(), ref.String()) {
			t.Errorf("%s: got %v", ref, err)
		}
	}
	n := &network{}
	if _, err := Load(t.Context(), Ref{Chart: shop}, n); err != nil || len(n.asked) > 0 {
		t.Errorf("asked for %q, %v", n.asked, err)
	}
	for ref, says := range map[Ref]string{
		{Chart: "no/such/chart"}:         "no such file",
		{Chart: shop, Version: "9.9.9"}:  "it is version 1.2.3",
		{Chart: "/dev/null"}:             "neither a folder nor a regular file",
		{Chart: shop + "/values.yaml"}:   "not a .tgz",
		{Chart: ""}:                      "no chart is named",
		{Chart: shop, Version: "~1.2"}:   "",
		{Chart: shop, Version: "v1.2.3"}: "",
	} {
		_, err := Load(t.Context(), ref, nil)
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: got %v, want %q", ref, err, says)
		}
	}
}
