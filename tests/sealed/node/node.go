//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	// Plugins is a folder of CNI plugins; with it the node gets a bridge network.
	// Without it pods that need a network stay pending, and so the node NotReady.
	Plugins string
	// Trust are the operator's public keys by file name.
	Trust map[string][]byte
	// Config is added to the configuration file, over what every test needs.
	Config map[string]any
	// Env is added to the environment of every command on the host.
	Env []string
}

// Node is an rke2 server on a sealed host.
type Node struct {
	*sealed.Host
	name string

	mu      sync.Mutex
	run     *sealed.Cmd
	started time.Time
	logFrom int64 // size of the log when run started
	client  *kubernetes.Clientset
}

// New makes the host and lays out the node's files. It does not start rke2.
func New(ctx context.Context, opts Options) (*Node, error) {
	var binds []sealed.Bind
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
		Name: opts.Name, State: opts.State, Binds: binds,
		Env: append([]string{"KUBECONFIG=" + Kubeconfig, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + DataDir + "/bin"}, opts.Env...),
	})
	if err != nil {
		return nil, err
	}
	n := &Node{Host: h, name: opts.Name}
	if err := n.layOut(opts); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return n, nil
}

func (n *Node) layOut(opts Options) error {
	config := map[string]any{
		"node-name": opts.Name, "offline": true, "cni": "none", "write-kubeconfig-mode": "0640",
	}
	for k, v := range opts.Config {
		config[k] = v
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	files := map[string][]byte{ConfigFile: text}
	for name, pem := range opts.Trust {
		files[filepath.Join(TrustDir, name)] = pem
	}
	if opts.Plugins != "" {
		files["/etc/cni/net.d/10-bridge.conflist"] = []byte(bridge)
	}
	for path, content := range files {
		if err := n.WriteFile(path, content); err != nil {
			return err
		}
	}
	return nil
}

// bridge is the smallest network that runs pods on one node.
const bridge = `{
  "cniVersion": "1.0.0",
  "name": "bridge",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.42.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
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

// Start runs `rke2 server` with more arguments if need be, and returns at once.
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
	n.run, err = n.Host.Start(context.WithoutCancel(ctx), logName, binary, append([]string{"server"}, args...)...)
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

// Exited is closed when the rke2 that was started last has ended.
func (n *Node) Exited() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
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
