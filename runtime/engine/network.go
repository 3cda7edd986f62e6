package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/k3s-io/k3s/pkg/clientaccess"
	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"

	"github.com/rancher/rke2/runtime/config"
)

const (
	// cniFolder is where containerd looks for networks, if nothing else is set.
	cniFolder = "/etc/cni/net.d"
	// cniPoll is how often the folder is looked at where the kernel tells of no changes.
	cniPoll = 10 * time.Second
	// maxNetwork bounds a network's file.
	maxNetwork = 1 << 20
	// askPause is the pause before a server is asked again.
	askPause = 2 * time.Second
)

// clusterSettings are what the servers of a cluster say of packaged charts. It is a part
// of what a server of the engine answers to its nodes.
type clusterSettings struct {
	Disables         map[string]bool // charts that are not deployed, among other words
	DisableKubeProxy bool
}

// followCluster brings what charts leave on this node in line with what the cluster
// deploys: the network of a chart that is not deployed (any more), kube-proxy's arguments.
// A server knows; an agent asks the server that it joined through.
func (e *Executor) followCluster(ctx context.Context, agent cmds.Agent) {
	dir := e.node.AgentConfig.CNIConfDir
	if dir == "" {
		dir = cniFolder
	}
	e.forgetNetworks(dir, flannelLease)
	if e.config.Role == config.Server {
		off := map[string]bool{}
		for _, name := range e.content.Charts().Removed {
			off[name] = true
		}
		e.guardPods(off)
		e.goWith(ctx, func(ctx context.Context) { e.keepNetworks(ctx, dir, off) })
		return
	}
	node := e.node
	e.goWith(ctx, func(ctx context.Context) {
		settings, err := e.askCluster(ctx, node, agent.ServerURL)
		if err != nil {
			return // the node ends
		}
		if settings.DisableKubeProxy {
			if err := dropProxyArgs(e.config.DataDir); err != nil {
				e.log.Warn("kube-proxy is disabled", "error", err)
			}
		}
		e.guardPods(settings.Disables)
		e.keepNetworks(ctx, dir, settings.Disables)
	})
}

// forgetNetworks removes the networks that charts wrote before this machine was booted:
// flannel, which both of ours are made of, has no lease yet. With them, the kubelet would
// call the node Ready and start pods that their network can't take, one failure after the
// other; the chart's pod writes its file again when its network works.
func (e *Executor) forgetNetworks(dir, lease string) {
	if _, err := os.Stat(lease); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	written := func(string) bool { return true }
	if err := removeNetworks(dir, written, func(file, chart string) {
		e.log.Info("pods wait until their network is up again", "removed", file, "chart", chart)
	}); err != nil {
		e.log.Warn("pods may be started before their network is up", "error", err)
	}
}

// guardPods lets this node's packets to pods end here while no network says where these
// are, if the cluster deploys one of ours: another may route pods in its own way.
func (e *Executor) guardPods(off map[string]bool) {
	var pods []*net.IPNet
	for _, c := range e.content.Charts().Known {
		if c.CNI() != "" && !off[c.Name] {
			pods = e.node.AgentConfig.ClusterCIDRs
		}
	}
	if err := guardRoutes(pods); err != nil {
		e.log.Warn("packets to pods may leave this node by its default route while their network is down", "error", err)
	}
}

// askCluster asks until it is told.
func (e *Executor) askCluster(ctx context.Context, node *daemonconfig.Node, server string) (clusterSettings, error) {
	var settings clusterSettings
	err := retry(ctx, e.log, askPause, func(context.Context) error {
		access, err := clientaccess.ParseAndValidateToken(server, node.Token, clientaccess.WithClientCertificate(node.AgentConfig.ClientKubeletCert, node.AgentConfig.ClientKubeletKey))
		if err == nil {
			settings, err = ask(access)
		}
		return err
	}, "waiting to learn which charts the cluster deploys", "server", server)
	return settings, err
}

func ask(access *clientaccess.Info) (clusterSettings, error) {
	var settings clusterSettings
	raw, err := access.Get("/v1-rke2/config")
	if err == nil {
		err = json.Unmarshal(raw, &settings)
	}
	return settings, err
}

