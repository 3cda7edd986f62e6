//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/nextrelease"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// program is where operators put rke2.
const program = "/usr/local/bin/rke2"

// upgrade is a cluster of two nodes, with a pod on each, that goes from one release to
// the next and back with no network.
type upgrade struct {
	a, b          release
	server, agent *node.Node
	pods          []*worker
}

type release struct{ nextrelease.Release }

// worker is a pod that must not notice.
type worker struct {
	node    *node.Node
	name    string
	was     string // its container, and how often it was restarted
	process sealed.Process
	shim    string // the program that its shim was started from
}

// TestUpgrade takes a server and an agent to the next release and back, node by node.
// Their pods run through it all, and are managed by the shims that they were started by.
func TestUpgrade(t *testing.T) {
	p := products(t)
	u := newUpgrade(t, p)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 12*time.Minute)
	defer cancel()
	for _, part := range []struct {
		name string
		run  func(context.Context, *testing.T)
	}{
		{"the first release runs pods", u.begin},
		{"without the next release's images nothing is stopped", u.unprepared},
		{"upgrade, node by node", u.forward},
		{"the old release's files go with its last shim", u.forget},
		{"back again", u.back},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(ctx, t) }) {
			t.Fatalf("%q failed: what comes after it stands on it", part.name)
		}
	}
}

func newUpgrade(t *testing.T, p node.Products) *upgrade {
	t.Helper()
	u := &upgrade{}
	var err error
	if u.a.Release, err = nextrelease.Open(p.Dir); err != nil {
		t.Fatal(err)
	}
	sources, err := nextrelease.Sources()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if u.b.Release, err = nextrelease.Make(t.Context(), sources, u.a.Release, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	report(t, "making the next release", time.Since(started))
	wire, err := sealed.NewSwitch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := wire.Close(); err != nil {
			t.Error(err)
		}
	})
	probes, key := operatorsBundles(t)
	opts := node.Options{
		Name: "old-server", Address: "198.51.100.11/24", Switch: wire, Role: node.Server, Token: "of-two-releases",
		Bundles: probes[:1], Plugins: plugins(t, p), Trust: map[string][]byte{"operator.pub": key},
	}
	u.server = newNode(t, opts)
	opts.Name, opts.Address, opts.Role, opts.Server = "old-agent", "198.51.100.12/24", node.Agent, u.server
	u.agent = newNode(t, opts)
	return u
}

// begin boots both nodes with the first release and starts a pod on each.
func (u *upgrade) begin(ctx context.Context, t *testing.T) {
	for _, n := range []*node.Node{u.server, u.agent} {
		installRelease(t, n, u.a)
		dropBundle(t, n, u.a.Bundle, u.a.Version)
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if err := n.WaitReady(ctx, bootLimit); err != nil {
			t.Fatal(err)
		}
		report(t, n.Name()+": first release, node Ready", time.Since(n.Started()))
	}
	if err := u.server.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node.Node{u.server, u.agent} {
		u.pods = append(u.pods, u.work(ctx, t, n))
		u.runs(ctx, t, n, u.a)
	}
}

// unprepared: the next release's program is there, its images are not, or not all. The
// program says so, also while the first release runs, which goes on running.
func (u *upgrade) unprepared(ctx context.Context, t *testing.T) {
	installRelease(t, u.server, u.b)
	before := containersOf(ctx, t, u.server)
	others, err := u.server.OtherProcesses()
	if err != nil {
		t.Fatal(err)
	}
	refuses := func(want ...string) {
		t.Helper()
		for _, args := range [][]string{{"doctor"}, {"server"}} {
			limited, cancel := context.WithTimeout(ctx, 30*time.Second)
			out, err := u.server.Command(limited, program, args...).CombinedOutput()
			cancel()
			var failed *sealed.ExitError
			if !errors.As(err, &failed) || failed.Status.Signaled() {
				t.Errorf("rke2 %s: %v\n%s", args[0], err, out)
			}
			for _, w := range want {
				if !strings.Contains(string(out), w) {
					t.Errorf("rke2 %s does not speak of %s:\n%s", args[0], w, out)
				}
			}
		}
	}
	refuses("no bundle has the image "+u.b.reference(t, "runtime"), u.a.reference(t, "runtime"))

	// The runtime alone: what the control plane would run is still missing.
	lacking := filepath.Join(t.TempDir(), "lacking.tar")
	u.b.part(t, lacking, "runtime", "pause")
	dropBundle(t, u.server, lacking, u.b.Version)
	refuses("no bundle has the image "+u.b.reference(t, "etcd"), "no bundle has the image "+u.b.reference(t, "kubernetes"))
	takeBundle(t, u.server, lacking, u.b.Version)

	after, err := u.server.OtherProcesses()
	if err != nil {
		t.Fatal(err)
	}
	if d := node.Difference(describe(others), describe(after)); len(d) > 0 {
		t.Errorf("processes changed:\n%s", strings.Join(d, "\n"))
	}
	if d := node.Difference(before, containersOf(ctx, t, u.server)); len(d) > 0 {
		t.Errorf("containers changed:\n%s", strings.Join(d, "\n"))
	}
	installRelease(t, u.server, u.a)
}

