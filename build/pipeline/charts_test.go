package pipeline

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/layout"
)

// charted is a project whose runtime image has two charts.
func charted(t *testing.T) string {
	t.Helper()
	root := project(t)
	product, err := os.ReadFile(filepath.Join(root, "images/product.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"images/product.yaml":   string(product) + "charts: ../charts\n",
		"Dockerfile.runtime":    "FROM scratch\nCOPY --from=app / /bin/\nCOPY --from=charts / /charts/\n",
		"charts/a/Chart.yaml":   "apiVersion: v2\nname: a\nversion: 1.0.0\nappVersion: \"0\"\n",
		"charts/a/package.yaml": "bootstrap: true\nimages: {image: app}\n",
		"charts/a/values.yaml":  "image: {registry: docker.io, repository: \"\", tag: \"\", digest: \"\"}\n",
		"charts/a/templates/pod.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n" +
			"    image: {{ .Values.image.registry }}/{{ .Values.image.repository }}:{{ .Values.image.tag }}\n",
		"charts/b/Chart.yaml":            "apiVersion: v2\nname: b\nversion: 1.0.0\nappVersion: \"0\"\n",
		"charts/b/package.yaml":          "cluster: true\n",
		"charts/b/values.yaml":           "{}\n",
		"charts/b/templates/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n",
	} {
		put(t, filepath.Join(root, name), content)
	}
	return root
}

// TestChartsAreALayer: a chart that changes changes one layer of the runtime image, and
// no other image; provenance and SBOM say what it is made of.
func TestChartsAreALayer(t *testing.T) {
	root, cacheDir, k := charted(t), t.TempDir(), key(t)
	first := layersOf(t, root, all(t, start(t, root, cacheDir), k))
	if len(first["runtime"]) != 2 {
		t.Fatalf("the runtime image has the layers %q", first["runtime"])
	}
	r := start(t, root, cacheDir)
	all(t, r, k)
	if built := r.built(); built != "" {
		t.Errorf("nothing changed, and it made: %s", built)
	}
	put(t, filepath.Join(root, "charts/b/templates/config.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n")
	r = start(t, root, cacheDir)
	second := layersOf(t, root, all(t, r, k))
	if built := r.built(); !strings.HasPrefix(built, "compile charts, image runtime, sign ") || strings.Contains(built, "hardened-app") {
		t.Errorf("a chart changed, and it made: %s", built)
	}
	for name, layers := range first {
		var changed []int
		for i := range layers {
			if layers[i] != second[name][i] {
				changed = append(changed, i)
			}
		}
		if want := map[string][]int{"runtime": {1}}[name]; !slices.Equal(changed, want) {
			t.Errorf("%s: layers %v changed, want %v", name, changed, want)
		}
	}
	platform := artifact.Platform{OS: "linux", Arch: runtime.GOARCH}
	for file, want := range map[string][]string{
		r.SBOM("runtime", platform):             {`"./charts/a.yaml"`, `"./charts/b.yaml"`},
		r.statementFile(1, "runtime", platform): {`"charts/a/package.yaml"`, `"charts/b/templates/config.yaml"`, `"kind":"charts"`, `"images":{"image":"hardened-app"}`},
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(strings.ReplaceAll(string(text), `": `, `":`), w) {
				t.Errorf("%s does not say %s", file, w)
			}
		}
	}
}

// layersOf gives the layers of every image, by its name.
func layersOf(t *testing.T, root string, index v1.IndexManifest) map[string][]string {
	t.Helper()
	blob := func(h v1.Hash, out any) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(root, "dist", "oci", "blobs", h.Algorithm, h.Hex))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, out); err != nil {
			t.Fatal(err)
		}
	}
	out := map[string][]string{}
	for _, d := range index.Manifests {
		if d.Annotations[layout.Kind] != layout.KindImage {
			continue
		}
		var platforms v1.IndexManifest
		blob(d.Digest, &platforms)
		var m v1.Manifest
		blob(platforms.Manifests[0].Digest, &m)
		name, _, _ := strings.Cut(filepath.Base(d.Annotations[layout.RefName]), ":")
		for _, l := range m.Layers {
			out[name] = append(out[name], l.Digest.String())
		}
	}
	return out
}
