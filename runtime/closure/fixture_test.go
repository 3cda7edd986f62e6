package closure

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/tests/fake"
)

const (
	runtimeImage = "docker.io/rancher/rke2-runtime:v1.35.4-rke2r1"
	jobImage     = "docker.io/rancher/klipper-helm:v3.22.0-rke2r1"
)

// systemImages are those of the release beside the runtime image, by role.
var systemImages = map[string]string{
	"kubernetes": "docker.io/rancher/hardened-kubernetes:v1.35.4-rke2r1",
	"etcd":       "docker.io/rancher/hardened-etcd:v3.6.8-rke2r1",
	"pause":      "docker.io/rancher/mirrored-pause:v0.1.0-rke2r1",
	"helm-job":   jobImage,
}

func release() images.Release {
	r := images.Release{Version: "v1.35.4+rke2r1", Kubernetes: "v1.35.4", Registry: "docker.io", Repo: "rancher"}
	r.Images = append(r.Images, images.ReleaseImage{Name: "rke2-runtime", Reference: runtimeImage, Role: "runtime"})
	for _, role := range slices.Sorted(maps.Keys(systemImages)) {
		r.Images = append(r.Images, images.ReleaseImage{Name: role, Reference: systemImages[role], Role: role})
	}
	return r
}

// imageOf makes an image of files.
func imageOf(t *testing.T, arch string, files map[string]string) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))}))
		_, err := io.WriteString(w, files[name])
		must(t, err)
	}
	must(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, tarball.WithMediaType(types.OCILayer))
	must(t, err)
	image, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), layer)
	must(t, err)
	config, err := image.ConfigFile()
	must(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	image, err = mutate.ConfigFile(image, config)
	must(t, err)
	return image
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bundle writes a bundle of images whose only content is their name.
func bundle(t *testing.T, file, arch string, refs ...string) scan.File {
	t.Helper()
	var s fake.Store
	for _, ref := range refs {
		_, err := s.Add(imageOf(t, arch, map[string]string{"name": ref}), ref)
		must(t, err)
	}
	return write(t, &s, file, arch)
}

func write(t *testing.T, s *fake.Store, file, arch string) scan.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), file)
	must(t, s.WriteBundle(t.Context(), path, arch))
	files, err := scan.Open(filepath.Dir(path))
	must(t, err)
	t.Cleanup(func() { _ = files.Close() })
	must(t, files.Files[0].Err)
	return files.Files[0]
}

// system is a bundle of what a node needs, whose runtime image brings manifests.
func system(t *testing.T, packaged map[string]string) scan.File {
	t.Helper()
	var s fake.Store
	files := map[string]string{"bin/containerd": "x"}
	for name, text := range packaged {
		files["charts/"+name] = text
	}
	_, err := s.Add(imageOf(t, "amd64", files), runtimeImage)
	must(t, err)
	for _, ref := range systemImages {
		_, err := s.Add(imageOf(t, "amd64", map[string]string{"name": ref}), ref)
		must(t, err)
	}
	return write(t, &s, "rke2-images-core.linux-amd64.tar", "amd64")
}