// forward puts the next release on one node after the other.
func (u *upgrade) forward(ctx context.Context, t *testing.T) {
	for _, n := range []*node.Node{u.server, u.agent} {
		dropBundle(t, n, u.b.Bundle, u.b.Version)
		installRelease(t, n, u.b)
		u.restart(ctx, t, n, "upgrade")
		u.runs(ctx, t, n, u.b)
		if dirs := u.a.staged(t, n); len(dirs) != 1 {
			t.Errorf("%s: the first release's files, which shims run from: %q", n.Name(), dirs)
		}
	}
	u.unnoticed(ctx, t)
}

// forget: a node's last pod that the first release started ends; with it its files.
func (u *upgrade) forget(ctx context.Context, t *testing.T) {
	pod := u.pods[1]
	if out, err := u.server.Kubectl(ctx, "delete", "pod", pod.name, "--wait=true", "--timeout=60s"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	u.pods = u.pods[:1]
	deleted := time.Now()
	err := sealed.Wait(ctx, "the first release's files to go", stepLimit, func(context.Context) error {
		if dirs := u.a.staged(t, u.agent); len(dirs) != 0 {
			return fmt.Errorf("there are %q", dirs)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	report(t, "from the last old shim's end to the removal of what it ran from", time.Since(deleted))
	if dirs := u.b.staged(t, u.agent); len(dirs) != 1 {
		t.Errorf("the next release's files: %q", dirs)
	}
}

// back returns the server to the first release, whose files are still there.
func (u *upgrade) back(ctx context.Context, t *testing.T) {
	for _, n := range []*node.Node{u.server, u.agent} {
		installRelease(t, n, u.a)
		u.restart(ctx, t, n, "downgrade")
		u.runs(ctx, t, n, u.a)
	}
	u.unnoticed(ctx, t)
	for _, n := range []*node.Node{u.agent, u.server} {
		if err := n.Stop(ctx, stopLimit); err != nil {
			t.Errorf("stopping %s: %v\n%s", n.Name(), err, n.LastWords())
		}
	}
}

// restart ends rke2 and starts what is installed.
func (u *upgrade) restart(ctx context.Context, t *testing.T, n *node.Node, what string) {
	t.Helper()
	if err := n.Stop(ctx, stopLimit); err != nil {
		t.Fatalf("stopping %s: %v\n%s", n.Name(), err, n.LastWords())
	}
	node.NextSecond()
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	if n == u.server {
		if err := n.WaitControlPlane(ctx, bootLimit); err != nil {
			t.Fatal(err)
		}
	}
	report(t, n.Name()+": "+what+", node Ready and its pods run", time.Since(n.Started()))
}

// runs checks that a node runs a release, by all that it can be told from.
func (u *upgrade) runs(ctx context.Context, t *testing.T, n *node.Node, r release) {
	t.Helper()
	if out, err := n.Command(ctx, program, "--version").Output(); err != nil || !strings.Contains(string(out), "rke2 version "+r.Version) {
		t.Errorf("%s: rke2 --version: %v\n%s", n.Name(), err, out)
	}
	client, err := u.server.Client()
	if err != nil {
		t.Fatal(err)
	}
	err = sealed.Wait(ctx, n.Name()+" to be of "+r.Version, stepLimit, func(ctx context.Context) error {
		known, err := client.CoreV1().Nodes().Get(ctx, n.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if v := known.Status.NodeInfo.KubeletVersion; v != r.Version {
			return fmt.Errorf("its kubelet says %s", v)
		}
		if n == u.agent {
			return nil
		}
		for component, role := range map[string]string{"etcd": "etcd", "kube-apiserver": "kubernetes", "kube-controller-manager": "kubernetes", "kube-scheduler": "kubernetes"} {
			pod, err := client.CoreV1().Pods("kube-system").Get(ctx, component+"-"+n.Name(), metav1.GetOptions{})
			if err != nil {
				return err
			}
			if image := pod.Spec.Containers[0].Image; !strings.HasSuffix(image, r.image(t, role).Digest()) {
				return fmt.Errorf("%s runs %s", pod.Name, image)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, program := range []string{"kubelet", "containerd"} {
		found, err := n.Find(program)
		if err != nil || len(found) != 1 || !strings.Contains(executable(t, found[0]), "/data/"+r.key()) {
			t.Errorf("%s: %s: %+v, %v", n.Name(), program, found, err)
		}
	}
}

// work starts a pod on a node and remembers what it is.
func (u *upgrade) work(ctx context.Context, t *testing.T, n *node.Node) *worker {
	t.Helper()
	w := &worker{node: n, name: "works-on-" + n.Name()}
	pod := fmt.Sprintf(probePod, w.name, probeReference)
	apply(ctx, t, &scenario{Node: u.server}, strings.Replace(pod, `"spec": {`, `"spec": {"nodeName": "`+n.Name()+`",`, 1))
	w.was, w.process, w.shim = w.now(ctx, t, u.server)
	return w
}

// unnoticed checks that pods, their processes and their shims are what they were.
func (u *upgrade) unnoticed(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, w := range u.pods {
		was, process, shim := w.now(ctx, t, u.server)
		if was != w.was || process.Pid != w.process.Pid || process.Started != w.process.Started || shim != w.shim {
			t.Errorf("%s was %s, process %d of %s, and is %s, process %d of %s", w.name, w.was, w.process.Pid, w.shim, was, process.Pid, shim)
		}
		// A kubelet that has just started learns of its pods from the API.
		err := sealed.Wait(ctx, "an answer of "+w.name, stepLimit, func(ctx context.Context) error {
			out, err := u.server.Kubectl(ctx, "exec", w.name, "--", "/probe", "exec-hello")
			if err == nil && out != "hello from "+w.name+"\n" {
				err = sealed.Hopeless(fmt.Errorf("it says %q", out))
			}
			return err
		})
		if err != nil {
			t.Errorf("%s is not managed any more: %v", w.name, err)
		}
	}
}

func (w *worker) now(ctx context.Context, t *testing.T, server *node.Node) (container string, process sealed.Process, shim string) {
	t.Helper()
	pod, err := server.WaitPod(ctx, corev1.NamespaceDefault, w.name, stepLimit)
	if err != nil {
		t.Fatal(err)
	}
	status := pod.Status.ContainerStatuses[0]
	found, err := w.node.Find("probe")
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: processes probe: %+v, %v", w.node.Name(), found, err)
	}
	return fmt.Sprintf("%s, restarted %d times", status.ContainerID, status.RestartCount), found[0], executable(t, sealed.Process{Pid: found[0].Parent})
}

// executable is the program that a process was started from.
func executable(t *testing.T, p sealed.Process) string {
	t.Helper()
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.Pid))
	if err != nil {
		t.Error(err)
	}
	return path
}

// key is what the names of a release's staged folders begin with.
func (r release) key() string { return strings.ReplaceAll(r.Version, "+", "-") + "-" }

// staged are the folders of a release's executables on a node.
func (r release) staged(t *testing.T, n *node.Node) []string {
	t.Helper()
	dirs, err := filepath.Glob(n.Disk(node.DataDir + "/data/" + r.key() + "*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

func (r release) reference(t *testing.T, role string) string { return r.image(t, role).Reference }

func (r release) image(t *testing.T, role string) images.ReleaseImage {
	t.Helper()
	image, ok := r.Image(role)
	if !ok {
		t.Fatalf("release %s has no %s image", r.Version, role)
	}
	return image
}

// part writes a bundle that has some of a release's images.
func (r release) part(t *testing.T, path string, roles ...string) {
	t.Helper()
	layout := airgap.Layout(filepath.Join(r.Dir, "oci"))
	store := fake.Store{Base: layout}
	for _, role := range roles {
		reference, image, signatures, err := fake.Find(layout, r.image(t, role).Name)
		if err != nil {
			t.Fatal(err)
		}
		store.AddBase(image, reference)
		for _, s := range signatures {
			store.AddSignatures(s)
		}
	}
	if err := store.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
}

// installRelease puts a release's program in the place of another, as a package manager does.
func installRelease(t *testing.T, n *node.Node, r release) {
	t.Helper()
	placeFile(t, r.Binary, n.Path(program))
}

// dropBundle puts a bundle among a node's others, takeBundle takes it away.
func dropBundle(t *testing.T, n *node.Node, bundle, version string) {
	t.Helper()
	placeFile(t, bundle, n.Disk(dropped(bundle, version)))
}

func takeBundle(t *testing.T, n *node.Node, bundle, version string) {
	t.Helper()
	if err := os.Remove(n.Disk(dropped(bundle, version))); err != nil {
		t.Fatal(err)
	}
}

func dropped(bundle, version string) string {
	return filepath.Join(node.ImagesDir, version+"-"+filepath.Base(bundle))
}

func containersOf(ctx context.Context, t *testing.T, n *node.Node) map[string]string {
	t.Helper()
	return containers(ctx, t, &scenario{Node: n})
}
