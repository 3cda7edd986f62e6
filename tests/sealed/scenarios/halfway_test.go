//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// TestPowerCuts cuts the power in the middle of the first start, twice, and lets
// the node boot then: nothing half-written is used, nothing is left of it.
func TestPowerCuts(t *testing.T) {
	p := products(t)
	n := newNode(t, node.Options{Name: "unlucky", Binary: p.Binary, Bundles: []string{p.Bundle}, Plugins: plugins(t, p)})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*bootLimit)
	defer cancel()
	for _, moment := range []struct{ what, sign string }{
		{"while the runtime is staged", node.DataDir + "/data/.staging-*/bin/*"},
		{"while images are imported", content + "/ingest/*/data"},
	} {
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
		seen := catch(ctx, t, n, moment.what, moment.sign)
		if err := n.Reboot(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("power cut %s: %s was there", moment.what, seen)
	}
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	// A blob that containerd had moved to its place, but not yet written down, leaves the
	// folder of its ingest, with no data in it, to containerd's next garbage collection.
	for _, leftover := range []string{node.DataDir + "/data/.staging-*", content + "/ingest/*/data"} {
		found, err := filepath.Glob(n.Path(leftover))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			t.Errorf("left of the cut starts: %s", found)
		}
	}
}

// catch waits, without a pause, until a file that matches exists with something
// in it, or fails when the moment has passed.
func catch(ctx context.Context, t *testing.T, n *node.Node, what, sign string) string {
	t.Helper()
	pattern := n.Path(sign)
	for deadline := time.Now().Add(stepLimit); time.Now().Before(deadline) && ctx.Err() == nil; {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if info, err := os.Stat(f); err == nil && info.Size() > 0 {
				return f
			}
		}
		select {
		case <-n.Exited():
			t.Fatalf("rke2 ended before the power was cut %s:\n%s", what, n.LastWords())
		default:
		}
	}
	t.Fatalf("no moment to cut the power %s: nothing matched %s", what, sign)
	return ""
}

// TestFullDisk: the disk is too small for the runtime, though not by so much that it is
// known beforehand. The error says so, nothing half-written stays to fill it; when there is
// room the same node goes on.
func TestFullDisk(t *testing.T) {
	p := products(t)
	n := newNode(t, node.Options{Name: "full", Binary: p.Binary, Bundles: []string{p.Bundle}})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), bootLimit)
	defer cancel()
	small := node.DataDir + "/data"
	if out, err := n.Command(ctx, "sh", "-ec", fmt.Sprintf("mkdir -p %[1]s && mount -t tmpfs -o size=128m none %[1]s", small)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before, err := n.Listing(node.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	words, _ := refusedStart(t, n)
	for _, w := range []string{"no space left on device", small} {
		if !strings.Contains(words, w) {
			t.Errorf("the error does not say %q:\n%s", w, words)
		}
	}
	leftNothing(t, n, before)
	if out, err := n.Command(ctx, "mount", "-o", "remount,size=2g", small).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	err = sealed.Wait(ctx, "the runtime to be staged", stepLimit, func(context.Context) error {
		log, err := n.Log()
		if err == nil && !strings.Contains(log, "the runtime is ready") {
			err = errors.New("the log does not say so")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
