package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"
	"github.com/k3s-io/k3s/pkg/daemons/executor"
	"github.com/k3s-io/k3s/pkg/signals"
	"github.com/rancher/wharfie/pkg/registries"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/durable"
	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/packaged"
	"github.com/rancher/rke2/runtime/timeline"
)

// Content is what the node got ready before the engine starts.
type Content interface {
	// Bin is the folder of the node's executables (containerd, kubelet, …).
	Bin() string
	// Import brings the node's images into the containerd at address, control
	// plane first, and calls ready with each reference as soon as containers
	// of it can start. Then it keeps them there, also those of bundles that
	// come later, until ctx ends.
	Import(ctx context.Context, address string, ready func(reference string)) error
	// Pinned is the immutable form (name@digest) of a reference whose digest
	// is known from the release, else the reference itself.
	Pinned(reference string) string
	// Charts is what was done with the packaged charts; an agent has none.
	Charts() packaged.Delivery
	// Timeline takes the marks of this start; it may be nil.
	Timeline() *timeline.Line
}

// Executor runs what the engine asks for on this node: containerd and the
// kubelet as supervised children, the control plane as static pods.
type Executor struct {
	config  config.Config
	host    host.Facts
	content Content
	log     *slog.Logger

	images         *readiness // by reference
	settled        *readiness // by component: its pod is the one that is wanted
	apiServerReady <-chan struct{}
	etcdReady      chan struct{}
	criReady       chan struct{}
	node           *daemonconfig.Node
	everyMirror    *registries.Mirror // that of every registry; see sharesImages

	children sync.WaitGroup
	stopping context.Context // ends the children; see stop
	stop     func()
	failed   atomic.Pointer[error]

	endKubelet atomic.Pointer[func()] // ends it and waits; nil until it was started
}

var _ executor.Executor = (*Executor)(nil)

func newExecutor(c config.Config, facts host.Facts, content Content, log *slog.Logger) *Executor {
	e := &Executor{
		config: c, host: facts, content: content, log: log,
		images:    newReadiness(),
		settled:   newReadiness(),
		etcdReady: make(chan struct{}),
		criReady:  make(chan struct{}),
	}
	// The engine returns before the contexts that it handed out are done, so
	// the children have one of their own.
	stopping, cancel := context.WithCancel(context.Background())
	e.stopping = stopping
	e.stop = func() {
		cancel()
		e.children.Wait()
	}
	return e
}

// goWith runs f beside the engine, with a context that ends when the engine's
// does or when the node stops, and makes stop wait for it.
func (e *Executor) goWith(ctx context.Context, f func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(e.stopping, cancel)
	e.children.Go(func() {
		defer cancel()
		f(ctx)
	})
}

// fail ends the node with the first error that made it end.
func (e *Executor) fail(err error) {
	if e.failed.CompareAndSwap(nil, &err) {
		signals.RequestShutdown(err)
	}
}

