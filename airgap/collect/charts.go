package collect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/manifest"
	"github.com/rancher/rke2/airgap/mirrors"
	"github.com/rancher/rke2/charts"
)

// FoundChart is a chart that was taken.
type FoundChart struct {
	Chart   string   `json:"chart"` // as it was asked for
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Ref     string   `json:"ref"`    // in the bundle
	Digest  string   `json:"digest"` // of its manifest
	Images  []string `json:"images"` // that it needs
	// Possible are images that it names where they need not be used, and that were not taken.
	Possible []string `json:"possible,omitempty"`
}

// chart is a chart in the form that bundles keep it in.
type chart struct {
	*charts.Chart
	artifact charts.Artifact
	source   string
	attached []manifest.LockedAttachment
}

// takeCharts takes the declared charts, and asks for the images that they need.
func (g *gatherer) takeCharts(ctx context.Context) error {
	for i := range g.bundle.Charts {
		spec := &g.bundle.Charts[i]
		if err := g.takeChart(ctx, spec); err != nil {
			return fmt.Errorf("chart %s: %w", spec.Chart, err)
		}
	}
	return nil
}

func (g *gatherer) takeChart(ctx context.Context, spec *manifest.Chart) error {
	c, err := g.loadChart(ctx, spec)
	if err != nil || c == nil {
		return err
	}
	needed, possible, err := g.chartImages(ctx, spec, c)
	if err != nil {
		return err
	}
	ref, err := chartRef(spec, c)
	if err != nil {
		return err
	}
	d := g.keepChart(c)
	for _, b := range append([][]byte{c.artifact.Manifest, c.artifact.Config}, layers(c.artifact)...) {
		if _, err := g.Cache.Put(b); err != nil { // for a lock
			return err
		}
	}
	entry := d
	entry.Annotations = map[string]string{airgap.AnnotationKind: airgap.KindChart, airgap.AnnotationRefName: ref}
	g.add("", append([]v1.Descriptor{entry}, attachments(c.attached)...)...)
	g.charts = append(g.charts, manifest.LockedChart{
		Chart: chartKey(spec), Name: c.Name, Version: c.Version, Source: c.source, Manifest: d, Images: needed, Attached: c.attached,
	})
	g.out.Charts = append(g.out.Charts, FoundChart{
		Chart: chartKey(spec), Name: c.Name, Version: c.Version, Ref: ref, Digest: d.Digest.String(), Images: needed, Possible: possible,
	})
	return nil
}

func layers(a charts.Artifact) [][]byte {
	var out [][]byte
	for _, l := range a.Layers {
		out = append(out, l.Data)
	}
	return out
}

// keepChart puts a chart's blobs into the pool.
func (g *gatherer) keepChart(c *chart) v1.Descriptor {
	g.pool.keep(c.artifact.Config)
	for _, l := range c.artifact.Layers {
		g.pool.keep(l.Data)
	}
	return v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(c.artifact.Manifest)), Digest: g.pool.keep(c.artifact.Manifest)}
}

// chartKey is what a lock and messages call a declared chart.
func chartKey(spec *manifest.Chart) string {
	key := chartSpec(spec).String()
	if spec.Release != "" {
		key += " as " + spec.Release
	}
	return key
}

func chartSpec(spec *manifest.Chart) charts.Ref {
	return charts.Ref{Chart: spec.Chart, Repo: spec.Repo, Version: spec.Version}
}

// loadChart reads a chart from this machine, the network, or the cache, as the lock says.
// It is nil if the lock does not know it, which is told with all else that changed.
func (g *gatherer) loadChart(ctx context.Context, spec *manifest.Chart) (*chart, error) {
	ref := chartSpec(spec)
	if g.Lock == nil || ref.Local() {
		return g.freshChart(ctx, ref)
	}
	l, ok := g.Lock.Chart(chartKey(spec))
	if !ok {
		g.charts = append(g.charts, manifest.LockedChart{Chart: chartKey(spec), Name: "new"})
		return nil, nil
	}
	if c, ok := g.cachedChart(l); ok {
		return c, nil
	}
	if at, ok := strings.CutPrefix(l.Source, "oci://"); ok {
		repo := at[:strings.LastIndexAny(at, ":@")]
		ref = charts.Ref{Chart: "oci://" + strings.TrimSuffix(repo, "@") + "@" + l.Manifest.Digest.String()}
	} else {
		ref.Version = l.Version
	}
	c, err := g.freshChart(ctx, ref)
	if err != nil {
		return nil, err
	}
	c.source, c.attached = l.Source, l.Attached
	return c, g.noteAttached(ctx, c)
}

