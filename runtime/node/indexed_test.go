package node

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/fake"
)

// TestImagesOfIndexes: what cosign signed is the index, and pods name it by its digest.
func TestImagesOfIndexes(t *testing.T) {
	w := newWorld(t)
	w.config.Verification = trust.ModeAll
	app, err := fake.Layers(runtime.GOARCH, 7)
	if err != nil {
		t.Fatal(err)
	}
	other, err := fake.Layers(runtime.GOARCH, 8)
	if err != nil {
		t.Fatal(err)
	}
	const (
		appRef   = "registry.example/apps/app:v1"
		otherRef = "registry.example/apps/other:v1"
	)
	var index string
	w.bundle(t, "core.tar", func(s *fake.Store) error { return signed(s, w.runtime, runtimeRef, &w.key, runtimeRef) })
	w.bundle(t, "apps.tar", func(s *fake.Store) error {
		h, err := s.AddIndex(app, runtime.GOARCH, appRef, "registry.example/apps/app@")
		if err != nil {
			return err
		}
		index = h.String()
		if err := s.Sign(w.key, appRef, h); err != nil {
			return err
		}
		h, err = s.AddIndex(other, runtime.GOARCH, otherRef, "registry.example/apps/other@")
		if err != nil {
			return err
		}
		return s.Sign(w.stranger, otherRef, h)
	})
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	items, refused := content.admit()
	var got []string
	for _, i := range items {
		if i.Admitted.Digest() != i.Image.Desc.Digest || !i.Admitted.Verified() {
			t.Errorf("%s: admitted %s, by %s", i.Admitted.Name(), i.Admitted.Digest(), i.Admitted.By())
		}
		got = append(got, i.Admitted.Name())
	}
	if want := []string{appRef, "registry.example/apps/app@" + index, runtimeRef}; !slices.Equal(got, want) {
		t.Errorf("admitted %q, want %q", got, want)
	}
	if len(refused) != 2 || refused[otherRef] == nil || !strings.Contains(refused[otherRef].Error(), "none of the trusted keys") {
		t.Errorf("refused %v", refused)
	}
}
