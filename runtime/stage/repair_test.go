package stage

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// world is a staged root of three layers, and how often each was read.
type world struct {
	dir    string
	root   Root
	opened [3]int
	image  Image
}

func staged(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	w.image = image(t, "a",
		layer{entries: []entry{{name: "bin/kubelet", content: "old"}, {name: "bin/runc", content: "runc"}}, opened: &w.opened[0]},
		layer{entries: []entry{{name: "bin/kubelet", content: "kubelet"}}, opened: &w.opened[1]},
		layer{entries: []entry{{name: "charts/dns.yaml", content: "dns", mode: 0o644}}, opened: &w.opened[2]},
	)
	w.root = stage(t, w.dir, w.image)
	w.opened = [3]int{}
	return w
}

// snapshot is every file's inode, mode and content.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(b)
		} else if to, err := os.Readlink(path); err == nil {
			content = to
		}
		rel, _ := filepath.Rel(dir, path)
		out[rel] = strings.Join([]string{info.Mode().String(), content}, " ")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func equal(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// TestRepair: each way of drifting is named, and mended by reading no more than the
// layers that have what is wanted; what had not drifted is the same file as before.
func TestRepair(t *testing.T) {
	none := [3]int{}
	cases := map[string]struct {
		drift func(dir string) error
		says  []string
		reads [3]int
	}{
		"content":   {func(dir string) error { return os.WriteFile(dir+"/bin/kubelet", []byte("evil"), 0o755) }, []string{"bin/kubelet has 4 bytes instead of 7"}, [3]int{0, 1, 0}},
		"same size": {func(dir string) error { return os.WriteFile(dir+"/bin/kubelet", []byte("KUBELET"), 0o755) }, []string{"bin/kubelet has other content"}, [3]int{0, 1, 0}},
		"mode":      {func(dir string) error { return os.Chmod(dir+"/bin/kubelet", 0o777) }, []string{"bin/kubelet has mode -rwxrwxrwx instead of -rwxr-xr-x"}, none},
		"set-id":    {func(dir string) error { return os.Chmod(dir+"/bin/kubelet", 0o755|fs.ModeSetuid) }, []string{"bin/kubelet has mode urwxr-xr-x instead of -rwxr-xr-x"}, none},
		"gone": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/bin/kubelet"), os.Remove(dir+"/bin/runc"))
		}, []string{"bin/kubelet is missing", "bin/runc is missing"}, [3]int{1, 1, 0}},
		"extra": {func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/bin/extra", nil, 0o755), os.MkdirAll(dir+"/charts/more/yet", 0o755))
		}, []string{"bin/extra is not the image's", "charts/more is not the image's"}, none},
		"no list":  {func(dir string) error { return os.Remove(dir + "/.files.json") }, []string{".files.json is missing"}, [3]int{1, 1, 1}},
		"bad list": {func(dir string) error { return os.WriteFile(dir+"/.files.json", []byte("{"), 0o644) }, []string{".files.json is damaged"}, [3]int{1, 1, 1}},
		"list of other places": {func(dir string) error {
			return os.WriteFile(dir+"/.files.json", []byte(`{"files":{"bin/../../x":{}}}`), 0o644)
		}, []string{".files.json is damaged"}, [3]int{1, 1, 1}},
		"link": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/bin/kubelet"), os.Symlink("/bin/true", dir+"/bin/kubelet"))
		}, []string{"bin/kubelet is a symbolic link, not a file"}, [3]int{0, 1, 0}},
		"folder for a file": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/bin/kubelet"), os.MkdirAll(dir+"/bin/kubelet/x", 0o755))
		}, []string{"bin/kubelet is a folder, not a file"}, [3]int{0, 1, 0}},
		"no folder": {func(dir string) error { return os.RemoveAll(dir + "/charts") }, []string{"charts is missing", "charts/dns.yaml is missing"}, [3]int{0, 0, 1}},
		"link for a folder": {func(dir string) error {
			return errors.Join(os.Rename(dir+"/charts", dir+"/bin/away"), os.Symlink("bin/away", dir+"/charts"))
		}, []string{"charts is a symbolic link, not a folder", "charts/dns.yaml is missing", "bin/away is not the image's"}, [3]int{0, 0, 1}},
		"folder's mode": {func(dir string) error { return os.Chmod(dir+"/bin", 0o777) }, []string{"bin has mode drwxrwxrwx instead of drwxr-xr-x"}, none},
		"root is a link": {func(dir string) error {
			return errors.Join(os.Rename(dir, dir+".away"), os.Symlink(dir+".away", dir))
		}, []string{". is no folder"}, [3]int{1, 1, 1}},
	}
	if os.Geteuid() == 0 {
		cases["owner"] = cases["mode"]
		c := cases["owner"]
		c.drift, c.says = func(dir string) error { return os.Chown(dir+"/bin/runc", 1234, 0) }, []string{"bin/runc belongs to 1234:0 instead of 0:0"}
		cases["owner"] = c
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := staged(t)
			before := snapshot(t, w.root.Dir)
			if err := c.drift(w.root.Dir); err != nil {
				t.Fatal(err)
			}
			_, err := Existing(w.dir, w.image.Admitted)
			var drift *DriftError
			if !errors.As(err, &drift) {
				t.Fatalf("the drift was not noticed: %v", err)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not said: %v", want, err)
				}
			}
			if len(drift.Files) != len(c.says) {
				t.Errorf("said: %v", err)
			}
			root, err := Runtime(t.Context(), w.dir, w.image)
			if err != nil {
				t.Fatal(err)
			}
			if !root.Staged && len(root.Repaired) == 0 {
				t.Error("the repair is not reported")
			}
			if w.opened != c.reads {
				t.Errorf("layers were read %v times, want %v", w.opened, c.reads)
			}
			if after := snapshot(t, w.root.Dir); !equal(before, after) {
				t.Errorf("after the repair: %v\nbefore the drift: %v", after, before)
			}
			if _, err := Existing(w.dir, w.image.Admitted); err != nil {
				t.Error(err)
			}
			if left, _ := filepath.Glob(filepath.Join(w.dir, "data", unfinishedPrefix+"*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestRepairLeavesTheRest: only the file that drifted is another one afterwards, and a
// program that runs from the drifted file goes on.
func TestRepairLeavesTheRest(t *testing.T) {
	w := staged(t)
	runc, list := inode(t, w.root.Dir+"/bin/runc"), inode(t, w.root.Dir+"/.files.json")
	// A long-running program in the place of the kubelet.
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(w.root.Dir+"/bin/kubelet"), os.WriteFile(w.root.Dir+"/bin/kubelet", raw, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), w.root.Dir+"/bin/kubelet", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }() // it is killed
	defer func() { _ = cmd.Process.Kill() }()
	if _, err := Runtime(t.Context(), w.dir, w.image); err != nil {
		t.Fatal(err)
	}
	if got := (Running{Proc: "/proc"}).From(w.root.Dir); !strings.Contains(got, "process ") {
		t.Errorf("the program of before is not seen: %q", got)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the running program ended: %v", err)
	}
	if runc != inode(t, w.root.Dir+"/bin/runc") || list != inode(t, w.root.Dir+"/.files.json") {
		t.Error("files that had not drifted were replaced")
	}
}

// TestRepairThatFails leaves what is there, and says what is wrong.
func TestRepairThatFails(t *testing.T) {
	damaged := errors.New("digest does not match")
	for _, drift := range []func(dir string) error{
		func(dir string) error { return os.Remove(dir + "/bin/kubelet") },
		func(dir string) error { return os.Remove(dir + "/.files.json") },
		func(dir string) error { return os.Chmod(dir+"/bin", 0o700) },
	} {
		w := staged(t)
		if err := drift(w.root.Dir); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(w.root.Dir+"/bin/runc", []byte("RUNC"), 0o755); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, w.dir)
		bad := w.image
		bad.Layers = slices.Clone(bad.Layers)
		for i := range bad.Layers {
			l := bad.Layers[i].(layer)
			l.fault = damaged
			bad.Layers[i] = l
		}
		_, err := Runtime(t.Context(), w.dir, bad)
		if !errors.Is(err, damaged) || errors.Is(err, ErrTarget) {
			t.Errorf("got %v", err)
		}
		if after := snapshot(t, w.dir); !equal(before, after) {
			t.Errorf("after: %v\nbefore: %v", after, before)
		}
	}
}

// TestRecordOfAnotherImage: a record whose sums are not the image's is not believed.
func TestRecordOfAnotherImage(t *testing.T) {
	w := staged(t)
	path := filepath.Join(w.root.Dir, listName)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := readList(w.root.Dir)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(raw), l.Files["bin/runc"].SHA256, strings.Repeat("0", 64), 1)
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Runtime(t.Context(), w.dir, w.image); err != nil {
		t.Fatal(err)
	}
	if now, _ := os.ReadFile(path); string(now) != string(raw) {
		t.Errorf("the record is now %s", now)
	}
}