func (g *gatherer) freshChart(ctx context.Context, ref charts.Ref) (*chart, error) {
	var f charts.Fetcher
	if g.Door != nil {
		f = fetcher{g.Door}
	}
	loaded, err := charts.Load(ctx, ref, f)
	if err != nil {
		return nil, err
	}
	c := &chart{Chart: loaded, source: loaded.Source}
	if c.artifact, err = loaded.Artifact(); err != nil {
		return nil, err
	}
	if at, ok := strings.CutPrefix(c.source, "oci://"); ok && g.Door != nil {
		err = g.chartAttached(ctx, c, at)
	}
	return c, err
}

// chartAttached finds the signatures of a chart that is in a registry.
func (g *gatherer) chartAttached(ctx context.Context, c *chart, at string) error {
	repo, err := g.chartRepository(at)
	if err != nil {
		return err
	}
	_, _, from, err := repo.Manifest(ctx, c.artifact.Digest().String())
	if err != nil {
		return err
	}
	r := &resolver{pool: g.pool, door: g.Door}
	if c.attached, err = r.attached(ctx, c.source, repo.Only(from), c.artifact.Digest()); err != nil {
		return err
	}
	return g.noteAttached(ctx, c)
}

func (g *gatherer) chartRepository(at string) (*mirrors.Repository, error) {
	at, _, _ = strings.Cut(at, "@")
	if i := strings.LastIndex(at, ":"); i > strings.LastIndex(at, "/") {
		at = at[:i]
	}
	repo, err := name.NewRepository(at, name.StrictValidation)
	if err != nil {
		return nil, err
	}
	return g.Door.Repository(repo)
}

// noteAttached tells the pool where what is attached to a chart can be had.
func (g *gatherer) noteAttached(ctx context.Context, c *chart) error {
	if len(c.attached) == 0 {
		return nil
	}
	var repo *mirrors.Repository
	if at, ok := strings.CutPrefix(c.source, "oci://"); ok && g.Door != nil {
		var err error
		if repo, err = g.chartRepository(at); err != nil {
			return err
		}
	}
	r := &resolver{pool: g.pool, door: g.Door}
	return r.note(ctx, repo, c.source, manifest.LockedImage{Attached: c.attached})
}

// cachedChart reads a locked chart from the cache; ok is false if a part is missing.
func (g *gatherer) cachedChart(l manifest.LockedChart) (*chart, bool) {
	c := &chart{source: l.Source, attached: l.Attached}
	raw, ok := g.Cache.Small(l.Manifest)
	if !ok {
		return nil, false
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, false
	}
	c.artifact.Manifest = raw
	if c.artifact.Config, ok = g.Cache.Small(m.Config); !ok {
		return nil, false
	}
	for _, d := range m.Layers {
		data, ok := g.Cache.Small(d)
		if !ok {
			return nil, false
		}
		c.artifact.Layers = append(c.artifact.Layers, charts.Layer{Desc: d, Data: data})
		if d.MediaType == charts.ContentMediaType {
			if c.Chart, err = charts.Parse(data, l.Source); err != nil {
				return nil, false
			}
		}
	}
	if c.Chart == nil || g.noteAttached(context.Background(), c) != nil {
		return nil, false
	}
	return c, true
}

