package node

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/plugins/content/local"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/tests/fake"
)

// TestIncompleteImages: an image of which a layer is nowhere is left out, by name, and the
// others are not; if the control plane needs it, the node says why it cannot start.
func TestIncompleteImages(t *testing.T) {
	w := newWorld(t)
	layered := func(file string, images map[string][]int64) string {
		var s fake.Store
		for ref, seeds := range images {
			image, err := fake.Layers(runtime.GOARCH, seeds...)
			if err != nil {
				t.Fatal(err)
			}
			if err := signed(&s, image, ref, &w.key, ref); err != nil {
				t.Fatal(err)
			}
			if ref == otherRef {
				w.config.Release.Images[1].Digests = here(mustDigest(t, image).String())
			}
		}
		path := filepath.Join(t.TempDir(), file)
		if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const app, tool = "registry.example/apps/app:v1", "registry.example/apps/tool:v1"
	old := layered("old.tar", map[string][]int64{app: {1}, otherRef: {2, 4}, tool: {9}})
	next := layered("apps.tar", map[string][]int64{app: {1, 3}, otherRef: {2, 5}, tool: {6}})
	delta := filepath.Join(t.TempDir(), "apps.delta.tar")
	if _, err := airgap.MakeDelta(t.Context(), airgap.DeltaOptions{From: []string{old}, New: []string{next}, Output: delta}); err != nil {
		t.Fatal(err)
	}
	core := w.bundle(t, "core.tar", func(s *fake.Store) error { return signed(s, w.runtime, runtimeRef, &w.key, runtimeRef) })
	saved := filepath.Join(t.TempDir(), "core.tar")
	copyTo(t, core, saved)
	w.drop(t, delta, saved)

	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	client, err := containerd.New("", containerd.WithServices(containerd.WithContentStore(store)))
	if err != nil {
		t.Fatal(err)
	}
	items, refused := content.admit()
	items = content.available(t.Context(), &imageimport.Importer{Client: client, Holder: content.folder.Holder}, items, refused)
	var got []string
	for _, i := range items {
		got = append(got, i.Admitted.Name())
	}
	if len(got) != 2 || got[0] != tool || got[1] != runtimeRef {
		t.Errorf("available: %q", got)
	}
	for _, ref := range []string{app, otherRef} {
		for _, want := range []string{"layer 1 of 2 of " + ref, "is in no bundle and not in containerd", "delta from old.tar", "copy what is missing into"} {
			if err := refused[ref]; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: want %q: %v", ref, want, err)
			}
		}
		if !strings.Contains(w.log.String(), ref) {
			t.Errorf("the log does not name %s", ref)
		}
	}
	candidates, err := w.config.Candidates(config.RoleEtcd)
	if err != nil {
		t.Fatal(err)
	}
	if err := content.absent("etcd", candidates, refused); err == nil || !strings.Contains(err.Error(), "etcd cannot start: its image is not complete: layer 1 of 2 of "+otherRef) {
		t.Errorf("etcd: %v", err)
	}
}
