package node

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/runtime/stage"
	"github.com/rancher/rke2/tests/fake"
)

// TestBundleThatChangesWhileItIsRead is one that is copied over, or replaced, after its
// index was read: it is read again, and if it is no good then, nothing of it is used.
func TestBundleThatChangesWhileItIsRead(t *testing.T) {
	overwrite := func(t *testing.T, path string, with []byte) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(with); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]struct {
		change func(t *testing.T, w *world, path string, raw []byte)
		says   string // "" if it is staged
		again  bool   // the log says that it is read again
	}{
		"copied over with another that is good": {func(t *testing.T, w *world, path string, raw []byte) {
			w.bundle(t, "core.tar", func(s *fake.Store) error {
				// The blobs are elsewhere in this one.
				return errors.Join(signed(s, w.other, otherRef, &w.key, otherRef), signed(s, w.runtime, runtimeRef, &w.key, runtimeRef))
			})
		}, "", true},
		"half copied": {func(t *testing.T, w *world, path string, raw []byte) {
			overwrite(t, path, raw[:len(raw)/2])
		}, "cannot be read any more: reading bundle", true},
		"copied over with a stranger's": {func(t *testing.T, w *world, path string, raw []byte) {
			w.bundle(t, "core.tar", func(s *fake.Store) error {
				return errors.Join(signed(s, w.other, otherRef, &w.stranger, otherRef), signed(s, w.runtime, runtimeRef, &w.stranger, runtimeRef))
			})
		}, "none of the trusted keys", true},
		"copied over with what is none": {func(t *testing.T, w *world, path string, raw []byte) {
			overwrite(t, path, []byte(strings.Repeat("no archive ", 1000)))
		}, "cannot be read any more", true},
		"replaced by a rename": {func(t *testing.T, w *world, path string, raw []byte) {
			next := path + ".part"
			if err := errors.Join(os.WriteFile(next, raw[:1000], 0o644), os.Rename(next, path)); err != nil {
				t.Fatal(err)
			}
		}, "", false},
		"removed": {func(t *testing.T, w *world, path string, raw []byte) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, "", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w, whole := layeredWorld(t, "core.tar", 1, 2)
			w.drop(t, whole)
			path := filepath.Join(w.config.ImagesDir(), "core.tar")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			folder := opened(t, w.config.ImagesDir())
			policy, err := newPolicy(w.config)
			if err != nil {
				t.Fatal(err)
			}
			before := files(t, w.config.DataDir)
			c.change(t, w, path, raw)
			root, _, err := runtimeRoot(t.Context(), w.config, policy, folder, slog.New(slog.NewTextHandler(w.log, nil)))
			if again := strings.Contains(w.log.String(), "is read again"); again != c.again {
				t.Errorf("read again: %v\n%s", again, w.log)
			}
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(filepath.Join(root.Bin(), "file-2")); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
			if after := files(t, w.config.DataDir); !slices.Equal(before, after) {
				t.Errorf("left behind: %q, before: %q", after, before)
			}
		})
	}
}

func opened(t *testing.T, dir string) *scan.Folder {
	t.Helper()
	folder, err := scan.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = folder.Close() })
	return folder
}

// fullDisk is set in the process that fills a disk of its own.
const fullDisk = "RKE2_TEST_FULL_DISK"

// TestDiskFull stages onto a disk that has room for one version: the next one is an error
// that says so, the first stays whole and linked, and with room the next start goes well.
// It runs in a mount namespace of its own.
func TestDiskFull(t *testing.T) {
	if os.Getenv(fullDisk) == "" {
		if os.Geteuid() != 0 {
			t.Skip("only root can make a disk that is full")
		}
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
		cmd.Env = append(os.Environ(), fullDisk+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestDiskFull") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	w, old := layeredWorld(t, "old.tar", 1, 2)
	w.drop(t, old)
	data := filepath.Join(w.config.DataDir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, "size=400k"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(data, unix.MNT_DETACH) }() // the namespace ends with this process
	first, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	next := w.releases(t, "next.tar", 1, 3, 4)
	w.config.Release.Version = "v9.8.8+rke2r1"
	w.drop(t, next)
	before := files(t, data)
	_, err = w.prepare(t)
	if !errors.Is(err, stage.ErrTarget) || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
	for _, want := range []string{"staging " + runtimeRef + " in " + data, "the disk is full", "make room", "the runtime of rke2 v9.8.7+rke2r6 is still staged in " + first.root.Dir} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not said: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "is refused") {
		t.Errorf("the bundle is blamed: %v", err)
	}
	if after := files(t, data); !slices.Equal(before, after) {
		t.Errorf("left behind: %q, before: %q", after, before)
	}
	if to, _ := os.Readlink(filepath.Join(w.config.DataDir, "bin")); to != first.Bin() {
		t.Errorf("linked to %s", to)
	}
	if err := unix.Mount("tmpfs", data, "tmpfs", unix.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	second, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	w.staged(t, second, 1, 3, 4)
}
