package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"
	"github.com/k3s-io/k3s/pkg/daemons/executor"
	"github.com/k3s-io/k3s/pkg/signals"
	"github.com/k3s-io/k3s/pkg/util"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/pod"
)

// pods runs the control plane as static pods, in RKE2's way.
type pods struct {
	release images.Release
	facts   host.Facts
	bin     string

	apiServerReady chan struct{}
	etcdReady      chan struct{}
	criReady       chan struct{}
	staged         chan struct{}
}

var _ executor.Executor = (*pods)(nil)

func newPods(release images.Release, facts host.Facts) *pods {
	return &pods{
		release: release, facts: facts,
		apiServerReady: make(chan struct{}), etcdReady: make(chan struct{}),
		criReady: make(chan struct{}), staged: make(chan struct{}),
	}
}

// image is the reference of an image of the release, by its role.
func (p *pods) image(role string) (string, error) {
	image, ok := p.release.Image(role)
	if !ok {
		return "", fmt.Errorf("the release has no %s image", role)
	}
	return image.Reference, nil
}

func fail(err error) { signals.RequestShutdown(err) }

// Bootstrap stages the runtime beside the engine and begins to look at sandboxes.
func (p *pods) Bootstrap(ctx context.Context, node *daemonconfig.Node, _ cmds.Agent) error {
	pause, err := p.image(config.RolePause)
	if err != nil {
		return err
	}
	node.AgentConfig.PauseImage = pause
	if p.bin, err = p.binFolder(); err != nil {
		return err
	}
	if err := os.Setenv("PATH", p.bin+string(os.PathListSeparator)+os.Getenv("PATH")); err != nil {
		return err
	}
	go func() {
		if err := p.stage(); err != nil {
			fail(err)
			return
		}
		close(p.staged)
	}()
	go func() {
		if err := reconcile(ctx); err != nil {
			return // the engine ends
		}
		<-util.APIServerReadyChan(ctx, node.AgentConfig.KubeConfigK3sController, util.DefaultAPIServerReadyTimeout)
		close(p.apiServerReady)
	}()
	return os.MkdirAll(manifestDir, 0o700)
}

const manifestDir = dataDir + "/agent/pod-manifests"

func (p *pods) manifest(name string) string { return filepath.Join(manifestDir, name+".yaml") }

// APIServer is written when etcd is ready.
func (p *pods) APIServer(ctx context.Context, args []string) error {
	if err := os.Remove(p.manifest("kube-apiserver")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool {
		return strings.HasPrefix(a, "--advertise-port=") || strings.HasPrefix(a, "--anonymous-auth=")
	})
	authentication, err := anonymousHealth()
	if err != nil {
		return err
	}
	health := &pod.Probe{Scheme: "HTTPS", Host: "127.0.0.1", Port: 6443, Path: "/livez"}
	p.writeAfter(ctx, p.etcdReady, config.RoleKubernetes, pod.Component{
		Name: "kube-apiserver", Command: "kube-apiserver", Args: append(args, authentication),
		Startup: health, Liveness: health,
		Mounts: []pod.Mount{{Path: dataDir + "/server", Writable: true}},
	})
	return nil
}

// anonymousHealth lets the kubelet probe the API server without a kubectl in its image.
func anonymousHealth() (argument string, err error) {
	const file = dataDir + "/server/etc/health.yaml"
	const document = `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"AuthenticationConfiguration",
"anonymous":{"enabled":true,"conditions":[{"path":"/livez"},{"path":"/readyz"},{"path":"/healthz"}]}}`
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	return "--authentication-config=" + file, os.WriteFile(file, []byte(document), 0o600)
}

// ControllerManager is written when the API server is ready.
func (p *pods) ControllerManager(ctx context.Context, args []string) error {
	p.afterAPI(ctx, "kube-controller-manager", 10257, args)
	return nil
}

// Scheduler is written when the API server is ready.
func (p *pods) Scheduler(ctx context.Context, _ <-chan struct{}, args []string) error {
	p.afterAPI(ctx, "kube-scheduler", 10259, args)
	return nil
}

func (p *pods) afterAPI(ctx context.Context, name string, port int, args []string) {
	health := &pod.Probe{Scheme: "HTTPS", Host: "127.0.0.1", Port: port, Path: "/healthz"}
	p.writeAfter(ctx, p.apiServerReady, config.RoleKubernetes, pod.Component{
		Name: name, Command: name, Args: args, Startup: health, Liveness: health,
		Mounts: []pod.Mount{{Path: dataDir + "/server/tls"}, {Path: dataDir + "/server/cred"}},
	})
}

// ETCD is written at once, and asked every 5 s.
func (p *pods) ETCD(ctx context.Context, _ *sync.WaitGroup, args *executor.ETCDConfig, extraArgs []string, test executor.TestFunc) error {
	go func() {
		for test(ctx, true) != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Second):
			}
		}
		close(p.etcdReady)
	}()
	if args == nil {
		return nil
	}
	initial, err := json.Marshal(args.InitialOptions)
	if err != nil {
		return err
	}
	file, err := args.ToConfigFile(extraArgs)
	if err != nil {
		return err
	}
	health := &pod.Probe{Scheme: "HTTP", Host: "127.0.0.1", Port: 2381, Path: "/health?serializable=true"}
	return p.write(config.RoleEtcd, pod.Component{
		Name: "etcd", Command: "etcd", Args: []string{"--config-file=" + file},
		Startup: health, Liveness: health,
		Annotations: map[string]string{initialOptions: string(initial)},
		Mounts:      []pod.Mount{{Path: args.DataDir, Writable: true}, {Path: dataDir + "/server/tls/etcd"}},
	})
}

// initialOptions keeps what etcd was first started with.
const initialOptions = "etcd.k3s.io/initial"

// CurrentETCDOptions reads it.
func (p *pods) CurrentETCDOptions() (executor.InitialOptions, error) {
	var options executor.InitialOptions
	current, err := readManifest(p.manifest("etcd"))
	if errors.Is(err, os.ErrNotExist) {
		return options, nil
	}
	if err != nil {
		return options, err
	}
	if value := current.Annotations[initialOptions]; value != "" {
		err = json.Unmarshal([]byte(value), &options)
	}
	return options, err
}

func (p *pods) writeAfter(ctx context.Context, needs <-chan struct{}, role string, c pod.Component) {
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-needs:
		}
		if err := p.write(role, c); err != nil {
			fail(err)
		}
	}()
}

// APIServerHandlers are not needed by a single node.
func (p *pods) APIServerHandlers(context.Context) (authenticator.Request, http.Handler, error) {
	<-p.apiServerReady
	return nil, http.NotFoundHandler(), nil
}

func (p *pods) APIServerReadyChan() <-chan struct{} { return p.apiServerReady }
func (p *pods) ETCDReadyChan() <-chan struct{}      { return p.etcdReady }
func (p *pods) CRIReadyChan() <-chan struct{}       { return p.criReady }
func (p *pods) IsSelfHosted() bool                  { return true }

var errAbsent = errors.New("the peer does not have it")

func (p *pods) KubeProxy(context.Context, []string) error                      { return errAbsent }
func (p *pods) Docker(context.Context, *daemonconfig.Node) error               { return errAbsent }
func (p *pods) CRI(context.Context, *daemonconfig.Node) error                  { return errAbsent }
func (p *pods) CNI(context.Context, *sync.WaitGroup, *daemonconfig.Node) error { return nil }
func (p *pods) CloudControllerManager(context.Context, <-chan struct{}, []string) error {
	return errAbsent
}
