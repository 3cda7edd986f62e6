package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/k3s-io/k3s/pkg/agent/cri"
	"github.com/k3s-io/k3s/pkg/cli/cmds"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rancher/rke2/runtime/config"
)

// containerdSocket is where the node's containerd listens.
const containerdSocket = "/run/k3s/containerd/containerd.sock"

// podStop is how long the containers of a static pod may take to end, in seconds.
const podStop = 3

// resets tells whether this run makes a cluster of this server alone, out of its own
// data or a snapshot (--cluster-reset), and then ends.
func (e *Executor) resets() bool {
	return e.config.Role == config.Server && cmds.ServerConfig.ClusterReset
}

// prepareReset ends the static pods of an earlier start before the engine runs: it takes
// the API server's port for itself while it puts another datastore in the place of the
// one that etcd has open. Nothing is ended for a snapshot that cannot be restored.
func (e *Executor) prepareReset(ctx context.Context) error {
	if !e.resets() {
		return nil
	}
	if file := cmds.ServerConfig.ClusterResetRestorePath; file != "" {
		if !cmds.ServerConfig.EtcdS3 {
			if err := checkSnapshot(file); err != nil {
				return err
			}
		}
		// The engine moves the datastore aside, and gives up if there is none: on a new
		// host, or where an earlier restore was killed between two steps.
		if err := os.MkdirAll(etcdDir(e.config.DataDir), 0o700); err != nil {
			return fmt.Errorf("making room for the datastore: %w", err)
		}
	}
	for _, name := range components {
		if err := os.Remove(e.manifestPath(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the static pod %s: %w", name, err)
		}
	}
	file := filepath.Join(e.config.DataDir, "agent", "etc", "containerd", "config.toml")
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil // nothing has run here
	}
	containerd := process{
		name: "containerd", path: filepath.Join(e.content.Bin(), "containerd"), args: []string{"-c", file},
		env: containerdEnv(os.Environ()), logFile: filepath.Join(e.config.DataDir, "agent", "containerd", "containerd.log"), log: e.log,
	}
	ctx, cancel := context.WithCancel(ctx)
	exited := make(chan struct{})
	var ended error
	go func() {
		defer close(exited)
		ended = containerd.run(ctx)
	}()
	err := e.awaitCRI(ctx, containerdSocket, exited)
	if err == nil {
		err = e.endStaticPods(ctx, containerdSocket)
	}
	cancel()
	<-exited
	return errors.Join(err, ended)
}

// resetAdvice says, after a reset that worked, what is there now and what to do next.
// The engine leaves a mark for itself when it has reset the datastore.
func (e *Executor) resetAdvice(started time.Time) {
	mark, err := os.Stat(filepath.Join(e.serverDir(), "db", "reset-flag"))
	if !e.resets() || err != nil || mark.ModTime().Before(started) {
		return
	}
	data := "what was in " + etcdDir(e.config.DataDir)
	if file := cmds.ServerConfig.ClusterResetRestorePath; file != "" {
		data = "the snapshot " + file
	}
	e.log.Info("the cluster is reset: this server is its only member", "data", data, "next",
		"start rke2 here without --cluster-reset; then, on each other server, stop rke2, delete "+
			filepath.Join(e.serverDir(), "db")+" and start it: it joins anew")
}

// containerdLife is how long containerd runs: when the engine ends a reset, endReset
// still needs it.
func (e *Executor) containerdLife(ctx context.Context) context.Context {
	if e.resets() {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// endReset ends etcd when the datastore has been reset: what runs next is not to find
// a cluster that was forced to be new.
func (e *Executor) endReset(ctx context.Context) error {
	if !e.resets() || e.node == nil {
		return nil
	}
	if end := e.endKubelet.Load(); end != nil {
		(*end)()
	}
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	return e.endStaticPods(ctx, e.node.Containerd.Address)
}

// endStaticPods ends and removes the sandboxes of static pods, with what runs in them.
func (e *Executor) endStaticPods(ctx context.Context, address string) error {
	conn, err := cri.Connection(ctx, address)
	if err != nil {
		return fmt.Errorf("ending the static pods: %w", err)
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	all, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("ending the static pods: %w", err)
	}
	for _, sandbox := range all.Items {
		if sandbox.Annotations["kubernetes.io/config.source"] != "file" {
			continue
		}
		if err := endSandbox(ctx, client, sandbox.Id); err != nil {
			return fmt.Errorf("ending the static pod %s: %w", sandbox.Metadata.GetName(), err)
		}
		e.log.Info("ended a static pod", "pod", sandbox.Metadata.GetName())
	}
	return nil
}

func endSandbox(ctx context.Context, client runtimeapi.RuntimeServiceClient, id string) error {
	containers, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: id}})
	if err != nil {
		return err
	}
	for _, c := range containers.Containers {
		// One that has ended is as good: the sandbox's end would tell.
		_, _ = client.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: podStop})
	}
	if _, err := client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	_, err = client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}
