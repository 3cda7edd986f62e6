package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// paths lists a tree: type, path, and where it is from or leads to.
func paths(t *Tree) []string {
	var out []string
	for name, n := range t.All() {
		if name == "." {
			continue
		}
		s := fmt.Sprintf("%c %s %d", n.Type, name, n.Layer)
		if n.Type == Symlink {
			s += " → " + n.Link
		}
		out = append(out, s)
	}
	return out
}

func apply(t testing.TB, layers ...[]file) *Tree {
	t.Helper()
	tree := NewTree()
	for _, l := range layers {
		noError(t, tree.Apply(mustRead(t, l...)))
	}
	return tree
}

func TestTree(t *testing.T) {
	dir := func(name string) file { return of(tar.TypeDir, name, "") }
	link := func(name, to string) file { return of(tar.TypeSymlink, name, to) }
	for _, c := range []struct {
		what   string
		layers [][]file
		want   []string
	}{
		{"folders that nobody describes", [][]file{{reg("a/b/c", "")}}, []string{"d a -1", "d a/b -1", "f a/b/c 0"}},
		{"an upper file wins", [][]file{{reg("a", "1")}, {reg("a", "2")}}, []string{"f a 1"}},
		{"a later entry wins", [][]file{{reg("a", "1"), dir("a"), reg("a/b", "")}}, []string{"d a 0", "f a/b 0"}},
		{"a folder keeps what is in it", [][]file{{dir("a"), reg("a/b", "")}, {dir("a")}}, []string{"d a 1", "f a/b 0"}},
		{"a file replaces a folder", [][]file{{reg("a/b", "")}, {reg("a", "")}}, []string{"f a 1"}},
		{"a folder replaces a file", [][]file{{reg("a", "")}, {reg("a/b", ""), dir("a")}}, nil}, // refused: see below
		{"a whiteout", [][]file{{reg("a/b", ""), reg("a/c", "")}, {reg("a/.wh.b", "")}}, []string{"d a -1", "f a/c 0"}},
		{"a whiteout of a folder", [][]file{{reg("a/b/c", "")}, {reg("a/.wh.b", "")}}, []string{"d a -1"}},
		{"a whiteout of what is not there", [][]file{{reg("x/.wh.y", "")}}, nil},
		{"a whiteout does not hide its own layer", [][]file{{reg("a/b", "")}, {reg("a/b", ""), reg("a/.wh.b", "")}}, []string{"d a -1", "f a/b 1"}},
		{"an opaque folder", [][]file{{reg("a/b", ""), reg("a/c/d", "")}, {reg("a/e", ""), reg("a/.wh..wh..opq", "")}}, []string{"d a -1", "f a/e 1"}},
		{"a link on the way", [][]file{{dir("usr/lib"), link("lib", "usr/lib")}, {reg("lib/x", "")}}, []string{"l lib 0 → usr/lib", "d usr -1", "d usr/lib 0", "f usr/lib/x 1"}},
		{"an absolute link stays inside", [][]file{{dir("run"), link("var/run", "/run")}, {reg("var/run/pid", "")}}, []string{"d run 0", "f run/pid 1", "d var -1", "l var/run 0 → /run"}},
		{"a link up stays inside", [][]file{{link("x", "../../../etc")}, {reg("x/passwd", "")}}, []string{"d etc -1", "f etc/passwd 1", "l x 0 → ../../../etc"}},
		{"a folder replaces a link to one", [][]file{{dir("a"), link("b", "a")}, {dir("b"), reg("b/x", "")}}, []string{"d a 0", "d b 1", "f b/x 1"}},
		{"a whiteout through a link", [][]file{{reg("usr/lib/x", ""), link("lib", "usr/lib")}, {reg("lib/.wh.x", "")}}, []string{"l lib 0 → usr/lib", "d usr -1", "d usr/lib -1"}},
		{"a hard link outlives its file", [][]file{{reg("a", "1"), of(tar.TypeLink, "b", "a")}, {reg("a", "2")}}, []string{"f a 1", "f b 0"}},
		{"a hard link into the layer below", [][]file{{reg("a", "1")}, {of(tar.TypeLink, "b", "a"), reg(".wh.c", "")}}, []string{"f a 0", "f b 0"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			if c.what == "a folder replaces a file" {
				tree := apply(t, c.layers[0])
				if err := tree.Apply(mustRead(t, c.layers[1]...)); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "no folder") {
					t.Errorf("error: %v", err)
				}
				return
			}
			if got := paths(apply(t, c.layers...)); !slices.Equal(got, c.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestTreeRefuses(t *testing.T) {
	for what, files := range map[string][]file{
		"a hard link to nothing":  {of(tar.TypeLink, "b", "a")},
		"a hard link to a folder": {of(tar.TypeDir, "a", ""), of(tar.TypeLink, "b", "a")},
		"links in a circle":       {of(tar.TypeSymlink, "a", "b"), of(tar.TypeSymlink, "b", "a"), reg("a/x", "")},
		"a path through a file":   {reg("a", ""), reg("a/b", "")},
		"a path that grows":       growing(),
	} {
		t.Run(what, func(t *testing.T) {
			err := NewTree().Apply(mustRead(t, files...))
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrRefused) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// growing makes each path longer by a link to the one before.
func growing() []file {
	deep := strings.Repeat("d/", 1000)
	out := []file{of(tar.TypeDir, deep, "")}
	at := deep
	for i := range 3 {
		l := fmt.Sprint("l", i)
		out = append(out, of(tar.TypeSymlink, l, at))
		at = l + "/" + deep
		out = append(out, of(tar.TypeDir, at, ""))
	}
	return out
}

func TestFind(t *testing.T) {
	tree := apply(t, []file{reg("usr/lib/os-release", "x"), of(tar.TypeSymlink, "etc/os-release", "../usr/lib/os-release"), of(tar.TypeSymlink, "lib", "/usr/lib")})
	for _, c := range []struct{ name, follow, find string }{
		{"/etc/os-release", "usr/lib/os-release", "etc/os-release"},
		{"lib/os-release", "usr/lib/os-release", "usr/lib/os-release"},
		{"/", ".", "."},
		{"../../usr", "usr", "usr"},
	} {
		if _, got, err := tree.Follow(c.name); err != nil || got != c.follow {
			t.Errorf("following %s: %s, %v", c.name, got, err)
		}
		if _, got, err := tree.Find(c.name); err != nil || got != c.find {
			t.Errorf("finding %s: %s, %v", c.name, got, err)
		}
	}
	if _, _, err := tree.Follow("nope"); !errors.Is(err, ErrNotExist) {
		t.Errorf("error: %v", err)
	}
}

func TestDiffers(t *testing.T) {
	base := Entry{Type: File, Mode: 0o644, Size: 1, Sum: "a"}
	for want, o := range map[string]Entry{
		"":                   base,
		"type":               {Type: Dir},
		"content":            {Type: File, Mode: 0o644, Size: 1, Sum: "b"},
		"content mode owner": {Type: File, Mode: 0o755, Size: 2, Sum: "a", UID: 1},
		"attributes":         {Type: File, Mode: 0o644, Size: 1, Sum: "a", Xattrs: "x=y\x00", ModTime: 7},
	} {
		if got := strings.Join(base.Differs(o), " "); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
