//go:build linux

package scenarios

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// defaultCharts are what a server deploys that was told nothing of charts.
var defaultCharts = []string{
	"rke2-canal", "rke2-canal-crd", "rke2-coredns", "rke2-ingress-nginx", "rke2-kube-proxy", "rke2-metrics-server",
	"rke2-runtimeclasses", "rke2-snapshot-controller", "rke2-snapshot-controller-crd",
}

// chartsLimit is how long all charts may take to be up, cold, on two cores.
const chartsLimit = 5 * time.Minute

// The nodes of the charts' cluster, by name and address.
const (
	serverName, serverAddress = "first", "198.51.100.11"
	agentName, agentAddress   = "second", "198.51.100.21"
)

// charted is a server and an agent with the product's own network, DNS, proxy, ingress
// and metrics.
type charted struct {
	server, agent *node.Node
	echo          string         // the workload's image
	roots         *x509.CertPool // of the site's certificate
	redirect      int            // the status by which the ingress sends people to TLS
}

func (c *charted) nodes() []*node.Node { return []*node.Node{c.server, c.agent} }

// TestCharts takes a cluster with the default configuration through what its users do.
func TestCharts(t *testing.T) {
	c := newCharted(t)
	if err := os.Remove(transcript()); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	for _, part := range []struct {
		name string
		run  func(context.Context, *testing.T, *charted)
	}{
		{"a server deploys all charts", bootsCharts},
		{"an agent joins", agentJoins},
		{"serves", serves},
		{"pods survive a restart, a disabled chart does not", restartsCharts},
		{"comes back by itself after a power cut", losesAllPower},
		{"moves to flannel and nftables, without an ingress", switchesNetwork},
		{"reached for nothing outside", askedNobody},
	} {
		started := time.Now()
		if !t.Run(part.name, func(t *testing.T) { part.run(ctx, t, c) }) {
			t.Fatalf("%q failed: what comes after it stands on it", part.name)
		}
		t.Logf("%5.1f s  %s", time.Since(started).Seconds(), part.name)
	}
}

// serves: what a cluster is for. Its parts share nothing but the cluster.
func serves(ctx context.Context, t *testing.T, c *charted) {
	for _, part := range []struct {
		name string
		run  func(context.Context, *testing.T, *charted)
	}{
		{"pods and services across nodes", reachesAll},
		{"names", resolvesNames},
		{"ingress", servesIngress},
		{"network policies", holdsPolicies},
		{"kubectl top", tops},
		{"classes and definitions", hasDefinitions},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.run(ctx, t, c)
		})
	}
}

// newCharted lays the nodes out. Nothing runs yet.
func newCharted(t *testing.T) *charted {
	t.Helper()
	p := products(t)
	c := &charted{redirect: http.StatusPermanentRedirect}
	bundle, reference := echoBundle(t, p)
	c.echo = reference
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
		Binary: p.Binary, Charts: true, Token: firstToken, Switch: sw,
		Bundles: []string{p.Bundle, p.Set("canal"), p.Set("flannel"), p.Set("ingress-nginx"), bundle},
	}
	server, agent := opts, opts
	server.Name, server.Address = serverName, serverAddress+"/24"
	c.server = newNode(t, server)
	agent.Name, agent.Address, agent.Role, agent.Server = agentName, agentAddress+"/24", node.Agent, c.server
	c.agent = newNode(t, agent)
	t.Cleanup(func() {
		if t.Failed() {
			c.explain(context.WithoutCancel(t.Context()), t)
		}
	})
	return c
}

// siteManifest is a user's own, put where the charts are: it is deployed beside them.
const siteManifest = `apiVersion: v1
kind: Namespace
metadata: {name: site}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: greeting, namespace: site}
data: {hello: from a manifest of the site}
`

// siteFile is where it is put.
const siteFile = node.DataDir + "/server/manifests/site.yaml"

