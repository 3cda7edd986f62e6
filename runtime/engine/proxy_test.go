package engine

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"

	"github.com/rancher/rke2/runtime/config"
)

func TestKubeProxy(t *testing.T) {
	e := &Executor{config: config.Config{Role: config.Agent, DataDir: t.TempDir()}, node: &daemonconfig.Node{}}
	file := filepath.Join(e.config.DataDir, "agent", "etc", "kube-proxy.args")
	if err := e.KubeProxy(t.Context(), []string{"--cluster-cidr=10.42.0.0/16", "--log_file=/var/log/rke2.log", "--alsologtostderr=true", "--proxy-mode=iptables", "--v=2"}); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "--cluster-cidr=10.42.0.0/16\n--v=2\n" {
		t.Errorf("%q, %v", raw, err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(file)
	if err := e.KubeProxy(t.Context(), []string{"--cluster-cidr=10.42.0.0/16", "--v=2"}); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(file); !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		t.Error("the same arguments were written again: kube-proxy would start anew")
	}
	if err := e.KubeProxy(t.Context(), []string{"--a=b\n--c"}); err == nil || !strings.Contains(err.Error(), "one line") {
		t.Errorf("an argument of two lines: %v", err)
	}
	for range 2 {
		if err := dropProxyArgs(e.config.DataDir); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

// TestEarlyProxyArgs: a server's file is there before the engine asks, with the operator's
// own arguments, and goes without kube-proxy. An agent's is the engine's to ask for.
func TestEarlyProxyArgs(t *testing.T) {
	was := cmds.ServerConfig.DisableKubeProxy
	t.Cleanup(func() { cmds.ServerConfig.DisableKubeProxy = was })
	cmds.ServerConfig.DisableKubeProxy = false
	_, cidr, err := net.ParseCIDR("10.42.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	e := &Executor{config: config.Config{Role: config.Server, DataDir: t.TempDir()}, node: &daemonconfig.Node{AgentConfig: daemonconfig.Agent{
		NodeName: "a", NodeIP: "192.0.2.1", ClusterCIDRs: []*net.IPNet{cidr}, KubeConfigKubeProxy: "/x/kubeproxy.kubeconfig",
		ExtraKubeProxyArgs: []string{"proxy-mode=nftables", "v=4"},
	}}}
	file := proxyArgsFile(e.config.DataDir)
	if err := e.earlyProxyArgs(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"--cluster-cidr=10.42.0.0/16", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-close-wait=0s", "--conntrack-tcp-timeout-established=0s",
		"--healthz-bind-address=127.0.0.1", "--hostname-override=a", "--kubeconfig=/x/kubeproxy.kubeconfig", "--proxy-mode=nftables", "--v=4",
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != strings.Join(want, "\n")+"\n" {
		t.Errorf("%s, %v", raw, err)
	}
	// A mode that nobody chose here is for the chart's values to choose.
	e.node.AgentConfig.ExtraKubeProxyArgs = nil
	if err := e.earlyProxyArgs(); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(file); err != nil || strings.Contains(string(raw), "proxy-mode") {
		t.Errorf("%s, %v", raw, err)
	}
	cmds.ServerConfig.DisableKubeProxy = true
	if err := e.earlyProxyArgs(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("without kube-proxy: %v", err)
	}
	e.config.Role = config.Agent
	cmds.ServerConfig.DisableKubeProxy = false
	if err := e.earlyProxyArgs(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("an agent does not know yet: %v", err)
	}
}
