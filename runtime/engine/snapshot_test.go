package engine

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// snapshotOf is a file as etcd makes it of a database.
func snapshotOf(database []byte) []byte {
	sum := sha256.Sum256(database)
	return append(bytes.Clone(database), sum[:]...)
}

func zipped(t *testing.T, files ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, content := range files {
		f, err := w.Create("snapshot")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCheckSnapshot(t *testing.T) {
	good := snapshotOf(bytes.Repeat([]byte("etcd"), 1024))
	changed := bytes.Clone(good)
	changed[100] ^= 1
	archive := zipped(t, good)
	for _, c := range []struct {
		name, file string
		content    []byte
		want       string
	}{
		{"whole", "keep", good, ""},
		{"zipped", "keep.zip", archive, ""},
		{"changed", "keep", changed, "it is damaged"},
		{"cut off", "keep", good[:1000], "it has 1000 bytes: it is cut off"},
		{"without its checksum", "keep", good[:4096], "it has 4096 bytes"},
		{"empty", "keep", nil, "it has 0 bytes"},
		{"changed, zipped", "keep.zip", zipped(t, changed), "it is damaged"},
		{"archive cut off", "keep.zip", archive[:len(archive)/2], "zip: not a valid zip file"},
		{"two in an archive", "keep.zip", zipped(t, good, good), "has 2 files"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), c.file)
			if err := os.WriteFile(path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			err := checkSnapshot(path)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path)) {
				t.Errorf("got %v, want %q and the path", err, c.want)
			}
		})
	}
}

func TestCheckSnapshotThatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "keep-one-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "keep-one-2"): "that folder has keep-one-1",
		filepath.Join(dir, "no", "file"): "no such file or directory",
		dir:                              "it is not a file",
	} {
		if err := checkSnapshot(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "nothing was stopped") {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}