// bootsCharts: from bundles on a disk to every pod of every default chart Ready.
func bootsCharts(ctx context.Context, t *testing.T, c *charted) {
	if err := c.server.WriteFile(siteFile, []byte(siteManifest)); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	since := c.server.Started()
	if err := c.server.WaitReady(ctx, chartsLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "charts, cold start, node Ready by its own network", time.Since(since))
	c.await(ctx, t, since, defaultCharts)
	report(t, "charts, cold start, all default charts' pods Ready", time.Since(since))
	c.timelines(ctx, t, "cold")
	c.show(ctx, t, "get", "helmcharts,addons", "-A")

	// The user's manifest is as it was put there, and deployed.
	kept, err := os.ReadFile(c.server.Path(siteFile))
	if err != nil || string(kept) != siteManifest {
		t.Errorf("the site's manifest: %v\n%s", err, kept)
	}
	if out, err := c.server.Kubectl(ctx, "get", "configmap", "-n", "site", "greeting", "-o", "jsonpath={.data.hello}"); err != nil || out != "from a manifest of the site" {
		t.Errorf("what the site's manifest says: %q, %v", out, err)
	}
}

// timelines shows where the time of the server's last start went.
func (c *charted) timelines(ctx context.Context, t *testing.T, kind string) {
	t.Helper()
	err := sealed.Wait(ctx, "the charts' timeline", stepLimit, func(context.Context) error {
		log, err := c.server.Log()
		if err != nil {
			return err
		}
		found := 0
		for line := range strings.Lines(log) {
			at := strings.Index(line, "msg=timeline")
			if at < 0 {
				at = strings.Index(line, `msg="charts are up"`)
			}
			if at < 0 {
				continue
			}
			found++
			if strings.Contains(line, "charts") {
				report(t, "charts, "+kind+" start, where the time went", strings.TrimSpace(line[at:]))
			}
		}
		if found < 3 { // pods and images; charts; each chart
			return errors.New("the log does not say when charts are up")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// agentJoins: a second node, and the workload on both.
func agentJoins(ctx context.Context, t *testing.T, c *charted) {
	if err := c.agent.Start(ctx); err != nil {
		t.Fatal(err)
	}
	c.applyWorkload(ctx, t)
	if err := c.agent.WaitReady(ctx, joinLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "charts, an agent Ready", time.Since(c.agent.Started()))
	c.await(ctx, t, c.server.Started(), defaultCharts)
	report(t, "charts, an agent's pods Ready", time.Since(c.agent.Started()))
	c.show(ctx, t, "get", "nodes", "-o", "wide")
	c.show(ctx, t, "get", "pods", "-A", "-o", "wide")
}

// restartsCharts: rke2 ends and starts on both nodes, on the server with a chart less. No
// other container notices, nor who talks to one.
func restartsCharts(ctx context.Context, t *testing.T, c *charted) {
	before := c.containers(ctx, t)
	served := c.watchService(ctx)
	for _, n := range c.nodes() {
		if err := n.Stop(ctx, stopLimit); err != nil {
			t.Fatal(err)
		}
	}
	c.setting(t, c.server, "disable: [rke2-metrics-server]\n")
	node.NextSecond()
	for _, n := range c.nodes() {
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.nodes() {
		if err := n.WaitReady(ctx, bootLimit); err != nil {
			t.Fatal(err)
		}
	}
	report(t, "charts, restart of rke2, both nodes Ready", time.Since(c.server.Started()))
	c.await(ctx, t, time.Time{}, without(defaultCharts, "rke2-metrics-server"))
	report(t, "charts, restart of rke2, a disabled chart is gone", time.Since(c.server.Started()))
	if asked, failed := served(); asked < 10 || len(failed) > 0 {
		t.Errorf("%d of %d requests to a service failed while rke2 restarted: %q", len(failed), asked, failed)
	} else {
		t.Logf("%d requests to a service while rke2 restarted, none failed", asked)
	}
	if d := node.Difference(before, c.containers(ctx, t)); len(d) > 0 {
		t.Errorf("containers changed:\n%s", strings.Join(d, "\n"))
	}
	if out, err := c.server.Kubectl(ctx, "top", "nodes"); err == nil {
		t.Errorf("kubectl top answers without its chart:\n%s", out)
	}
	c.reaches(ctx, t)
}

// losesAllPower: every process of both nodes is gone at once. Started as systemd would, all
// of it comes back, and with it the chart that is not disabled any more.
func losesAllPower(ctx context.Context, t *testing.T, c *charted) {
	c.setting(t, c.server, "")
	c.powerCycle(ctx, t)
	c.await(ctx, t, c.server.Started(), defaultCharts)
	report(t, "charts, after a power cut of both nodes, all pods Ready", time.Since(c.server.Started()))
	c.timelines(ctx, t, "reboot")
	c.reaches(ctx, t)
	c.tell(t, "names, after a power cut:", c.resolves(ctx, t, true))
	c.awaitIngress(ctx, t)
	c.topped(ctx, t)
}

// switchesNetwork: another network, another way of proxying, no ingress. A node is
// rebooted for it: pods keep the network that they were made in.
func switchesNetwork(ctx context.Context, t *testing.T, c *charted) {
	const proxy = "kube-proxy-arg: [conntrack-max-per-core=0, proxy-mode=nftables]\n"
	c.setting(t, c.server, "cni: flannel\ningress-controller: none\n"+proxy)
	c.setting(t, c.agent, proxy)
	c.powerCycle(ctx, t)
	want := append(without(defaultCharts, "rke2-canal", "rke2-canal-crd", "rke2-ingress-nginx"), "rke2-flannel")
	c.await(ctx, t, c.server.Started(), want)
	report(t, "charts, moved to flannel and nftables, all pods Ready", time.Since(c.server.Started()))
	c.reaches(ctx, t)
	c.resolves(ctx, t, false)
	for _, n := range c.nodes() {
		mode, err := c.get(ctx, n, "http://127.0.0.1:10249/proxyMode")
		if err != nil || mode != "nftables" {
			t.Errorf("the proxy of %s has the mode %q (%v)", n.Name(), mode, err)
		}
		if _, err := c.get(ctx, n, "http://"+serverAddress+"/"); err == nil {
			t.Errorf("somebody answers where the ingress did, asked from %s", n.Name())
		}
	}
	if out, err := c.server.Kubectl(ctx, "get", "ingressclasses,services,configmaps", "-A"); err != nil || strings.Contains(out, "nginx") {
		t.Errorf("left of the ingress chart: %v\n%s", err, out)
	}
	c.show(ctx, t, "get", "pods", "-A", "-o", "wide")
}

// powerCycle cuts the power of both nodes, brings it back and starts rke2, nothing else.
func (c *charted) powerCycle(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, n := range c.nodes() {
		if err := n.PowerOff(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.nodes() {
		if err := n.PowerOn(ctx); err != nil {
			t.Fatal(err)
		}
	}
	node.NextSecond()
	for _, n := range c.nodes() {
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.nodes() {
		if err := n.WaitReady(ctx, bootLimit); err != nil {
			t.Fatal(err)
		}
	}
}

// setting writes what a node is told beside its configuration; nothing: the file is gone.
func (c *charted) setting(t *testing.T, n *node.Node, text string) {
	t.Helper()
	const file = node.ConfigFile + ".d/50-site.yaml"
	err := os.Remove(n.Path(file))
	if text != "" {
		err = n.WriteFile(file, []byte(text))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// apiService is the API's address in the cluster, which means nothing outside of it. A pod
// on the host's network that asks for it before its node's kube-proxy has its rules (after
// a power cut, or while the proxy's mode changes) sends to the gateway, and asks again.
const apiService = "tcp 10.43.0.1:443"

// askedNobody: the nodes sent nothing beyond each other but questions of the cluster's name
// server to the operator's, and for the API before there was a proxy.
func askedNobody(_ context.Context, t *testing.T, c *charted) {
	for _, n := range c.nodes() {
		sent, err := n.Outside()
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range sent {
			if to != apiService && !forwarded.MatchString(to) {
				t.Errorf("%s sent something to %s", n.Name(), to)
			}
		}
	}
}

func without(names []string, gone ...string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(gone, n) })
}

// transcript is where what the cluster answered is kept beside the figures.
func transcript() string { return filepath.Join(filepath.Dir(figures()), "sealed-charts.txt") }

// show prints what kubectl says, for people.
func (c *charted) show(ctx context.Context, t *testing.T, args ...string) {
	t.Helper()
	out, err := c.server.Kubectl(ctx, args...)
	if err != nil {
		t.Errorf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	c.tell(t, "$ kubectl "+strings.Join(args, " "), out)
}

// tell prints something and adds it to the transcript.
func (c *charted) tell(t *testing.T, title, text string) {
	t.Helper()
	t.Logf("%s\n%s", title, text)
	f, err := os.OpenFile(transcript(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Error(err)
		return
	}
	_, err = fmt.Fprintf(f, "%s\n%s\n", title, strings.TrimRight(text, "\n"))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Error(err)
	}
}
