package node

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/tests/fake"
)

// TestInventory: a node that never ran, some bundles and a list.
func TestInventory(t *testing.T) {
	const (
		kubernetes, pause, helm = "docker.io/rancher/hardened-kubernetes:v1", "docker.io/rancher/mirrored-pause:v1", "docker.io/rancher/klipper-helm:v1"
		app, forged             = "registry.example/apps/app:v1", "docker.io/rancher/hardened-etcd:v4"
		listed                  = "registry.example/apps/listed:v1"
	)
	w := newWorld(t)
	layered := func(seed int64) v1.Image {
		t.Helper()
		image, err := fake.Layers(runtime.GOARCH, seed)
		if err != nil {
			t.Fatal(err)
		}
		return image
	}
	of := map[string]v1.Image{kubernetes: layered(1), pause: layered(2), helm: layered(3), app: layered(4), forged: layered(5)}
	for ref, role := range map[string]string{kubernetes: config.RoleKubernetes, pause: config.RolePause, helm: config.RoleHelmJob} {
		w.config.Release.Images = append(w.config.Release.Images, images.ReleaseImage{
			Name: role, Role: role, Reference: ref, Digests: here(mustDigest(t, of[ref]).String()),
		})
	}
	core := w.bundle(t, "core.tar", func(s *fake.Store) error {
		for _, err := range []error{
			signed(s, w.runtime, runtimeRef, &w.key, runtimeRef), signed(s, of[kubernetes], kubernetes, &w.key, kubernetes),
			signed(s, of[pause], pause, &w.key, pause),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	w.bundle(t, "site.tar", func(s *fake.Store) error {
		if err := signed(s, of[app], app, nil, ""); err != nil {
			return err
		}
		return signed(s, of[forged], forged, &w.stranger, forged)
	})
	for name, text := range map[string]string{"tools.txt": listed + "\n" + app + "\n", "note.txt": "not a list\n", "bad.tar": "no tar"} {
		if err := os.WriteFile(filepath.Join(w.config.ImagesDir(), name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := TakeInventory(t.Context(), w.config)
	if err != nil {
		t.Fatal(err)
	}
	if got.Containerd != "never ran" || got.Role != config.Server {
		t.Errorf("%+v", got)
	}
	rows := map[string]NodeImage{}
	var order []string
	for _, image := range got.Images {
		rows[image.Reference] = image
		order = append(order, image.Reference)
	}
	if want := []string{runtimeRef, pause, otherRef, kubernetes, helm, app, forged, listed}; !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
	for ref, want := range map[string]struct {
		why      string
		bundle   string
		verified bool
		missing  bool
	}{
		runtimeRef: {"the node's executables", "core.tar", true, false},
		pause:      {"the sandbox image", "core.tar", true, false},
		otherRef:   {"etcd", "", true, true}, // its digest is pinned
		kubernetes: {"kube-apiserver, kube-controller-manager, kube-scheduler", "core.tar", true, false},
		helm:       {"jobs that install charts", "", true, true},
		app:        {"bundle, list tools.txt, line 2", "site.tar", false, false},
		forged:     {"bundle", "site.tar", false, true},
		listed:     {"list tools.txt, line 1", "", false, true},
	} {
		row := rows[ref]
		bundle := ""
		if row.Bundle != "" {
			bundle = filepath.Base(row.Bundle)
		}
		if strings.Join(row.Why, ", ") != want.why || bundle != want.bundle || row.Verified != want.verified || row.Missing != want.missing || row.State != Absent {
			t.Errorf("%s: %+v, want %+v", ref, row, want)
		}
	}
	if fault := rows[forged].Fault; !strings.Contains(fault, "trusted keys") || rows[runtimeRef].Fault != "" {
		t.Errorf("fault %q", fault)
	}
	if !strings.HasPrefix(rows[kubernetes].Trusted, "release key ") || rows[app].Trusted != "not required" {
		t.Errorf("trusted because %q, %q", rows[kubernetes].Trusted, rows[app].Trusted)
	}
	if faults := strings.Join(got.Faults, "\n"); !strings.Contains(faults, "bad.tar") || !strings.Contains(faults, "note.txt") {
		t.Errorf("faults %q", faults)
	}
	if got.Missing() != 4 {
		t.Errorf("%d missing", got.Missing())
	}

	// The node has run, and its bundle is gone.
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if err := os.Remove(core); err != nil {
		t.Fatal(err)
	}
	if got, err = TakeInventory(t.Context(), w.config); err != nil || got.Images[0].State != Staged || got.Images[0].Missing || !got.Images[1].Missing {
		t.Errorf("%+v, %v", got.Images[:2], err)
	}
	w.config.Role = config.Agent
	if got, err = TakeInventory(t.Context(), w.config); err != nil || got.Images[2].Reference != app {
		t.Errorf("an agent's: %+v, %v", got.Images, err)
	}
	w.config.Verification = trust.ModeOff
	if got, err = TakeInventory(t.Context(), w.config); err != nil || slices.ContainsFunc(got.Images, func(i NodeImage) bool { return i.Fault != "" }) {
		t.Errorf("with verification off: %+v, %v", got.Images, err)
	}
}
