package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/k3s-io/k3s/pkg/agent/cri"
	"github.com/k3s-io/k3s/pkg/agent/templates"
	daemonconfig "github.com/k3s-io/k3s/pkg/daemons/config"
	"github.com/pelletier/go-toml/v2"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rancher/rke2/runtime/durable"
)

// Containerd starts containerd, whose exit ends the node, and imports images
// while the kubelet comes up.
func (e *Executor) Containerd(ctx context.Context, node *daemonconfig.Node) error {
	if e.host.NoSysResource {
		if err := restrictOOMScore(node.Containerd.Config); err != nil {
			return err
		}
	}
	if e.config.Offline {
		if err := noRegistries(node.Containerd.Registry); err != nil {
			return err
		}
	}
	containerd := process{
		name:    "containerd",
		path:    filepath.Join(e.content.Bin(), "containerd"),
		args:    []string{"-c", node.Containerd.Config},
		env:     containerdEnv(os.Environ()),
		logFile: node.Containerd.Log,
		log:     e.log,
	}
	if node.Containerd.ConfigVersion < 3 {
		containerd.args = append(containerd.args, "-a", node.Containerd.Address, "--state", node.Containerd.State, "--root", node.Containerd.Root)
	}
	if err := os.MkdirAll(node.Containerd.State, 0o711); err != nil {
		return fmt.Errorf("starting containerd: %w", err)
	}
	exited := make(chan struct{})
	e.goWith(ctx, func(ctx context.Context) {
		defer close(exited)
		if err := containerd.run(ctx); err != nil {
			e.fail(err)
		}
	})
	if err := e.awaitCRI(ctx, node.Containerd.Address, exited); err != nil {
		return err
	}
	if err := e.removeDeadStaticSandboxes(ctx, node.Containerd.Address); err != nil {
		// The kubelet gets there too, only later.
		e.log.Warn("could not remove the sandboxes of static pods that died with the host", "error", err)
	}
	close(e.criReady)
	e.goWith(ctx, func(ctx context.Context) {
		if err := e.content.Import(ctx, node.Containerd.Address, e.images.set); err != nil && ctx.Err() == nil {
			e.fail(err)
		}
	})
	return nil
}

// noRegistries tells containerd that no registry can be asked for an image, so
// that a pod whose image no bundle has fails at once and nothing is dialled. The
// file says that it is generated, so the engine removes it when offline is not
// set any more.
func noRegistries(folder string) error {
	file := filepath.Join(folder, "_default", "hosts.toml")
	const document = "server = \"https://offline.invalid\"\ncapabilities = [\"push\"]\n"
	return durable.WriteFile(file, []byte(templates.HostsTomlHeader+document), 0o600)
}

// awaitCRI returns when containerd answers, or at once when it exited.
func (e *Executor) awaitCRI(ctx context.Context, address string, exited <-chan struct{}) error {
	for {
		conn, err := cri.Connection(ctx, address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-exited:
			return errors.New("containerd exited before it was ready")
		case <-time.After(poll):
		}
	}
}

// removeDeadStaticSandboxes removes the sandboxes of static pods that are not
// running. After a reboot all of them are dead, and the kubelet would spend
// most of a minute on ending each before it starts its successor.
func (e *Executor) removeDeadStaticSandboxes(ctx context.Context, address string) error {
	conn, err := cri.Connection(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	dead, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY},
	}})
	if err != nil {
		return err
	}
	var errs []error
	for _, sandbox := range dead.Items {
		if sandbox.Annotations["kubernetes.io/config.source"] != "file" {
			continue
		}
		if _, err := client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox.Id}); err != nil {
			errs = append(errs, err)
			continue
		}
		if _, err := client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox.Id}); err != nil {
			errs = append(errs, err)
			continue
		}
		e.log.Info("removed the dead sandbox of a static pod", "pod", sandbox.Metadata.GetName())
	}
	return errors.Join(errs...)
}

// criRuntime is the plugin whose settings restrictOOMScore changes, by version
// of containerd's configuration file.
var criRuntime = map[int64]string{
	2: "io.containerd.grpc.v1.cri",
	3: "io.containerd.cri.v1.runtime",
}

// restrictOOMScore sets restrict_oom_score_adj in a generated containerd
// configuration: without CAP_SYS_RESOURCE runc fails to start any container
// that asks for a lower score than its parent's.
func restrictOOMScore(file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("adapting containerd's configuration to this host: %w", err)
	}
	settings := map[string]any{}
	if err := toml.Unmarshal(raw, &settings); err != nil {
		return fmt.Errorf("adapting containerd's configuration %s to this host: %w (a template in that folder may be at fault)", file, err)
	}
	number, _ := settings["version"].(int64)
	plugin, ok := criRuntime[number]
	if !ok {
		return fmt.Errorf("adapting containerd's configuration %s to this host: its version is %v, want 2 or 3", file, settings["version"])
	}
	plugins := table(settings, "plugins")
	runtime := table(plugins, plugin)
	if runtime["restrict_oom_score_adj"] == true {
		return nil
	}
	runtime["restrict_oom_score_adj"] = true
	adapted, err := toml.Marshal(settings)
	if err != nil {
		return fmt.Errorf("adapting containerd's configuration: %w", err)
	}
	header := "# Generated by rke2 for a host without CAP_SYS_RESOURCE. DO NOT EDIT. Use a template instead.\n"
	return durable.WriteFile(file, append([]byte(header), adapted...), 0o600)
}

func table(parent map[string]any, key string) map[string]any {
	if child, ok := parent[key].(map[string]any); ok {
		return child
	}
	child := map[string]any{}
	parent[key] = child
	return child
}

// containerdEnv passes CONTAINERD_X=Y on as X=Y, so that a proxy can be set for
// image pulls only.
func containerdEnv(environ []string) []string {
	var plain, own []string
	for _, pair := range childEnv(environ) {
		if rest, ok := strings.CutPrefix(pair, "CONTAINERD_"); ok {
			own = append(own, rest)
			continue
		}
		plain = append(plain, pair)
	}
	return append(plain, own...)
}
