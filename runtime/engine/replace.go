package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/k3s-io/k3s/pkg/agent/cri"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/pod"
)

// comesAfter is the order in which running static pods are replaced, as an upgrade does:
// an API server whose etcd is away takes long to end, and who talks to it gives up.
var comesAfter = map[string]string{
	"kube-apiserver":           "etcd",
	"kube-controller-manager":  "kube-apiserver",
	"kube-scheduler":           "kube-apiserver",
	config.RoleCloudController: "kube-apiserver",
}

// successor waits until a container of the component runs that was made after its manifest
// was replaced, and answers where it can be asked without credentials.
func (e *Executor) successor(ctx context.Context, c pod.Component, since time.Time) error {
	if err := wait(ctx, e.criReady); err != nil {
		return err
	}
	return retry(ctx, e.log, poll, func(ctx context.Context) error {
		if err := e.runsSince(ctx, c.Name, since); err != nil {
			return err
		}
		return answers(ctx, c.Startup)
	}, "waiting for the successor of a static pod", "pod", c.Name)
}

// runsSince tells whether the component's pod was made after that moment and runs, and
// none of before does: a kubelet that has just started makes the new one at once, which
// cannot listen until the old one has ended, who answers in its place.
func (e *Executor) runsSince(ctx context.Context, component string, since time.Time) error {
	conn, err := cri.Connection(ctx, e.node.Containerd.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	all, err := runtimeapi.NewRuntimeServiceClient(conn).ListContainers(ctx, &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{
			State:         &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
			LabelSelector: map[string]string{"io.kubernetes.container.name": component, "io.kubernetes.pod.namespace": "kube-system"},
		},
	})
	if err != nil {
		return err
	}
	for _, container := range all.Containers {
		if container.CreatedAt <= since.UnixNano() {
			return errors.New("the one of before still runs")
		}
	}
	if len(all.Containers) == 0 {
		return errors.New("none runs")
	}
	return nil
}

// answers asks a probe's address, if that needs no certificate.
func answers(ctx context.Context, p *pod.Probe) error {
	if p == nil || p.Scheme != "HTTP" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(p.Host, strconv.Itoa(p.Port))+p.Path, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %s", request.URL, answer.Status)
	}
	return nil
}
