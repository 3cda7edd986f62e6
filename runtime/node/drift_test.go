package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
)

// unpackInto puts a bundle's blobs where containerd has them.
func (w *world) unpackInto(t *testing.T, bundle string) {
	t.Helper()
	store := contentStore(w.config.DataDir)
	if err := os.MkdirAll(store, 0o755); err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(t.TempDir(), "oci")
	if err := airgap.Unpack(t.Context(), bundle, airgap.UnpackOptions{Dir: layout}); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(layout, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if err := os.Rename(b, filepath.Join(store, filepath.Base(b))); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDriftIsRestored: from the bundle, from a bundle that is not where it was, from what
// containerd has; and what no one has is an error that leaves things as they are.
func TestDriftIsRestored(t *testing.T) {
	for what, prepare := range map[string]func(*testing.T, *world, string){
		"from the bundle": func(t *testing.T, w *world, whole string) { w.drop(t, whole) },
		"from a bundle of another name": func(t *testing.T, w *world, whole string) {
			w.drop(t)
			copyTo(t, whole, filepath.Join(w.config.ImagesDir(), "other.tar"))
		},
		"from containerd": func(t *testing.T, w *world, whole string) {
			w.drop(t)
			w.unpackInto(t, whole)
		},
		"from containerd, beside a bundle that is damaged": func(t *testing.T, w *world, whole string) {
			w.drop(t, whole)
			damage(t, filepath.Join(w.config.ImagesDir(), filepath.Base(whole)))
			w.unpackInto(t, whole)
		},
	} {
		t.Run(what, func(t *testing.T) {
			w, whole := layeredWorld(t, "core.tar", 1, 2, 3)
			w.drop(t, whole)
			first, err := w.prepare(t)
			if err != nil {
				t.Fatal(err)
			}
			prepare(t, w, whole)
			damage(t, filepath.Join(first.Bin(), "file-2"))
			if err := errors.Join(os.Remove(filepath.Join(first.Bin(), "file-3")), os.WriteFile(filepath.Join(first.Bin(), "extra"), nil, 0o755)); err != nil {
				t.Fatal(err)
			}
			untouched, err := os.Stat(filepath.Join(first.Bin(), "file-1"))
			if err != nil {
				t.Fatal(err)
			}
			w.log.Reset()
			content, err := w.prepare(t)
			if err != nil {
				t.Fatal(err)
			}
			w.staged(t, content, 1, 2, 3)
			if now, err := os.Stat(filepath.Join(first.Bin(), "file-1")); err != nil || !os.SameFile(untouched, now) {
				t.Errorf("file-1 is another file now: %v", err)
			}
			for _, want := range []string{
				`changed on disk" dir=` + content.root.Dir + ` file=bin/file-2 change="has other content"`,
				`was restored" dir=` + content.root.Dir + ` file=bin/file-3 it="is missing"`,
				`file=bin/extra it="is not the image's"`,
			} {
				if !strings.Contains(w.log.String(), want) {
					t.Errorf("the log does not say %s:\n%s", want, w.log)
				}
			}
			w.log.Reset()
			if _, err := w.prepare(t); err != nil || strings.Contains(w.log.String(), "restored") {
				t.Errorf("the start after: %v\n%s", err, w.log)
			}
		})
	}
}

// TestDriftThatNeedsNoImage: modes and what does not belong there are put right though
// there is nothing that has the image.
func TestDriftThatNeedsNoImage(t *testing.T) {
	w, whole := layeredWorld(t, "core.tar", 1, 2)
	w.drop(t, whole)
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	w.drop(t)
	if err := errors.Join(os.Chmod(filepath.Join(content.Bin(), "file-1"), 0o777), os.WriteFile(filepath.Join(content.Bin(), "extra"), nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	if content, err = w.prepare(t); err != nil {
		t.Fatal(err)
	}
	w.staged(t, content, 1, 2)
	if info, err := os.Stat(filepath.Join(content.Bin(), "file-1")); err != nil || info.Mode() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestDriftThatNothingRestores(t *testing.T) {
	w, whole := layeredWorld(t, "core.tar", 1, 2)
	w.drop(t, whole)
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	w.drop(t)
	damage(t, filepath.Join(content.Bin(), "file-2"))
	before := files(t, w.config.DataDir)
	_, err = w.prepare(t)
	for _, want := range []string{"no bundle has the image " + runtimeRef, "what is staged in " + content.root.Dir + " is left as it was"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not said: %v", want, err)
		}
	}
	if after := files(t, w.config.DataDir); len(before) != len(after) {
		t.Errorf("after: %q\nbefore: %q", after, before)
	}
}

// TestLinkIsPutRight, and said to be.
func TestLinkIsPutRight(t *testing.T) {
	w, whole := layeredWorld(t, "core.tar", 1)
	w.drop(t, whole)
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(w.config.DataDir, "bin")
	for _, to := range []string{"/nowhere", "/usr/bin"} {
		if err := errors.Join(os.Remove(link), os.Symlink(to, link)); err != nil {
			t.Fatal(err)
		}
		w.log.Reset()
		if _, err := w.prepare(t); err != nil {
			t.Fatal(err)
		}
		if now, _ := os.Readlink(link); now != content.Bin() {
			t.Errorf("linked to %s", now)
		}
		if !strings.Contains(w.log.String(), "led elsewhere and was put right") || !strings.Contains(w.log.String(), "was="+to) {
			t.Errorf("log: %s", w.log)
		}
	}
}

// TestNewVersionThatIsRefused: the one that ran stays, link and all, and the error says so
// and how to go on with it. With the right bundle the new one starts, and back to the old
// works too.
func TestNewVersionThatIsRefused(t *testing.T) {
	w, old := layeredWorld(t, "old.tar", 1, 2)
	before := w.config.Release
	before.Images = append(before.Images[:0:0], before.Images...)
	w.drop(t, old)
	first, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	next := w.releases(t, "next.tar", 1, 3)
	w.config.Release.Version = "v9.8.8+rke2r1"
	listing := files(t, filepath.Join(w.config.DataDir, "data"))
	for what, break1 := range map[string]func(string){
		"damaged":   func(path string) { damage(t, path) },
		"truncated": func(path string) { truncate(t, path) },
		"missing": func(path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		w.drop(t, old, next)
		break1(filepath.Join(w.config.ImagesDir(), "next.tar"))
		_, err := w.prepare(t)
		want := "the runtime of rke2 v9.8.7+rke2r6 is still staged in " + first.root.Dir + ", and nothing of it was changed: to go on with it, put the rke2 program of v9.8.7+rke2r6 back and start that"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
		if now := files(t, filepath.Join(w.config.DataDir, "data")); strings.Join(now, "\n") != strings.Join(listing, "\n") {
			t.Errorf("%s: on disk: %q", what, now)
		}
		if to, _ := os.Readlink(filepath.Join(w.config.DataDir, "bin")); to != first.Bin() {
			t.Errorf("%s: linked to %s", what, to)
		}
	}
	w.drop(t, old, next)
	second, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	w.staged(t, second, 1, 3)
	if _, err := os.Stat(first.root.Dir); err == nil {
		t.Error("the old version is still there, and nothing runs from it")
	}
	w.config.Release = before
	if first, err = w.prepare(t); err != nil {
		t.Fatal(err)
	}
	w.staged(t, first, 1, 2)
}

func truncate(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()*2/3); err != nil {
		t.Fatal(err)
	}
}

// TestGoodBesideBad: of several bundles with the image the sound one is used, whatever the
// others are, and each of those is named in the log with its fault.
func TestGoodBesideBad(t *testing.T) {
	w, whole := layeredWorld(t, "z-good.tar", 1, 2)
	w.drop(t, whole)
	in := func(name string) string { return filepath.Join(w.config.ImagesDir(), name) }
	copyTo(t, whole, in("a-truncated.tar"))
	truncate(t, in("a-truncated.tar"))
	copyTo(t, whole, in("b-damaged.tar"))
	damage(t, in("b-damaged.tar"))
	w.bundle(t, "c-strange.tar", func(s *fake.Store) error { return signed(s, w.runtime, runtimeRef, &w.stranger, runtimeRef) })
	w.bundle(t, "d-mislabelled.tar", func(s *fake.Store) error { return signed(s, w.other, runtimeRef, &w.key, otherRef) })
	if err := os.WriteFile(in("e-text.tar.gz"), []byte("<html>not found</html>"), 0o644); err != nil {
		t.Fatal(err)
	}
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	w.staged(t, content, 1, 2)
	for file, says := range map[string]string{
		"a-truncated.tar": "truncated", "b-damaged.tar": "damaged", "c-strange.tar": "none of the trusted keys",
		"d-mislabelled.tar": "this release has sha256:", "e-text.tar.gz": "web page",
	} {
		found := false
		for line := range strings.Lines(w.log.String()) {
			found = found || strings.Contains(line, "level=ERROR") && strings.Contains(line, "file="+in(file)) && strings.Contains(line, says)
		}
		if !found {
			t.Errorf("the log does not say %q of %s:\n%s", says, file, w.log)
		}
	}
}
