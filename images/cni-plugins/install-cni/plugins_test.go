package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, dir, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func folders(t *testing.T) (from, to string) {
	t.Helper()
	from, to = t.TempDir(), t.TempDir()
	write(t, from, "bridge", "bridge 2", 0o755)
	write(t, from, "portmap", "portmap 2", 0o755)
	write(t, from, "tuning", "tuning 2", 0o755)
	return from, to
}

func run(t *testing.T, from, to string, only, skip []string) string {
	t.Helper()
	var out bytes.Buffer
	if err := install(&out, from, to, only, skip); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func want(t *testing.T, dir, name, content string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || string(data) != content {
		t.Errorf("%s is %q (%v), want %q", name, data, err, content)
	}
	if st, err := os.Stat(filepath.Join(dir, name)); err == nil && st.Mode() != 0o755 {
		t.Errorf("%s has mode %v", name, st.Mode())
	}
}

func TestInstall(t *testing.T) {
	from, to := folders(t)
	write(t, to, "bridge", "bridge 1", 0o755)   // older
	write(t, to, "portmap", "portmap 2", 0o755) // the same
	write(t, to, "own", "operator's", 0o700)
	write(t, to, temporary+"123", "half", 0o600) // of a run that was killed
	got := run(t, from, to, nil, []string{"tuning"})
	if got != "installed bridge\nportmap is up to date\nskipped tuning\n" {
		t.Errorf("it says %q", got)
	}
	want(t, to, "bridge", "bridge 2")
	want(t, to, "portmap", "portmap 2")
	entries, err := os.ReadDir(to)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if strings.Join(names, " ") != "bridge own portmap" {
		t.Errorf("the folder has %v", names)
	}
}

// A pod that is being started with the old plugin keeps it: the file is another one.
func TestOpenPluginIsNotChanged(t *testing.T) {
	from, to := folders(t)
	write(t, to, "bridge", "bridge 1", 0o755)
	f, err := os.Open(filepath.Join(to, "bridge"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	run(t, from, to, []string{"bridge"}, nil)
	old := make([]byte, 20)
	if n, _ := f.Read(old); string(old[:n]) != "bridge 1" {
		t.Errorf("the open file became %q", old[:n])
	}
	want(t, to, "bridge", "bridge 2")
	if _, err := os.Stat(filepath.Join(to, "tuning")); err == nil {
		t.Error("a plugin that was not named was installed")
	}
}

// What cannot be executed, and a link, are put right.
func TestMended(t *testing.T) {
	from, to := folders(t)
	write(t, to, "bridge", "bridge 2", 0o644)
	if err := os.Symlink("/nowhere", filepath.Join(to, "portmap")); err != nil {
		t.Fatal(err)
	}
	run(t, from, to, nil, nil)
	want(t, to, "bridge", "bridge 2")
	want(t, to, "portmap", "portmap 2")
	if st, err := os.Lstat(filepath.Join(to, "portmap")); err != nil || !st.Mode().IsRegular() {
		t.Errorf("portmap: %v, %v", st, err)
	}
}

func TestErrors(t *testing.T) {
	from, to := folders(t)
	blocked := t.TempDir()
	if err := os.Mkdir(filepath.Join(blocked, "bridge"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, from, to string
		only           []string
		says           string
	}{
		{"nothing mounted", from, filepath.Join(to, "none"), nil, "mount the host's folder"},
		{"unknown plugin", from, to, []string{"nope"}, `no plugin "nope" in ` + from + ", which has bridge, portmap, tuning"},
		{"no plugins", t.TempDir(), to, nil, "has no plugins"},
		{"no source", filepath.Join(from, "none"), to, nil, "looking for plugins"},
		{"a folder in the way", from, blocked, nil, "is a folder: remove it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := install(&bytes.Buffer{}, c.from, c.to, c.only, nil)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(to, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