// chartOf is a chart with a Deployment of one image, which is a template.
func chartOf(t *testing.T, name, image, values string) *charts.Chart {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	must(t, os.MkdirAll(filepath.Join(dir, "templates"), 0o755))
	for file, text := range map[string]string{
		"Chart.yaml":  "apiVersion: v2\nname: " + name + "\nversion: 1.0.0\n",
		"values.yaml": values,
		"templates/deployment.yaml": fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %s}
spec:
  template:
    spec:
      containers: [{name: main, image: "%s"}]
`, name, image),
	} {
		must(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	}
	c, err := charts.Package(dir)
	must(t, err)
	return c
}

func helmChartOf(t *testing.T, c *charts.Chart, opt charts.HelmChartOptions) string {
	t.Helper()
	text, err := c.HelmChart(opt)
	must(t, err)
	return string(text)
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func prove(t *testing.T, in Input) Report {
	t.Helper()
	if in.Release.Version == "" {
		in.Release = release()
	}
	if in.Settings.DataDir == "" {
		in.Settings = Defaults("none")
	}
	if in.Platform.OS == "" {
		in.Platform = v1.Platform{OS: "linux", Architecture: "amd64"}
	}
	r, err := Prove(t.Context(), in)
	must(t, err)
	return r
}

func find(t *testing.T, r Report, ref string) Image {
	t.Helper()
	for _, i := range r.Images {
		if i.Reference == ref {
			return i
		}
	}
	var have []string
	for _, i := range r.Images {
		have = append(have, i.Reference)
	}
	t.Fatalf("%s is not needed, but %q are; faults %q", ref, have, r.Faults)
	return Image{}
}

func gaps(r Report) []string {
	out := []string{}
	for _, g := range r.Gaps() {
		out = append(out, g.Reference)
	}
	return out
}

// chartBundle writes a bundle of charts, each under a reference, beside an image (a
// bundle of charts alone is possible too).
func chartBundle(t *testing.T, file string, of map[string]*charts.Chart) scan.File {
	t.Helper()
	s := &artifacts{blobs: map[v1.Hash][]byte{}}
	for _, ref := range slices.Sorted(maps.Keys(of)) {
		a, err := of[ref].Artifact()
		must(t, err)
		m, err := v1.ParseManifest(bytes.NewReader(a.Manifest))
		must(t, err)
		s.blobs[a.Digest()], s.blobs[m.Config.Digest] = a.Manifest, a.Config
		for _, l := range a.Layers {
			s.blobs[l.Desc.Digest] = l.Data
		}
		s.index = append(s.index, v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(a.Manifest)), Digest: a.Digest(),
			Annotations: map[string]string{airgap.AnnotationKind: airgap.KindChart, airgap.AnnotationRefName: ref}})
	}
	path := filepath.Join(t.TempDir(), file)
	f, err := os.Create(path)
	must(t, err)
	must(t, airgap.Write(t.Context(), f, s, airgap.Selection{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, AllowUnsigned: true}))
	must(t, f.Close())
	archive, err := airgap.Open(path)
	must(t, err)
	t.Cleanup(func() { _ = archive.Close() })
	return scan.File{Path: path, Archive: archive}
}

type artifacts struct {
	index []v1.Descriptor
	blobs map[v1.Hash][]byte
}

func (a *artifacts) Index() (*v1.IndexManifest, error) {
	return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: a.index}, nil
}

func (a *artifacts) Blob(h v1.Hash) (io.ReadCloser, error) {
	b, ok := a.blobs[h]
	if !ok {
		return nil, fmt.Errorf("no blob %s", h)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// indexed writes a bundle of an image that was taken out of an image index, under its
// tag 1 and, if named, under the index's digest.
func indexed(t *testing.T, repository string, named bool) (scan.File, string) {
	t.Helper()
	image := imageOf(t, "amd64", map[string]string{"name": repository})
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: image})
	rawIndex, err := index.RawManifest()
	must(t, err)
	h, err := index.Digest()
	must(t, err)
	s := &artifacts{blobs: map[v1.Hash][]byte{h: rawIndex}}
	raw, err := image.RawManifest()
	must(t, err)
	m, err := image.Manifest()
	must(t, err)
	digest, err := image.Digest()
	must(t, err)
	s.blobs[digest] = raw
	s.blobs[m.Config.Digest], err = image.RawConfigFile()
	must(t, err)
	layers, err := image.Layers()
	must(t, err)
	r, err := layers[0].Compressed()
	must(t, err)
	s.blobs[m.Layers[0].Digest], err = io.ReadAll(r)
	must(t, err)
	names := []string{repository + ":1"}
	if named {
		names = append(names, repository+"@"+h.String())
	}
	for _, n := range names {
		s.index = append(s.index, v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(raw)), Digest: digest, Annotations: map[string]string{
			airgap.AnnotationKind: airgap.KindImage, airgap.AnnotationImageName: n, airgap.AnnotationRefName: n, airgap.AnnotationIndex: h.String(),
		}})
	}
	path := filepath.Join(t.TempDir(), "apps.tar")
	f, err := os.Create(path)
	must(t, err)
	must(t, airgap.Write(t.Context(), f, s, airgap.Selection{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, AllowUnsigned: true}))
	must(t, f.Close())
	archive, err := airgap.Open(path)
	must(t, err)
	t.Cleanup(func() { _ = archive.Close() })
	return scan.File{Path: path, Archive: archive}, h.String()
}
