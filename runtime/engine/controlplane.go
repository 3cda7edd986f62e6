package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/k3s/pkg/daemons/executor"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/durable"
	"github.com/rancher/rke2/runtime/pod"
	"github.com/rancher/rke2/runtime/timeline"
)

// initialOptions is the annotation that keeps what etcd was first started
// with: a member must not be told later that its cluster is new.
const initialOptions = "etcd.rke2.io/initial"

// temporaryEtcd stands before the operator's etcd-args and is meant for one
// process only: the copy of etcd that the engine runs for a moment at each
// restart, to compare its files with the datastore. It is alone, so it need not
// wait out the 5 s that members give each other before they elect a leader.
var temporaryEtcd = []string{"heartbeat-interval=50", "election-timeout=500"}

// How often a leader of etcd tells the members that it is there, and how long they wait
// before they elect another, in milliseconds. A member that is alone waits up to the
// latter at each start, too, and so does everything else on the node: the engine's 5 s
// would be a third of a boot, and most of the pause after a leader's death. These are
// twice etcd's own defaults: good for round trips of up to 200 ms between members.
const (
	etcdHeartbeat = 200
	etcdElection  = 2000
)

// withoutTemporary are the operator's own etcd-args.
func withoutTemporary(args []string) []string {
	if len(args) >= len(temporaryEtcd) && slices.Equal(args[:len(temporaryEtcd)], temporaryEtcd) {
		return args[len(temporaryEtcd):]
	}
	return args
}

// APIServer runs kube-apiserver once etcd is ready.
func (e *Executor) APIServer(ctx context.Context, args []string) error {
	server := e.serverDir()
	// A flag of the engine's own fork of Kubernetes; the port is the default.
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "--advertise-port=") })
	args, err := e.anonymousHealth(args)
	if err != nil {
		return err
	}
	if err := e.policyFiles(); err != nil {
		return err
	}
	e.hardenCluster(ctx)
	// The API server listens on every address, so also on this one where the
	// cluster has IPv6 only.
	health := &pod.Probe{Scheme: "HTTPS", Host: "127.0.0.1", Port: apiPort, Path: "/livez"}
	ready := &pod.Probe{Scheme: "HTTPS", Host: "127.0.0.1", Port: apiPort, Path: "/readyz"}
	e.start(ctx, e.etcdReady, pod.Component{
		Name: "kube-apiserver", Command: "kube-apiserver", Args: args,
		Requests: pod.Resources{"cpu": "250m", "memory": "1Gi"},
		Startup:  health, Liveness: health, Readiness: ready,
		// The engine gives up when nobody answers for as long as its leases last (30 s):
		// an old one that does not end must leave time for the new one to start.
		Grace: 10,
		Mounts: append(caFolders(),
			pod.Mount{Path: filepath.Join(server, "tls")},
			pod.Mount{Path: filepath.Join(server, "cred")},
			pod.Mount{Path: filepath.Join(server, "etc")},
			pod.Mount{Path: filepath.Join(server, "logs"), Writable: true}),
	})
	return nil
}

// ControllerManager runs kube-controller-manager once the API is up.
func (e *Executor) ControllerManager(ctx context.Context, args []string) error {
	server := e.serverDir()
	health := &pod.Probe{Scheme: "HTTPS", Host: boundTo(args), Port: 10257, Path: "/healthz"}
	e.start(ctx, e.apiServerReady, pod.Component{
		Name: "kube-controller-manager", Command: "kube-controller-manager", Args: args,
		Requests: pod.Resources{"cpu": "200m", "memory": "256Mi"},
		Startup:  health, Liveness: health, Readiness: health,
		Mounts: append(caFolders(),
			pod.Mount{Path: filepath.Join(server, "tls")},
			pod.Mount{Path: filepath.Join(server, "cred")}),
	})
	return nil
}

// Scheduler runs kube-scheduler once the API is up. It need not wait for a
// node: it schedules when there is one.
func (e *Executor) Scheduler(ctx context.Context, _ <-chan struct{}, args []string) error {
	server := e.serverDir()
	health := &pod.Probe{Scheme: "HTTPS", Host: boundTo(args), Port: 10259, Path: "/healthz"}
	e.start(ctx, e.apiServerReady, pod.Component{
		Name: "kube-scheduler", Command: "kube-scheduler", Args: args,
		Requests: pod.Resources{"cpu": "100m", "memory": "128Mi"},
		Startup:  health, Liveness: health, Readiness: health,
		Mounts: []pod.Mount{
			{Path: filepath.Join(server, "tls")},
			{Path: filepath.Join(server, "cred")},
		},
	})
	return nil
}

