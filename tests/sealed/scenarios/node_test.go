//go:build linux

package scenarios

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/sealed/node"
)

// Limits of what a test waits for. The slowest machine that the project has takes
// a third of them.
const (
	bootLimit = 4 * time.Minute
	stepLimit = 2 * time.Minute
	stopLimit = 40 * time.Second
)

// What the operator of the test's node brings.
const (
	probeReference    = "registry.example/tools/probe:v1"
	strangerReference = "registry.example/tools/stranger:v1"
)

// scenario is one node and what its tests pass on.
type scenario struct {
	*node.Node
	cold, coldAPI time.Duration
	probeAddress  string
}

// TestNode takes one node through its life. Every image must be signed here
// (image-verification: all): the product's by the release key, the probe by the
// operator's.
func TestNode(t *testing.T) {
	p := products(t)
	bundles, key := operatorsBundles(t)
	s := &scenario{Node: newNode(t, node.Options{
		Name:    "sealed",
		Binary:  p.Binary,
		Bundles: append(bundles, p.Bundle),
		Plugins: plugins(t, p),
		Trust:   map[string][]byte{"operator.pub": key},
		Config:  map[string]any{"image-verification": "all"},
	})}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	for _, part := range []struct {
		name string
		run  func(context.Context, *testing.T, *scenario)
	}{
		{"boots from the bundle", boots},
		{"runs an ordinary pod", runsPod},
		{"kubectl logs and exec", logsAndExec},
		{"refuses a stranger's image", refusesStranger},
		{"brings a killed kubelet back", kubeletKilled},
		{"stops clean", stopsClean},
		{"starts again with nothing imported and no pod restarted", startsAgain},
		{"ends when containerd is killed", containerdKilled},
		{"starts after a reboot", reboots},
		{"reached for nothing outside", reachedNothing},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(ctx, t, s) }) {
			t.Fatalf("%q failed: what comes after it stands on it", part.name)
		}
	}
}

// operatorsBundles are two bundles that the product did not make: one with an
// image that the operator signed, one with an image that nobody trusted did; and
// the operator's public key.
func operatorsBundles(t *testing.T) (paths []string, public []byte) {
	t.Helper()
	image, err := fake.Program("probe", probe(t), runtime.GOARCH, "serve")
	if err != nil {
		t.Fatal(err)
	}
	key, err := fake.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := fake.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = key.Public(); err != nil {
		t.Fatal(err)
	}
	for _, b := range []struct {
		file, reference string
		key             fake.Key
	}{
		{"site-probe.tar", probeReference, key},
		{"site-stranger.tar", strangerReference, stranger},
	} {
		var store fake.Store
		digest, err := store.Add(image, b.reference)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Sign(b.key, b.reference, digest); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), b.file)
		if err := store.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths, public
}
