package node

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

// layeredWorld is a release whose runtime image has a layer for each seed, and the bundle
// of it, outside of agent/images.
func layeredWorld(t *testing.T, file string, seeds ...int64) (*world, string) {
	t.Helper()
	w := newWorld(t)
	return w, w.releases(t, file, seeds...)
}

// releases makes a runtime image of seeds the release's, and writes a bundle of it.
func (w *world) releases(t *testing.T, file string, seeds ...int64) string {
	t.Helper()
	image, err := fake.Layers(runtime.GOARCH, seeds...)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	w.runtime, w.config.Release.Images[0].Digests = image, here(digest.String())
	var s fake.Store
	if err := signed(&s, image, runtimeRef, &w.key, runtimeRef); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), file)
	if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return path
}

// drop puts files into agent/images and takes out what was there.
func (w *world) drop(t *testing.T, files ...string) {
	t.Helper()
	dir := w.config.ImagesDir()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		copyTo(t, f, filepath.Join(dir, filepath.Base(f)))
	}
}

func (w *world) staged(t *testing.T, content *Content, seeds ...int64) {
	t.Helper()
	var got []string
	for _, f := range files(t, content.Bin())[1:] {
		got = append(got, filepath.Base(f))
	}
	var want []string
	for _, s := range seeds {
		want = append(want, "file-"+string(rune('0'+s)))
	}
	if !slices.Equal(got, want) {
		t.Errorf("staged %q, want %q", got, want)
	}
}

func TestPrepareFromParts(t *testing.T) {
	w, whole := layeredWorld(t, "core.tar", 1, 2, 3)
	parts, err := airgap.SplitFile(t.Context(), airgap.SplitOptions{File: whole, Size: fake.LayerSize + 30_000, OutputDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	w.drop(t, parts[0].File, parts[2].File)
	before := files(t, w.config.DataDir)
	_, err = w.prepare(t)
	for _, want := range []string{"the runtime image in", "is not complete: layer ", " of 3 (sha256:", "part 2 of 3 (core.part2of3.tar) is missing", "copy what is missing into " + w.config.ImagesDir()} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	if after := files(t, w.config.DataDir); !slices.Equal(before, after) {
		t.Errorf("left behind: %q, before: %q", after, before)
	}
	if !strings.Contains(w.log.String(), "a bundle is not complete") {
		t.Errorf("log: %s", w.log)
	}

	w.drop(t, parts[2].File, parts[1].File, parts[0].File)
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	w.staged(t, content, 1, 2, 3)
}

// TestPrepareFromADelta: the layers that it leaves out come from its base, from what
// containerd has stored, or are not needed because all is staged; and else it is said what
// is wanted.
func TestPrepareFromADelta(t *testing.T) {
	w, old := layeredWorld(t, "old.tar", 1, 2, 3)
	next := w.releases(t, "core.tar", 1, 4, 3)
	delta := filepath.Join(t.TempDir(), "core.delta.tar")
	made, err := airgap.MakeDelta(t.Context(), airgap.DeltaOptions{From: []string{old}, New: []string{next}, Output: delta})
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(w.config.DataDir, "data")
	unstage := func() {
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
	}

	w.drop(t, delta)
	_, err = w.prepare(t)
	for _, want := range []string{"layer 1 of 3 (sha256:", "is in no bundle and not in containerd", "old.tar (its index.json is " + made.Bases[0].Index.String()} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}

	w.drop(t, delta, old)
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	w.staged(t, content, 1, 3, 4)

	w.drop(t, delta) // all is staged
	if _, err = w.prepare(t); err != nil {
		t.Error(err)
	}

	unstage()
	w.unpackInto(t, old)
	store := contentStore(w.config.DataDir)
	if content, err = w.prepare(t); err != nil {
		t.Fatal(err)
	}
	w.staged(t, content, 1, 3, 4)

	unstage()
	manifest, err := w.runtime.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	damage(t, filepath.Join(store, manifest.Layers[2].Digest.Hex))
	if _, err := w.prepare(t); err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), store) {
		t.Errorf("a damaged blob of containerd: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(data, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func damage(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestDeltaIsVerified: a delta's image must be signed as any other.
func TestDeltaIsVerified(t *testing.T) {
	w, old := layeredWorld(t, "old.tar", 1, 2)
	image, err := fake.Layers(runtime.GOARCH, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	w.config.Release.Images[0].Digests = here(mustDigest(t, image).String())
	var s fake.Store
	if err := signed(&s, image, runtimeRef, &w.stranger, runtimeRef); err != nil {
		t.Fatal(err)
	}
	next, delta := filepath.Join(t.TempDir(), "core.tar"), filepath.Join(t.TempDir(), "core.delta.tar")
	if err := s.WriteBundle(t.Context(), next, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	if _, err := airgap.MakeDelta(t.Context(), airgap.DeltaOptions{From: []string{old}, New: []string{next}, Output: delta}); err != nil {
		t.Fatal(err)
	}
	w.drop(t, old, delta)
	if _, err := w.prepare(t); err == nil || !strings.Contains(err.Error(), "none of the trusted keys") {
		t.Errorf("a stranger's delta: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(w.config.DataDir, "data", "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func mustDigest(t *testing.T, image v1.Image) v1.Hash {
	t.Helper()
	h, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