// CloudControllerManager runs the release's cloud controller manager once it may do its
// work: it gives nodes their addresses and takes away the taint that they start with.
func (e *Executor) CloudControllerManager(ctx context.Context, permitted <-chan struct{}, args []string) error {
	if !e.runs(config.RoleCloudController) {
		return nil
	}
	server := e.serverDir()
	health := &pod.Probe{Scheme: "HTTPS", Host: boundTo(args), Port: 10258, Path: "/healthz"}
	e.start(ctx, permitted, pod.Component{
		Name: config.RoleCloudController, Command: config.RoleCloudController, Args: args,
		Requests: pod.Resources{"cpu": "100m", "memory": "128Mi"},
		Startup:  health, Liveness: health, Readiness: health,
		Mounts: []pod.Mount{
			{Path: filepath.Join(server, "tls")},
			{Path: filepath.Join(server, "cred")},
			{Path: filepath.Join(server, "etc")},
		},
	})
	return nil
}

// ETCD runs etcd, unless args is nil (another datastore, or none here), and
// closes ETCDReadyChan when test says that it serves.
func (e *Executor) ETCD(ctx context.Context, _ *sync.WaitGroup, args *executor.ETCDConfig, extraArgs []string, test executor.TestFunc) error {
	if args != nil {
		if err := e.etcdPod(ctx, args, extraArgs); err != nil {
			return err
		}
		if !e.resets() {
			e.goWith(ctx, func(ctx context.Context) { e.promoteLearners(ctx, args) })
		}
	}
	e.goWith(ctx, func(ctx context.Context) {
		if retry(ctx, e.log, poll, func(ctx context.Context) error { return test(ctx, true) }, "waiting for etcd") == nil {
			e.content.Timeline().Mark(timeline.Etcd)
			close(e.etcdReady)
		}
	})
	return nil
}

func (e *Executor) etcdPod(ctx context.Context, args *executor.ETCDConfig, extraArgs []string) error {
	initial, err := json.Marshal(args.InitialOptions)
	if err != nil {
		return fmt.Errorf("configuring etcd: %w", err)
	}
	timed := *args
	timed.HeartbeatInterval, timed.ElectionTimeout = etcdHeartbeat, etcdElection
	file, err := timed.ToConfigFile(withoutTemporary(extraArgs))
	if err != nil {
		return fmt.Errorf("configuring etcd: %w", err)
	}
	user, group, err := e.etcdOwns(args)
	if err != nil {
		return err
	}
	health := &pod.Probe{Scheme: "HTTP", Host: firstHost(args.ListenMetricsURLs), Port: 2381, Path: "/health?serializable=true"}
	e.start(ctx, nil, pod.Component{
		Name: "etcd", Command: "etcd", Args: []string{"--config-file=" + file},
		Requests: pod.Resources{"cpu": "200m", "memory": "512Mi"},
		Startup:  health, Liveness: health, Readiness: health,
		Annotations: map[string]string{initialOptions: string(initial)},
		User:        user, Group: group,
		Mounts: []pod.Mount{
			{Path: args.DataDir, Writable: true},
			{Path: filepath.Join(e.serverDir(), "tls", "etcd")},
		},
	})
	return nil
}

// CurrentETCDOptions is what etcd on this node was first started with.
func (e *Executor) CurrentETCDOptions() (executor.InitialOptions, error) {
	var options executor.InitialOptions
	raw, err := os.ReadFile(e.manifestPath("etcd"))
	if errors.Is(err, os.ErrNotExist) {
		return options, nil
	}
	if err != nil {
		return options, fmt.Errorf("reading etcd's static pod: %w", err)
	}
	var current corev1.Pod
	if err := yaml.Unmarshal(raw, &current); err != nil {
		return options, fmt.Errorf("reading etcd's static pod %s: %w", e.manifestPath("etcd"), err)
	}
	if value := current.Annotations[initialOptions]; value != "" {
		if err := json.Unmarshal([]byte(value), &options); err != nil {
			return options, fmt.Errorf("reading etcd's static pod %s: annotation %s: %w", e.manifestPath("etcd"), initialOptions, err)
		}
	}
	return options, nil
}

