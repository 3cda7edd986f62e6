package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/k3s-io/k3s/pkg/agent/cri"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rancher/rke2/runtime/timeline"
)

const (
	// watchPoll is how often the API is asked whether this node is up, until it is.
	watchPoll = 200 * time.Millisecond
	// slowStart is when a start has taken so long that the log says what it waits for.
	slowStart = 3 * time.Minute
)

// reportStart logs the timeline of this start when the node is Ready, its static pods run
// and all images are in, and says once what is missing if that takes minutes. It asks with
// the kubelet's own credentials, which see this node and its pods only.
func (e *Executor) reportStart(ctx context.Context, kubeletStarted time.Time) {
	e.goWith(ctx, func(ctx context.Context) {
		if wait(ctx, e.apiServerReady) != nil {
			return
		}
		client, err := freshConnections(e.node.AgentConfig.KubeConfigKubelet)
		if err != nil {
			e.log.Warn("the timeline of this start is not known", "error", err)
			return
		}
		line, patience := e.content.Timeline(), time.After(slowStart)
		for {
			why := e.up(ctx, client, kubeletStarted)
			if why == nil {
				line.Log(e.log)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-patience:
				e.log.Warn("this start takes long", "waiting for", why.Error())
				line.Log(e.log)
			case <-time.After(watchPoll):
			}
		}
	})
}

// up says what this node still lacks, and marks what it has.
func (e *Executor) up(ctx context.Context, client kubernetes.Interface, since time.Time) error {
	line := e.content.Timeline()
	if !line.Has(timeline.Pods) {
		if err := e.podsUp(ctx, client, since); err != nil {
			return err
		}
	}
	if !line.Has(timeline.Images) {
		return errors.New("the bundles' other images")
	}
	return nil
}

func (e *Executor) podsUp(ctx context.Context, client kubernetes.Interface, since time.Time) error {
	name, line := e.node.AgentConfig.NodeName, e.content.Timeline()
	if !line.Has(timeline.Ready) {
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := readySince(node, since); err != nil {
			return err
		}
		line.Mark(timeline.Ready)
	}
	static, err := manifests(e.config.PodManifestsDir())
	if err != nil {
		return err
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + name})
	if err != nil {
		return err
	}
	running, err := e.runningContainers(ctx)
	if err != nil {
		return err
	}
	if err := staticPodsRun(static, pods.Items, running); err != nil {
		return err
	}
	// Pods that wait for something else may not be written yet.
	for _, component := range e.config.Components() {
		if !slices.Contains(static, component+".yaml") {
			return fmt.Errorf("static pod %s, which is not written yet", component)
		}
	}
	line.Mark(timeline.Pods)
	return nil
}

// readySince tells whether the kubelet itself has said, since it was started, that the
// node is ready: the API remembers what an earlier kubelet said.
func readySince(node *corev1.Node, since time.Time) error {
	for _, c := range node.Status.Conditions {
		switch {
		case c.Type != corev1.NodeReady:
		case c.Status != corev1.ConditionTrue:
			return fmt.Errorf("node %s: %s", node.Name, c.Message)
		case c.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)): // it has whole seconds
			return fmt.Errorf("node %s: a word of its kubelet", node.Name)
		default:
			return nil
		}
	}
	return fmt.Errorf("node %s: a word of its kubelet", node.Name)
}

// manifests lists the static pods' files.
func manifests(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		if ext := filepath.Ext(entry.Name()); !entry.IsDir() && (ext == ".yaml" || ext == ".json") {
			files = append(files, entry.Name())
		}
	}
	return files, nil
}

// staticPodsRun says which static pod is not Running and Ready in containers that the
// runtime has: after a reboot the API remembers the pods of before.
func staticPodsRun(files []string, pods []corev1.Pod, running map[string]bool) error {
	static := 0
	for _, pod := range pods {
		if pod.Annotations["kubernetes.io/config.source"] != "file" {
			continue
		}
		static++
		if pod.Status.Phase != corev1.PodRunning || len(pod.Status.ContainerStatuses) == 0 {
			return fmt.Errorf("pod %s, which is %s", pod.Name, pod.Status.Phase)
		}
		for _, c := range pod.Status.ContainerStatuses {
			_, id, _ := strings.Cut(c.ContainerID, "://")
			switch {
			case c.State.Waiting != nil:
				return fmt.Errorf("pod %s, whose container %s is waiting: %s %s", pod.Name, c.Name, c.State.Waiting.Reason, c.State.Waiting.Message)
			case !c.Ready || !running[id]:
				return fmt.Errorf("pod %s, whose container %s is not ready", pod.Name, c.Name)
			}
		}
	}
	if static < len(files) {
		return fmt.Errorf("%d of %d static pods to be known to the API", len(files)-static, len(files))
	}
	return nil
}

// runningContainers are the ids of the containers that run.
func (e *Executor) runningContainers(ctx context.Context) (map[string]bool, error) {
	conn, err := cri.Connection(ctx, e.node.Containerd.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	all, err := runtimeapi.NewRuntimeServiceClient(conn).ListContainers(ctx, &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}},
	})
	if err != nil {
		return nil, err
	}
	running := map[string]bool{}
	for _, c := range all.Containers {
		running[c.Id] = true
	}
	return running, nil
}
