package airgap

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap/trust"
)

// artifactTar is an OCI archive of a chart and a set of files, as a folder unpacked from
// a bundle of ours and packed again would be.
func artifactTar(t testing.TB, chart []byte, files map[string]string) []byte {
	t.Helper()
	out := []tar.Header{reg(layoutFile, []byte(layoutContent))}
	seen := map[v1.Hash]bool{}
	put := func(b []byte, media types.MediaType) v1.Descriptor {
		d := v1.Descriptor{MediaType: media, Size: int64(len(b)), Digest: hashOf(b)}
		if !seen[d.Digest] {
			out = append(out, reg(blobName(d.Digest), b))
		}
		seen[d.Digest] = true
		return d
	}
	manifest := func(v any, kind, ref string) v1.Descriptor {
		b, err := json.Marshal(v)
		noError(t, err)
		d := put(b, types.OCIManifestSchema1)
		d.Annotations = map[string]string{AnnotationKind: kind, AnnotationRefName: ref}
		return d
	}
	var layers []v1.Descriptor
	for name, content := range files {
		d := put([]byte(content), "application/octet-stream")
		d.Annotations = map[string]string{AnnotationTitle: name}
		layers = append(layers, d)
	}
	idx := v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{
		manifest(v1.Manifest{SchemaVersion: 2, Config: put([]byte(`{"name":"web"}`), TypeChartConfig), Layers: []v1.Descriptor{put(chart, TypeChartContent)}}, KindChart, "registry.example.com/charts/web:1.2.3"),
		manifest(struct {
			v1.Manifest
			ArtifactType string `json:"artifactType"`
		}{v1.Manifest{SchemaVersion: 2, Config: put([]byte("{}"), "application/vnd.oci.empty.v1+json"), Layers: layers}, TypeFiles}, KindFiles, "docker.io/library/extras:v1"),
	}}
	raw, err := json.Marshal(idx)
	noError(t, err)
	return makeTar(t, append(out, reg(indexFile, raw))...)
}

