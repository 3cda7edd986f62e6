//go:build linux

package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// joinLimit is how long the nodes of a cluster may take to be there, all at once, on
// two cores.
const joinLimit = 6 * time.Minute

// firstToken is what the nodes of the test's cluster join with, until it is rotated.
const firstToken = "a-first-secret"

// cluster is servers and an agent on one switch, and what the parts of a test pass on.
type cluster struct {
	one, two, three, agent *node.Node
	writer                 *writer
	snapshot               string // a snapshot's file on one
	token                  string // what nodes join with now

	// member lays a node out on the switch.
	member func(t *testing.T, name, address string, role node.Role, server *node.Node) *node.Node
}

func (c *cluster) servers() []*node.Node { return []*node.Node{c.one, c.two, c.three} }

// clusterPart is a step of a test of a cluster. The next one stands on it.
type clusterPart struct {
	name string
	run  func(context.Context, *testing.T, *cluster)
}

// TestCluster takes three servers and an agent through what happens to a cluster.
func TestCluster(t *testing.T) {
	runParts(t, []clusterPart{
		{"one server, then two more and an agent", joins},
		{"runs a pod on the agent, out of the agent's own bundle", runsOnAgent},
		{"goes on when a server's power fails, and takes it back", losesPower},
		{"goes on when a server is cut off, and takes it back", losesLink},
		{"lost nothing that was written", lostNothing},
		{"rotates the server token", rotatesToken},
		{"rotates the certificates of a server and of the agent", rotatesCertificates},
		{"takes back an agent that was deleted", deletesAgent},
		{"removes a server that is deleted from etcd, and takes it back", deletesServer},
		{"reached for nothing outside", func(ctx context.Context, t *testing.T, c *cluster) {
			clusterReachedNothing(ctx, t, append(c.servers(), c.agent)...)
		}},
	})
}

// TestRecovery loses a server for good, sets the other back to a snapshot, and renews
// everything that is secret in the cluster that comes of it.
func TestRecovery(t *testing.T) {
	runParts(t, []clusterPart{
		{"two servers and an agent", joinsTwo},
		{"saves, lists, prunes and deletes snapshots", snapshots},
		{"goes back to a snapshot", restores},
		{"rotates the key of secrets", rotatesKeys},
		{"takes a server back after the reset", rejoins},
		{"rotates the cluster's authorities", rotatesAuthorities},
		{"goes back to the snapshot on a new host", restoresElsewhere},
		{"reached for nothing outside", func(ctx context.Context, t *testing.T, c *cluster) {
			clusterReachedNothing(ctx, t, append(c.servers(), c.agent)...)
		}},
	})
}

// runParts runs the parts of a test one after the other, beside another test of the kind:
// most of what they do is to wait for what goes by the half minute.
func runParts(t *testing.T, parts []clusterPart) {
	t.Helper()
	t.Parallel()
	c := newCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	for _, part := range parts {
		started := time.Now()
		if !t.Run(part.name, func(t *testing.T) { part.run(ctx, t, c) }) {
			t.Fatalf("%q failed: what comes after it stands on it", part.name)
		}
		t.Logf("%5.1f s  %s", time.Since(started).Seconds(), part.name)
	}
}

// newCluster lays three servers and an agent out. Nothing runs yet.
func newCluster(t *testing.T) *cluster {
	t.Helper()
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
	opts := node.Options{
		Binary: p.Binary, Bundles: append(bundles, p.Bundle), Plugins: plugins(t, p),
		Trust: map[string][]byte{"operator.pub": key}, Token: firstToken, Switch: sw,
	}
	c := &cluster{token: firstToken}
	c.member = func(t *testing.T, name, address string, role node.Role, server *node.Node) *node.Node {
		t.Helper()
		o := opts
		o.Name, o.Address, o.Role, o.Server = name, address+"/24", role, server
		o.Config = map[string]any{"image-verification": "all"}
		if role == node.Server {
			o.Config["etcd-snapshot-schedule-cron"] = "0 0 1 1 *" // not while the test counts
		}
		return newNode(t, o)
	}
	c.one = c.member(t, "one", "198.51.100.11", node.Server, nil)
	c.two = c.member(t, "two", "198.51.100.12", node.Server, c.one)
	c.three = c.member(t, "three", "198.51.100.13", node.Server, c.one)
	c.agent = c.member(t, "worker", "198.51.100.21", node.Agent, c.one)
	return c
}