func (e *Executor) failure() error {
	if err := e.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// poll is how often a component that is coming up is asked. A cold start waits
// for five of them in a row, so seconds here are seconds there.
const poll = 100 * time.Millisecond

// Bootstrap is the engine's call when the node's configuration is known.
func (e *Executor) Bootstrap(ctx context.Context, node *daemonconfig.Node, agent cmds.Agent) error {
	e.node = node
	pause, err := e.config.Image(config.RolePause)
	if err != nil {
		return err
	}
	node.AgentConfig.PauseImage = e.content.Pinned(pause.String())
	switch {
	case node.AgentConfig.Registry == nil:
	case node.EmbeddedRegistry:
		e.sharesImages(node)
	case e.config.Offline:
		if len(node.AgentConfig.Registry.Mirrors) > 0 {
			e.log.Warn("the mirrors of the registry configuration are not used: offline is set", "file", e.config.PrivateRegistry)
		}
		node.AgentConfig.Registry = &registries.Registry{}
	}
	if registry := node.AgentConfig.Registry; registry != nil {
		e.adaptRewrites(registry, peersEndpoint())
	}
	// Shims are started from, and keep running in, the versioned folder.
	if err := os.Setenv("PATH", e.content.Bin()+string(os.PathListSeparator)+os.Getenv("PATH")); err != nil {
		return err
	}
	if err := e.earlyProxyArgs(); err != nil {
		return err
	}
	e.followCluster(ctx, agent)
	e.apiServerReady = e.waitAPIServer(ctx, node.AgentConfig.KubeConfigK3sController)
	if err := os.MkdirAll(e.config.PodManifestsDir(), 0o700); err != nil {
		return fmt.Errorf("making the static pod folder: %w", err)
	}
	return e.removeForeignPods()
}

// runs tells whether this node runs a component of the control plane.
func (e *Executor) runs(component string) bool {
	return slices.Contains(e.config.Components(), component)
}

// removeForeignPods takes away static pods of components that this node does
// not run (any more), so that a server turned agent stops serving.
func (e *Executor) removeForeignPods() error {
	for _, name := range components {
		if e.runs(name) {
			continue
		}
		if err := os.Remove(e.manifestPath(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the static pod %s: %w", name, err)
		}
	}
	return nil
}

// Kubelet starts the kubelet and keeps it running.
func (e *Executor) Kubelet(ctx context.Context, args []string) error {
	if e.host.CgroupV1 {
		args = append(args, "--fail-cgroupv1=false")
	}
	if err := e.kubeletDropIn(); err != nil {
		return err
	}
	kubelet := process{
		name:    "kubelet",
		path:    filepath.Join(e.content.Bin(), "kubelet"),
		args:    args,
		logFile: filepath.Join(e.config.DataDir, "agent", "logs", "kubelet.log"),
		log:     e.log,
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	e.goWith(ctx, func(ctx context.Context) {
		defer close(ended)
		kubelet.keep(ctx)
	})
	end := func() {
		cancel()
		<-ended
	}
	e.endKubelet.Store(&end)
	if e.config.Role == config.Server && !e.resets() {
		e.goWith(ctx, e.watchMembership)
		e.goWith(ctx, e.grantRoles)
		if e.runs("kube-apiserver") {
			e.goWith(ctx, e.keepServing)
		}
	}
	e.reportStart(ctx, time.Now())
	e.reportCharts(ctx)
	return nil
}

// kubeletDropIn makes a server's kubelet look at its pods more often than once a
// minute. It cannot register static pods with an API server that they are yet
// to bring up, and tries again only then. Operators' own drop-ins come later in
// the folder and win.
func (e *Executor) kubeletDropIn() error {
	const document = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
syncFrequency: 10s
`
	file := filepath.Join(e.node.AgentConfig.KubeletConfigDir, "01-rke2-server.conf")
	if e.config.Role == config.Server {
		return durable.WriteFile(file, []byte(document), 0o600)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("configuring the kubelet: %w", err)
	}
	return nil
}

// Docker is not a runtime of this product.
func (e *Executor) Docker(context.Context, *daemonconfig.Node) error {
	return errors.New("docker is not supported as the container runtime: remove the option")
}

// CRI is not used: containerd is always ours, except on nodes without an
// agent, where there is nothing to wait for.
func (e *Executor) CRI(_ context.Context, node *daemonconfig.Node) error {
	if node.ContainerRuntimeEndpoint != "/dev/null" {
		return errors.New("an external container runtime is not supported")
	}
	close(e.criReady)
	return nil
}

// CNI does nothing: network plugins are deployed as charts, or by the operator.
func (e *Executor) CNI(context.Context, *sync.WaitGroup, *daemonconfig.Node) error { return nil }

// APIServerHandlers gives the supervisor a way to authenticate tokens.
func (e *Executor) APIServerHandlers(ctx context.Context) (authenticator.Request, http.Handler, error) {
	if err := wait(ctx, e.apiServerReady); err != nil {
		return nil, nil, err
	}
	client, err := e.supervisor()
	if err != nil {
		return nil, nil, fmt.Errorf("setting up token authentication: %w", err)
	}
	// The supervisor's port serves the supervisor's API only.
	return tokenAuthenticator(client), http.NotFoundHandler(), nil
}

// APIServerReadyChan closes when the API server answers /readyz.
func (e *Executor) APIServerReadyChan() <-chan struct{} { return e.apiServerReady }

// ETCDReadyChan closes when etcd has a leader and this member votes.
func (e *Executor) ETCDReadyChan() <-chan struct{} { return e.etcdReady }

// CRIReadyChan closes when containerd serves the CRI.
func (e *Executor) CRIReadyChan() <-chan struct{} { return e.criReady }

// IsSelfHosted is true: the control plane runs in pods of the kubelet here.
func (e *Executor) IsSelfHosted() bool { return true }

// readiness lets waiters wait for names that become ready one by one.
type readiness struct {
	mu    sync.Mutex
	chans map[string]chan struct{}
	ready map[string]bool
}

func newReadiness() *readiness {
	return &readiness{chans: map[string]chan struct{}{}, ready: map[string]bool{}}
}

func (r *readiness) channel(name string) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.chans[name] == nil {
		r.chans[name] = make(chan struct{})
	}
	return r.chans[name]
}

func (r *readiness) set(name string) {
	c := r.channel(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ready[name] {
		r.ready[name] = true
		close(c)
	}
}

func (r *readiness) wait(ctx context.Context, name string) error {
	return wait(ctx, r.channel(name))
}
