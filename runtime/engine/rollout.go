package engine

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/rancher/rke2/runtime/packaged"
)

// workload is what Helm made that has pods.
type workload struct {
	namespace, name string // the name as kubectl has it: deployment/rke2-coredns
	release         string
	pods            *metav1.LabelSelector
	seen            bool  // its controller has seen what it is to be
	want, ready     int32 // pods of the newest form
}

// workloadOf takes an object apart; false if it is none that has pods.
func workloadOf(object any) (workload, bool) {
	switch o := object.(type) {
	case *appsv1.Deployment:
		want := int32(1)
		if o.Spec.Replicas != nil {
			want = *o.Spec.Replicas
		}
		return workload{
			o.Namespace, "deployment/" + o.Name, o.Annotations[releaseAnnotation], o.Spec.Selector,
			o.Status.ObservedGeneration >= o.Generation,
			want, min(o.Status.UpdatedReplicas, o.Status.AvailableReplicas),
		}, true
	case *appsv1.DaemonSet:
		return workload{
			o.Namespace, "daemonset/" + o.Name, o.Annotations[releaseAnnotation], o.Spec.Selector,
			o.Status.ObservedGeneration >= o.Generation,
			o.Status.DesiredNumberScheduled, min(o.Status.UpdatedNumberScheduled, o.Status.NumberReady),
		}, true
	case *appsv1.StatefulSet:
		want := int32(1)
		if o.Spec.Replicas != nil {
			want = *o.Spec.Replicas
		}
		return workload{
			o.Namespace, "statefulset/" + o.Name, o.Annotations[releaseAnnotation], o.Spec.Selector,
			o.Status.ObservedGeneration >= o.Generation, want, min(o.Status.UpdatedReplicas, o.Status.ReadyReplicas),
		}, true
	}
	return workload{}, false
}

// lacking are a chart's workloads whose pods are not all Ready.
func (r *rollout) lacking(c packaged.Chart) []workload {
	var out []workload
	for _, store := range r.made {
		for _, object := range store.List() {
			w, ok := workloadOf(object)
			if ok && w.release == c.Name && (!w.seen || w.ready < w.want) {
				out = append(out, w)
			}
		}
	}
	return out
}

// explain says of each chart that is not up what it waits for, in the kubelet's and the
// scheduler's own words where they have any.
func (r *rollout) explain(ctx context.Context, client kubernetes.Interface) []string {
	var out []string
	for _, c := range r.charts {
		if _, done := r.installed[c.Name]; !done {
			out = append(out, "chart "+c.Name+": "+r.explainJob(ctx, client, c))
			continue
		}
		for _, w := range r.lacking(c) {
			text := fmt.Sprintf("chart %s: %s has %d of %d pods ready", c.Name, w.name, w.ready, w.want)
			if why := troubles(ctx, client, w.namespace, metav1.FormatLabelSelector(w.pods)); why != "" {
				text += ": " + why
			}
			out = append(out, text)
		}
	}
	return out
}

func (r *rollout) explainJob(ctx context.Context, client kubernetes.Interface, c packaged.Chart) string {
	job := r.job(c)
	if job == nil {
		return "no job installs it yet"
	}
	text := "job " + job.Name + " is not done"
	if job.Status.Failed > 0 {
		text = fmt.Sprintf("job %s failed %d times: `kubectl logs -n %s job/%s` says why", job.Name, job.Status.Failed, job.Namespace, job.Name)
	}
	if why := troubles(ctx, client, job.Namespace, "batch.kubernetes.io/job-name="+job.Name); why != "" {
		text += ": " + why
	}
	return text
}

// troubles is why the first pod that is not Ready is not; "" if nobody says.
func troubles(ctx context.Context, client kubernetes.Interface, namespace, selector string) string {
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return err.Error()
	}
	for _, pod := range pods.Items {
		if why := trouble(pod); why != "" {
			return "pod " + pod.Name + ": " + why
		}
	}
	return ""
}

func trouble(pod corev1.Pod) string {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return strings.TrimSpace(condition.Reason + ": " + condition.Message)
		}
	}
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, c := range statuses {
			switch last := c.LastTerminationState.Terminated; {
			case c.State.Waiting != nil && c.State.Waiting.Reason != "PodInitializing":
				return strings.TrimSpace(fmt.Sprintf("container %s: %s %s", c.Name, c.State.Waiting.Reason, c.State.Waiting.Message))
			case c.State.Running != nil && !c.Ready && last != nil:
				return fmt.Sprintf("container %s ended %d times, last with exit code %d", c.Name, c.RestartCount, last.ExitCode)
			}
		}
	}
	return ""
}
