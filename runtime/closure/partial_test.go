package closure

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/tests/fake"
)

// TestPartialBundles counts an image that a part or a delta lists only where all of its
// layers are in one of the bundles that were given, as a node puts them together.
func TestPartialBundles(t *testing.T) {
	noise := rand.New(rand.NewPCG(1, 2))
	var both, old fake.Store
	var refs []string
	for i := range 4 {
		text := make([]byte, 300_000)
		for j := range text {
			text[j] = byte(noise.Uint32())
		}
		ref := fmt.Sprintf("example.com/app-%d:1", i)
		refs = append(refs, ref)
		image := imageOf(t, "amd64", map[string]string{"noise": string(text)})
		_, err := both.Add(image, ref)
		must(t, err)
		if i < 2 {
			_, err := old.Add(image, fmt.Sprintf("example.com/app-%d:0", i))
			must(t, err)
		}
	}
	whole, before := write(t, &both, "apps.tar", "amd64"), write(t, &old, "old.tar", "amd64")
	dir := t.TempDir()
	parts, err := airgap.SplitFile(t.Context(), airgap.SplitOptions{File: whole.Path, Size: 700_000, OutputDir: dir})
	must(t, err)
	delta := filepath.Join(dir, "apps.delta.tar")
	_, err = airgap.MakeDelta(t.Context(), airgap.DeltaOptions{From: []string{before.Path}, New: []string{whole.Path}, Output: delta})
	must(t, err)
	open := func(paths ...string) []scan.File {
		var out []scan.File
		for _, p := range paths {
			a, err := airgap.Open(p)
			must(t, err)
			t.Cleanup(func() { _ = a.Close() })
			out = append(out, scan.File{Path: p, Archive: a})
		}
		return out
	}
	if len(parts) < 2 {
		t.Fatalf("%d parts", len(parts))
	}
	var all []string
	for _, p := range parts {
		all = append(all, p.File)
	}
	backwards := slices.Clone(all)
	slices.Reverse(backwards)
	core := system(t, nil)
	for _, c := range []struct {
		what  string
		files []scan.File
		gaps  int
	}{
		{"every part", open(all...), 0},
		{"every part, in another order", open(backwards...), 0},
		{"the first part", open(all[0]), -1},
		{"the delta alone", open(delta), 2},
		{"the delta and what it is for", open(delta, before.Path), 0},
		{"what it is for and the delta", open(before.Path, delta), 0},
	} {
		r := prove(t, Input{Bundles: append([]scan.File{core}, c.files...), Images: refs})
		got := r.Gaps()
		if c.gaps < 0 && len(got) == 0 || c.gaps >= 0 && len(got) != c.gaps {
			t.Errorf("%s: gaps %q", c.what, gaps(r))
		}
		for _, g := range got {
			if !strings.Contains(g.Gap.Reason, "is in none of the bundles") || len(g.Gap.Near) != 1 {
				t.Errorf("%s: %s: %q", c.what, g.Reference, g.Gap.Reason)
			}
		}
	}
}