// joins: the others start at once, while the first one runs, and wait for each other by
// themselves.
func joins(ctx context.Context, t *testing.T, c *cluster) {
	started := time.Now()
	if err := c.one.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.one.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "cluster, first server Ready", time.Since(started))
	started = time.Now()
	for _, n := range []*node.Node{c.two, c.three, c.agent} {
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.agent.WaitReady(ctx, joinLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "cluster, an agent Ready while two servers join", time.Since(started))
	for _, n := range []*node.Node{c.two, c.three} {
		if err := n.WaitReady(ctx, joinLimit); err != nil {
			t.Fatal(err)
		}
	}
	report(t, "cluster, two more servers Ready", time.Since(started))
	c.healthy(ctx, t, c.one, 3)
	// A node is Ready before it gets its labels.
	var out string
	err := sealed.Wait(ctx, "all nodes to have their roles", stepLimit, func(ctx context.Context) (err error) {
		if out, err = c.one.Kubectl(ctx, "get", "nodes", "-o", "wide"); err != nil {
			return err
		}
		roles := map[string]int{}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 2 && f[1] == "Ready" {
				roles[f[2]]++
			}
		}
		if roles["control-plane,etcd"] != 3 || roles["<none>"] != 1 {
			return fmt.Errorf("roles of the nodes: %v", roles)
		}
		return nil
	})
	t.Log("\n" + out)
	if err != nil {
		t.Fatal(err)
	}
}

