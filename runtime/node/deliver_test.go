package node

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/packaged"
	"github.com/rancher/rke2/runtime/stage"
)

// server is a data folder with a staged runtime of which the charts are known.
type server struct {
	t      *testing.T
	config config.Config
	root   stage.Root
	log    bytes.Buffer
}

func newServer(t *testing.T, names ...string) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{t: t, root: stage.Root{Dir: filepath.Join(dir, "data", "v1-000000000000")}}
	s.config = config.Config{Role: config.Server, DataDir: dir, Charts: charts.Choice{CNI: []string{"canal"}, IngressController: []string{"none"}}}
	s.stage(names...)
	return s
}

// stage makes the charts of the runtime those.
func (s *server) stage(names ...string) {
	s.t.Helper()
	if err := os.RemoveAll(s.root.Charts()); err != nil {
		s.t.Fatal(err)
	}
	for _, name := range names {
		cni := ""
		if network := strings.TrimPrefix(name, "rke2-"); network == "canal" || network == "flannel" {
			cni = `, rke2.cattle.io/cni: "` + network + `"`
		}
		s.write(filepath.Join(s.root.Charts(), name+".yaml"), "apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata:\n  name: "+name+
			"\n  annotations: {rke2.cattle.io/inject-cluster-config: \"true\""+cni+"}\nspec: {chartContent: AAAA}\n")
	}
}

func (s *server) write(path, text string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) manifest(name string) string {
	return filepath.Join(s.config.DataDir, "server", "manifests", name)
}

func (s *server) deliver() packaged.Delivery {
	s.t.Helper()
	s.log.Reset()
	d, err := deliverCharts(s.root, s.config, slog.New(slog.NewTextHandler(&s.log, nil)))
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// uninstall does what the deploy controller does with the names that are disabled.
func (s *server) uninstall(d packaged.Delivery) {
	s.t.Helper()
	for _, name := range d.Removed {
		if err := os.Remove(s.manifest(name + ".yaml")); err != nil {
			s.t.Errorf("there is no file to uninstall %s by: %v", name, err)
		}
	}
}

func (s *server) files() string {
	s.t.Helper()
	entries, err := os.ReadDir(s.manifest(""))
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		raw, err := os.ReadFile(s.manifest(e.Name()))
		if err != nil {
			s.t.Fatal(err)
		}
		name := strings.TrimSuffix(e.Name(), ".yaml")
		if !strings.Contains(string(raw), "HelmChart") {
			name = "(" + name + ")" // nothing would be deployed of it
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

// TestDeliverySelects: changed settings and a restart converge, back and forth.
func TestDeliverySelects(t *testing.T) {
	s := newServer(t, "rke2-canal", "rke2-flannel", "rke2-coredns")
	s.write(s.manifest("mine.yaml"), "# HelmChart of mine")
	for _, c := range []struct {
		cni, disable   string
		removed, files string // before the deploy controller has been there
	}{
		{"canal", "", "rke2-flannel", "mine rke2-canal rke2-coredns (rke2-flannel)"},
		{"flannel", "", "rke2-canal", "mine rke2-canal rke2-coredns rke2-flannel"},
		{"flannel", "", "rke2-canal", "mine (rke2-canal) rke2-coredns rke2-flannel"},
		{"none", "rke2-coredns", "rke2-canal rke2-coredns rke2-flannel", "mine (rke2-canal) rke2-coredns rke2-flannel"},
		{"canal", "mine", "rke2-flannel", "mine rke2-canal rke2-coredns (rke2-flannel)"},
	} {
		s.config.Charts.CNI, s.config.Charts.Disable = []string{c.cni}, strings.Fields(c.disable)
		d := s.deliver()
		if got := strings.Join(d.Removed, " "); got != c.removed {
			t.Errorf("cni %s: %q are taken back, want %q", c.cni, got, c.removed)
		}
		if got := s.files(); got != c.files {
			t.Errorf("cni %s: the files are %q, want %q", c.cni, got, c.files)
		}
		if strings.Contains(s.log.String(), "WARN") {
			t.Errorf("cni %s: %s", c.cni, s.log.String())
		}
		s.uninstall(d)
	}
	s.config.Charts.CNI = []string{"cilium"}
	if _, err := deliverCharts(s.root, s.config, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "canal, flannel, or none") {
		t.Errorf("a network that there is no chart of: %v", err)
	}
	s.config.Charts = charts.Choice{CNI: []string{"none"}, IngressController: []string{"none"}, Disable: []string{"traefik"}}
	if s.deliver(); !strings.Contains(s.log.String(), "traefik is no chart of this release") {
		t.Errorf("log %q", s.log.String())
	}
}

// TestDeliveryLeavesAlone: the deploy controller applies what has another time.
func TestDeliveryLeavesAlone(t *testing.T) {
	s := newServer(t, "rke2-canal", "rke2-coredns")
	if d := s.deliver(); !slices.Equal(d.Changed, []string{"rke2-canal", "rke2-coredns"}) {
		t.Errorf("%q changed", d.Changed)
	}
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	for _, name := range []string{"rke2-canal.yaml", "rke2-coredns.yaml"} {
		if err := os.Chtimes(s.manifest(name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	s.write(s.manifest("rke2-coredns.yaml"), "edited")
	if d := s.deliver(); !slices.Equal(d.Changed, []string{"rke2-coredns"}) || len(d.Chosen) != 2 || len(d.Known) != 2 {
		t.Errorf("%+v", d)
	}
	if info, err := os.Stat(s.manifest("rke2-canal.yaml")); err != nil || !info.ModTime().Equal(old) {
		t.Errorf("what is the same was written again: %v, %v", info.ModTime(), err)
	}
	s.config.Cluster.Domain = "other.local"
	if d := s.deliver(); len(d.Changed) != 2 {
		t.Errorf("another domain changes %q", d.Changed)
	}
}

// TestDeliveryOfAnotherRelease: what a release has no more goes, unless somebody made it
// their own.
func TestDeliveryOfAnotherRelease(t *testing.T) {
	s := newServer(t, "rke2-canal", "rke2-old", "rke2-edited")
	s.deliver()
	s.write(s.manifest("rke2-edited.yaml"), "# HelmChart that the operator changed")
	s.write(s.manifest("rke2-mine.yaml"), "# HelmChart that nobody delivered")
	s.stage("rke2-canal", "rke2-new")
	for range 2 { // the first may have been killed before the deploy controller came to it
		if d := s.deliver(); !slices.Equal(d.Removed, []string{"rke2-old"}) {
			t.Fatalf("%q are taken back", d.Removed)
		}
	}
	if got := s.files(); got != "rke2-canal rke2-edited rke2-mine rke2-new rke2-old" {
		t.Errorf("files %q", got)
	}
	s.uninstall(packaged.Delivery{Removed: []string{"rke2-old"}})
	if d := s.deliver(); len(d.Removed) != 0 {
		t.Errorf("%q are taken back again", d.Removed)
	}
	// A record that cannot be read is told, and keeps nobody from starting.
	s.write(filepath.Join(s.config.DataDir, "server", "packaged-charts.json"), "{")
	if s.deliver(); !strings.Contains(s.log.String(), "packaged-charts.json") {
		t.Errorf("log %q", s.log.String())
	}
	s.stage("rke2-canal")
	if d := s.deliver(); !slices.Equal(d.Removed, []string{"rke2-new"}) {
		t.Errorf("after that %q are taken back", d.Removed)
	}
}
