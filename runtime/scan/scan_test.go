package scan

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
)

func tag(t *testing.T, ref string) name.Tag {
	t.Helper()
	parsed, err := airgap.ParseTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func write(t *testing.T, path string, refs ...string) {
	t.Helper()
	var s fake.Store
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte(path), 0o755); err != nil {
		t.Fatal(err)
	}
	image, err := fake.Program("program", program, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs {
		if _, err := s.Add(image, ref); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
}

func TestOpenAndFind(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "b.tar"), "docker.io/a/wanted:v1")
	write(t, filepath.Join(dir, "a", "nested.TAR"), "docker.io/a/wanted:v1")
	write(t, filepath.Join(dir, ".hidden", "x.tar"), "docker.io/a/hidden:v1")
	outside := filepath.Join(t.TempDir(), "elsewhere.tar")
	write(t, outside, "docker.io/a/linked:v1")
	for _, err := range []error{
		os.Symlink(outside, filepath.Join(dir, "link.tar")),
		os.Symlink("/nowhere", filepath.Join(dir, "dangling.tar")),
		os.Mkdir(filepath.Join(dir, "folder.tar"), 0o755),
		os.WriteFile(filepath.Join(dir, "notes"), nil, 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	folder, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	var got []string
	for _, f := range folder.Files {
		state := "ok"
		if f.Err != nil {
			state = "unreadable"
		}
		rel, _ := filepath.Rel(dir, f.Path)
		got = append(got, rel+" "+state)
	}
	want := []string{"a/nested.TAR ok", "b.tar ok", "dangling.tar unreadable", "link.tar ok"}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	if found, err := folder.Find(tag(t, "docker.io/a/wanted:v1")); err != nil || filepath.Base(found.File.Path) != "nested.TAR" {
		t.Errorf("the first file in name order: %v, %v", found.File.Path, err)
	}
	if _, err := folder.Find(tag(t, "docker.io/a/linked:v1")); err != nil {
		t.Error(err)
	}
	if _, err := folder.Find(tag(t, "docker.io/a/absent:v1"), tag(t, "docker.io/a/wanted:v1")); err != nil {
		t.Errorf("the second name is good enough: %v", err)
	}
	var missing *NotFoundError
	if _, err := folder.Find(tag(t, "docker.io/a/hidden:v1")); !errors.As(err, &missing) {
		t.Errorf("a hidden folder was searched: %v", err)
	}
}

func TestFolderThatIsNotThere(t *testing.T) {
	folder, err := Open(filepath.Join(t.TempDir(), "absent"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := folder.Find(tag(t, "docker.io/a/b:v1")); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("got %v", err)
	}
}
