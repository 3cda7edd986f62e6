package rebuild

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func sumOf(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

// What others published is shared, if it is what its name says; results never are.
func TestShare(t *testing.T) {
	cache := t.TempDir()
	good, bad := sumOf("a package"), sumOf("another package")
	put(t, filepath.Join(cache, "debian-file", good, "content"), "a package")
	put(t, filepath.Join(cache, "debian-file", bad, "content"), "a damaged package")
	put(t, filepath.Join(cache, "debian-file", ".tmp-"+good, "content"), "half a pack")
	put(t, filepath.Join(cache, "binary", good, "tool"), "a result")
	for _, cold := range []bool{false, true} {
		w, err := NewWorkspace(filepath.Join(t.TempDir(), "work"), cold)
		if err != nil {
			t.Fatal(err)
		}
		n, err := w.Share(cache)
		if want := map[bool]int{false: 1, true: 0}[cold]; n != want || err != nil {
			t.Errorf("cold %v: %d shared, %v", cold, n, err)
		}
		data, err := os.ReadFile(filepath.Join(w.Cache(), "debian-file", good, "content"))
		if !cold && (err != nil || string(data) != "a package") {
			t.Errorf("%q, %v", data, err)
		}
		for _, not := range []string{"debian-file/" + bad, "binary"} {
			if _, err := os.Stat(filepath.Join(w.Cache(), not)); !os.IsNotExist(err) {
				t.Errorf("%s is shared", not)
			}
		}
		if _, ok := w.Environ()["GOMODCACHE"]; ok != cold {
			t.Errorf("cold %v: %v", cold, w.Environ())
		}
		// The go command leaves folders that can't be written to.
		locked := filepath.Join(w.Dir, "go-mod", "example.com", "m@v1")
		put(t, filepath.Join(locked, "f.go"), "package m")
		if err := os.Chmod(locked, 0o555); err != nil {
			t.Fatal(err)
		}
		if err := w.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(w.Dir); !os.IsNotExist(err) {
			t.Error("the workspace is left")
		}
		if data, err := os.ReadFile(filepath.Join(cache, "debian-file", good, "content")); err != nil || string(data) != "a package" {
			t.Errorf("removing took the shared file: %v", err)
		}
	}
}

func TestWorkspaceIsEmpty(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "left"), "x")
	if _, err := NewWorkspace(dir, false); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("got %v", err)
	}
	w, err := NewWorkspace("", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Remove(); err != nil {
		t.Error(err)
	}
}

func TestCompareFiles(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		put(t, filepath.Join(dir, "sbom/same.json"), `{"a":1}`)
		put(t, filepath.Join(dir, "sbom/text.json"), "not JSON in "+map[bool]string{true: "one", false: "two"}[dir == a])
	}
	put(t, filepath.Join(a, "sbom/other.json"), `{"packages":[{"name":"x","version":"1"}]}`)
	put(t, filepath.Join(b, "sbom/other.json"), `{"packages":[{"name":"x","version":"2"}]}`)
	put(t, filepath.Join(b, "sbom/new.json"), `{}`)
	results, err := CompareFiles(a, b, []string{"sbom/same.json", "sbom/other.json", "sbom/new.json", "sbom/text.json"})
	if err != nil || len(results) != 4 {
		t.Fatalf("%v, %+v", err, results)
	}
	for i, want := range []string{"sbom/new.json: file\n  built:   missing", "sbom/other.json: .packages[0].version\n  built:   \"1\"\n  rebuilt: \"2\"", "", "sbom/text.json: "} {
		r := results[i]
		if r.Equal != (want == "") || (want != "" && !strings.HasPrefix(r.Difference.String(), want)) {
			t.Errorf("%s: %+v", r.Reference, r.Difference)
		}
	}
}
