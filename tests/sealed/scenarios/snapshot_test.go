//go:build linux

package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rancher/rke2/tests/sealed/node"
)

const snapshotDir = node.DataDir + "/server/db/snapshots"

// snapshots: the commands on a running server of two.
func snapshots(ctx context.Context, t *testing.T, c *cluster) {
	// What a snapshot is to bring back, and, later, what it is to take away.
	if err := errors.Join(write(ctx, c.one, "before-the-snapshot"), keepSecret(ctx, c.one)); err != nil {
		t.Fatal(err)
	}
	mustRun(ctx, t, c.one, "etcd-snapshot", "save", "--name", "keep")
	for range 2 {
		// Their names have the second that they were taken in, rounded up or down.
		node.NextSecond()
		node.NextSecond()
		mustRun(ctx, t, c.one, "etcd-snapshot", "save", "--name", "old", "--snapshot-compress")
	}
	if got := listed(ctx, t, c.one); len(got) != 3 {
		t.Fatalf("listed: %q, want three", got)
	}
	mustRun(ctx, t, c.one, "etcd-snapshot", "prune", "--name", "old", "--snapshot-retention", "1")
	left := listed(ctx, t, c.one)
	if len(left) != 2 {
		t.Fatalf("after pruning to one: %q", left)
	}
	for _, name := range left {
		if strings.HasPrefix(name, "old-one-") {
			mustRun(ctx, t, c.one, "etcd-snapshot", "delete", name)
		} else {
			c.snapshot = snapshotDir + "/" + name
		}
	}
	if got := listed(ctx, t, c.one); len(got) != 1 || !strings.HasPrefix(got[0], "keep-one-") {
		t.Errorf("after deleting the other: %q", got)
	}
	if table := mustRun(ctx, t, c.one, "etcd-snapshot", "list"); !strings.Contains(table, "file://"+c.snapshot) {
		t.Errorf("the table does not show %s", c.snapshot)
	}
	if out, err := rke2(ctx, c.one, "etcd-snapshot", "save", "--etcd-token", "wrong"); err == nil || !strings.Contains(err.Error(), "rke2: ") {
		t.Errorf("a snapshot with a wrong token: %v\n%s", err, out)
	}
	if err := write(ctx, c.one, "after-the-snapshot"); err != nil {
		t.Fatal(err)
	}
}

