package charts

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart/loader"
	"sigs.k8s.io/yaml"
)

// TestPackageIsReproducible: not the folder's name or place, not owners, modes or dates,
// not the order of making, and not what .helmignore names.
func TestPackageIsReproducible(t *testing.T) {
	want, err := Package(shop)
	if err != nil {
		t.Fatal(err)
	}
	files, err := ReadFolder(shop)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(files)
	other := filepath.Join(t.TempDir(), "another", "name")
	for _, f := range files {
		path := filepath.Join(other, f.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, f.Data, 0o600), os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0))); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 {
			if err := os.Chown(path, 1234, 1234); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(other, "my.orig"), []byte("left out"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Package(other)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Archive(), want.Archive()) {
		t.Errorf("%s is not %s", got.Digest(), want.Digest())
	}
	first, err := want.HelmChart(HelmChartOptions{Cluster: true, Set: map[string]string{"b": "1", "a": "2"}, Annotations: map[string]string{"z": "1", "y": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := got.HelmChart(HelmChartOptions{Cluster: true, Set: map[string]string{"a": "2", "b": "1"}, Annotations: map[string]string{"y": "2", "z": "1"}})
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("the manifest is another: %v", err)
		}
	}
	a, err := want.Artifact()
	if err != nil {
		t.Fatal(err)
	}
	b, err := got.Artifact()
	if err != nil || a.Digest() != b.Digest() {
		t.Errorf("the artifact is %s and %s: %v", a.Digest(), b.Digest(), err)
	}
}

// TestPackageIsReadByHelm lets Helm's own reader read what we wrote.
func TestPackageIsReadByHelm(t *testing.T) {
	c := mustLoad(t, shop)
	read, err := loader.LoadArchive(bytes.NewReader(c.Archive()))
	if err != nil {
		t.Fatal(err)
	}
	if read.Name() != "shop" || len(read.Dependencies()) != 1 || len(read.Templates) != 5 || len(read.CRDObjects()) != 1 || read.Schema == nil {
		t.Errorf("got %s with %d subcharts, %d templates", read.Name(), len(read.Dependencies()), len(read.Templates))
	}
	for _, f := range read.Raw {
		if strings.HasSuffix(f.Name, ".orig") {
			t.Errorf("%s is in it", f.Name)
		}
	}
	if read.Raw[0].Name != "Chart.yaml" {
		t.Errorf("%s comes first", read.Raw[0].Name)
	}
	// An archive is kept as it is.
	path := filepath.Join(t.TempDir(), "shop.tgz")
	if err := os.WriteFile(path, c.Archive(), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := mustLoad(t, path); again.Digest() != c.Digest() {
		t.Errorf("%s became %s", c.Digest(), again.Digest())
	}
}

func TestHelmChart(t *testing.T) {
	c := mustLoad(t, shop)
	text, err := c.HelmChart(HelmChartOptions{
		Name: "rke2-shop", TargetNamespace: "shops", Bootstrap: true, Cluster: true,
		Set: map[string]string{"a": "b"}, ValuesContent: "x: 1\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		APIVersion, Kind string
		Metadata         struct {
			Name, Namespace string
			Annotations     map[string]string
		}
		Spec struct {
			Bootstrap                                    bool
			ChartContent, TargetNamespace, ValuesContent string
			Set                                          map[string]string
		}
	}
	if err := yaml.UnmarshalStrict(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.APIVersion != "helm.cattle.io/v1" || got.Kind != "HelmChart" || got.Metadata.Name != "rke2-shop" || got.Metadata.Namespace != "kube-system" ||
		got.Metadata.Annotations[InjectAnnotation] != "true" || !got.Spec.Bootstrap || got.Spec.TargetNamespace != "shops" || got.Spec.ValuesContent != "x: 1\n" || got.Spec.Set["a"] != "b" {
		t.Errorf("got %+v", got)
	}
	raw, err := base64.StdEncoding.DecodeString(got.Spec.ChartContent)
	if err != nil || !bytes.Equal(raw, c.Archive()) {
		t.Errorf("the content is another: %v", err)
	}
	library, err := Parse(tgz(t, entry{name: "x/Chart.yaml", data: minimal + "type: library\n"}), "it")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := library.HelmChart(HelmChartOptions{}); !errors.Is(err, ErrNotChart) {
		t.Errorf("got %v", err)
	}
	if _, err := library.Render(t.Context(), Options{}); !errors.Is(err, ErrNotChart) {
		t.Errorf("got %v", err)
	}
	noise := make([]byte, 1<<20)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	large, err := Parse(tgz(t, entry{name: "x/Chart.yaml", data: minimal}, entry{name: "x/noise", data: string(noise)}), "it")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := large.HelmChart(HelmChartOptions{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "fit into a HelmChart") {
		t.Errorf("got %v", err)
	}
}
