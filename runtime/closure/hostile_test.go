package closure

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/runtime/scan"
)

// TestDamagedRuntimeImage: a byte of the layer with the charts changed on the way. That
// the image is there is true; what it brings is not known.
func TestDamagedRuntimeImage(t *testing.T) {
	core := system(t, map[string]string{"a.yaml": helmChartOf(t, chartOf(t, "web", "example.com/web:1", ""), charts.HelmChartOptions{})})
	m, _, err := core.Archive.Manifest(core.Archive.Images()[slices.IndexFunc(core.Archive.Images(), func(i airgap.Image) bool {
		return i.Refs[0].String() == runtimeImage
	})].Desc.Digest)
	must(t, err)
	raw, err := os.ReadFile(core.Path)
	must(t, err)
	r, err := core.Archive.Blob(m.Layers[0].Digest)
	must(t, err)
	layer := make([]byte, m.Layers[0].Size)
	_, err = r.Read(layer)
	must(t, err)
	at := bytes.Index(raw, layer[:64])
	raw[at+len(layer)/2] ^= 1
	damaged := filepath.Join(t.TempDir(), "damaged.tar")
	must(t, os.WriteFile(damaged, raw, 0o600))
	a, err := airgap.Open(damaged)
	must(t, err)
	defer a.Close()
	report := prove(t, Input{Bundles: []scan.File{{Path: damaged, Archive: a}}})
	if report.Complete || len(report.Faults) != 1 || !strings.Contains(report.Faults[0], "the charts that come with the node cannot be read") || !strings.Contains(report.Faults[0], "damaged") {
		t.Errorf("faults %q", report.Faults)
	}
}

// TestHostileManifests are faults, each for itself, and what is beside them counts.
func TestHostileManifests(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	w := tar.NewWriter(z)
	for _, name := range []string{"x/a", "x/b"} {
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 80 << 20}))
		_, err := w.Write(make([]byte, 80<<20))
		must(t, err)
	}
	must(t, errors.Join(w.Close(), z.Close()))
	endless := chartOf(t, "endless", "x{{ range until 30000 }}{{ range until 30000 }}{{ range until 30000 }}{{ end }}{{ end }}{{ end }}", "")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"bomb.yaml":  helmChartHead + "  chartContent: " + base64.StdEncoding.EncodeToString(bomb.Bytes()) + "\n",
		"deep.yaml":  "apiVersion: v1\nkind: Pod\nspec: " + strings.Repeat("{a: ", 50_000),
		"alias.yaml": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n",
		"good.yaml":  "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: 'example.com/good:1'}]}\n",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	in := Input{Bundles: []scan.File{system(t, nil)}, Manifests: []string{dir}}
	r := prove(t, in)
	if g := gaps(r); !slices.Equal(g, []string{"example.com/good:1"}) || len(r.Faults) != 3 {
		t.Errorf("gaps %q, faults %q", g, r.Faults)
	}
	for _, name := range []string{"bomb.yaml", "deep.yaml", "alias.yaml"} {
		if !slices.ContainsFunc(r.Faults, func(f string) bool { return strings.Contains(f, name) && len(f) < 3000 }) {
			t.Errorf("no fault names %s: %.300q", name, r.Faults)
		}
	}
	in.Manifests = []string{file(t, "endless.yaml", helmChartOf(t, endless, charts.HelmChartOptions{}))}
	in.ChartTime = 2 * time.Second
	if r := prove(t, in); len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "did not end within 2s") {
		t.Errorf("faults %q", r.Faults)
	}
	large := filepath.Join(t.TempDir(), "large.yaml")
	must(t, os.WriteFile(large, make([]byte, maxManifest+1), 0o600))
	in.Manifests = []string{large}
	in.Release, in.Settings = release(), Defaults("none")
	if _, err := Prove(t.Context(), in); err == nil || !strings.Contains(err.Error(), "large.yaml") {
		t.Errorf("got %v", err)
	}
}
