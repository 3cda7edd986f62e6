package node

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/runtime/packaged"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/tests/fake"
)

const (
	jobRef, canalRef, dnsRef, topRef, appRef = "docker.io/rancher/klipper-helm:v1", "docker.io/rancher/canal:v1", "docker.io/rancher/dns:v1", "docker.io/rancher/top:v1", "registry.example/app:v1"
)

func charted(name string, bootstrap bool, refs ...string) packaged.Chart {
	return packaged.Chart{Name: name, Bootstrap: bootstrap, Annotations: map[string]string{charts.ImagesAnnotation: strings.Join(refs, ",")}}
}

// TestInOrder: what nodes need to become Ready is imported first.
func TestInOrder(t *testing.T) {
	w := newWorld(t)
	layered, err := fake.Layers(runtime.GOARCH, 1)
	if err != nil {
		t.Fatal(err)
	}
	w.bundle(t, "all.tar", func(s *fake.Store) error {
		for _, ref := range []string{appRef, topRef, dnsRef, canalRef, jobRef} {
			if err := signed(s, layered, ref, &w.key, ref); err != nil {
				return err
			}
		}
		return nil
	})
	folder, err := scan.Open(w.config.ImagesDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	policy, err := newPolicy(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.config.Release.Images = append(w.config.Release.Images, images.ReleaseImage{Role: config.RoleHelmJob, Reference: jobRef})
	c := &Content{config: w.config, policy: policy, folder: folder, log: slog.New(slog.DiscardHandler)}
	names := func(items []imageimport.Item) (out []string) {
		for _, i := range items {
			out = append(out, i.Admitted.Name())
		}
		return out
	}
	items, _ := c.admit()
	if got := names(c.inOrder(items)); !slices.Equal(got, names(items)) {
		t.Errorf("without charts: %q", got)
	}
	c.charts.Chosen = []packaged.Chart{charted("a-top", false, topRef), charted("b-canal", true, canalRef), charted("c-dns", true, dnsRef)}
	if got, want := names(c.inOrder(items)), []string{jobRef, canalRef, dnsRef, topRef, appRef}; !slices.Equal(got, want) {
		t.Errorf("the order is %q, want %q", got, want)
	}
	// An agent does not know what was chosen.
	c.config.Role, c.charts.Known, c.charts.Chosen = config.Agent, c.charts.Chosen, nil
	if got, want := names(c.inOrder(items)), []string{canalRef, dnsRef, jobRef, topRef, appRef}; !slices.Equal(got, want) {
		t.Errorf("an agent's order is %q, want %q", got, want)
	}
}

// TestMissingChartImages: a chart that can never come up is told before the node starts,
// and what to do.
func TestMissingChartImages(t *testing.T) {
	w := newWorld(t)
	layered, err := fake.Layers(runtime.GOARCH, 1)
	if err != nil {
		t.Fatal(err)
	}
	w.bundle(t, "core.tar", func(s *fake.Store) error { return signed(s, layered, dnsRef, &w.key, dnsRef) })
	folder, err := scan.Open(w.config.ImagesDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	w.config.Release.Images = append(w.config.Release.Images, images.ReleaseImage{Reference: canalRef, Sets: []string{"canal"}})
	var log bytes.Buffer
	c := &Content{config: w.config, folder: folder, log: slog.New(slog.NewTextHandler(&log, nil))}
	c.charts.Chosen = []packaged.Chart{charted("dns", true, dnsRef), charted("canal", true, canalRef), charted("top", false, canalRef)}
	c.missingChartImages(t.Context())
	said := log.String()
	for _, want := range []string{"level=WARN", canalRef, "[canal top]", "rke2-images-canal", "disable: [canal, top]"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q: %s", want, said)
		}
	}
	if strings.Contains(said, dnsRef) {
		t.Errorf("it speaks of what is there: %s", said)
	}
	log.Reset()
	c.config.Offline = false
	if c.missingChartImages(t.Context()); !strings.Contains(log.String(), "a registry will be asked") {
		t.Errorf("where a registry may be asked: %s", log.String())
	}
	log.Reset()
	c.charts.Chosen = c.charts.Chosen[:1]
	if c.missingChartImages(t.Context()); log.Len() > 0 {
		t.Errorf("nothing is missing: %s", log.String())
	}
}

// TestInventoryOfCharts: charts of a runtime image that is not staged yet.
func TestInventoryOfCharts(t *testing.T) {
	w := newWorld(t)
	w.config.Charts = charts.Choice{CNI: []string{"canal"}, IngressController: []string{"none"}, Disable: []string{"rke2-top"}}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"rke2-canal": `{rke2.cattle.io/cni: canal, rke2.cattle.io/images: "` + canalRef + `"}`,
		"rke2-dns":   `{rke2.cattle.io/images: "` + dnsRef + "," + canalRef + `"}`,
		"rke2-top":   `{rke2.cattle.io/images: "` + topRef + `"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte("apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata:\n  name: "+name+"\n  annotations: "+text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all, err := packaged.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := newPolicy(w.config)
	if err != nil {
		t.Fatal(err)
	}
	inventory := Inventory{}
	x := taking{Content: &Content{config: w.config, policy: policy}, inventory: &inventory, at: map[string]int{}, refused: map[string]error{dnsRef: os.ErrInvalid}}
	x.chosen(all)
	got := map[string]NodeImage{}
	for _, i := range inventory.Images {
		got[i.Reference] = i
	}
	if len(got) != 2 || strings.Join(got[canalRef].Why, ", ") != "chart rke2-canal, chart rke2-dns" || got[dnsRef].Fault == "" || len(inventory.Faults) != 0 {
		t.Errorf("%+v, faults %q", inventory.Images, inventory.Faults)
	}
	x.config.Charts.CNI = []string{"cilium"}
	if x.chosen(all); len(inventory.Faults) != 1 || !strings.Contains(inventory.Faults[0], "canal, or none") {
		t.Errorf("faults %q", inventory.Faults)
	}
}
