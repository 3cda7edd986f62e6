package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rancher/rke2/tests/distribution"
)

// small mounts a small file system, and returns what makes it larger.
func small(t *testing.T, size string) (dir string, grow func()) {
	t.Helper()
	if os.Getuid() != 0 {
		distribution.Absent(t, "a small file system needs root")
	}
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		distribution.Absent(t, "a small file system can't be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, func() {
		if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=256m"); err != nil {
			t.Fatal(err)
		}
	}
}

// A cache or a products' folder without space gives an error that says which; with space
// the same command makes what it would have made.
func TestNoSpace(t *testing.T) {
	root := project(t)
	t.Setenv("COSIGN_PASSWORD", "")
	if code, _, msg := invoke(t, "all"); code != 0 {
		t.Fatalf("all: %d\n%s", code, msg)
	}
	want, err := os.ReadFile(filepath.Join(root, "dist", "oci", "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(root, "dist", "development.key")
	// The program has some 1.2 MB, its layer half of that.
	for _, c := range []struct {
		what, size string
		args       func(full string) []string
	}{
		{"cache, for the program", "1m", func(full string) []string { return []string{"--cache", full} }},
		{"cache, for the layer", "1500k", func(full string) []string { return []string{"--cache", full} }},
		{"products", "64k", func(full string) []string { return []string{"--dist", full} }},
	} {
		t.Run(c.what, func(t *testing.T) {
			full, grow := small(t, c.size)
			dist := filepath.Join(t.TempDir(), "dist")
			args := append([]string{"all", "--dist", dist}, c.args(full)...)
			if c.what == "products" {
				dist = full
			}
			if err := os.MkdirAll(dist, 0o755); err != nil {
				t.Fatal(err)
			}
			private, err := os.ReadFile(key)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dist, "development.key"), private, 0o600); err != nil {
				t.Fatal(err)
			}
			code, _, msg := invoke(t, args...)
			if code != exitFailure || !strings.Contains(msg, "no space left on device") || !strings.Contains(msg, "The file system of "+full) || !strings.Contains(msg, " free now") {
				t.Fatalf("exit %d\n%s", code, msg)
			}
			t.Log(msg)
			if _, err := os.Stat(filepath.Join(dist, "oci", "index.json")); err == nil {
				t.Error("there is an index of images that are not there")
			}
			_ = filepath.WalkDir(full, func(p string, d os.DirEntry, err error) error {
				if err != nil {
					return err
				}
				if strings.HasPrefix(d.Name(), ".tmp-") {
					t.Errorf("left behind: %s", p)
				}
				return nil
			})
			grow()
			if code, _, msg := invoke(t, args...); code != 0 {
				t.Fatalf("with space: %d\n%s", code, msg)
			}
			if got, err := os.ReadFile(filepath.Join(dist, "oci", "index.json")); err != nil || string(got) != string(want) {
				t.Errorf("other images came out: %v\n%s\n%s", err, got, want)
			}
		})
	}
}