// joinsTwo: a server, and when it is Ready a second one and an agent.
func joinsTwo(ctx context.Context, t *testing.T, c *cluster) {
	if err := c.one.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.one.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node.Node{c.two, c.agent} {
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []*node.Node{c.two, c.agent} {
		if err := n.WaitReady(ctx, joinLimit); err != nil {
			t.Fatal(err)
		}
	}
	c.healthy(ctx, t, c.one, 2)
}

func runsOnAgent(ctx context.Context, t *testing.T, c *cluster) {
	s := &scenario{Node: c.one}
	apply(ctx, t, s, podOn("probe", probeReference, "worker"))
	pod, err := c.one.WaitPod(ctx, "default", "probe", stepLimit)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(pod.Status.PodIP, "10.42.21.") {
		t.Errorf("the pod's address is %q, not in the agent's part of the network", pod.Status.PodIP)
	}
	s.probeAddress, s.Node = pod.Status.PodIP, c.agent
	askProbe(ctx, t, s, "/hello")
	// Through the tunnel between server and agent, from a server that the agent was not
	// told of, and finds when the API names it.
	if err := sealed.Wait(ctx, "the agent's tunnel to a server that joined later", stepLimit, func(ctx context.Context) error {
		_, err := c.three.Kubectl(ctx, "logs", "probe")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	logsAndExec(ctx, t, &scenario{Node: c.three})
}

// podOn is the probe's pod, on one node, whatever that node's taints.
func podOn(name, image, on string) string {
	pod := fmt.Sprintf(probePod, name, image)
	return strings.Replace(pod, `"spec": {`, fmt.Sprintf(`"spec": {"nodeName": %q, "tolerations": [{"operator": "Exists"}],`, on), 1)
}

// etcdctl runs etcd's own client in the pod of a server.
func etcdctl(ctx context.Context, n *node.Node, args ...string) (string, error) {
	const tls = node.DataDir + "/server/tls/etcd/"
	return n.Kubectl(ctx, append([]string{
		"exec", "-n", "kube-system", "etcd-" + n.Name(), "--", "etcdctl", "-w", "json", "--endpoints=https://127.0.0.1:2379",
		"--cacert=" + tls + "server-ca.crt", "--cert=" + tls + "client.crt", "--key=" + tls + "client.key",
	}, args...)...)
}

// etcdState asks the etcd of a server for the members of its cluster, which must all be
// healthy and vote.
func etcdState(ctx context.Context, n *node.Node, members int) error {
	out, err := etcdctl(ctx, n, "member", "list")
	if err != nil {
		return err
	}
	var list struct {
		Members []struct {
			Name      string `json:"name"`
			IsLearner bool   `json:"isLearner"`
		} `json:"members"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return fmt.Errorf("%q: %w", out, err)
	}
	if len(list.Members) != members {
		return fmt.Errorf("%d members, want %d: %s", len(list.Members), members, out)
	}
	for _, m := range list.Members {
		if m.IsLearner || m.Name == "" {
			return fmt.Errorf("member %q does not vote yet", m.Name)
		}
	}
	out, err = etcdctl(ctx, n, "endpoint", "health", "--cluster")
	if err != nil {
		return err
	}
	var health []struct {
		Endpoint string `json:"endpoint"`
		Health   bool   `json:"health"`
		Error    string `json:"error"`
	}
	if err := json.Unmarshal([]byte(out), &health); err != nil {
		return fmt.Errorf("%q: %w", out, err)
	}
	if len(health) != members {
		return fmt.Errorf("%d endpoints: %s", len(health), out)
	}
	for _, h := range health {
		if !h.Health {
			return fmt.Errorf("%s is not healthy: %s", h.Endpoint, h.Error)
		}
	}
	return nil
}

// healthy waits until etcd, by the word of a server, has so many members that are well.
func (c *cluster) healthy(ctx context.Context, t *testing.T, n *node.Node, members int) {
	t.Helper()
	if err := sealed.Wait(ctx, fmt.Sprintf("%d healthy members of etcd", members), stepLimit, func(ctx context.Context) error {
		return etcdState(ctx, n, members)
	}); err != nil {
		t.Fatal(err)
	}
}

// writer writes all the time, one object after the other, through whichever server
// takes it, and remembers what it was told is written.
type writer struct {
	cancel func()
	done   chan struct{}

	mu    sync.Mutex
	acked []string
	last  time.Time
	gap   time.Duration // longest since it was asked last
}

const writtenLabel = "written-by=the-test"

func startWriter(ctx context.Context, servers ...*node.Node) *writer {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &writer{cancel: cancel, done: make(chan struct{}), last: time.Now()}
	go func() {
		defer close(w.done)
		at := 0
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("written-%05d", i)
			for ctx.Err() == nil {
				if err := write(ctx, servers[at], name); err == nil {
					w.ack(name)
					break
				}
				at = (at + 1) % len(servers)
			}
			select {
			case <-ctx.Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
	}()
	return w
}

// write makes one object; that it is there already means that an answer was lost.
func write(ctx context.Context, n *node.Node, name string) error {
	client, err := n.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	label, value, _ := strings.Cut(writtenLabel, "=")
	_, err = client.CoreV1().ConfigMaps("default").Create(ctx, configMap(name, map[string]string{label: value}), metav1.CreateOptions{})
	if alreadyExists(err) {
		return nil
	}
	return err
}

func (w *writer) ack(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked = append(w.acked, name)
	w.gap = max(w.gap, time.Since(w.last))
	w.last = time.Now()
}

// longest is how long, since it was asked last, no write got through.
func (w *writer) longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	gap := max(w.gap, time.Since(w.last))
	w.gap = 0
	return gap
}

// written is how many writes were acknowledged.
func (w *writer) written() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

func (w *writer) stop() []string {
	w.cancel()
	<-w.done
	return w.acked
}

// supervisor asks a server's port for joining, as a node with a token does, and returns
// the status.
func supervisor(ctx context.Context, n *node.Node, user, token string) (int, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: n.DialContext, DisableKeepAlives: true, TLSClientConfig: trustAnyone(),
	}, Timeout: 10 * time.Second}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL()+"/v1-rke2/server-bootstrap", http.NoBody)
	if err != nil {
		return 0, err
	}
	r.SetBasicAuth(user, token)
	answer, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

// rke2 runs a command of the product on a node and returns what it printed.
func rke2(ctx context.Context, n *node.Node, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	out, err := n.Command(ctx, "rke2", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return string(out), err
}

// mustRun is rke2 for what must work; it shows the end of what was said.
func mustRun(ctx context.Context, t *testing.T, n *node.Node, args ...string) string {
	t.Helper()
	out, err := rke2(ctx, n, args...)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	t.Logf("%s# rke2 %s\n%s", n.Name(), strings.Join(args, " "), strings.Join(lines[max(0, len(lines)-12):], "\n"))
	return out
}

// printed is what a command of the product prints, without what it logs.
func printed(ctx context.Context, t *testing.T, n *node.Node, args ...string) string {
	t.Helper()
	out, err := n.Command(ctx, "rke2", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// soonRun is mustRun for what a server takes only once it has settled.
func soonRun(ctx context.Context, t *testing.T, n *node.Node, args ...string) {
	t.Helper()
	if err := sealed.Wait(ctx, "rke2 "+strings.Join(args, " "), stepLimit, func(ctx context.Context) error {
		_, err := rke2(ctx, n, args...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// restart stops a node and starts it again, and waits until it is Ready.
func restart(ctx context.Context, t *testing.T, n *node.Node, between func()) {
	t.Helper()
	if err := n.Stop(ctx, stopLimit); err != nil {
		t.Fatal(err)
	}
	if between != nil {
		between()
	}
	node.NextSecond()
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
}

// clusterReachedNothing: no node sent a packet to anything but the others.
func clusterReachedNothing(_ context.Context, t *testing.T, nodes ...*node.Node) {
	t.Helper()
	for _, n := range nodes {
		if got, err := n.Outside(); err != nil || len(got) > 0 {
			t.Errorf("%s reached for %q (%v)", n.Name(), got, err)
		}
	}
}

// setOption replaces text in a node's configuration file, which must be there.
func setOption(t *testing.T, n *node.Node, from, to string) {
	t.Helper()
	config, err := os.ReadFile(n.Path(node.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(config), from) {
		t.Fatalf("the configuration of %s has no %q:\n%s", n.Name(), from, config)
	}
	if err := n.WriteFile(node.ConfigFile, []byte(strings.Replace(string(config), from, to, 1))); err != nil {
		t.Fatal(err)
	}
}
