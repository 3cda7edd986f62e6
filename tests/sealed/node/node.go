//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/tests/sealed"
)

// Paths inside the host.
const (
	DataDir    = "/var/lib/rancher/rke2"
	ImagesDir  = DataDir + "/agent/images"
	ConfigFile = "/etc/rancher/rke2/config.yaml"
	TrustDir   = "/etc/rancher/rke2/trust"
	Kubeconfig = "/etc/rancher/rke2/rke2.yaml"
	binary     = "/usr/local/bin/rke2"
	kubectl    = DataDir + "/bin/kubectl"
)

// logName is the log of the rke2 process among the host's logs.
const logName = "rke2"

// Options say what node to make.
type Options struct {
	// Name is the host's and the node's.
	Name string
	// State keeps the disk; see [sealed.Options].
	State string
	// Binary is the rke2 to run, outside. Empty: the one that is installed on the host by
	// then is run.
	Binary string
	// Bundles are shown, read-only, in the node's images folder.
	Bundles []string
	// Charts leaves the packaged charts to the product's defaults: network, DNS, proxy,
	// ingress and the rest are deployed, from Bundles that must have their images. Without
	// it none is, and pods have a network if Plugins gives them one.
	Charts bool
	// Plugins is a folder of CNI plugins; with it the node gets a bridge network.
	// Without it pods that need a network stay pending, and so the node NotReady.
	Plugins string
	// Trust are the operator's public keys by file name.
	Trust map[string][]byte
	// Config is added to the configuration file, over what every test needs.
	Config map[string]any
	// Role is what the node runs as. Empty: a server.
	Role Role
	// Server is a node of the cluster to join, which need not have been started
	// yet. Nil: the node is the first of its own.
	Server *Node
	// Token is the cluster's shared secret. Empty: its first server makes one, and
	// a node that joins is given that one, which must be there by then.
	Token string
	// Switch and Address are where the node is among others; see [sealed.Options].
	Switch  *sealed.Switch
	Address string
	// PodSubnet is the part of the cluster's network that Plugins give to pods of
	// this node. Empty: 10.42.N.0/24, N being the last part of Address, or 0.
	PodSubnet string
	// Env is added to the environment of every command on the host.
	Env []string
	// Binds are more files and folders of the machine that the host sees.
	Binds []sealed.Bind
}

// Role is what a node runs as.
type Role string

// The roles, as on the command line.
const (
	Server Role = "server"
	Agent  Role = "agent"
)

// Node is an rke2 server or agent on a sealed host.
type Node struct {
	*sealed.Host
	name string
	role Role
	api  *Node // whose API server speaks for this node: its own, or an agent's server's

	mu         sync.Mutex
	run        *sealed.Cmd
	started    time.Time
	logFrom    int64 // size of the log when run started
	client     *kubernetes.Clientset
	kubeconfig []byte // that the client was made from
}

// New makes the host and lays out the node's files. It does not start rke2.
func New(ctx context.Context, opts Options) (*Node, error) {
	if opts.Role == "" {
		opts.Role = Server
	}
	if opts.Role == Agent && opts.Server == nil {
		return nil, fmt.Errorf("node %s: an agent needs a server", opts.Name)
	}
	binds := slices.Clone(opts.Binds)
	if opts.Binary != "" {
		binds = append(binds, sealed.Bind{Source: opts.Binary, Target: binary})
	}
	for _, b := range opts.Bundles {
		binds = append(binds, sealed.Bind{Source: b, Target: filepath.Join(ImagesDir, filepath.Base(b))})
	}
	if opts.Plugins != "" {
		binds = append(binds, sealed.Bind{Source: opts.Plugins, Target: "/opt/cni/bin"})
	}
	h, err := sealed.New(ctx, sealed.Options{
		Name: opts.Name, State: opts.State, Binds: binds, Switch: opts.Switch, Address: opts.Address,
		Env: append([]string{"KUBECONFIG=" + Kubeconfig, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + DataDir + "/bin"}, opts.Env...),
	})
	if err != nil {
		return nil, err
	}
	n := &Node{Host: h, name: opts.Name, role: opts.Role}
	if n.api = n; opts.Role == Agent {
		n.api = opts.Server
	}
	if err := n.layOut(opts); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return n, nil
}

func (n *Node) layOut(opts Options) error {
	config := map[string]any{
		"node-name": opts.Name, "offline": true,
		// The host's disk is the machine's: that it is nearly full is no reason to evict
		// the test's pods.
		"kubelet-arg": []string{"eviction-hard=nodefs.available<500Mi,imagefs.available<500Mi"},
	}
	if opts.Role == Server {
		config["write-kubeconfig-mode"] = "0640"
	}
	switch {
	case opts.Charts:
		// The size of the connection table is the machine's: a host can't set it.
		config["kube-proxy-arg"] = []string{"conntrack-max-per-core=0"}
	case opts.Role == Server:
		none, err := withoutCharts(opts.Binary)
		if err != nil {
			return err
		}
		maps.Copy(config, none)
	}
	if opts.Server != nil {
		config["server"] = opts.Server.URL()
		if opts.Token == "" {
			token, err := opts.Server.Token()
			if err != nil {
				return fmt.Errorf("node %s: joining %s: %w", opts.Name, opts.Server.name, err)
			}
			opts.Token = token
		}
	}
	if opts.Token != "" {
		config["token"] = opts.Token
	}
	maps.Copy(config, opts.Config)
	text, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	files := map[string][]byte{ConfigFile: text}
	for name, pem := range opts.Trust {
		files[filepath.Join(TrustDir, name)] = pem
	}
	if opts.Plugins != "" {
		files["/etc/cni/net.d/10-bridge.conflist"] = []byte(strings.Replace(bridge, "POD-SUBNET", n.podSubnet(opts), 1))
	}
	for path, content := range files {
		if err := n.WriteFile(path, content); err != nil {
			return err
		}
	}
	return nil
}

