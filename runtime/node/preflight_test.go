package node

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/preflight"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/tests/fake"
)

// anyHost lets a node be prepared on whatever machine the tests run on.
func anyHost(config.Config, trust.Policy, *scan.Folder, *slog.Logger) error { return nil }

// TestNothingIsStagedOnAHostThatWillNotDo: what is missing is said before anything is
// written, and by name.
func TestNothingIsStagedOnAHostThatWillNotDo(t *testing.T) {
	w := newWorld(t)
	w.bundle(t, "core.tar", func(s *fake.Store) error { return signed(s, w.runtime, runtimeRef, &w.key, runtimeRef) })
	before := files(t, w.config.DataDir)
	_, _, err := prepare(t.Context(), w.config, slog.New(slog.NewTextHandler(w.log, nil)), checkHost)
	var refused *preflight.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "no bundle has the image "+otherRef+" (etcd)") {
		t.Errorf("got %v", err)
	}
	if after := files(t, w.config.DataDir); len(after) != len(before) {
		t.Errorf("before %q, after %q", before, after)
	}
}

// TestLook: an image that the policy refuses is one that the node cannot be started with.
func TestLook(t *testing.T) {
	w := newWorld(t)
	w.bundle(t, "core.tar", func(s *fake.Store) error {
		return errors.Join(signed(s, w.runtime, runtimeRef, &w.key, runtimeRef), signed(s, w.other, otherRef, &w.stranger, otherRef))
	})
	policy, err := Policy(w.config)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := scan.Open(w.config.ImagesDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	in := Look(host.Machine{}, w.config, policy, folder)
	sources := preflight.Sources(in)
	if len(sources) != 2 || sources[0].Err != nil || !strings.Contains(sources[0].By, "release key") {
		t.Errorf("got %+v", sources)
	}
	if err := sources[1].Err; err == nil || !strings.Contains(err.Error(), "trusted key") {
		t.Errorf("a stranger's image: %v", err)
	}
	if h, ok := in.Pinned(sources[0].Need); !ok || h.Hex == "" {
		t.Errorf("pinned: %v, %v", h, ok)
	}
}
