package preflight

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/tests/fake"
)

func TestNeeds(t *testing.T) {
	w := newWorld(t)
	names := func() string {
		var out []string
		for _, n := range Needs(w.in.Config) {
			out = append(out, n.What)
		}
		return strings.Join(out, "; ")
	}
	if got := names(); got != "executables; sandbox of every pod; etcd; kube-apiserver, kube-controller-manager, kube-scheduler" {
		t.Errorf("a server: %s", got)
	}
	w.in.Config.Without = []string{"etcd"}
	w.in.Config.ImageOverrides = map[string]string{"kube-scheduler": "registry.example/scheduler:v1"}
	if got := names(); got != "executables; sandbox of every pod; kube-apiserver, kube-controller-manager; kube-scheduler" {
		t.Errorf("with another scheduler and no etcd: %s", got)
	}
	w.in.Config.Role = config.Agent
	if got := names(); got != "executables; sandbox of every pod" {
		t.Errorf("an agent: %s", got)
	}
}

// keep puts what a bundle has of an image into containerd's store.
func (w *world) keep(bundle string, digest v1.Hash) {
	w.t.Helper()
	a, err := airgap.Open(bundle)
	if err != nil {
		w.t.Fatal(err)
	}
	defer a.Close()
	m, raw, err := a.Manifest(digest)
	if err != nil {
		w.t.Fatal(err)
	}
	blobs := map[v1.Hash][]byte{digest: raw, m.Config.Digest: make([]byte, m.Config.Size)}
	for _, l := range m.Layers {
		blobs[l.Digest] = make([]byte, l.Size)
	}
	dir := store(w.in.Config)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	for h, content := range blobs {
		if err := os.WriteFile(filepath.Join(dir, h.Hex), content, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestImages(t *testing.T) {
	w := newWorld(t)
	w.bundle("core.tar")
	bundle := filepath.Join(w.in.Config.ImagesDir(), "core.tar")
	verdict(t, Images(w.input()), OK, "4 images that this node needs: in core.tar")

	// Of etcd there is another tag, the rest is of another release.
	older := fake.Store{}
	program := filepath.Join(t.TempDir(), "etcd")
	if err := os.WriteFile(program, []byte("old"), 0o755); err != nil {
		t.Fatal(err)
	}
	image, err := fake.Program("etcd", program, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := older.Add(image, strings.Replace(etcd, ":v9", ":v8", 1)); err != nil {
		t.Fatal(err)
	}
	aside := filepath.Join(t.TempDir(), "core.tar")
	if err := os.Rename(bundle, aside); err != nil {
		t.Fatal(err)
	}
	if err := older.WriteBundle(t.Context(), filepath.Join(w.in.Config.ImagesDir(), "older.tar"), runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"notes.tar": "not a tar", "core.tar.download": "x", "README.txt": "x"} {
		if err := os.WriteFile(filepath.Join(w.in.Config.ImagesDir(), name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := Images(w.input())
	verdict(t, c, Fail, etcd, kube, pause, runtimeRef, "older.tar: has "+strings.Replace(etcd, ":v9", ":v8", 1)+" (another tag)",
		"notes.tar: cannot be read", "core.tar.download: not looked at", "offline is set", "copy the rke2-images-core bundle")
	if strings.Contains(c.String(), "README.txt") {
		t.Errorf("a text file is spoken of:\n%s", c)
	}
	w.in.Config.Offline = false
	verdict(t, Images(w.input()), Warn, etcd, "registries are asked")
	w.in.Config.Offline = true

	// An upgrade: another release's runtime is staged, and does not stand in for this one's.
	old := filepath.Join(w.in.Config.DataDir, "data", "v8-rke2r1-0123456789ab", "bin")
	if err := os.MkdirAll(old, 0o755); err != nil {
		t.Fatal(err)
	}
	in := w.input()
	in.Starting = true
	verdict(t, Images(in), Fail, "no bundle has the image "+runtimeRef, "no bundle has the image "+etcd)

	// What the node has from before will do, if it is whole and what the release pins.
	for _, ref := range []string{etcd, kube, pause} {
		w.keep(aside, w.digest[ref])
	}
	verdict(t, Images(w.input()), Fail, "no bundle has the image "+runtimeRef)
	if err := os.MkdirAll(filepath.Join(w.in.Config.DataDir, "data", "v9-rke2r1-"+w.digest[runtimeRef].Hex[:12], "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	verdict(t, Images(w.input()), OK, "4 kept from an earlier start")
	if err := os.Truncate(filepath.Join(store(w.in.Config), w.digest[etcd].Hex), 3); err != nil {
		t.Fatal(err)
	}
	verdict(t, Images(w.input()), Fail, "no bundle has the image "+etcd+" (etcd)")
}

func TestRefusedImages(t *testing.T) {
	w := newWorld(t)
	w.bundle("core.tar")
	good := w.in.Admit
	w.in.Admit = func(a *airgap.Archive, image airgap.Image) (trust.Admitted, error) {
		if image.Refs[0].String() == etcd {
			return trust.Admitted{}, errors.New("unsigned")
		}
		return good(a, image)
	}
	verdict(t, Images(w.input()), Fail, "cannot be used: "+etcd, "core.tar: unsigned", "rke2 bundle verify")
	// Beside it something is missing: a fault of its own only where it can't be pulled.
	w.in.Config.ImageOverrides = map[string]string{"kube-scheduler": "registry.example/scheduler:v1"}
	verdict(t, Images(w.input()), Fail, "no bundle has the image registry.example/scheduler:v1", "cannot be used: "+etcd, "offline is set")
	w.in.Config.Offline = false
	c := Images(w.input())
	verdict(t, c, Fail, "cannot be used: "+etcd)
	if strings.Contains(c.String(), "scheduler") {
		t.Errorf("what may be pulled is a fault:\n%s", c)
	}
}

// TestPartOfABundle: a layer in a part that was forgotten is found out before the start.
func TestPartOfABundle(t *testing.T) {
	w := newWorld(t)
	image, err := fake.Layers(runtime.GOARCH, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	const ref = "registry.example/etcd:v1"
	if _, err := w.store.Add(image, ref); err != nil {
		t.Fatal(err)
	}
	w.in.Config.ImageOverrides = map[string]string{config.RoleEtcd: ref}
	w.bundle("core.tar")
	whole := filepath.Join(w.in.Config.ImagesDir(), "core.tar")
	parts, err := airgap.SplitFile(t.Context(), airgap.SplitOptions{File: whole, Size: fake.LayerSize + 40_000, OutputDir: w.in.Config.ImagesDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(whole); err != nil {
		t.Fatal(err)
	}
	verdict(t, Images(w.input()), OK)
	if err := os.Remove(parts[1].File); err != nil {
		t.Fatal(err)
	}
	verdict(t, Images(w.input()), Fail, ref, "part 2 of 2")
}
