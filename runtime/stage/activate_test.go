package stage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func linked(t *testing.T, dir string) string {
	t.Helper()
	to, err := os.Readlink(filepath.Join(dir, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// TestActivate: whatever was there, the link leads to the root, or stays.
func TestActivate(t *testing.T) {
	for name, before := range map[string]string{"none": "", "dangling": "/nowhere/bin", "foreign": "/usr/bin"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if before != "" {
				if err := os.Symlink(before, filepath.Join(dir, "bin")); err != nil {
					t.Fatal(err)
				}
			}
			root, err := Runtime(t.Context(), dir, image(t, "a", layer{entries: []entry{{name: "bin/k", content: "x"}}}))
			if err != nil {
				t.Fatal(err)
			}
			was, err := Activate(dir, root)
			if err != nil || was != before || linked(t, dir) != root.Bin() {
				t.Errorf("was %q, %v; now %s", was, err, linked(t, dir))
			}
			if again, err := Activate(dir, root); err != nil || again != root.Bin() {
				t.Errorf("again: was %q, %v", again, err)
			}
		})
	}
}

func TestActivateOverAFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bin", "somebody's"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := Runtime(t.Context(), dir, image(t, "a", layer{entries: []entry{{name: "bin/k", content: "x"}}}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Activate(dir, root); err == nil || !strings.Contains(err.Error(), "it is a folder that somebody else made: move it away") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "bin", "somebody's")); err != nil {
		t.Error(err)
	}
}

// TestActivateGoesBack: where what was staged is not what the link shows, the previous
// version is what is linked, or nothing.
func TestActivateGoesBack(t *testing.T) {
	for _, previous := range []bool{true, false} {
		dir := t.TempDir()
		var first Root
		if previous {
			first = stage(t, dir, image(t, "a", layer{entries: []entry{{name: "bin/k", content: "x"}}}))
		}
		second, err := Runtime(t.Context(), dir, image(t, "b", layer{entries: []entry{{name: "bin/k", content: "xy"}}}))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(second.Bin(), "k"), 1); err != nil {
			t.Fatal(err)
		}
		_, err = Activate(dir, second)
		if err == nil || !strings.Contains(err.Error(), "k is not what was written") {
			t.Errorf("got %v", err)
		}
		if previous && linked(t, dir) != first.Bin() {
			t.Errorf("linked to %s", linked(t, dir))
		}
		if _, err := os.Lstat(filepath.Join(dir, "bin")); !previous && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a link is left: %v", err)
		}
	}
}

// TestNewVersionThatFails: the previous version stays as it was, link and all.
func TestNewVersionThatFails(t *testing.T) {
	dir := t.TempDir()
	first := stage(t, dir, image(t, "a", layer{entries: []entry{{name: "bin/k", content: "x"}}}))
	before := snapshot(t, dir)
	_, err := Runtime(t.Context(), dir, image(t, "b", layer{entries: []entry{{name: "bin/k", content: "y"}}, fault: errors.New("cut short")}))
	if err == nil {
		t.Fatal("no error")
	}
	if after := snapshot(t, dir); !equal(before, after) || linked(t, dir) != first.Bin() {
		t.Errorf("after: %v\nbefore: %v", after, before)
	}
}

// TestRunning: each evidence alone keeps a root, and so does not knowing.
func TestRunning(t *testing.T) {
	dir := t.TempDir()
	root, real := filepath.Join(dir, "link", "v1-aaaaaaaaaaaa"), filepath.Join(dir, "disk")
	shims, proc := filepath.Join(dir, "shims"), filepath.Join(dir, "proc")
	if err := errors.Join(os.MkdirAll(filepath.Join(real, "v1-aaaaaaaaaaaa"), 0o755), os.Symlink(real, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	task := func(id, shim string) {
		t.Helper()
		bundle := filepath.Join(shims, "k8s.io", id)
		if err := errors.Join(os.MkdirAll(bundle, 0o755), os.WriteFile(filepath.Join(bundle, "shim-binary-path"), []byte(shim), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	process := func(pid, exe string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Join(proc, pid), 0o755), os.Symlink(exe, filepath.Join(proc, pid, "exe"))); err != nil {
			t.Fatal(err)
		}
	}
	r := Running{Shims: shims, Proc: proc}
	says := func(want string) {
		t.Helper()
		if got := r.From(root); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	says("")
	task("other", root+"2/bin/containerd-shim-runc-v2") // a name that only begins alike
	process("7", "/usr/bin/sleep")
	process("self", root+"/bin/rke2")
	if err := os.MkdirAll(filepath.Join(shims, "k8s.io", "no path yet"), 0o755); err != nil {
		t.Fatal(err)
	}
	says("")
	process("12", filepath.Join(real, "v1-aaaaaaaaaaaa", "bin", "containerd-shim-runc-v2 (deleted)"))
	says("process 12 (containerd-shim-runc-v2 (deleted))")
	task("web", root+"/bin/containerd-shim-runc-v2")
	says("the shim of k8s.io/web")
	if err := os.MkdirAll(filepath.Join(shims, "k8s.io", "a", "shim-binary-path"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := r.From(root); !slices.Contains([]string{"the shim of k8s.io/web"}, got) && !strings.HasPrefix(got, "cannot tell") {
		t.Errorf("got %q", got)
	}
	if err := os.RemoveAll(filepath.Join(shims, "k8s.io", "web")); err != nil {
		t.Fatal(err)
	}
	if got := r.From(root); !strings.HasPrefix(got, "cannot tell what runs from it") {
		t.Errorf("got %q", got)
	}
}
