//go:build linux

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// ControlPlane are the static pods of a server, by component.
var ControlPlane = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}

// Client speaks to a server's API server with the kubeconfig that it wrote, through
// that host; an agent's is that of the server it was made for. It is made once for each
// kubeconfig: a server that was set back to another's snapshot writes a new one.
func (n *Node) Client() (*kubernetes.Clientset, error) {
	if n.api != n {
		return n.api.Client()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	raw, err := os.ReadFile(n.Path(Kubeconfig))
	if err != nil {
		if n.client != nil {
			return n.client, nil // while the host is off
		}
		return nil, err
	}
	if n.client != nil && bytes.Equal(raw, n.kubeconfig) {
		return n.client, nil
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Kubeconfig, err)
	}
	config.Dial = n.DialContext
	config.QPS, config.Burst = 100, 100
	config.Timeout = 5 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err == nil {
		n.client, n.kubeconfig = client, raw
	}
	return client, err
}

// WaitAPI waits until the API server says that it is ready.
func (n *Node) WaitAPI(ctx context.Context, limit time.Duration) error {
	return n.until(ctx, "the API of "+n.name, limit, func(ctx context.Context) error {
		c, err := n.Client()
		if err != nil {
			return err
		}
		_, err = c.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
}

// WaitReady waits until the node is Ready, by the word of a kubelet that spoke
// since the last start: the API server remembers what an earlier one said. See
// [NextSecond] for a start soon after an earlier one.
func (n *Node) WaitReady(ctx context.Context, limit time.Duration) error {
	return n.ReadySince(ctx, n.Started(), limit)
}

// WaitCharts waits until the node has said that all charts are up that it deploys.
func (n *Node) WaitCharts(ctx context.Context, limit time.Duration) error {
	return n.until(ctx, "charts of node "+n.name, limit, func(context.Context) error {
		log, err := n.Log()
		if err == nil && !strings.Contains(log, `msg="charts are up"`) {
			err = errors.New("the log does not say that they are up")
		}
		return err
	})
}

// ReadySince waits until the kubelet has said that it is ready in the second of
// since or later: see [NextSecond].
func (n *Node) ReadySince(ctx context.Context, since time.Time, limit time.Duration) error {
	return n.until(ctx, "node "+n.name+" to be Ready", limit, func(ctx context.Context) error {
		c, err := n.Client()
		if err != nil {
			return err
		}
		node, err := c.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			switch {
			case condition.Type != corev1.NodeReady:
			case condition.Status != corev1.ConditionTrue:
				return fmt.Errorf("%s: %s", condition.Reason, condition.Message)
			case condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)):
				return fmt.Errorf("the kubelet last spoke at %s, before %s", condition.LastHeartbeatTime, since)
			default:
				return nil
			}
		}
		return errors.New("it has no Ready condition yet")
	})
}

// WaitControlPlane waits until every component of the control plane runs as a
// static pod that is ready, in a container that runs since the host was started.
func (n *Node) WaitControlPlane(ctx context.Context, limit time.Duration) error {
	return n.until(ctx, "the control plane's static pods", limit, func(ctx context.Context) error {
		c, err := n.Client()
		if err != nil {
			return err
		}
		pods, err := c.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, component := range ControlPlane {
			at := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool { return p.Name == component+"-"+n.name })
			if at < 0 {
				return fmt.Errorf("no pod %s-%s", component, n.name)
			}
			pod := pods.Items[at]
			if pod.Annotations["kubernetes.io/config.source"] != "file" {
				return fmt.Errorf("pod %s is not static", pod.Name)
			}
			if err := running(pod); err != nil {
				return err
			}
		}
		return n.haveProcesses(ControlPlane...)
	})
}

// haveProcesses checks that programs really run on the host, whatever the API
// remembers of them.
func (n *Node) haveProcesses(names ...string) error {
	for _, name := range names {
		found, err := n.Find(name)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("no process %s", name)
		}
	}
	return nil
}

// WaitPod waits until a pod runs and is ready.
func (n *Node) WaitPod(ctx context.Context, namespace, name string, limit time.Duration) (*corev1.Pod, error) {
	var pod *corev1.Pod
	err := n.until(ctx, "pod "+name, limit, func(ctx context.Context) error {
		c, err := n.Client()
		if err != nil {
			return err
		}
		if pod, err = c.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		return running(*pod)
	})
	return pod, err
}

// running says why a pod is not running and ready, in the kubelet's words.
func running(pod corev1.Pod) error {
	var why []string
	for _, s := range pod.Status.ContainerStatuses {
		switch {
		case s.State.Waiting != nil:
			why = append(why, s.Name+": "+s.State.Waiting.Reason+" "+s.State.Waiting.Message)
		case s.State.Terminated != nil:
			why = append(why, s.Name+": "+s.State.Terminated.Reason+" "+s.State.Terminated.Message)
		case !s.Ready:
			why = append(why, s.Name+": not ready")
		}
	}
	if pod.Status.Phase == corev1.PodRunning && len(pod.Status.ContainerStatuses) > 0 && len(why) == 0 {
		return nil
	}
	return fmt.Errorf("pod %s is %s: %s", pod.Name, pod.Status.Phase, strings.Join(why, "; "))
}
