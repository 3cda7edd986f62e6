package debian

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/debian/debiantest"
	"github.com/rancher/rke2/images"
)

// On a full disk the error says so, nothing half-written stays, and with room the same
// command gets through.
func TestNoSpace(t *testing.T) {
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=512k"); err != nil {
		if errors.Is(err, syscall.EPERM) {
			t.Skip("mounting a small disk needs root")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	random := rand.NewChaCha8([32]byte{})
	data := make([]byte, 1<<20)
	if _, err := random.Read(data); err != nil {
		t.Fatal(err)
	}
	a := debiantest.New(t)
	a.Add("", debiantest.Package{Name: "large", Version: "1", Files: []debiantest.File{{Path: "./usr/share/large", Data: string(data)}}})
	a.Publish(t)
	c := locked(t, open(t, a, Options{}), images.Debian{Packages: []string{"large"}})
	store, err := cache.Open(filepath.Join(small, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	archive := NewArchive(store, a.Mirrors(), Options{Keyring: a.Keyring, Now: debiantest.Now})
	_, err = New(archive).Make(ctx, c, amd64(), nil)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "package large 1 (amd64): fetching http") {
		t.Errorf("got %v", err)
	}
	for _, kind := range []string{fileKind, treeKind} {
		left, err := os.ReadDir(filepath.Join(store.Dir(), kind))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) > 0 {
			t.Errorf("left behind in %s: %v", kind, left)
		}
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", syscall.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	if _, err := New(archive).Make(ctx, c, amd64(), nil); err != nil {
		t.Error(err)
	}
}
