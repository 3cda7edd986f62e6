package nextrelease

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/images"
)

func TestDeclare(t *testing.T) {
	sources, err := Sources()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := declare(sources, dir); err != nil {
		t.Fatal(err)
	}
	before, err := images.Load(filepath.Join(sources, "images"))
	if err != nil {
		t.Fatal(err)
	}
	after, err := images.Load(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	if before.Product.Release == after.Product.Release {
		t.Errorf("the release is still %s", after.Product.Release)
	}
	for _, gone := range []string{"calico", "flannel"} {
		if _, err := os.Stat(filepath.Join(dir, "images", gone)); err == nil {
			t.Errorf("%s is declared, whose images are in other sets", gone)
		}
	}
}

func TestBump(t *testing.T) {
	got, err := bump([]byte("# release: 1\nrelease: x2y9\nother: 1\n"))
	if err != nil || string(got) != "# release: 1\nrelease: x2y10\nother: 1\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := bump([]byte("release: x\n")); err == nil {
		t.Error("a release without a number was bumped")
	}
}

func TestEmbed(t *testing.T) {
	dir := t.TempDir()
	binary, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	carried := []byte("{\n \"version\": \"v1\"\n}\n")
	if err := os.WriteFile(binary, slicesOf("\x7fELF", string(carried), "rest"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := embed(binary, carried, []byte("{\n \"version\": \"v22\"\n}\n"), to); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to)
	if want := slicesOf("\x7fELF", `{"version":"v22"}`, strings.Repeat(" ", len(carried)-17), "rest"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	for what, release := range map[string]string{"longer than": `{"version": "` + strings.Repeat("v", 40) + `"}`, "JSON": "{"} {
		if err := embed(binary, carried, []byte(release), to); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want %q in it", err, what)
		}
	}
	if err := embed(binary, []byte("another"), []byte("{}"), to); err == nil || !strings.Contains(err.Error(), "0 times") {
		t.Errorf("got %v", err)
	}
}

func slicesOf(parts ...string) []byte { return []byte(strings.Join(parts, "")) }