// keepNetworks removes the networks of charts that are off from a folder, until ctx ends:
// a pod of such a chart that runs on until it is uninstalled may write its file again, and
// containerd takes the first by name.
func (e *Executor) keepNetworks(ctx context.Context, dir string, off map[string]bool) {
	if len(off) == 0 {
		return
	}
	changes := make(<-chan fsnotify.Event)
	if watcher, err := fsnotify.NewWatcher(); err == nil {
		defer watcher.Close()
		if err := errors.Join(os.MkdirAll(dir, 0o755), watcher.Add(dir)); err == nil {
			changes = watcher.Events
		}
	}
	found := false
	for {
		if err := removeNetworks(dir, func(chart string) bool { return off[chart] }, func(file, chart string) {
			found = true
			e.log.Info("removed the network of a chart that is not deployed", "file", file, "chart", chart)
		}); err != nil {
			e.log.Warn("a network of a chart that is not deployed may be in use", "error", err)
		}
		// Of a chart that was deployed here; an operator's own network may want such routes.
		if found {
			if err := dropBlackholes(flannelLease, func(subnet *net.IPNet) {
				e.log.Info("removed the route to nowhere of a chart that is not deployed", "subnet", subnet.String())
			}); err != nil {
				e.log.Warn("a route of a chart that is not deployed may keep pods from being reached", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changes:
		case <-time.After(cniPoll):
		}
	}
}

// removeNetworks removes files in which a chart wrote its own name, of charts that are off.
// Files without are the operator's.
func removeNetworks(dir string, off func(chart string) bool, removed func(file, chart string)) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		file := filepath.Join(dir, entry.Name())
		chart, err := writtenBy(file)
		if err == nil && chart != "" && off(chart) {
			if err = os.Remove(file); err == nil {
				removed(file, chart)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// writtenBy is the packaged chart that wrote a network's file; "" if none did.
func writtenBy(file string) (string, error) {
	switch filepath.Ext(file) {
	case ".conf", ".conflist", ".json":
	default:
		return "", nil
	}
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxNetwork {
		return "", err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var network struct {
		Chart string `json:"rke2Chart"`
	}
	if err := json.Unmarshal(raw, &network); err != nil {
		return "", nil //nolint:nilerr // half a file, or not a chart's: containerd says what is wrong with it
	}
	return network.Chart, nil
}

// sameCluster refuses a server that is about to join a cluster whose servers deploy other
// networks, or kube-proxy where this one does not: each would uninstall what the other
// deploys. Servers that are members already are only told, so that a cluster can be
// changed one by one; and nothing is said where the other server does not answer, which
// is the engine's to wait for.
func (e *Executor) sameCluster() error {
	server := cmds.ServerConfig.ServerURL
	if e.config.Role != config.Server || server == "" || cmds.ServerConfig.ClusterReset {
		return nil
	}
	token := cmds.ServerConfig.Token
	if file := cmds.ServerConfig.TokenFile; token == "" && file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil //nolint:nilerr // the engine says it
		}
		token = string(raw)
	}
	access, err := clientaccess.ParseAndValidateToken(server, token, clientaccess.WithUser("node"))
	if err != nil {
		return nil //nolint:nilerr // the engine waits for it, or says it
	}
	theirs, err := ask(access)
	if err != nil {
		return nil //nolint:nilerr // the same
	}
	differs := e.differs(theirs)
	if differs == nil {
		return nil
	}
	err = fmt.Errorf("this server and %s, which it joins, must be set alike: %w", server, differs)
	if _, member := os.Stat(filepath.Join(etcdDir(e.config.DataDir), "member")); member == nil {
		e.log.Warn("the servers of this cluster undo what each other deploys until all are set alike", "error", err)
		return nil
	}
	return err
}

// words are a set's in order; none if it is empty.
func words(set map[string]bool) string {
	if len(set) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), ",")
}

// differs says in which option two servers differ that must not.
func (e *Executor) differs(theirs clusterSettings) error {
	mine := map[string]bool{}
	for _, name := range e.content.Charts().Removed {
		mine[name] = true
	}
	here, there := map[string]bool{}, map[string]bool{}
	all, said := 0, false
	for _, c := range e.content.Charts().Known {
		cni := c.CNI()
		if cni == "" {
			continue
		}
		all++
		said = said || theirs.Disables[c.Name]
		if !mine[c.Name] {
			here[cni] = true
		}
		if !theirs.Disables[c.Name] {
			there[cni] = true
		}
	}
	switch {
	case all > 1 && !said: // a release without these charts
		return nil
	case words(here) != words(there):
		return fmt.Errorf("cni is %s here, and %s there", words(here), words(there))
	case cmds.ServerConfig.DisableKubeProxy != theirs.DisableKubeProxy:
		return fmt.Errorf("disable-kube-proxy is %t here, and %t there", cmds.ServerConfig.DisableKubeProxy, theirs.DisableKubeProxy)
	}
	return nil
}
