package layer

import (
	"archive/tar"
	"bytes"
	"io"
	"path"
	"strings"
	"testing"
)

// seeds are layers of every kind, small.
func seeds(f *testing.F) [][]byte {
	all := pack(f, of(tar.TypeDir, "./", ""), reg("etc/hosts", "hosts"), of(tar.TypeSymlink, "lib", "usr/lib"), of(tar.TypeSymlink, "run", "/var/run"),
		of(tar.TypeLink, "etc/again", "etc/hosts"), reg("lib/x", "x"), of(tar.TypeBlock, "dev/sda", ""), reg("etc/.wh.gone", ""), reg("var/.wh..wh..opq", ""))
	return [][]byte{all, gz(f, all), zst(f, all), sparse(f, 4096), lyingSize(f, 700), pack(f, reg("../x", "")), pack(f, growing()...)[:4096]}
}

// FuzzRead throws bytes at the reader of layers: it must not panic or hang, and what it
// lists must stay inside.
func FuzzRead(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		total := int64(0)
		sum, err := Read(t.Context(), bytes.NewReader(b), Options{Size: int64(len(b))}, func(e Entry, r io.Reader) error {
			for _, name := range []string{e.Name, e.Link} {
				if e.Type != Symlink && name != "" && name != path.Clean(name) || path.IsAbs(e.Name) || e.Name == ".." || strings.HasPrefix(e.Name, "../") {
					t.Errorf("%+v leads outside", e)
				}
			}
			n, err := io.Copy(io.Discard, r)
			if err == nil && n != e.Size {
				t.Errorf("%s has %d bytes, not %d", e.Name, n, e.Size)
			}
			total += n
			return err
		})
		if total > Limit(int64(len(b))) || sum.Bytes > Limit(int64(len(b))) {
			t.Errorf("%d bytes became %d and %d", len(b), total, sum.Bytes)
		}
		if (err == nil) != (sum.DiffID != "") {
			t.Errorf("%v and %+v", err, sum)
		}
	})
}

// FuzzTree puts two layers together: whatever is in them, every file of the result has a
// clean path that leads to it, and no cycle.
func FuzzTree(f *testing.F) {
	all := seeds(f)
	for i, b := range all {
		f.Add(b, all[(i+1)%len(all)])
	}
	f.Fuzz(func(t *testing.T, low, high []byte) {
		tree := NewTree()
		for _, b := range [][]byte{low, high, low} {
			var entries []Entry
			_, err := Read(t.Context(), bytes.NewReader(b), Options{Size: int64(len(b))}, func(e Entry, _ io.Reader) error {
				entries = append(entries, e)
				return nil
			})
			if err != nil || tree.Apply(entries) != nil {
				return
			}
		}
		files := 0
		for name, n := range tree.All() {
			if files++; files > maxNodes+1 {
				t.Fatal("it does not end")
			}
			if n.Type == HardLink || n.Type == Whiteout || n.Type == Opaque {
				t.Errorf("%s is of type %c", name, n.Type)
			}
			if found, at, err := tree.Find(name); err != nil || found != n || at != name {
				t.Errorf("%s is found as %s, %v", name, at, err)
			}
		}
	})
}
