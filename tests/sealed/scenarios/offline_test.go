//go:build linux

package scenarios

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/sealed/node"
)

// answerLimit is how long a node may take to say what is missing.
const answerLimit = time.Second

// TestOfflineWithoutBundle: the operator forgot the bundle, or brought another
// release's. The node says so at once, and dials nobody.
func TestOfflineWithoutBundle(t *testing.T) {
	p := products(t)
	reference, image, _, err := fake.Find(airgap.Layout(p.Layout), "rke2-runtime")
	if err != nil {
		t.Fatal(err)
	}
	older := reference[:strings.LastIndex(reference, ":")] + ":v1.0.0-rke2r9"
	other := fake.Store{Base: airgap.Layout(p.Layout)}
	other.AddBase(image, older)
	bundle := filepath.Join(t.TempDir(), "rke2-images-other.tar")
	if err := other.WriteBundle(t.Context(), bundle, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		bundles []string
		want    []string
	}{
		{"no bundle", nil, []string{node.ImagesDir, reference}},
		{"another release's bundle", []string{bundle}, []string{node.ImagesDir, reference, "rke2-images-other.tar", "v1.0.0-rke2r9"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, node.Options{Name: "forgotten", Binary: p.Binary, Bundles: c.bundles})
			before, err := n.Listing(node.DataDir)
			if err != nil {
				t.Fatal(err)
			}
			words, took := refusedStart(t, n)
			report(t, "offline, "+c.name+": until the error", took)
			if took > answerLimit {
				t.Errorf("it took %s, more than %s", took, answerLimit)
			}
			for _, w := range c.want {
				if !strings.Contains(words, w) {
					t.Errorf("the error does not name %s:\n%s", w, words)
				}
			}
			leftNothing(t, n, before)
			if sent, err := n.Outside(); err != nil || len(sent) > 0 {
				t.Errorf("it dialled: %v, %v", sent, err)
			}
		})
	}
}
