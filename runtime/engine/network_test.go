package engine

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/cmds"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/runtime/packaged"
	"github.com/rancher/rke2/runtime/timeline"
)

// delivered is a node's content of which only the charts are asked.
type delivered packaged.Delivery

func (delivered) Bin() string                                                  { return "" }
func (delivered) Import(context.Context, string, func(reference string)) error { return nil }
func (delivered) Pinned(reference string) string                               { return reference }
func (delivered) Timeline() *timeline.Line                                     { return nil }
func (d delivered) Charts() packaged.Delivery                                  { return packaged.Delivery(d) }

func TestRemoveNetworks(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"10-canal.conflist":   `{"name": "x", "rke2Chart": "rke2-canal", "plugins": []}`,
		"10-flannel.conflist": `{"name": "x", "rke2Chart": "rke2-flannel"}`,
		"05-mine.conflist":    `{"name": "rke2-canal"}`,
		"20-half.conf":        `{"rke2Chart": "rke2-ca`,
		"calico-kubeconfig":   `{"rke2Chart": "rke2-canal"}`,
		"30-number.json":      `{"rke2Chart": 1}`,
	} {
		write(t, filepath.Join(dir, name), text)
	}
	var gone []string
	told := func(file, chart string) { gone = append(gone, filepath.Base(file)+" of "+chart) }
	off := func(chart string) bool { return chart == "rke2-canal" || chart == "" }
	if err := removeNetworks(dir, off, told); err != nil {
		t.Fatal(err)
	}
	if want := []string{"10-canal.conflist of rke2-canal"}; slices.Equal(gone, want) == false {
		t.Errorf("removed %q, want %q", gone, want)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 5 {
		t.Errorf("%d files are left: %v", len(entries), err)
	}
	if err := removeNetworks(filepath.Join(dir, "none"), off, told); err != nil {
		t.Errorf("no folder: %v", err)
	}
}

// TestForgetNetworks: after a boot of the machine, and only then, pods wait for their network.
func TestForgetNetworks(t *testing.T) {
	dir := t.TempDir()
	chart, mine, lease := filepath.Join(dir, "10-canal.conflist"), filepath.Join(dir, "05-mine.conflist"), filepath.Join(dir, "subnet.env")
	write(t, chart, `{"rke2Chart": "rke2-canal"}`)
	write(t, mine, `{"name": "mine"}`)
	write(t, lease, "FLANNEL_SUBNET=10.42.0.1/24\n")
	e := &Executor{log: slog.New(slog.DiscardHandler)}
	e.forgetNetworks(dir, lease)
	if _, err := os.Stat(chart); err != nil {
		t.Errorf("while the network is up: %v", err)
	}
	if err := os.Remove(lease); err != nil {
		t.Fatal(err)
	}
	e.forgetNetworks(dir, lease)
	if _, err := os.Stat(chart); !os.IsNotExist(err) {
		t.Errorf("after a boot: %v", err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("the operator's own: %v", err)
	}
}

// TestKeepNetworks: a pod that runs on until it is uninstalled may write its file again.
func TestKeepNetworks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net.d")
	e := &Executor{log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.keepNetworks(ctx, dir, map[string]bool{"rke2-canal": true})
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the folder is not watched")
		}
	}
	for range 2 {
		file := filepath.Join(dir, "10-canal.conflist")
		write(t, file+".tmp", `{"rke2Chart": "rke2-canal"}`)
		if err := os.Rename(file+".tmp", file); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(file); os.IsNotExist(err) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("it is still there")
			}
		}
	}
	cancel()
	<-ended
	e.keepNetworks(t.Context(), dir, nil) // nothing is off: it does not stay
}

// TestDiffers: servers of a cluster deploy the same network, or undo each other's work.
func TestDiffers(t *testing.T) {
	was := cmds.ServerConfig.DisableKubeProxy
	t.Cleanup(func() { cmds.ServerConfig.DisableKubeProxy = was })
	cmds.ServerConfig.DisableKubeProxy = false
	of := func(name, cni string) packaged.Chart {
		return packaged.Chart{Name: name, Annotations: map[string]string{charts.CNIAnnotation: cni}}
	}
	known := []packaged.Chart{of("rke2-canal", "canal"), of("rke2-canal-crd", "canal"), of("rke2-flannel", "flannel"), {Name: "rke2-coredns"}}
	set := func(names ...string) map[string]bool {
		out := map[string]bool{"servicelb": true}
		for _, n := range names {
			out[n] = true
		}
		return out
	}
	for _, c := range []struct {
		what   string
		off    []string
		theirs clusterSettings
		want   string
	}{
		{"the same", []string{"rke2-flannel"}, clusterSettings{Disables: set("rke2-flannel")}, ""},
		{"other charts than networks", []string{"rke2-flannel", "rke2-coredns"}, clusterSettings{Disables: set("rke2-flannel")}, ""},
		{"another", []string{"rke2-flannel"}, clusterSettings{Disables: set("rke2-canal", "rke2-canal-crd")}, "cni is canal here, and flannel there"},
		{"none here", []string{"rke2-flannel", "rke2-canal", "rke2-canal-crd"}, clusterSettings{Disables: set("rke2-flannel")}, "cni is none here, and canal there"},
		{"a release without charts", []string{"rke2-flannel"}, clusterSettings{Disables: set()}, ""},
		{"kube-proxy", []string{"rke2-flannel"}, clusterSettings{Disables: set("rke2-flannel"), DisableKubeProxy: true}, "disable-kube-proxy is false here, and true there"},
	} {
		e := &Executor{content: delivered{Known: known, Removed: c.off}}
		err := e.differs(c.theirs)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}