// chartImages renders a chart and asks for the images that its objects use.
func (g *gatherer) chartImages(ctx context.Context, spec *manifest.Chart, c *chart) (needed, possible []string, err error) {
	opt := charts.Options{
		Name: spec.Release, Namespace: spec.Namespace, KubeVersion: spec.KubeVersion, APIVersions: spec.APIVersions, IncludeCRDs: true,
		Values: charts.Values{Files: spec.ValuesFiles, Inline: spec.Values, Set: spec.Set},
	}
	if opt.KubeVersion == "" {
		opt.KubeVersion = g.KubeVersion
	}
	objects, err := c.Render(ctx, opt)
	if err != nil {
		return nil, nil, err
	}
	for _, u := range append(charts.Images(objects), c.DeclaredImages()...) {
		switch {
		case u.Certainty != charts.Needed && (!spec.PossibleImages || u.Reference == ""):
			possible = append(possible, u.Image)
			continue
		case u.Reference == "":
			return nil, nil, fmt.Errorf("%s would use %q (%s), which is no image: set the values that it is made of", u.Object, u.Image, u.Path)
		}
		why := "chart " + c.Name + ": " + u.Object
		if u.Container != "" {
			why += ", container " + u.Container
		}
		if err := g.wantForChart(u.Reference, why); err != nil {
			return nil, nil, err
		}
		needed = append(needed, u.Reference)
	}
	for _, image := range spec.Images {
		w, err := parseWanted(image, "")
		if err != nil {
			return nil, nil, err
		}
		if err := g.wantForChart(image, "chart "+c.Name+": declared beside it"); err != nil {
			return nil, nil, err
		}
		needed = append(needed, w.ref)
	}
	slices.Sort(needed)
	needed = slices.Compact(needed)
	slices.Sort(possible)
	possible = slices.DeleteFunc(slices.Compact(possible), func(s string) bool {
		w, err := parseWanted(s, "")
		return err == nil && slices.Contains(needed, w.ref)
	})
	return needed, possible, nil
}

// wantForChart asks for an image, unless a layout or an archive brings it.
func (g *gatherer) wantForChart(ref, why string) error {
	w, err := parseWanted(ref, why)
	if err != nil {
		return fmt.Errorf("%s: %w", why, err)
	}
	for _, n := range w.names() {
		if slices.ContainsFunc(g.entries[""], func(d v1.Descriptor) bool { return d.Annotations[airgap.AnnotationImageName] == n }) {
			return nil
		}
	}
	return g.wants.add(ref, why)
}

// localCharts stands for the registry of charts that are from none.
const localCharts = "charts.local"

// chartRef is what the bundle calls a chart: what it is called in its registry, or where
// the declaration wants it to be.
func chartRef(spec *manifest.Chart, c *chart) (string, error) {
	path := localCharts
	if at, ok := strings.CutPrefix(c.source, "oci://"); ok {
		path = at[:strings.LastIndex(at, "/")]
	} else if u, err := url.Parse(spec.Repo); err == nil && u.Host != "" {
		path = u.Host + strings.TrimSuffix(u.Path, "/")
	}
	if spec.Registry != "" {
		path = strings.Trim(strings.TrimPrefix(spec.Registry, "oci://"), "/")
	}
	tag, err := airgap.ParseTag(path + "/" + c.Name + ":" + c.Tag())
	if err != nil && spec.Registry == "" { // not every URL makes a reference
		tag, err = airgap.ParseTag(localCharts + "/" + c.Name + ":" + c.Tag())
	}
	if err != nil {
		return "", fmt.Errorf("its name in the bundle: %w: set registry to oci://REGISTRY/PATH", err)
	}
	return tag.String(), nil
}

// fetcher is how charts reach the network.
type fetcher struct{ door *mirrors.Door }

var _ charts.Fetcher = fetcher{}

// Get implements [charts.Fetcher].
func (f fetcher) Get(ctx context.Context, from string) (io.ReadCloser, error) {
	return f.door.Get(ctx, from)
}

// Tags implements [charts.Fetcher].
func (f fetcher) Tags(ctx context.Context, repo name.Repository) ([]string, error) {
	r, err := f.door.Repository(repo)
	if err != nil {
		return nil, err
	}
	return r.Tags(ctx)
}

// Manifest implements [charts.Fetcher].
func (f fetcher) Manifest(ctx context.Context, repo name.Repository, reference string) ([]byte, error) {
	r, err := f.door.Repository(repo)
	if err != nil {
		return nil, err
	}
	b, _, _, err := r.Manifest(ctx, reference)
	return b, err
}

// Blob implements [charts.Fetcher].
func (f fetcher) Blob(ctx context.Context, repo name.Repository, d v1.Descriptor) (_ io.ReadCloser, err error) {
	r, err := f.door.Repository(repo)
	if err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp("", "chart-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(tmp.Name()); err != nil {
		return nil, errors.Join(err, tmp.Close())
	}
	if err := r.FetchBlob(ctx, d, tmp, nil); err != nil {
		return nil, errors.Join(err, tmp.Close())
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, tmp.Close())
	}
	return tmp, nil
}
