package chart

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
)

// TestDeclaredCharts packages the charts of this repository. What every server installs
// runs images of the core set alone, what a choice installs images of that choice's set.
func TestDeclaredCharts(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := images.Load(filepath.Join(root, "images"))
	if err != nil {
		t.Fatal(err)
	}
	got, a, err := packaged(t, root, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 {
		t.Fatal("no chart is declared")
	}
	sets := map[string][]string{}
	for _, i := range tree.Images {
		tag, err := images.Naming{Registry: tree.Product.Registry, Repo: tree.Product.Repo}.Tag(i)
		if err != nil {
			t.Fatal(err)
		}
		sets[tag.String()] = i.Sets
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		m, c := decode(t, got[name])
		if m.Metadata.Name+".yaml" != name {
			t.Errorf("%s has the HelmChart %s", name, m.Metadata.Name)
		}
		set := "core"
		for _, chosen := range []string{charts.CNIAnnotation, charts.IngressControllerAnnotation} {
			if by := m.Metadata.Annotations[chosen]; by != "" {
				set = by
			}
		}
		for _, ref := range charts.PackagedImages(m.Metadata.Annotations) {
			if !slices.Contains(sets[ref], "core") && !slices.Contains(sets[ref], set) {
				t.Errorf("%s runs %s, which is in the sets %q and not in %s", name, ref, sets[ref], set)
			}
		}
		if !strings.HasSuffix(c.Name, "-crd") {
			continue
		}
		objects, err := c.Render(t.Context(), charts.Options{KubeVersion: tree.Product.Version})
		if err != nil {
			t.Error(err)
		}
		for _, o := range objects {
			if o.Kind != "CustomResourceDefinition" || o.Annotations[keepAnnotation] != "keep" {
				t.Errorf("%s: %s, annotations %v", c.Name, o, o.Annotations)
			}
		}
		if len(objects) == 0 {
			t.Errorf("%s defines nothing", c.Name)
		}
	}
	t.Logf("%d charts, %d bytes", len(got), a.Size)
}