// start writes a component's static pod when its image is there and what it
// needs is up: a pod that is written earlier fails, and then sits in the
// kubelet's back-off while the node could be ready.
func (e *Executor) start(ctx context.Context, needs <-chan struct{}, c pod.Component) {
	e.goWith(ctx, func(ctx context.Context) {
		if err := e.startNow(ctx, needs, c); err != nil && ctx.Err() == nil {
			e.fail(fmt.Errorf("starting %s: %w", c.Name, err))
		}
	})
}

func (e *Executor) startNow(ctx context.Context, needs <-chan struct{}, c pod.Component) error {
	image, err := e.config.ComponentImage(c.Name)
	if err != nil {
		return err
	}
	if err := e.images.wait(ctx, image.String()); err != nil {
		return err
	}
	replaces := e.written(c.Name)
	if needs != nil && !replaces {
		if err := wait(ctx, needs); err != nil {
			return err
		}
	}
	c.Image = e.content.Pinned(image.String())
	c.Env = e.config.ExtraEnv[c.Name]
	c.Requests = c.Requests.Over(e.config.Requests[c.Name])
	c.Limits = e.config.Limits[c.Name]
	c.Timings = e.config.Probes[c.Name]
	for _, extra := range e.config.ExtraMounts[c.Name] {
		m, err := pod.ParseMount(extra)
		if err != nil {
			return err
		}
		c.Mounts = append(c.Mounts, m)
	}
	c.Mounts = pod.MountsFor(c.Args, c.Mounts, statPath)
	if c.InputsDigest, err = inputsDigest(c); err != nil {
		return err
	}
	manifest, err := pod.Manifest(c)
	if err != nil {
		return err
	}
	path := e.manifestPath(c.Name)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, manifest) {
		e.log.Info("static pod is unchanged", "pod", c.Name)
		e.settled.set(c.Name)
		return nil
	}
	if before := comesAfter[c.Name]; replaces && before != "" && e.runs(before) {
		if err := e.settled.wait(ctx, before); err != nil {
			return err
		}
	}
	e.log.Info("writing static pod", "pod", c.Name, "image", c.Image)
	from := time.Now()
	if err := durable.WriteFile(path, manifest, 0o600); err != nil {
		return err
	}
	if replaces {
		if err := e.successor(ctx, c, from); err != nil {
			return err
		}
	}
	e.settled.set(c.Name)
	return nil
}

// written tells whether a component's pod is there from an earlier start: the
// kubelet runs it already, so holding back a change of it would only delay it.
func (e *Executor) written(component string) bool {
	_, err := os.Stat(e.manifestPath(component))
	return err == nil
}

func (e *Executor) serverDir() string { return filepath.Join(e.config.DataDir, "server") }

func (e *Executor) manifestPath(component string) string {
	return filepath.Join(e.config.PodManifestsDir(), component+".yaml")
}

// anonymousHealth lets the kubelet probe the API server: anonymous requests are
// allowed on the health endpoints and nowhere else (an
// AuthenticationConfiguration, apiserver.config.k8s.io/v1). An operator's own
// anonymous-auth or authentication-config stays as it is.
func (e *Executor) anonymousHealth(args []string) ([]string, error) {
	if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--authentication-config=") }) ||
		slices.Contains(args, "--anonymous-auth=true") {
		return args, nil
	}
	const document = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
`
	file := filepath.Join(e.serverDir(), "etc", "authentication.yaml")
	if err := durable.WriteFile(file, []byte(document), 0o600); err != nil {
		return nil, fmt.Errorf("configuring kube-apiserver: %w", err)
	}
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "--anonymous-auth=") })
	return append(args, "--authentication-config="+file), nil
}

// caFolders are the host's CA certificates, for components that talk to
// services outside the cluster (OIDC, webhooks).
func caFolders() []pod.Mount {
	var mounts []pod.Mount
	for _, dir := range []string{"/etc/ssl/certs", "/etc/pki", "/usr/share/ca-certificates", "/etc/ca-certificates", "/usr/local/share/ca-certificates"} {
		if _, isDir := statPath(dir); isDir {
			mounts = append(mounts, pod.Mount{Path: dir})
		}
	}
	return mounts
}

func statPath(path string) (exists, isDir bool) {
	info, err := os.Stat(path)
	if err != nil {
		return false, false
	}
	return true, info.IsDir()
}
