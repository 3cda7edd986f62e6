package upstream

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// apply unpacks layers and gives path, and content or link.
func apply(t *testing.T, l limits, layers ...[]byte) (map[string]string, error) {
	t.Helper()
	dir := t.TempDir()
	u := &unpacker{dir: dir, limits: l, at: map[string]*entry{}, kids: map[string]map[string]bool{}, stored: map[string]bool{}}
	for i, b := range layers {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(t.TempDir(), "blob")
		if err := os.WriteFile(p, packed.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		digest, _, err := v1.SHA256(bytes.NewReader(packed.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		diff, _, err := v1.SHA256(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := u.layer(i, p, digest, diff); err != nil {
			return nil, err
		}
	}
	out := map[string]string{}
	for p, e := range u.at {
		if p != e.Path {
			t.Errorf("%s is under %s", e.Path, p)
		}
		switch {
		case e.Dir:
			out[p] = "/"
		case e.Link != "":
			out[p] = "-> " + e.Link
		default:
			b, err := os.ReadFile(filepath.Join(dir, e.SHA256))
			if err != nil {
				t.Fatal(err)
			}
			out[p] = string(b)
		}
	}
	return out, nil
}

type e = [2]string

func TestUnpack(t *testing.T) {
	for _, c := range []struct {
		what   string
		layers [][]e
		want   map[string]string
	}{
		{"names as tools write them", [][]e{{{"./", "/"}, {"./a/", "/"}, {"./a/b", "1"}, {"/c", "2"}}}, map[string]string{"a": "/", "a/b": "1", "c": "2"}},
		{"whiteout of a file", [][]e{{{"a/b", "1"}, {"a/c", "2"}}, {{"a/.wh.b", ""}}}, map[string]string{"a": "/", "a/c": "2"}},
		{"whiteout of a folder", [][]e{{{"a/b/c", "1"}, {"x", "2"}}, {{".wh.a", ""}}}, map[string]string{"x": "2"}},
		{"whiteout of what is in its own layer", [][]e{{{"a", "1"}}, {{".wh.a", ""}, {"a", "2"}}}, map[string]string{"a": "2"}},
		{"whiteout after what is in its own layer", [][]e{{{"a", "1"}}, {{"a", "2"}, {".wh.a", ""}}}, map[string]string{"a": "2"}},
		{"whiteout of nothing", [][]e{{{"a", "1"}}, {{".wh.b", ""}, {"c/.wh.d", ""}}}, map[string]string{"a": "1"}},
		{"opaque folder", [][]e{{{"a/b", "1"}, {"a/c/d", "2"}}, {{"a/", "/"}, {"a/e", "3"}, {"a/.wh..wh..opq", ""}}}, map[string]string{"a": "/", "a/e": "3"}},
		{"opaque root", [][]e{{{"a/b", "1"}}, {{".wh..wh..opq", ""}, {"c", "2"}}}, map[string]string{"c": "2"}},
		{"file for a folder", [][]e{{{"a/b", "1"}}, {{"a", "2"}}}, map[string]string{"a": "2"}},
		{"folder for a file", [][]e{{{"a", "1"}}, {{"a/", "/"}, {"a/b", "2"}}}, map[string]string{"a": "/", "a/b": "2"}},
		{"folder again", [][]e{{{"a/", "/"}, {"a/b", "1"}}, {{"a/", "/"}}}, map[string]string{"a": "/", "a/b": "1"}},
		{"hard link", [][]e{{{"a", "1"}}, {{"b", "=> a"}, {"a", "2"}}}, map[string]string{"a": "2", "b": "1"}},
		{"hard link to a link", [][]e{{{"a", "-> x"}, {"b", "=> a"}}}, map[string]string{"a": "-> x", "b": "-> x"}},
		{"through a link", [][]e{{{"usr/bin/", "/"}, {"bin", "-> usr/bin"}}, {{"bin/sh", "1"}, {"bin/.wh.none", ""}}}, map[string]string{"usr": "/", "usr/bin": "/", "bin": "-> usr/bin", "usr/bin/sh": "1"}},
		{"through an absolute link", [][]e{{{"a", "-> /b/c"}, {"a/d", "1"}}}, map[string]string{"a": "-> /b/c", "b": "/", "b/c": "/", "b/c/d": "1"}},
		{"a link out of the image stays in it", [][]e{{{"a", "-> ../../../../etc"}, {"a/passwd", "1"}}}, map[string]string{"a": "-> ../../../../etc", "etc": "/", "etc/passwd": "1"}},
		{"whiteout through a link", [][]e{{{"usr/bin/sh", "1"}, {"bin", "-> usr/bin"}}, {{"bin/.wh.sh", ""}}}, map[string]string{"usr": "/", "usr/bin": "/", "bin": "-> usr/bin"}},
		{"a link is replaced, not followed", [][]e{{{"a", "-> b"}, {"b", "1"}}, {{"a", "2"}}}, map[string]string{"a": "2", "b": "1"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, archive(t, l...))
			}
			got, err := apply(t, defaultLimits, layers...)
			if err != nil {
				t.Fatal(err)
			}
			for p := range c.want {
				if got[p] != c.want[p] {
					t.Errorf("%s is %q, not %q", p, got[p], c.want[p])
				}
			}
			if len(got) != len(c.want) {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestUnpackRefuses(t *testing.T) {
	long := strings.Repeat("x/", 3000) + "x"
	for _, c := range []struct {
		what, want string
		limits     limits
		entries    []e
	}{
		{"traversal", "leads out of the image", defaultLimits, []e{{"../../etc/passwd", "x"}}},
		{"traversal inside", "leads out of the image", defaultLimits, []e{{"a/../../b", "x"}}},
		{"hard link out", "leads out of the image", defaultLimits, []e{{"a", "=> ../../../etc/shadow"}}},
		{"hard link to nothing", "no file of the image", defaultLimits, []e{{"a", "=> etc/shadow"}}},
		{"hard link to a folder", "no file of the image", defaultLimits, []e{{"d/", "/"}, {"a", "=> d"}}},
		{"device", "nothing else", defaultLimits, []e{{"a", "fifo"}}},
		{"circle", "in a circle", defaultLimits, []e{{"a", "-> b"}, {"b", "-> a"}, {"a/c", "x"}}},
		{"below a file", "is a file, not a folder", defaultLimits, []e{{"a", "x"}, {"a/b", "y"}}},
		{"link to nowhere", "proper target", defaultLimits, []e{{"a", "-> "}}},
		{"long name", "not a proper path", defaultLimits, []e{{long, "x"}}},
		{"whiteout of no name", "whiteout of no name", defaultLimits, []e{{".wh.", ""}}},
		{"whiteout upwards", "whiteout of no name", defaultLimits, []e{{"a/.wh...", ""}}},
		{"too many", "more than 2 entries", limits{bytes: 1 << 20, entries: 2}, []e{{"a", ""}, {"b", ""}, {"c", ""}}},
		{"too large", "more than 10 bytes", limits{bytes: 10, entries: 9}, []e{{"a", "12345"}, {"b", "678901"}}},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got, err := apply(t, c.limits, archive(t, c.entries...)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v %v", got, err)
			}
		})
	}
	t.Run("cut off", func(t *testing.T) {
		b := archive(t, e{"a", strings.Repeat("x", 2000)})
		if _, err := apply(t, defaultLimits, b[:1000]); err == nil {
			t.Error("it is taken")
		}
	})
}

// FuzzUnpack: whatever a layer holds, nothing gets out of the tree, and every file has
// its folders.
func FuzzUnpack(f *testing.F) {
	seed := func(entries ...e) {
		t := &testing.T{}
		f.Add(archive(t, entries...))
	}
	seed(e{"a/b", "1"}, e{"c", "-> a"}, e{"c/d", "=> a/b"}, e{"a/.wh.b", ""}, e{"a/.wh..wh..opq", ""})
	seed(e{"a", "-> ../../x"}, e{"a/b", "2"})
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		p := filepath.Join(t.TempDir(), "blob")
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
		h, _, err := v1.SHA256(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		u := &unpacker{dir: dir, limits: limits{bytes: 1 << 20, entries: 100}, at: map[string]*entry{}, kids: map[string]map[string]bool{}, stored: map[string]bool{}}
		for i := range 2 {
			_ = u.layer(i, p, h, h) // it may well be refused
		}
		for p, e := range u.at {
			if p == "" || strings.HasPrefix(p, "/") || slices.Contains(strings.Split(p, "/"), "..") {
				t.Errorf("path %q", p)
			}
			if up := parent(p); up != "" && (u.at[up] == nil || !u.at[up].Dir) {
				t.Errorf("%q is in no folder", p)
			}
			if e.SHA256 != "" && e.Link != "" || e.Dir && e.SHA256 != "" {
				t.Errorf("%+v", e)
			}
		}
	})
}
