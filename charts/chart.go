package charts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"helm.sh/helm/v3/pkg/chart"
	"sigs.k8s.io/yaml"
)

// Faults that callers tell apart; the errors that wrap them say what and where.
var (
	// ErrTruncated: the archive ends early.
	ErrTruncated = errors.New("truncated")
	// ErrDamaged: bytes differ from the digest that was promised.
	ErrDamaged = errors.New("damaged")
	// ErrNotChart: it is no chart, or not one that can be installed.
	ErrNotChart = errors.New("not a chart")
	// ErrRefused: it holds what no chart needs, such as paths that lead outside, links
	// or more than a chart may have.
	ErrRefused = errors.New("refused")
	// ErrNotFound: a repository has no such chart or version.
	ErrNotFound = errors.New("not found")
	// ErrOffline: the chart is somewhere in the network, and no way there was given.
	ErrOffline = errors.New("it has to be fetched, and nothing may be")
)

// Ref says which chart is meant.
type Ref struct {
	Chart   string // a folder, a .tgz file, oci://…, https://….tgz, or a name in Repo
	Repo    string // URL of a repository, or oci://REGISTRY/PATH; "" if Chart says all
	Version string // exact, or a range as Helm understands it; "" is the newest release
}

// String is the reference as people write it.
func (r Ref) String() string {
	s := r.Chart
	if r.Repo != "" {
		s = strings.TrimSuffix(r.Repo, "/") + "/" + r.Chart
	}
	if r.Version != "" {
		s += ":" + r.Version
	}
	return s
}

// Local reports whether the chart is a file or folder of this host.
func (r Ref) Local() bool { return r.Repo == "" && !isURL(r.Chart) }

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "oci")
}

// Chart is a chart whose archive was read to its end and found sound. It is immutable.
type Chart struct {
	Name        string
	Version     string
	AppVersion  string
	KubeVersion string // range of versions of Kubernetes that it wants; "" is any
	Deprecated  bool
	// Source is where it came from: a path, or a URL with what was resolved.
	Source string

	metadata *chart.Metadata
	archive  []byte
	artifact *Artifact // as the registry has it; nil if the chart is from elsewhere
}

// Load reads a chart. The network is reached through f only: where f is nil, a chart
// that is not on this host gives ErrOffline.
func Load(ctx context.Context, ref Ref, f Fetcher) (*Chart, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if ref.Chart == "" {
		return nil, fmt.Errorf("%w: no chart is named", ErrNotChart)
	}
	if ref.Local() {
		return loadLocal(ref)
	}
	if f == nil {
		return nil, fmt.Errorf("chart %s: %w: give the chart as a folder or a .tgz file", ref, ErrOffline)
	}
	c, err := fetch(ctx, ref, f)
	if err != nil {
		return nil, fmt.Errorf("fetching chart %s: %w", ref, err)
	}
	return c, nil
}

func loadLocal(ref Ref) (*Chart, error) {
	info, err := os.Stat(ref.Chart)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading chart %s: there is no such file or folder; a chart of a repository needs the repository's URL", ref.Chart)
	}
	if err != nil {
		return nil, fmt.Errorf("reading chart %s: %w", ref.Chart, err)
	}
	var c *Chart
	if info.IsDir() {
		c, err = fromFolder(ref.Chart)
	} else {
		c, err = fromFile(ref.Chart, info)
	}
	if err != nil {
		return nil, fmt.Errorf("reading chart %s: %w", ref.Chart, err)
	}
	if ref.Version != "" && !matches(ref.Version, c.Version) {
		return nil, fmt.Errorf("reading chart %s: it is version %s, and %s is wanted", ref.Chart, c.Version, ref.Version)
	}
	return c, nil
}

func fromFile(path string, info fs.FileInfo) (*Chart, error) {
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: neither a folder nor a regular file", ErrNotChart)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readAll(f, maxArchive)
	if err != nil {
		return nil, err
	}
	return Parse(data, path)
}

func fromFolder(dir string) (*Chart, error) {
	files, err := ReadFolder(dir)
	if err != nil {
		return nil, err
	}
	archive, err := pack(files)
	if err != nil {
		return nil, err
	}
	return Parse(archive, filepath.Clean(dir))
}

// readAll reads at most limit bytes; more are an error.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: it has more than the %d MiB that a chart may have", ErrRefused, limit>>20)
	}
	return data, nil
}

// Parse checks a chart's .tgz, which it keeps: the caller must not change it. source is
// where it is from, for people.
func Parse(archive []byte, source string) (*Chart, error) {
	files, err := readArchive(archive, func(name string) bool { return name == "Chart.yaml" })
	if err != nil {
		return nil, err
	}
	meta, err := metadata(files)
	if err != nil {
		return nil, err
	}
	return &Chart{
		Name: meta.Name, Version: meta.Version, AppVersion: meta.AppVersion, KubeVersion: meta.KubeVersion,
		Deprecated: meta.Deprecated, Source: source, metadata: meta, archive: archive,
	}, nil
}

// Helm is laxer about names, and writes files of them.
var chartName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

func metadata(files []File) (*chart.Metadata, error) {
	for _, f := range files {
		if f.Name != "Chart.yaml" {
			continue
		}
		meta := &chart.Metadata{}
		if err := yaml.Unmarshal(f.Data, meta); err != nil {
			return nil, fmt.Errorf("%w: its Chart.yaml: %w", ErrNotChart, err)
		}
		if meta.APIVersion == "" {
			meta.APIVersion = chart.APIVersionV1 // as Helm takes it
		}
		if err := meta.Validate(); err != nil {
			return nil, fmt.Errorf("%w: its Chart.yaml: %w", ErrNotChart, err)
		}
		if !chartName.MatchString(meta.Name) {
			return nil, fmt.Errorf("%w: its Chart.yaml: the name %q is not one", ErrNotChart, meta.Name)
		}
		return meta, nil
	}
	return nil, fmt.Errorf("%w: there is no Chart.yaml in it", ErrNotChart)
}

// Archive is the chart's .tgz: the very bytes that were read, or, of a folder, bytes
// that depend only on the names and contents of its files. It must not be changed.
func (c *Chart) Archive() []byte { return c.archive }

// Digest is that of the Archive.
func (c *Chart) Digest() v1.Hash { return digest(c.archive) }

// Annotations are those of Chart.yaml.
func (c *Chart) Annotations() map[string]string { return maps.Clone(c.metadata.Annotations) }

// Installable reports whether it is more than a library of templates.
func (c *Chart) Installable() bool { return c.metadata.Type == "" || c.metadata.Type == "application" }

func digest(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// utf8bom is what editors on Windows begin a file with.
var utf8bom = []byte("\xef\xbb\xbf")

func trimBOM(b []byte) []byte { return bytes.TrimPrefix(b, utf8bom) }

// Read is Parse of a stream.
func Read(r io.Reader, source string) (*Chart, error) {
	data, err := readAll(r, maxArchive)
	if err != nil {
		return nil, err
	}
	return Parse(data, source)
}

// Matches tells whether the chart's version is the one named, or in the range that is.
func (c *Chart) Matches(version string) bool { return matches(version, c.Version) }
