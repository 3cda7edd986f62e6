package layout

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func open(t *testing.T, dir string) *Layout {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// image stores a small image and gives its descriptor.
func image(t *testing.T, l *Layout, config string) v1.Descriptor {
	t.Helper()
	h, err := l.Put([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	m, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: h, Size: int64(len(config))},
	})
	if err != nil {
		t.Fatal(err)
	}
	digest, err := l.Put(m)
	if err != nil {
		t.Fatal(err)
	}
	return v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: int64(len(m))}
}

func blobs(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestCommit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oci")
	l := open(t, dir)
	if m, err := l.Index(); err != nil || len(m.Manifests) != 0 {
		t.Fatalf("index of a new layout: %+v, %v", m, err)
	}
	a := image(t, l, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{"User":"a"}}`)
	b := image(t, l, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{"User":"b"}}`)
	if err := l.Commit([]v1.Descriptor{a, b}); err != nil {
		t.Fatal(err)
	}
	if n := blobs(t, dir); n != 4 {
		t.Errorf("%d blobs", n)
	}
	// Other tools read it.
	index, err := ggcr.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	// What nothing needs any more goes, and so does what a killed process left.
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", temporary+"1"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit([]v1.Descriptor{b}); err != nil {
		t.Fatal(err)
	}
	if n := blobs(t, dir); n != 2 {
		t.Errorf("%d blobs after cleaning", n)
	}
	if m, err := l.Index(); err != nil || len(m.Manifests) != 1 || m.Manifests[0].Digest != b.Digest {
		t.Errorf("index %+v, %v", m, err)
	}
}

// An index that would name a missing blob is not written.
func TestCommitRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oci")
	l := open(t, dir)
	a := image(t, l, "{}")
	if err := l.Commit([]v1.Descriptor{a}); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(l.indexPath())
	if err != nil {
		t.Fatal(err)
	}
	b := image(t, l, `{"b":1}`)
	if err := os.Remove(l.blob(sum([]byte(`{"b":1}`)))); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit([]v1.Descriptor{a, b}); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(l.blob(b.Digest), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit([]v1.Descriptor{a, b}); err == nil || !strings.Contains(err.Error(), "has digest") {
		t.Errorf("got %v", err)
	}
	if after, _ := os.ReadFile(l.indexPath()); string(after) != string(before) {
		t.Errorf("index was changed: %s", after)
	}
}

func TestPutFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oci")
	l := open(t, dir)
	src := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(src, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := v1.Descriptor{Digest: sum([]byte("content")), Size: 7}
	if err := l.PutFile(d, src); err != nil || !l.Has(d) {
		t.Fatal(err)
	}
	wrong := v1.Descriptor{Digest: sum([]byte("contents")), Size: 8}
	if err := l.PutFile(wrong, src); err == nil || !strings.Contains(err.Error(), "expected") {
		t.Errorf("got %v", err)
	}
	if n := blobs(t, dir); n != 1 {
		t.Errorf("%d blobs", n)
	}
	// Half a blob is none.
	if err := os.Truncate(l.blob(d.Digest), 3); err != nil {
		t.Fatal(err)
	}
	if err := l.PutFile(d, src); err != nil {
		t.Fatal(err)
	}
	if data, err := l.Read(d.Digest); err != nil || string(data) != "content" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestDamagedIndex(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oci")
	l := open(t, dir)
	if err := os.WriteFile(l.indexPath(), []byte(`{"manifests":`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Index(); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("got %v", err)
	}
}

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st.Mode(), err)
	}
	if err := WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Stat(path); !os.SameFile(st, again) {
		t.Error("the same bytes were written again")
	}
	if err := WriteFile(path, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(path); string(data) != "two" {
		t.Errorf("%q", data)
	}
	if err := WriteFile(filepath.Join(path, "x"), nil, 0o644); err == nil {
		t.Error("wrote below a file")
	}
}

// What a killed writer left goes when the layout is opened again.
func TestOpenTidies(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, temporary+"123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := os.Stat(left); err == nil {
		t.Error("it is still there")
	}
}
