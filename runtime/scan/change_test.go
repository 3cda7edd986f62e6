package scan

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/rancher/rke2/tests/fake"
)

// TestPutAndDrop: a folder that is changed file by file is what a scan of it would be.
func TestPutAndDrop(t *testing.T) {
	dir := t.TempDir()
	bundle := func(name, ref string) string {
		t.Helper()
		image, err := fake.Layers(runtime.GOARCH, 1)
		if err != nil {
			t.Fatal(err)
		}
		var s fake.Store
		if _, err := s.Add(image, ref); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
			t.Fatal(err)
		}
		return path
	}
	paths := func(f *Folder) (out []string) {
		for _, file := range f.Files {
			if file.Err != nil || file.Info == nil {
				t.Errorf("%s: %v", file.Path, file.Err)
			}
			out = append(out, file.Path)
		}
		return out
	}
	bundle("b.tar", "example.com/old:1")
	folder, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	for _, name := range []string{"site/x.tar", "site-a.tar", "a.tar", "b.tar"} {
		if err := folder.Put(OpenFile(bundle(name, "example.com/new:1"))); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, want := paths(folder), paths(again); !slices.Equal(got, want) {
		t.Errorf("%q, a scan gives %q", got, want)
	}
	if ref := folder.Files[1].Archive.Images()[0].Names()[0]; ref != "example.com/new:1" {
		t.Errorf("the replaced file still gives %s", ref)
	}
	if err := folder.Drop(filepath.Join(dir, "a.tar")); err != nil || len(folder.Files) != 3 {
		t.Errorf("%d files, %v", len(folder.Files), err)
	}
	if err := folder.Drop(filepath.Join(dir, "a.tar")); err != nil {
		t.Error(err)
	}
}
