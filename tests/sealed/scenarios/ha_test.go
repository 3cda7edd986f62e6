//go:build linux

package scenarios

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// gapLimit is how long no write may get through when a server goes: etcd elects a
// leader after 5 s, and two cores do the work of twelve.
const gapLimit = 40 * time.Second

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

func alreadyExists(err error) bool { return apierrors.IsAlreadyExists(err) }

// trustAnyone is for a question whose answer is a status, not a secret.
func trustAnyone() *tls.Config { return &tls.Config{InsecureSkipVerify: true} } //nolint:gosec // see above

// losesPower: the server that the agent and the others joined through is gone at once,
// with every process. The API stays up through the others, the agent stays Ready and
// takes a new pod.
func losesPower(ctx context.Context, t *testing.T, c *cluster) {
	c.writer = startWriter(ctx, c.two, c.three, c.one)
	await(ctx, t, "the first writes", func() bool { return c.writer.written() > 4 })
	c.writer.longest()
	if err := c.one.PowerOff(); err != nil {
		t.Fatal(err)
	}
	off := time.Now()
	before := c.writer.written()
	await(ctx, t, "writes through the other servers", func() bool { return c.writer.written() > before+8 })
	gap := c.writer.longest()
	report(t, "cluster, longest pause of writes when a server's power failed", gap)
	if gap > gapLimit {
		t.Errorf("no write got through for %s", gap)
	}
	s := &scenario{Node: c.two}
	apply(ctx, t, s, podOn("probe-later", probeReference, "worker"))
	if _, err := c.two.WaitPod(ctx, "default", "probe-later", stepLimit); err != nil {
		t.Error(err)
	}
	// Asked of the agent's own pods by logs: its tunnel to the servers stands.
	if out, err := c.three.Kubectl(ctx, "logs", "probe-later"); err != nil || !strings.Contains(out, "listening") {
		t.Errorf("logs from the agent: %v\n%s", err, out)
	}
	t.Logf("the server was off for %s", time.Since(off).Round(time.Second))

	if err := c.one.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	node.NextSecond()
	if err := c.one.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.one.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "cluster, a server Ready again after its power came back", time.Since(c.one.Started()))
	c.healthy(ctx, t, c.one, 3)
}

// losesLink: a server that reaches nobody takes no writes; the others go on.
func losesLink(ctx context.Context, t *testing.T, c *cluster) {
	c.writer.longest()
	if err := c.two.Unplug(); err != nil {
		t.Fatal(err)
	}
	before := c.writer.written()
	await(ctx, t, "writes through the other servers", func() bool { return c.writer.written() > before+8 })
	gap := c.writer.longest()
	report(t, "cluster, longest pause of writes when a server was cut off", gap)
	if gap > gapLimit {
		t.Errorf("no write got through for %s", gap)
	}
	if err := write(ctx, c.two, "written-alone"); err == nil {
		t.Error("the server that is cut off took a write")
	}
	if err := c.two.Plug(); err != nil {
		t.Fatal(err)
	}
	plugged := time.Now()
	c.healthy(ctx, t, c.two, 3)
	if err := sealed.Wait(ctx, "a write through the server that was cut off", stepLimit, func(ctx context.Context) error {
		return write(ctx, c.two, "written-later")
	}); err != nil {
		t.Fatal(err)
	}
	report(t, "cluster, writes through a server after its link came back", time.Since(plugged))
	renewed(ctx, t, c.one, "two", plugged)
}

// renewed waits until a node's kubelet has renewed its lease since a moment: it says that
// it is Ready only when that changes.
func renewed(ctx context.Context, t *testing.T, through *node.Node, name string, since time.Time) {
	t.Helper()
	if err := sealed.Wait(ctx, "the lease of node "+name, stepLimit, func(ctx context.Context) error {
		client, err := through.Client()
		if err != nil {
			return err
		}
		lease, err := client.CoordinationV1().Leases("kube-node-lease").Get(ctx, name, metav1.GetOptions{})
		if err == nil && (lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Time.Before(since)) {
			err = fmt.Errorf("renewed at %s, not since %s", lease.Spec.RenewTime, since)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// lostNothing: every write that was acknowledged is there, by the word of each server.
func lostNothing(ctx context.Context, t *testing.T, c *cluster) {
	acked := c.writer.stop()
	for _, n := range c.servers() {
		client, err := n.Client()
		if err != nil {
			t.Fatal(err)
		}
		list, err := client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{LabelSelector: writtenLabel})
		if err != nil {
			t.Fatal(err)
		}
		there := map[string]bool{}
		for _, m := range list.Items {
			there[m.Name] = true
		}
		var lost []string
		for _, name := range acked {
			if !there[name] {
				lost = append(lost, name)
			}
		}
		if len(lost) > 0 {
			t.Errorf("%s has lost %d of %d acknowledged writes: %q", n.Name(), len(lost), len(acked), lost)
		}
	}
	t.Logf("%d acknowledged writes are there", len(acked))
}

// await waits for something that goes on in this process.
func await(ctx context.Context, t *testing.T, what string, is func() bool) {
	t.Helper()
	if err := sealed.Wait(ctx, what, stepLimit, func(context.Context) error {
		if !is() {
			return fmt.Errorf("not yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// deletesAgent: its node object is deleted while it runs; started again, it is there.
func deletesAgent(ctx context.Context, t *testing.T, c *cluster) {
	deleteNode(ctx, t, c.one, "worker")
	restart(ctx, t, c.agent, nil)
}

// deletesServer: etcd goes on with two members; the server that was deleted ends and
// says why; started again with a server to join through, it is a member again.
func deletesServer(ctx context.Context, t *testing.T, c *cluster) {
	deleteNode(ctx, t, c.one, "three")
	c.healthy(ctx, t, c.one, 2)
	if err := c.three.Wait(ctx, stepLimit); err == nil {
		t.Error("the server that was removed ended well")
	}
	words := c.three.LastError()
	for _, want := range []string{"was removed from its cluster", "joins anew through https://198.51.100.11:9345"} {
		if !strings.Contains(words, want) {
			t.Errorf("the server that was removed does not say %q:\n%s", want, words)
		}
	}
	t.Log(words)
	node.NextSecond()
	if err := c.three.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.three.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	c.healthy(ctx, t, c.one, 3)
}

func deleteNode(ctx context.Context, t *testing.T, through *node.Node, name string) {
	t.Helper()
	if out, err := through.Kubectl(ctx, "delete", "node", name, "--wait=true", "--timeout=120s"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := through.Kubectl(ctx, "get", "nodes", "-o", "name")
	if err != nil || slices.Contains(strings.Fields(out), "node/"+name) {
		t.Fatalf("after the node was deleted: %v\n%s", err, out)
	}
}
