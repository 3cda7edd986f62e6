//go:build linux

package scenarios

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// TestPeer: with `embedded-registry`, an agent whose only bundle has its executables gets
// images from a server that has them, from nobody else, and only those that its policy
// lets in.
func TestPeer(t *testing.T) {
	t.Parallel()
	p := products(t)
	bundles, key := operatorsBundles(t)
	sw, err := sealed.NewSwitch(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sw.Close(); err != nil {
			t.Error(err)
		}
	})
	cni := plugins(t, p)
	server := newNode(t, node.Options{
		Name: "source", Binary: p.Binary, Bundles: append(bundles, p.Bundle), Plugins: cni,
		Trust: map[string][]byte{"operator.pub": key}, Token: firstToken, Switch: sw, Address: "198.51.100.11/24",
		Config: map[string]any{"image-verification": "all", "embedded-registry": true},
	})
	bundle, pause := runtimeBundle(t, p)
	agent := newNode(t, node.Options{
		Name: "bare", Binary: p.Binary, Bundles: []string{bundle}, Plugins: cni,
		Trust: map[string][]byte{"operator.pub": key}, Token: firstToken, Switch: sw, Address: "198.51.100.21/24",
		Role: node.Agent, Server: server,
		// Not offline, for the node would not start without a sandbox image at hand; and yet
		// no registry may be asked.
		Config: map[string]any{"image-verification": "all", "offline": false, "disable-default-registry-endpoint": true},
	})
	if err := agent.WriteFile("/etc/rancher/rke2/registries.yaml", []byte("mirrors:\n  \"*\": {}\n")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	for _, n := range []*node.Node{server, agent} {
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []*node.Node{server, agent} {
		if err := n.WaitReady(ctx, bootLimit); err != nil {
			t.Fatal(err)
		}
	}
	if got := imagesOf(ctx, t, agent); strings.Contains(got, pause) || strings.Contains(got, "probe") {
		t.Fatalf("the agent has images before it asked anybody:\n%s", got)
	}
	s := &scenario{Node: server}

	// The sandbox's image by digest, the container's by tag: the release names the digest
	// of both.
	started := time.Now()
	const barePod = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "from-peer"}, "spec": {"nodeName": "bare",
	  "terminationGracePeriodSeconds": 1, "containers": [{"name": "pause", "image": %q, "imagePullPolicy": "IfNotPresent"}]}}`
	apply(ctx, t, s, fmt.Sprintf(barePod, pause))
	if _, err := server.WaitPod(ctx, "default", "from-peer", stepLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "a pod on a node without bundles, its images from a peer", time.Since(started))
	if got := imagesOf(ctx, t, agent); !strings.Contains(got, pause) {
		t.Errorf("the agent's containerd has no %s:\n%s", pause, got)
	}

	// The operator signed this one, but the signature is in a bundle on another node.
	apply(ctx, t, s, podOn("unproved", probeReference, "bare"))
	if err := sealed.Wait(ctx, "the probe's image to be refused", stepLimit, func(ctx context.Context) error {
		out, err := server.Kubectl(ctx, "get", "events", "-o", "jsonpath={.items[?(@.involvedObject.name==\"unproved\")].message}")
		if err == nil && !strings.Contains(out, "bring the image to this node in a bundle") {
			err = fmt.Errorf("events: %s", out)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if got := imagesOf(ctx, t, agent); strings.Contains(got, "probe") {
		t.Errorf("the agent's containerd has what it refused:\n%s", got)
	}
	if out, err := server.Kubectl(ctx, "delete", "pod", "unproved", "--wait=true", "--timeout=60s"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}

	// A policy that is about the system's images lets it in.
	restart(ctx, t, agent, func() {
		setOption(t, agent, "image-verification: all", "image-verification: system")
	})
	apply(ctx, t, s, podOn("probe", probeReference, "bare"))
	if _, err := server.WaitPod(ctx, "default", "probe", stepLimit); err != nil {
		t.Error(err)
	}
	clusterReachedNothing(ctx, t, server, agent)
}

// imagesOf lists what a node's containerd has.
func imagesOf(ctx context.Context, t *testing.T, n *node.Node) string {
	t.Helper()
	out, err := n.Command(ctx, "ctr", "-a", containerdSocket, "-n", "k8s.io", "images", "ls", "-q").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// runtimeBundle is a bundle with the node's executables and nothing else, and the name of
// the release's sandbox image, which is not in it.
func runtimeBundle(t *testing.T, p node.Products) (path, pause string) {
	t.Helper()
	layout := airgap.Layout(p.Layout)
	store := fake.Store{Base: layout}
	idx, err := layout.Index()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range idx.Manifests {
		switch ref := d.Annotations[airgap.AnnotationImageName]; {
		case d.Annotations[airgap.AnnotationKind] == airgap.KindSignatures:
			store.AddSignatures(d)
		case d.Annotations[airgap.AnnotationKind] != airgap.KindImage:
		case strings.Contains(ref, "/rke2-runtime:"):
			store.AddBase(d, ref)
		case strings.Contains(ref, "/mirrored-pause:"):
			pause = ref
		}
	}
	path = filepath.Join(t.TempDir(), "rke2-runtime-only.tar")
	if err := store.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return path, pause
}
