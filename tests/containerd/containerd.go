// Package containerd runs the containerd of the product's runtime image, with its CRI
// plugin, for tests that need the real one and no node. It is for tests only.
package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/airgap"
)

// Programs takes containerd and ctr out of the bundle in $RKE2_DIST or, without it, in the
// folder dist of the module; it returns the folder that they are in. Without a bundle the
// test is skipped, but in CI, where it fails.
func Programs(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containerd needs root")
	}
	dist := os.Getenv("RKE2_DIST")
	if dist == "" {
		_, file, _, _ := runtime.Caller(0)
		dist = filepath.Join(filepath.Dir(file), "..", "..", "dist")
	}
	a, err := airgap.Open(filepath.Join(dist, "rke2-images-core.linux-"+runtime.GOARCH+".tar"))
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("no containerd to test with: run make airgap (%v)", err)
	}
	defer a.Close()
	at := slices.IndexFunc(a.Images(), func(i airgap.Image) bool {
		return strings.HasSuffix(i.Refs[0].RepositoryStr(), "/rke2-runtime")
	})
	dir := filepath.Join(t.TempDir(), "bin")
	_, err = airgap.Extract(t.Context(), a, airgap.ExtractOptions{
		Dir: dir, Ref: a.Images()[at].Refs[0].String(), Paths: []string{"bin/containerd", "bin/ctr"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Running is a containerd that ends with its test.
type Running struct {
	Root   string
	Socket string
	bin    string
	end    func()
}

// Snapshotter is the one that it unpacks images with: it works on any disk.
const Snapshotter = "native"

// Start runs the containerd in bin with all that it keeps below root.
func Start(t *testing.T, bin, root string) *Running {
	t.Helper()
	short, err := os.MkdirTemp("", "ctd") // a socket's path is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	r := &Running{Root: root, Socket: filepath.Join(short, "c.sock"), bin: bin}
	config := filepath.Join(short, "config.toml")
	document := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = %q
[plugins."io.containerd.cri.v1.images"]
  snapshotter = %q
  disable_snapshot_annotations = true
  use_local_image_pull = true
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    conf_dir = %q
`, root, filepath.Join(short, "state"), r.Socket, Snapshotter, short)
	if err := os.WriteFile(config, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(short, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "containerd"), "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	// The kernel ties the signal to the thread that forks, so that one must stay.
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.end = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it ends by a signal
		_ = log.Close()
	}
	t.Cleanup(r.Stop)
	for limit := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, err := r.Ctr(t.Context(), "plugins", "ls", "id==cri")
		if err == nil && strings.Contains(out, "ok") {
			return r
		}
		if time.Now().After(limit) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("containerd's CRI is not up: %v\n%s%s", err, out, said)
		}
	}
}

// Stop ends it, once.
func (r *Running) Stop() {
	if r.end != nil {
		r.end()
		r.end = nil
	}
}

// Ctr runs ctr on the images and containers of Kubernetes.
func (r *Running) Ctr(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(r.bin, "ctr"), append([]string{"--address", r.Socket, "-n", "k8s.io"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}
