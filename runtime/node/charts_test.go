package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/stage"
)

// TestDeliverCharts: a chart that asks for the cluster's settings gets them, over what it
// says itself; all else is delivered as it is, and what the user put there stays.
func TestDeliverCharts(t *testing.T) {
	dir := t.TempDir()
	root := stage.Root{Dir: filepath.Join(dir, "data", "v1-000000000000")}
	manifests := filepath.Join(dir, "server", "manifests")
	const plain = "# a comment\napiVersion: v1\nkind: ConfigMap\n---\n# another\nkind: Secret\n"
	const asking = `apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata:
  name: dns
  annotations: {rke2.cattle.io/inject-cluster-config: "true"}
spec:
  chartContent: H4sI
  set: {own: 1, global.clusterDNS: stale}
---
apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata: {name: other}
spec: {set: {own: kept}}
`
	for path, content := range map[string]string{
		filepath.Join(root.Charts(), "plain.yaml"): plain, filepath.Join(root.Charts(), "dns.yaml"): asking,
		filepath.Join(manifests, "mine.yaml"): "mine", filepath.Join(manifests, "dns.yaml"): "of another version",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := config.Config{Role: config.Server, DataDir: dir, SystemDefaultRegistry: "registry.example:5000", Cluster: config.Cluster{
		ClusterCIDR: []string{"10.1.0.0/16", "fd01::/56"}, ServiceCIDR: []string{"10.2.0.0/16"}, DNS: []string{"10.2.0.10"}, Domain: "cluster.local",
	}}
	c.Charts = charts.Choice{CNI: []string{"none"}, IngressController: []string{"none"}}
	if _, err := deliverCharts(root, c, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(manifests, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if read("plain.yaml") != plain || read("mine.yaml") != "mine" {
		t.Errorf("%q, %q", read("plain.yaml"), read("mine.yaml"))
	}
	documents := strings.Split(read("dns.yaml"), "---\n")
	if len(documents) != 2 || !strings.Contains(documents[1], "spec: {set: {own: kept}}") {
		t.Fatalf("%q", documents)
	}
	var chart struct{ Spec struct{ Set map[string]any } }
	if err := yaml.Unmarshal([]byte(documents[0]), &chart); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"own": 1.0, "global.clusterDNS": "10.2.0.10", "global.clusterCIDR": `10.1.0.0/16\,fd01::/56`, "global.clusterCIDRv4": "10.1.0.0/16",
		"global.clusterCIDRv6": "fd01::/56", "global.serviceCIDR": "10.2.0.0/16", "global.clusterDomain": "cluster.local", "global.rke2DataDir": dir,
		"global.systemDefaultRegistry": "registry.example:5000", "global.cattle.systemDefaultRegistry": "registry.example:5000",
	}
	for k, v := range want {
		if chart.Spec.Set[k] != v {
			t.Errorf("%s is %v, want %v", k, chart.Spec.Set[k], v)
		}
	}
	if len(chart.Spec.Set) != len(want) {
		t.Errorf("set %v", chart.Spec.Set)
	}

	agent := c
	agent.Role, agent.DataDir = config.Agent, t.TempDir()
	if _, err := deliverCharts(root, agent, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(agent.DataDir, "server")); err == nil {
		t.Error("an agent got charts")
	}
	if err := os.WriteFile(filepath.Join(root.Charts(), "bad.yaml"), []byte("# rke2.cattle.io/inject-cluster-config\na: [\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := deliverCharts(root, c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "bad.yaml") {
		t.Errorf("bad YAML: %v", err)
	}
}
