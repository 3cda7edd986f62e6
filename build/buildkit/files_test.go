package buildkit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/build/layer"
)

func walk(t *testing.T, tr *tree, target string, answer map[string]error) string {
	t.Helper()
	var out []string
	err := tr.Walk(t.Context(), target, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !info.ModTime().Equal(epoch) {
			t.Errorf("/%s is of %s", p, info.ModTime())
		}
		out = append(out, fmt.Sprintf("%s %s %d", info.Mode(), p, info.Size()))
		return answer[p]
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

func TestTree(t *testing.T) {
	tr, err := newTree(append(share(t), layer.File{Path: "/doc.d/", Mode: 0o755, Dir: true}), epoch)
	if err != nil {
		t.Fatal(err)
	}
	// In fsutil's order a folder's content comes before names that it is a prefix of.
	all := `-rw------- c.conf 1
drwxr-xr-x doc 0
-rw-r--r-- doc/a.txt 1
drwx------ doc/deep 0
-rwxr-xr-x doc/deep/b.txt 1
drwxr-xr-x doc.d 0
Lrwxrwxrwx link 0`
	for _, root := range []string{"", "/", "."} {
		if got := walk(t, tr, root, nil); got != all {
			t.Errorf("%q:\n%s", root, got)
		}
	}
	if got := walk(t, tr, "doc/deep", nil); got != "drwx------ doc/deep 0\n-rwxr-xr-x doc/deep/b.txt 1" {
		t.Errorf("got\n%s", got)
	}
	if got := walk(t, tr, "nothing", nil); got != "" {
		t.Errorf("got\n%s", got)
	}
	if got := walk(t, tr, "", map[string]error{"doc": fs.SkipDir}); strings.Contains(got, "doc/") || !strings.Contains(got, "doc.d") {
		t.Errorf("got\n%s", got)
	}
	if got := walk(t, tr, "", map[string]error{"doc/a.txt": fs.SkipDir}); strings.Contains(got, "deep") || !strings.Contains(got, "doc.d") {
		t.Errorf("got\n%s", got)
	}
	if got := walk(t, tr, "", map[string]error{"c.conf": fs.SkipAll}); got != "-rw------- c.conf 1" {
		t.Errorf("got\n%s", got)
	}
	for name, want := range map[string]error{"nothing": fs.ErrNotExist, "doc": syscall.EINVAL, "link": syscall.EINVAL} {
		if _, err := tr.Open(name); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := tr.Open("/doc/a.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if data, err := io.ReadAll(r); err != nil || string(data) != "a" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestTreeRefused(t *testing.T) {
	dir := folder(t, "", map[string]string{"f": "f"})
	f := filepath.Join(dir, "f")
	for want, files := range map[string][]layer.File{
		"/.dockerignore":         {{Path: ".dockerignore", Source: f}},
		"two entries for /a":     {{Path: "a", Source: f}, {Path: "/a", Source: f}},
		"/a, which is no folder": {{Path: "a", Source: f}, {Path: "a/b/c", Source: f}},
		"is not a regular file":  {{Path: "a", Source: dir}},
		"/a: stat ":              {{Path: "a", Source: filepath.Join(dir, "gone")}},
	} {
		if _, err := newTree(files, epoch); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// A context's digest depends on what BuildKit gets to see, and on nothing else.
func TestDigest(t *testing.T) {
	digest := func(files []layer.File, at time.Time) string {
		tr, err := newTree(files, at)
		if err != nil {
			t.Fatal(err)
		}
		d, err := tr.digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	files := share(t)
	want := digest(files, epoch)
	moved := share(t) // the same content somewhere else, in another order
	moved[0], moved[1] = moved[1], moved[0]
	moved[0].Package = "pkg:generic/other"
	if got := digest(moved, epoch); got != want {
		t.Error("place, order or package changed it")
	}
	for name, change := range map[string]func(*layer.File){
		"mode": func(f *layer.File) { f.Mode = 0o600 },
		"path": func(f *layer.File) { f.Path = "other" },
		"content": func(f *layer.File) {
			f.Source = filepath.Join(t.TempDir(), "other")
			if err := os.WriteFile(f.Source, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		changed := append([]layer.File(nil), files...)
		change(&changed[0])
		if digest(changed, epoch) == want {
			t.Errorf("another %s, the same digest", name)
		}
	}
}
