package node

import (
	"context"
	"errors"
	"log/slog"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/tests/containerd"
	"github.com/rancher/rke2/tests/fake"
)

// TestFollowOnAFullDisk: a bundle for which there is no room is said to be so, once, with
// the folder and the room, and imported when there is.
func TestFollowOnAFullDisk(t *testing.T) {
	const pause, large = "docker.io/rancher/mirrored-pause:v1", "registry.example/apps/large:v1"
	bin := containerd.Programs(t)
	f := &followed{world: newWorld(t)}
	f.config.Role, f.config.Snapshotter = config.Agent, containerd.Snapshotter
	sandbox, err := fake.Layers(runtime.GOARCH, 1)
	if err != nil {
		t.Fatal(err)
	}
	f.config.Release.Images = append(f.config.Release.Images, images.ReleaseImage{
		Name: "pause", Role: config.RolePause, Reference: pause, Digests: here(mustDigest(t, sandbox).String()),
	})
	f.bundle(t, "core.tar", func(s *fake.Store) error {
		return errors.Join(signed(s, f.runtime, runtimeRef, &f.key, runtimeRef), signed(s, sandbox, pause, &f.key, pause))
	})
	root := filepath.Join(f.config.DataDir, "agent", "containerd")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size=80m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	f.Running = containerd.Start(t, bin, root)
	content, _, err := prepare(t.Context(), f.config, slog.New(slog.NewTextHandler(&f.log, nil)), anyHost)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- content.Import(ctx, f.Socket, func(string) {}) }()
	f.await(t, "images are ready", "failed=0")

	blob := make([]byte, 20<<20)
	rand.New(rand.NewSource(1)).Read(blob) // does not compress
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, blob, 0o755); err != nil {
		t.Fatal(err)
	}
	image, err := fake.Program("program", program, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	f.bundle(t, "large.tar", func(s *fake.Store) error { return signed(s, image, large, nil, "") })
	f.await(t, "level=ERROR", "images are not imported; the import goes on by itself when there is room", root, "MB are free")
	f.has(t, large, false, false)
	if err := syscall.Mount("tmpfs", root, "tmpfs", syscall.MS_REMOUNT, "size=300m"); err != nil {
		t.Fatal(err)
	}
	f.await(t, "there is room on the disk again", "images are ready", "failed=0")
	f.has(t, large, true, true)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