// URL is where other nodes join a server.
func (n *Node) URL() string { return "https://" + net.JoinHostPort(n.Address(), "9345") }

// Token is the secret that nodes join a running server with.
func (n *Node) Token() (string, error) {
	b, err := os.ReadFile(n.Disk(DataDir + "/server/token"))
	return strings.TrimSpace(string(b)), err
}

func (n *Node) podSubnet(opts Options) string {
	if opts.PodSubnet != "" {
		return opts.PodSubnet
	}
	part := "0"
	if opts.Address != "" {
		part = n.Address()[strings.LastIndexAny(n.Address(), ".:")+1:]
	}
	return "10.42." + part + ".0/24"
}

// bridge is the smallest network that runs pods on one node.
const bridge = `{
  "cniVersion": "1.0.0",
  "name": "bridge",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "POD-SUBNET"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// WriteFile writes a file of the running host.
func (n *Node) WriteFile(path string, content []byte) error {
	outside := n.Path(path)
	if err := os.MkdirAll(filepath.Dir(outside), 0o755); err != nil {
		return err
	}
	return os.WriteFile(outside, content, 0o644)
}

// Start runs `rke2 server` or `rke2 agent` with more arguments if need be, and returns at once.
// It ends by itself, by Stop or with the host, not with ctx.
func (n *Node) Start(ctx context.Context, args ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	info, err := os.Stat(n.LogFile(logName))
	switch {
	case err == nil:
		n.logFrom = info.Size()
	case errors.Is(err, fs.ErrNotExist):
		n.logFrom = 0
	default:
		return err
	}
	n.started = time.Now()
	n.run, err = n.Host.Start(context.WithoutCancel(ctx), logName, binary, append([]string{string(n.role)}, args...)...)
	return err
}

// NextSecond waits for the next whole second. The kubelet dates what it says in
// whole seconds: what a new one says is told from an old one's last words only if
// the new one starts in another second.
func NextSecond() {
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
}

// Started is when rke2 was started last.
func (n *Node) Started() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.started
}

// Exited is closed when the rke2 that [Node.Start] started last has ended. Where something
// else starts rke2, nobody hears of it.
func (n *Node) Exited() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		return nil
	}
	return n.run.Done()
}

// Wait waits until rke2 has ended by itself and returns how it did.
func (n *Node) Wait(ctx context.Context, limit time.Duration) error {
	select {
	case <-n.Exited():
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(limit):
		return fmt.Errorf("rke2 still runs after %s", limit)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run.Wait()
}

// Stop asks rke2 to end, as systemd does, and waits.
func (n *Node) Stop(ctx context.Context, limit time.Duration) error {
	n.mu.Lock()
	run := n.run
	n.mu.Unlock()
	if err := run.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return n.Wait(ctx, limit)
}

// Reboot cuts the power and starts the host, not rke2.
func (n *Node) Reboot(ctx context.Context) error { return n.Host.Reboot(ctx) }

// Log is what rke2 has written since it was started last.
func (n *Node) Log() (string, error) {
	n.mu.Lock()
	from := n.logFrom
	n.mu.Unlock()
	b, err := os.ReadFile(n.LogFile(logName))
	if err != nil {
		return "", err
	}
	return string(b[min(from, int64(len(b))):]), nil
}

// LastError is the error that rke2 ended with: what it wrote, after its log, to
// whoever started it. Empty if there is none.
func (n *Node) LastError() string {
	log, err := n.Log()
	if err != nil {
		return err.Error()
	}
	const mark = "\nrke2: "
	at := strings.LastIndex("\n"+log, mark)
	if at < 0 {
		return ""
	}
	return strings.TrimSpace(("\n" + log)[at:])
}

// LastWords is the end of [Node.Log], for an error.
func (n *Node) LastWords() string {
	log, err := n.Log()
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// Kubectl runs the kubectl that the node staged.
func (n *Node) Kubectl(ctx context.Context, args ...string) (string, error) {
	out, err := n.Command(ctx, kubectl, args...).Output()
	return string(out), err
}

// until waits for something that a living rke2 brings about.
func (n *Node) until(ctx context.Context, what string, limit time.Duration, try func(context.Context) error) error {
	return sealed.Wait(ctx, what, limit, func(ctx context.Context) error {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-n.Exited():
			return sealed.Hopeless(fmt.Errorf("rke2 has ended:\n%s", n.LastWords()))
		default:
			return err
		}
	})
}
