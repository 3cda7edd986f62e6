//go:build linux

package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// await waits until the cluster has exactly these charts and all that runs in it is
// ready, in containers that run since a moment.
func (c *charted) await(ctx context.Context, t *testing.T, since time.Time, charts []string) {
	t.Helper()
	err := sealed.Wait(ctx, "all charts and pods", chartsLimit, func(ctx context.Context) error {
		for _, n := range c.nodes() {
			if n.Started().IsZero() {
				continue
			}
			select {
			case <-n.Exited():
				return sealed.Hopeless(fmt.Errorf("rke2 of %s has ended:\n%s", n.Name(), n.LastWords()))
			default:
			}
		}
		err := c.settled(ctx, since, charts)
		if err != nil {
			select { // lists of everything are no light question
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// settled says what the cluster still lacks.
func (c *charted) settled(ctx context.Context, since time.Time, charts []string) error {
	client, err := c.server.Client()
	if err != nil {
		return err
	}
	have, err := helmCharts(ctx, client)
	if err != nil {
		return err
	}
	charts = slices.Sorted(slices.Values(charts))
	if !slices.Equal(have, charts) {
		return fmt.Errorf("the cluster has the charts %q, want %q", have, charts)
	}
	if err := released(ctx, client, charts); err != nil {
		return err
	}
	if err := rolledOut(ctx, client); err != nil {
		return err
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var lacking []string
	for _, p := range pods.Items {
		if why := notReady(p, since); why != "" {
			lacking = append(lacking, p.Namespace+"/"+p.Name+" "+why)
		}
	}
	if len(lacking) > 0 {
		return fmt.Errorf("pods: %s", strings.Join(lacking, "; "))
	}
	return nil
}

// helmCharts are the charts that the cluster knows, sorted.
func helmCharts(ctx context.Context, client *kubernetes.Clientset) ([]string, error) {
	raw, err := client.Discovery().RESTClient().Get().AbsPath("/apis/helm.cattle.io/v1/namespaces/kube-system/helmcharts").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing charts: %w", err)
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("listing charts: %w", err)
	}
	var names []string
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	slices.Sort(names)
	return names, nil
}

// released says which charts have no release that Helm calls deployed.
func released(ctx context.Context, client *kubernetes.Clientset, charts []string) error {
	list, err := client.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "owner=helm,status=deployed"})
	if err != nil {
		return err
	}
	missing := slices.Clone(charts)
	for _, s := range list.Items {
		missing = slices.DeleteFunc(missing, func(name string) bool { return name == s.Labels["name"] })
	}
	if len(missing) > 0 {
		return fmt.Errorf("not deployed yet: %q", missing)
	}
	return nil
}

// rolledOut says which daemon sets and deployments lack pods of their newest kind. A
// daemon set has one on every node.
func rolledOut(ctx context.Context, client *kubernetes.Clientset) error {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	sets, err := client.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, d := range sets.Items {
		s := d.Status
		if want := int32(len(nodes.Items)); s.ObservedGeneration != d.Generation || s.DesiredNumberScheduled != want || s.UpdatedNumberScheduled != want || s.NumberReady != want {
			return fmt.Errorf("daemon set %s: %d wanted on %d nodes, %d updated, %d ready", d.Name, s.DesiredNumberScheduled, want, s.UpdatedNumberScheduled, s.NumberReady)
		}
	}
	deployments, err := client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, d := range deployments.Items {
		s := d.Status
		if want := *d.Spec.Replicas; s.ObservedGeneration != d.Generation || s.Replicas != want || s.UpdatedReplicas != want || s.ReadyReplicas != want {
			return fmt.Errorf("deployment %s: %d wanted, %d updated, %d ready of %d", d.Name, want, s.UpdatedReplicas, s.ReadyReplicas, s.Replicas)
		}
	}
	return nil
}

// notReady says in a few words why a pod does not run ready since a moment; "" if it
// does, or has done what it was for.
func notReady(p corev1.Pod, since time.Time) string {
	job := len(p.OwnerReferences) > 0 && p.OwnerReferences[0].Kind == "Job"
	switch {
	case p.DeletionTimestamp != nil:
		return "is being deleted"
	case p.Status.Phase == corev1.PodSucceeded, job && p.Status.Phase == corev1.PodFailed:
		return ""
	case len(p.Status.ContainerStatuses) == 0:
		return "is " + string(p.Status.Phase)
	}
	for _, s := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
		switch run := s.State.Running; {
		case s.State.Terminated != nil && s.State.Terminated.ExitCode == 0 && s.Ready: // of init
		case s.State.Waiting != nil:
			return s.Name + " waits: " + s.State.Waiting.Reason + " " + s.State.Waiting.Message
		case run == nil || !s.Ready:
			return s.Name + " is not ready"
		case run.StartedAt.Time.Before(since.Truncate(time.Second)):
			return s.Name + " is said to run since before the start"
		}
	}
	return ""
}

// containers describes all containers of the cluster but those of the chart that the test
// disables.
func (c *charted) containers(ctx context.Context, t *testing.T) map[string]string {
	t.Helper()
	client, err := c.server.Client()
	if err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, p := range pods.Items {
		if p.DeletionTimestamp != nil || strings.Contains(p.Name, "metrics-server") {
			continue
		}
		for _, s := range p.Status.ContainerStatuses {
			found[p.Namespace+"/"+p.Name+"/"+s.Name] = fmt.Sprintf("%s restarted %d times", s.ContainerID, s.RestartCount)
		}
	}
	return found
}

// get asks a URL over a connection of its own, as a program on a node's host does.
func (c *charted) get(ctx context.Context, n *node.Node, url string) (string, error) {
	client := http.Client{Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}, Timeout: 2 * time.Second}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s: %s", url, answer.Status)
	}
	return strings.TrimSpace(string(body)), err
}

// watchService asks a service through the other node all the time, until the function
// that it returns says how often and what failed.
func (c *charted) watchService(ctx context.Context) func() (asked int, failed []string) {
	ctx, cancel := context.WithCancel(ctx)
	var asked int
	var failed []string
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			_, err := c.get(ctx, c.agent, leftPort.url(serverAddress))
			if ctx.Err() != nil {
				return
			}
			if asked++; err != nil {
				failed = append(failed, err.Error())
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	return func() (int, []string) {
		cancel()
		done.Wait()
		return asked, failed
	}
}

// explain logs what a person would ask the cluster after a failure. The nodes' own logs
// are kept apart.
func (c *charted) explain(ctx context.Context, t *testing.T) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"get", "nodes,pods", "-A", "-o", "wide"}, {"get", "helmcharts,helmchartconfigs,jobs,services,endpointslices,ingress,networkpolicies", "-A"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
	} {
		out, err := c.server.Kubectl(ctx, append(args, "--request-timeout=5s")...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		t.Logf("$ kubectl %s (%v)\n%s", strings.Join(args, " "), err, strings.Join(lines[max(0, len(lines)-80):], "\n"))
	}
	client, err := c.server.Client()
	if err != nil {
		t.Log(err)
		return
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Log(err)
		return
	}
	for _, p := range pods.Items {
		failed := p.Status.Phase == corev1.PodFailed
		if notReady(p, time.Time{}) == "" && !failed {
			continue
		}
		out, err := c.server.Command(ctx, "kubectl", "logs", "-n", p.Namespace, p.Name, "--all-containers", "--prefix", "--tail=25").CombinedOutput()
		t.Logf("$ kubectl logs -n %s %s (%v)\n%s", p.Namespace, p.Name, err, out)
	}
}
