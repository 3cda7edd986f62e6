package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/k3s-io/k3s/pkg/agent/cri"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// clearAfterReboot makes the static pods of a host that went down start as those of a new
// one do, in order. It is done before the kubelet runs.
//
// Their sandboxes are dead, and the kubelet would spend most of a minute on ending each
// before it starts its successor: they are removed. Their manifests are all there, and the
// kubelet would start them all at once: what needs etcd or the API server would fail, and
// then sit in the kubelet's back-off while it could run. So the manifest of such a pod is
// removed; it is written again when what the pod needs is up. Etcd needs nothing.
func (e *Executor) clearAfterReboot(ctx context.Context, address string) error {
	conn, err := cri.Connection(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	all, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	dead, alive := staticSandboxes(all.Items)
	var errs []error
	for _, sandbox := range dead {
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
	for _, name := range components {
		if name == "etcd" || alive[name] {
			continue
		}
		if err := os.Remove(e.manifestPath(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("holding back the static pod %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// staticSandboxes are the sandboxes of static pods that do not run, and the components
// (by their label) that have one that does.
func staticSandboxes(all []*runtimeapi.PodSandbox) (dead []*runtimeapi.PodSandbox, alive map[string]bool) {
	alive = map[string]bool{}
	for _, sandbox := range all {
		switch {
		case sandbox.Annotations["kubernetes.io/config.source"] != "file":
		case sandbox.State == runtimeapi.PodSandboxState_SANDBOX_READY:
			alive[sandbox.Labels["component"]] = true
		default:
			dead = append(dead, sandbox)
		}
	}
	return dead, alive
}
