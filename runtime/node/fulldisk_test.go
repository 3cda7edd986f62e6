package node

import (
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/rancher/rke2/tests/containerd"
	"github.com/rancher/rke2/tests/fake"
)

// TestFollowOnAFullDisk: a bundle for which there is no room is said to be so, once, with
// the folder and the room, and imported when there is.
func TestFollowOnAFullDisk(t *testing.T) {
	const large = "registry.example/apps/large:v1"
	bin := containerd.Programs(t)
	f, _ := newFollowed(t)
	root := f.root()
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
	_, end := f.follow(t, f.begin(t), func(string) {})
	f.await(t, "images are ready", "failed=0")

	image, err := fake.Large(runtime.GOARCH, 20<<20)
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
	if err := end(); err != nil {
		t.Error(err)
	}
}
