package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"
	"github.com/k3s-io/k3s/pkg/util"
	utilsnet "k8s.io/utils/net"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/durable"
)

// proxyArgsFile holds this node's arguments of kube-proxy, one a line, for the pod that
// the chart rke2-kube-proxy runs on every node.
func proxyArgsFile(dataDir string) string {
	return filepath.Join(dataDir, "agent", "etc", "kube-proxy.args")
}

// KubeProxy is the engine's call for this node's kube-proxy, which is a pod of a chart: it
// is given its arguments in a file, and starts anew when they change.
func (e *Executor) KubeProxy(_ context.Context, args []string) error {
	return e.writeProxyArgs(args)
}

// earlyProxyArgs writes what the engine will ask for before it does: on a server it asks
// itself whether it may, every five seconds until its own start is over, and pods that
// need a Service wait for that. Without kube-proxy the file goes.
func (e *Executor) earlyProxyArgs() error {
	switch {
	case e.config.Role != config.Server:
		return nil
	case cmds.ServerConfig.DisableKubeProxy:
		return dropProxyArgs(e.config.DataDir)
	}
	return e.writeProxyArgs(proxyArgs(&e.node.AgentConfig))
}

func dropProxyArgs(dataDir string) error {
	if err := os.Remove(proxyArgsFile(dataDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("taking away the arguments of kube-proxy: %w", err)
	}
	return nil
}

// proxyArgs are those that the engine gives to its own kube-proxy.
func proxyArgs(a *daemonconfig.Agent) []string {
	health := "127.0.0.1"
	if utilsnet.IsIPv6(net.ParseIP(a.NodeIP)) {
		health = "::1"
	}
	args := map[string]string{
		"proxy-mode":                        "iptables",
		"healthz-bind-address":              health,
		"kubeconfig":                        a.KubeConfigKubeProxy,
		"cluster-cidr":                      util.JoinIPNets(a.ClusterCIDRs),
		"conntrack-max-per-core":            "0", // the engine sets the host's
		"conntrack-tcp-timeout-established": "0s",
		"conntrack-tcp-timeout-close-wait":  "0s",
	}
	if a.NodeName != "" {
		args["hostname-override"] = a.NodeName
	}
	if a.VLevel != 0 {
		args["v"] = strconv.Itoa(a.VLevel)
	}
	if a.VModule != "" {
		args["vmodule"] = a.VModule
	}
	return util.GetArgs(args, a.ExtraKubeProxyArgs)
}

// writeProxyArgs writes the file if it says something else: kube-proxy is started anew for
// it. Where the engine itself logs to is nothing to a pod; and the mode that it names is
// kube-proxy's own, which would win against what the chart's values say for all nodes, so
// only an operator's is written.
func (e *Executor) writeProxyArgs(args []string) error {
	named := func(arg string) string {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		return name
	}
	isMode := func(arg string) bool { return named(arg) == "proxy-mode" }
	mine := slices.ContainsFunc(e.node.AgentConfig.ExtraKubeProxyArgs, isMode)
	args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool {
		return named(arg) == "log_file" || named(arg) == "alsologtostderr" || isMode(arg) && !mine
	})
	for _, arg := range args {
		if strings.ContainsAny(arg, "\r\n\x00") {
			return fmt.Errorf("kube-proxy-arg %q: an argument is one line", arg)
		}
	}
	file, content := proxyArgsFile(e.config.DataDir), []byte(strings.Join(args, "\n")+"\n")
	if before, err := os.ReadFile(file); err == nil && bytes.Equal(before, content) {
		return nil
	}
	return durable.WriteFile(file, content, 0o600)
}
