package watch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const quiet = 40 * time.Millisecond

// follow watches a folder and gives its changes as text, one at a time.
func follow(t *testing.T, dir string, known map[string]Identity) func() string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	changes := Folder(ctx, Options{
		Dir: dir, Known: known, Quiet: quiet, Poll: time.Hour, // only what it is told of
		Want: func(name string) bool { return strings.HasSuffix(name, ".tar") },
	})
	t.Cleanup(func() {
		cancel()
		for range changes {
			t.Error("a change that nobody waited for")
		}
	})
	var queue []Change
	return func() string {
		t.Helper()
		for len(queue) == 0 {
			select {
			case queue = <-changes:
			case <-time.After(10 * time.Second):
				t.Fatal("nothing was noticed")
			}
		}
		c := queue[0]
		queue = queue[1:]
		rel, err := filepath.Rel(dir, c.Path)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %s", rel, c.Kind)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "agent", "images") // not there yet
	next := follow(t, dir, nil)
	want := func(w string) {
		t.Helper()
		if got := next(); got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
	}
	must(t, os.MkdirAll(dir, 0o755))
	a := filepath.Join(dir, "a.tar")
	write(t, filepath.Join(dir, ".hidden.tar"), "x")
	write(t, filepath.Join(dir, "README.md"), "x")
	write(t, a, "one")
	want("a.tar added")

	// The same size, an older time, renamed into place.
	other := filepath.Join(dir, ".a.tar.part")
	write(t, other, "two")
	old := time.Now().Add(-24 * time.Hour)
	must(t, os.Chtimes(other, old, old))
	must(t, os.Rename(other, a))
	want("a.tar replaced")

	// The same in place, with the time put back: only the inode's own time tells.
	write(t, a, "ten")
	must(t, os.Chtimes(a, old, old))
	want("a.tar replaced")

	must(t, os.Mkdir(filepath.Join(dir, "site"), 0o755))
	b := filepath.Join(dir, "site", "b.tar")
	write(t, b, "b")
	want("site/b.tar added")
	must(t, os.Rename(b, filepath.Join(dir, "b.tar")))
	// A look at the folders may be between that of one and that of the other.
	moved := []string{next(), next()}
	if slices.Sort(moved); !slices.Equal(moved, []string{"b.tar added", "site/b.tar removed"}) {
		t.Errorf("moved: %q", moved)
	}
	must(t, os.Remove(a))
	want("a.tar removed")
	must(t, os.RemoveAll(dir))
	want("b.tar removed")
	must(t, os.MkdirAll(dir, 0o755))
	write(t, a, "again")
	want("a.tar added")
}

func TestKnown(t *testing.T) {
	dir := t.TempDir()
	same, changed, gone := filepath.Join(dir, "same.tar"), filepath.Join(dir, "changed.tar"), filepath.Join(dir, "gone.tar")
	known := map[string]Identity{}
	for _, path := range []string{same, changed, gone} {
		write(t, path, "x")
		info, err := os.Stat(path)
		must(t, err)
		known[path] = Of(info)
	}
	must(t, os.Remove(gone))
	write(t, changed, "y")
	next := follow(t, dir, known)
	got := []string{next(), next()}
	slices.Sort(got)
	if !slices.Equal(got, []string{"changed.tar replaced", "gone.tar removed"}) {
		t.Errorf("got %q", got)
	}
}

// TestBeingWritten: a file whose writer pauses longer than any quiet time is waited for.
func TestBeingWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "slow.tar")
	f, err := os.Create(path)
	must(t, err)
	if _, known := openForWriting(path); !known {
		t.Skip("the file system of the temporary folder grants no leases")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := Folder(ctx, Options{Dir: dir, Quiet: 10 * time.Millisecond, Want: func(string) bool { return true }})
	for range 3 {
		_, err := f.WriteString("more")
		must(t, err)
		select {
		case c := <-changes:
			t.Fatalf("%v while it is being written", c)
		case <-time.After(150 * time.Millisecond):
		}
	}
	must(t, f.Close())
	select {
	case c := <-changes:
		if len(c) != 1 || c[0] != (Change{path, Added}) {
			t.Errorf("got %v", c)
		}
	case <-time.After(10 * time.Second):
		t.Error("the finished file was not noticed")
	}
}

// TestPolls: where the kernel tells nothing, the folder is looked at now and then.
func TestPolls(t *testing.T) {
	dir := t.TempDir()
	w := &watcher{Options: Options{Dir: dir, Quiet: quiet, Want: func(string) bool { return true }}, known: map[string]Identity{}, pending: map[string]pending{}}
	path := filepath.Join(dir, "a")
	write(t, path, "x")
	at := time.Now()
	if got := w.look(at); len(got) > 0 {
		t.Errorf("at once: %v", got)
	}
	if got := w.look(at.Add(blindFactor * quiet)); len(got) != 1 {
		t.Errorf("after it stood still: %v", got)
	}
	must(t, os.Remove(path))
	w.look(at)
	if got := w.look(at.Add(quiet)); len(got) != 1 || got[0].Kind != Removed {
		t.Errorf("removed: %v", got)
	}
}