func TestExtractArtifacts(t *testing.T) {
	chart := compress(t, makeTar(t, reg("web/Chart.yaml", []byte("name: web\n")), reg("web/templates/a.yaml", []byte("a: b\n"))), gz)
	b := artifactTar(t, chart, map[string]string{"bin/tool": "tool", "README": "read me", "again": "tool"})
	for _, how := range []compression{plain, zst} {
		a := mustOpen(t, file(t, "x.tar", compress(t, b, how)))
		ins, err := a.Inspect(trust.Policy{})
		noError(t, err)
		if len(ins.Artifacts) != 2 || len(ins.Images) != 0 || ins.Artifacts[0].Kind != "chart" && ins.Artifacts[1].Kind != "chart" {
			t.Errorf("%+v", ins)
		}
		for ref, want := range map[string][]string{
			"oci://registry.example.com/charts/web:1.2.3": {"drwxr-xr-x web", "-rwxr-xr-x web/Chart.yaml name: web\n", "drwxr-xr-x web/templates", "-rwxr-xr-x web/templates/a.yaml a: b\n"},
			"docker.io/library/extras:v1":                 {"-rw-r--r-- README read me", "-rw-r--r-- again tool", "drwxr-xr-x bin", "-rw-r--r-- bin/tool tool"},
		} {
			dir, check := guarded(t)
			_, err := Extract(t.Context(), a, ExtractOptions{Dir: dir, Ref: ref})
			noError(t, err)
			check()
			if got := contentsOf(t, dir); !slices.Equal(got, want) {
				t.Errorf("%s: %q", ref, got)
			}
		}
		var out bytes.Buffer
		noError(t, ExtractFile(t.Context(), a, "docker.io/library/extras:v1", "", "bin/tool", &out))
		if out.String() != "tool" {
			t.Errorf("got %q", out.String())
		}
		v, err := a.Verify(t.Context(), VerifyOptions{})
		noError(t, err)
		if v.OK || len(v.Faults) != 2 {
			t.Errorf("unsigned artifacts: %+v", v.Faults)
		}
	}
	for what, files := range map[string]map[string]string{
		"a way up": {"../evil": "x"}, "an absolute path": {"/etc/evil": "x"}, "a file that is a folder": {"a": "x", "a/b": "y"},
	} {
		if _, err := Open(file(t, "x.tar", artifactTar(t, chart, files))); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	damaged := bytes.Replace(b, []byte("read me"), []byte("read you")[:7], 1)
	v, err := Verify(t.Context(), file(t, "x.tar", damaged), VerifyOptions{Unsigned: true})
	noError(t, err)
	if len(v.Faults) != 1 || v.Faults[0].Subject != "file README of docker.io/library/extras:v1" {
		t.Errorf("%+v", v.Faults)
	}
	evil := compress(t, makeTar(t, reg("../evil", []byte("x"))), gz)
	dir, check := guarded(t)
	_, err = Extract(t.Context(), mustOpen(t, file(t, "x.tar", artifactTar(t, evil, map[string]string{"a": ""}))), ExtractOptions{Dir: dir, Ref: "registry.example.com/charts/web:1.2.3"})
	if check(); err == nil || !strings.Contains(err.Error(), "leads outside") {
		t.Errorf("a hostile chart: %v", err)
	}
}

// TestExtractParts: the parts of a split bundle are read like the whole; one alone says
// what it lacks.
func TestExtractParts(t *testing.T) {
	f := newFixture(t)
	low := stackImage(t, "etc/a", strings.Repeat("a", 30_000))
	h := f.add(low, "docker.io/x/y:v1", "core")
	f.sign("docker.io/x/y:v1", h, map[string]any{trust.ClaimTag: "v1"})
	other := stackImage(t, "etc/b", strings.Repeat("b", 30_000))
	h = f.add(other, "docker.io/x/z:v1", "core")
	f.sign("docker.io/x/z:v1", h, map[string]any{trust.ClaimTag: "v1"})
	files := f.split(50_000)
	if len(files) < 2 {
		t.Fatalf("%q", files)
	}
	set, err := OpenSet(files...)
	noError(t, err)
	defer set.Close()
	dir := filepath.Join(t.TempDir(), "out")
	_, err = Extract(t.Context(), set.Archives[0], ExtractOptions{Dir: dir, Ref: "x/y:v1"})
	noError(t, err)
	lacking := 0
	for _, one := range files {
		a := mustOpen(t, one)
		v, err := a.Verify(t.Context(), VerifyOptions{Policy: trust.Policy{OperatorKeys: []trust.Key{f.key}}, Contents: true})
		noError(t, err)
		if !v.OK || v.Partial == nil || v.Layers != 1 {
			t.Errorf("%s: %+v", one, v)
		}
		ins, err := a.Inspect(trust.Policy{})
		noError(t, err)
		if ins.Layers.Absent != 1 || ins.Layers.Unique != 2 {
			t.Errorf("%s: %+v", one, ins.Layers)
		}
		if _, err := Extract(t.Context(), a, ExtractOptions{Dir: filepath.Join(t.TempDir(), "x"), Ref: "x/y:v1"}); err != nil {
			lacking++
			if !strings.Contains(err.Error(), "not in the archive") || !strings.Contains(err.Error(), ".tar") {
				t.Errorf("error: %v", err)
			}
		}
	}
	if lacking != len(files)-1 {
		t.Errorf("%d of %d parts lack the layer", lacking, len(files))
	}
}

// stackImage is an image of one uncompressed layer with one file.
func stackImage(t testing.TB, name, content string) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1),
		static.NewLayer(makeTar(t, reg(name, []byte(content))), types.OCIUncompressedLayer))
	noError(t, err)
	cfg, err := img.ConfigFile()
	noError(t, err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, cfg)
	noError(t, err)
	return img
}
