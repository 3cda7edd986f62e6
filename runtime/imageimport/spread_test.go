package imageimport

import (
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/fake"
)

// layered writes a bundle of an image with a layer for each seed.
func layered(t *testing.T, file string, seeds ...int64) string {
	t.Helper()
	image, err := fake.Layers(runtime.GOARCH, seeds...)
	if err != nil {
		t.Fatal(err)
	}
	var s fake.Store
	if _, err := s.Add(image, ref); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), file)
	if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return path
}

func openAll(t *testing.T, files ...string) []*airgap.Archive {
	t.Helper()
	var out []*airgap.Archive
	for _, f := range files {
		a, err := airgap.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Close() })
		out = append(out, a)
	}
	return out
}

// holders is what scan.Folder.Holder does.
func holders(archives []*airgap.Archive) func(v1.Hash) (*airgap.Archive, error) {
	return func(h v1.Hash) (*airgap.Archive, error) {
		for _, a := range archives {
			if has, err := a.Has(h); has || err != nil {
				return a, err
			}
		}
		return nil, nil
	}
}

func itemOf(t *testing.T, a *airgap.Archive) Item {
	t.Helper()
	return itemsOf(t, a)[0]
}

// itemsOf admits what is in an archive.
func itemsOf(t *testing.T, a *airgap.Archive) (items []Item) {
	t.Helper()
	for _, image := range a.Images() {
		admitted, err := trust.Policy{Mode: trust.ModeOff}.Admit(image.Refs[0], image.Desc.Digest, nil)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, Item{Archive: a, Image: image, Admitted: admitted})
	}
	return items
}

func TestImportFromParts(t *testing.T) {
	whole := layered(t, "app.tar", 1, 2, 3)
	parts, err := airgap.SplitFile(t.Context(), airgap.SplitOptions{File: whole, Size: fake.LayerSize + 20_000, OutputDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	archives := openAll(t, parts[0].File, parts[1].File, parts[2].File)
	item := itemOf(t, archives[1])

	s := newStore(t)
	s.importer.Holder = holders(archives[1:])
	var absent *AbsentError
	if err := s.importer.Check(s.ctx, item); !errors.As(err, &absent) || absent.Image != ref || absent.Size < fake.LayerSize {
		t.Errorf("without part 1: %v", err)
	}
	if _, err := s.importer.Import(s.ctx, item); !errors.As(err, &absent) || !strings.Contains(err.Error(), ref) {
		t.Errorf("without part 1: %v", err)
	}
	if got := append(s.names(t), s.blobs(t)...); len(got) != 0 {
		t.Errorf("left behind: %q", got)
	}

	s.importer.Holder = holders(archives)
	if err := s.importer.Check(s.ctx, item); err != nil {
		t.Error(err)
	}
	result, err := s.importer.Import(s.ctx, item)
	if err != nil || result.Blobs != 5 || result.Images != 2 {
		t.Errorf("%+v, %v", result, err)
	}
	for _, a := range archives { // whichever part it is found in
		if again, err := s.importer.Import(s.ctx, itemOf(t, a)); err != nil || again != (Result{Present: 1}) {
			t.Errorf("again: %+v, %v", again, err)
		}
	}
}

// TestImportOfADelta: containerd has the old image, or another bundle does; only what
// changed is read.
func TestImportOfADelta(t *testing.T) {
	old, next := layered(t, "old.tar", 1, 2, 3), layered(t, "app.tar", 1, 4, 3)
	delta := filepath.Join(t.TempDir(), "app.delta.tar")
	if _, err := airgap.MakeDelta(t.Context(), airgap.DeltaOptions{From: []string{old}, New: []string{next}, Output: delta}); err != nil {
		t.Fatal(err)
	}
	a := openAll(t, old, delta)

	s := newStore(t)
	if _, err := s.importer.Import(s.ctx, itemOf(t, a[0])); err != nil {
		t.Fatal(err)
	}
	item := itemOf(t, a[1])
	if err := s.importer.Check(s.ctx, item); err != nil {
		t.Errorf("with the old image in containerd: %v", err)
	}
	result, err := s.importer.Import(s.ctx, item)
	if err != nil || result.Blobs != 3 || result.Bytes > fake.LayerSize+5000 {
		t.Errorf("from the delta alone: %+v, %v", result, err)
	}
	// The old image is gone; what the new one shares with it must stay.
	if _, err := s.db.GarbageCollect(s.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.importer.Unpin(s.ctx, Keep{Items: []Item{item}}); err != nil {
		t.Fatal(err)
	}
	if again, err := s.importer.Import(s.ctx, item); err != nil || again != (Result{Present: 1}) {
		t.Errorf("again: %+v, %v", again, err)
	}

	fresh := newStore(t)
	var absent *AbsentError
	if err := fresh.importer.Check(fresh.ctx, item); !errors.As(err, &absent) || absent.Part != "layer 1 of 3" {
		t.Errorf("with nothing but the delta: %v", err)
	}
	fresh.importer.Holder = holders(a)
	if err := fresh.importer.Check(fresh.ctx, item); err != nil {
		t.Error(err)
	}
	if result, err := fresh.importer.Import(fresh.ctx, item); err != nil || result.Blobs != 5 {
		t.Errorf("with the base beside it: %+v, %v", result, err)
	}
}

// TestImportByDigest: an image that pods name by the digest of its index is called so.
func TestImportByDigest(t *testing.T) {
	image, err := fake.Layers(runtime.GOARCH, 1)
	if err != nil {
		t.Fatal(err)
	}
	var s fake.Store
	index, err := s.AddIndex(image, runtime.GOARCH, "docker.io/example/app@")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "app.tar")
	if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	a := openAll(t, path)[0]
	img := a.Images()[0]
	of, err := a.IndexOf(img)
	if err != nil {
		t.Fatal(err)
	}
	admitted, err := trust.Policy{Mode: trust.ModeOff}.AdmitDigest(img.Digests[0], img.Desc.Digest, nil, of)
	if err != nil {
		t.Fatal(err)
	}
	store := newStore(t)
	store.importer.Registries = []string{"mirror.example:5000"}
	item := Item{Archive: a, Image: img, Admitted: admitted}
	if _, err := store.importer.Import(store.ctx, item); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, repository := range []string{"docker.io/example/app", "mirror.example:5000/example/app"} {
		for _, h := range []v1.Hash{index, img.Desc.Digest} {
			want = append(want, repository+"@"+h.String())
		}
	}
	slices.Sort(want)
	if got := store.names(t); !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	if again, err := store.importer.Import(store.ctx, item); err != nil || again != (Result{Present: 1}) {
		t.Errorf("again: %+v, %v", again, err)
	}
}