// listed are the names of the snapshots on a server's disk, by the word of the command
// and of the folder.
func listed(ctx context.Context, t *testing.T, n *node.Node) []string {
	t.Helper()
	out, err := n.Command(ctx, "rke2", "etcd-snapshot", "list", "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Items []struct {
			Spec struct {
				SnapshotName string `json:"snapshotName"`
				NodeName     string `json:"nodeName"`
			} `json:"spec"`
		} `json:"items"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var names []string
	for _, item := range list.Items {
		names = append(names, item.Spec.SnapshotName)
	}
	entries, err := os.ReadDir(n.Path(snapshotDir))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(names) {
		t.Errorf("%d snapshots are listed, %d files are there", len(names), len(entries))
	}
	return names
}

// restores: one of two servers is lost, and the other is set back to the snapshot.
func restores(ctx context.Context, t *testing.T, c *cluster) {
	if err := c.one.Stop(ctx, stopLimit); err != nil {
		t.Fatal(err)
	}
	if err := c.two.PowerOff(); err != nil {
		t.Fatal(err)
	}
	refusesSnapshots(ctx, t, c)
	started := time.Now()
	out := mustRun(ctx, t, c.one, "server", "--cluster-reset", "--cluster-reset-restore-path="+c.snapshot)
	report(t, "cluster, reset to a snapshot", time.Since(started))
	if !strings.Contains(out, "start rke2 here without --cluster-reset") {
		t.Error("the reset does not say what to do next")
	}
	if running, err := c.one.Find("etcd"); err != nil || len(running) > 0 {
		t.Errorf("etcd runs on after the reset: %v, %v", running, err)
	}
	if _, err := rke2(ctx, c.one, "server", "--cluster-reset", "--server", c.two.URL()); err == nil || !strings.Contains(err.Error(), "server URL") {
		t.Errorf("a reset that would join another server: %v", err)
	}
	node.NextSecond()
	if err := c.one.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.one.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := c.one.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	isOfSnapshot(ctx, t, c.one)
	c.healthy(ctx, t, c.one, 1)

	renewed(ctx, t, c.one, "worker", c.one.Started())
	// The other is in the snapshot, and no more in etcd.
	deleteNode(ctx, t, c.one, "two")
}

// isOfSnapshot: a server has what was there when the snapshot was taken, and no more.
func isOfSnapshot(ctx context.Context, t *testing.T, n *node.Node) {
	t.Helper()
	client, err := n.Client()
	if err != nil {
		t.Fatal(err)
	}
	maps := client.CoreV1().ConfigMaps("default")
	if _, err := maps.Get(ctx, "before-the-snapshot", metav1.GetOptions{}); err != nil {
		t.Errorf("what the snapshot has is not there: %v", err)
	}
	if _, err := maps.Get(ctx, "after-the-snapshot", metav1.GetOptions{}); err == nil {
		t.Error("what came after the snapshot is there")
	}
	if word, err := readSecret(ctx, n, keptSecret); err != nil || word != "plain-"+keptSecret {
		t.Errorf("a secret of the snapshot reads %q, %v", word, err)
	}
}

// restoresElsewhere: every host is lost. A new one has the snapshot's copy, the token and
// the bundles.
func restoresElsewhere(ctx context.Context, t *testing.T, c *cluster) {
	whole, err := os.ReadFile(c.one.Path(c.snapshot))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node.Node{c.one, c.two, c.agent} {
		if err := n.PowerOff(); err != nil {
			t.Fatal(err)
		}
	}
	const backup = "/root/backup/a-snapshot"
	n := c.member(t, "four", "198.51.100.14", node.Server, nil)
	if err := n.WriteFile(backup, whole); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	mustRun(ctx, t, n, "server", "--cluster-reset", "--cluster-reset-restore-path="+backup)
	node.NextSecond()
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "cluster, a snapshot restored on a new host, to Ready", time.Since(started))
	isOfSnapshot(ctx, t, n)
	c.healthy(ctx, t, n, 1)
	clusterReachedNothing(ctx, t, n)
}

// refusesSnapshots: one that is not there, and one that was cut off while it was copied.
// The control plane of the server that was stopped runs on, and its data stays.
func refusesSnapshots(ctx context.Context, t *testing.T, c *cluster) {
	t.Helper()
	const half = "/root/half-a-snapshot"
	whole, err := os.ReadFile(c.one.Path(c.snapshot))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.one.WriteFile(half, whole[:len(whole)/2]); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{c.snapshot + "0": "no such file", half: "cut off"} {
		_, err := rke2(ctx, c.one, "server", "--cluster-reset", "--cluster-reset-restore-path="+path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "nothing was stopped or changed") {
			t.Errorf("restoring %s: %v", path, err)
		}
	}
	if running, err := c.one.Find("etcd"); err != nil || len(running) == 0 {
		t.Errorf("etcd was ended for a snapshot that cannot be restored: %v, %v", running, err)
	}
}

// rejoins: a server comes back with nothing, as the reset says.
func rejoins(ctx context.Context, t *testing.T, c *cluster) {
	if err := c.two.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.two.Path(node.DataDir + "/server/db")); err != nil {
		t.Fatal(err)
	}
	node.NextSecond()
	if err := c.two.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.two.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	c.healthy(ctx, t, c.one, 2)
	if err := write(ctx, c.two, "written-after-the-reset"); err != nil {
		t.Errorf("a write through the server that came back: %v", err)
	}
	if word, err := readSecret(ctx, c.two, keptSecret); err != nil || word != "plain-"+keptSecret {
		t.Errorf("a secret, through the server that came back: %q, %v", word, err)
	}
}
