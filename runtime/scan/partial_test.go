package scan

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
)

// layered writes a bundle of an image with a layer for each seed.
func layered(t *testing.T, path, ref string, seeds ...int64) string {
	t.Helper()
	image, err := fake.Layers(runtime.GOARCH, seeds...)
	if err != nil {
		t.Fatal(err)
	}
	var s fake.Store
	if _, err := s.Add(image, ref); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return path
}

func delta(t *testing.T, out, next string, from ...string) string {
	t.Helper()
	if _, err := airgap.MakeDelta(t.Context(), airgap.DeltaOptions{From: from, New: []string{next}, Output: out}); err != nil {
		t.Fatal(err)
	}
	return out
}

func opened(t *testing.T, dir string) *Folder {
	t.Helper()
	folder, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = folder.Close() })
	return folder
}

const app = "docker.io/a/app:v1"

// TestDeltasComeFirst: of two images with one name, the delta's is the later one, whatever
// the files are called.
func TestDeltasComeFirst(t *testing.T) {
	work, dir := t.TempDir(), t.TempDir()
	v1 := layered(t, filepath.Join(dir, "a.tar"), app, 1, 2)
	v2 := layered(t, filepath.Join(work, "v2.tar"), app, 1, 3)
	v3 := layered(t, filepath.Join(work, "v3.tar"), app, 4, 3)
	second := delta(t, filepath.Join(dir, "c.tar"), v2, v1)
	delta(t, filepath.Join(dir, "d.tar"), v3, second, v1)
	layered(t, filepath.Join(dir, "b.tar"), "docker.io/a/other:v1", 9)
	folder := opened(t, dir)
	var got []string
	for _, f := range folder.Files {
		got = append(got, filepath.Base(f.Path))
	}
	if want := []string{"d.tar", "c.tar", "a.tar", "b.tar"}; !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	found, err := folder.Find(tag(t, app))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := airgap.Open(v3)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	if want := whole.Images()[0].Desc.Digest; found.Image.Desc.Digest != want {
		t.Errorf("found %s, want that of the last delta, %s", found.Image.Desc.Digest, want)
	}
	if incomplete := folder.Incomplete(); len(incomplete) > 0 {
		t.Errorf("incomplete: %v", incomplete[0])
	}
	manifest, _, err := found.File.Archive.Manifest(found.Image.Desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"d.tar", "c.tar"} {
		holder, err := folder.Holder(manifest.Layers[i].Digest)
		if err != nil || filepath.Base(holder.Path()) != want {
			t.Errorf("layer %d is in %v, %v, want %s", i, holder, err, want)
		}
	}
}

func TestIncompleteFolder(t *testing.T) {
	work, dir := t.TempDir(), t.TempDir()
	old := layered(t, filepath.Join(work, "old.tar"), app, 1, 2)
	next := layered(t, filepath.Join(work, "next.tar"), app, 1, 3)
	parts, err := airgap.SplitFile(t.Context(), airgap.SplitOptions{File: old, Size: fake.LayerSize + 20_000, OutputDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	delta(t, filepath.Join(dir, "x.delta.tar"), next, old)
	if got := opened(t, dir).Incomplete(); len(got) > 0 {
		t.Errorf("all parts and the delta: %v", got[0])
	}
	// An unrelated file that can't be read to its end does not hide what is there.
	damaged := filepath.Join(dir, "a.tar.zst")
	if err := os.WriteFile(damaged, []byte("\x28\xb5\x2f\xfd\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(parts[1].File); err != nil {
		t.Fatal(err)
	}
	folder := opened(t, dir)
	got := folder.Incomplete()
	var all []string
	for _, e := range got {
		all = append(all, e.Error())
	}
	text := strings.Join(all, "\n")
	for _, want := range []string{"part 2 of 2 (old.part2of2.tar) is missing"} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q:\n%s", want, text)
		}
	}
	if holder, err := folder.Holder(v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}); holder != nil || err != nil {
		t.Errorf("holder of nothing: %v, %v", holder, err)
	}
}
