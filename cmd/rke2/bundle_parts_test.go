package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap"
)

// TestDeltaApplyJoin runs the commands over two bundles and a split one.
func TestDeltaApplyJoin(t *testing.T) {
	bundle := func() string {
		layout, _ := bundleFixture(t)
		dir := t.TempDir()
		if out, err := run("bundle", "airgap", "--layout", layout, "--output-dir", dir); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return filepath.Join(dir, "rke2-images-core.linux-amd64.tar")
	}
	old, next := bundle(), bundle()
	dir := t.TempDir()
	delta := filepath.Join(dir, "d.tar")
	out, err := run("bundle", "delta", "--from", old, next, "-o", delta)
	if err != nil || !strings.Contains(out, delta) || !strings.Contains(out, "2 layers") || !strings.Contains(out, "0 blobs of 0 B left out, which rke2-images-core.linux-amd64.tar has") {
		t.Errorf("%v\n%s", err, out)
	}
	made := filepath.Join(dir, "new.tar")
	out, err = run("bundle", "apply", "--from", old, delta, "-o", made)
	if err != nil || !strings.Contains(out, made) || !strings.Contains(out, "the same bytes as rke2-images-core.linux-amd64.tar, sha256:") {
		t.Errorf("%v\n%s", err, out)
	}
	same(t, made, next)

	// Onto itself, everything is left out; without its base, that is named.
	out, err = run("bundle", "delta", "--from", old, old, "-o", delta, "--json")
	var deltas []airgap.Delta
	if err != nil || json.Unmarshal([]byte(out[strings.Index(out, "[\n"):]), &deltas) != nil || len(deltas) != 1 || deltas[0].LeftOut != 2 || deltas[0].File != delta {
		t.Fatalf("%v\n%s", err, out)
	}
	d := deltas[0]
	if out, err := run("bundle", "apply", "--from", next, delta, "-o", made); err == nil || !strings.Contains(err.Error(), d.Bases[0].Index.String()) {
		t.Errorf("wrong base: %v\n%s", err, out)
	}

	parts := splitBundle(t, old)
	out, err = run(append([]string{"bundle", "join", "-o", dir, "--json"}, parts...)...)
	var joined []airgap.Assembled
	if err != nil || json.Unmarshal([]byte(out[strings.Index(out, "[\n"):]), &joined) != nil || len(joined) != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	if j := joined[0]; j.File != filepath.Join(dir, filepath.Base(old)) || j.SHA256 != j.Tar.SHA256 {
		t.Errorf("%+v", j)
	}
	same(t, joined[0].File, old)
	if out, err := run("bundle", "join", "-o", dir, parts[0]); err == nil || !strings.Contains(err.Error(), filepath.Base(parts[1])) {
		t.Errorf("a missing part: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"delta", next, "-o", dir}, {"delta", "--from", old, next}, {"apply", delta, "-o", dir}, {"join", parts[0]}} {
		if _, err := run(append([]string{"bundle"}, args...)...); err == nil || !strings.Contains(err.Error(), "required flag") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestDeltasOfAll: folders of old bundles, several new ones, and deltas of all at once.
func TestDeltasOfAll(t *testing.T) {
	olds, news, usb, back := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	var next []string
	for _, dir := range []string{olds, news} {
		for _, set := range []string{"core", "extra"} {
			layout, _ := bundleFixture(t)
			work := t.TempDir()
			if out, err := run("bundle", "airgap", "--layout", layout, "--output-dir", work); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			file := filepath.Join(dir, set+".tar")
			if err := os.Rename(filepath.Join(work, "rke2-images-core.linux-amd64.tar"), file); err != nil {
				t.Fatal(err)
			}
			if dir == news {
				next = append(next, file)
			}
		}
	}
	out, err := run(append([]string{"bundle", "delta", "--from", olds, "-o", usb}, next...)...)
	if err != nil || !strings.Contains(out, "core.delta.tar") || !strings.Contains(out, "extra.delta.tar") || !strings.Contains(out, "core.tar or extra.tar has") {
		t.Errorf("%v\n%s", err, out)
	}
	deltas := []string{filepath.Join(usb, "core.delta.tar"), filepath.Join(usb, "extra.delta.tar")}
	out, err = run(append([]string{"bundle", "apply", "--from", olds, "-o", back}, deltas...)...)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, n := range next {
		same(t, n, filepath.Join(back, filepath.Base(n)))
	}
	if _, err := run(append([]string{"bundle", "apply", "--from", olds, "-o", filepath.Join(back, "x.tar")}, deltas...)...); err == nil || !strings.Contains(err.Error(), "a folder is needed") {
		t.Errorf("two into a file: %v", err)
	}
	if _, err := run("bundle", "apply", "--from", t.TempDir(), "-o", back, deltas[0]); err == nil || !strings.Contains(err.Error(), "no archive of images") {
		t.Errorf("from an empty folder: %v", err)
	}
}

// splitBundle makes two parts of a small bundle.
func splitBundle(t *testing.T, bundle string) []string {
	t.Helper()
	info, err := os.Stat(bundle)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	out, err := run("bundle", "split", bundle, "--size", fmt.Sprint(info.Size()-1), "--output-dir", dir)
	var files []string
	for i := range 2 {
		files = append(files, filepath.Join(dir, airgap.PartName(filepath.Base(bundle), i+1, 2)))
	}
	if err != nil || !strings.Contains(out, files[0]) || !strings.Contains(out, files[1]) {
		t.Fatalf("%v\n%s", err, out)
	}
	for size, want := range map[string]string{"": "--size", "10": "at least", "1TB": "nothing is to be split"} {
		if _, err := run("bundle", "split", bundle, "--size", size, "--output-dir", dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--size %q: %v", size, err)
		}
	}
	return files
}

func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", a, b)
	}
}
