package engine

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/rancher/rke2/runtime/packaged"
)

func helmJob(chart string, done bool, at time.Time) *batchv1.Job {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "helm-install-" + chart, Namespace: "kube-system", Labels: map[string]string{chartLabel: chart}}}
	if done {
		job.Status.Succeeded = 1
		job.Status.CompletionTime = &metav1.Time{Time: at}
	}
	return job
}

func made(chart, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Namespace: "kube-system", Generation: 2, Labels: map[string]string{"app.kubernetes.io/managed-by": "Helm"},
		Annotations: map[string]string{releaseAnnotation: chart},
	}
}

// TestRollout takes two charts from nothing to up, and back when one is replaced.
func TestRollout(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	started := time.Now().Add(-10 * time.Second)
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "dns"}}
	replicas := int32(2)
	dns := &appsv1.Deployment{ObjectMeta: made("dns", "coredns"), Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector}}
	net := &appsv1.DaemonSet{ObjectMeta: made("net", "canal"), Spec: appsv1.DaemonSetSpec{Selector: selector}}
	foreign := &appsv1.Deployment{ObjectMeta: made("users", "web"), Spec: appsv1.DeploymentSpec{Selector: selector}}
	client := fake.NewClientset(foreign, helmJob("net", true, started.Add(-time.Hour)),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "job-x", Namespace: "kube-system", Labels: map[string]string{"batch.kubernetes.io/job-name": "helm-install-dns"}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "helm", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "no such image"}}}}}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "dns-x", Namespace: "kube-system", Labels: map[string]string{"app": "dns"}},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no node"}}}},
	)
	r, err := newRollout(ctx, client, []packaged.Chart{{Name: "dns", Namespace: "kube-system"}, {Name: "net", Namespace: "kube-system"}})
	if err != nil {
		t.Fatal(err)
	}
	r.started, r.changed = started, []string{"net"}
	expect := func(what string, settled bool, want ...string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			got := r.look(time.Now(), settled)
			if slices.Equal(got, want) {
				return
			}
			select {
			case <-r.events:
			case <-deadline:
				t.Fatalf("%s: it waits for %q, want %q", what, got, want)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	says := func(want string) {
		t.Helper()
		var got string
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if got = strings.Join(r.explain(ctx, client), "\n"); got == want {
				return
			}
		}
		t.Errorf("it says %s, want %s", got, want)
	}
	expect("a changed chart with its old job, and one without", false, "dns", "net")
	if why := strings.Join(r.explain(ctx, client), "\n"); !strings.Contains(why, "chart dns: no job installs it yet") || !strings.Contains(why, "chart net: job helm-install-net is not done") {
		t.Errorf("it says %s", why)
	}
	expect("an old job that stays", true, "dns")
	jobs := client.BatchV1().Jobs("kube-system")
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(jobs.Create(ctx, helmJob("dns", false, time.Time{}), metav1.CreateOptions{}))
	expect("a job that runs", true, "dns")
	says("chart dns: job helm-install-dns is not done: pod job-x: container helm: ErrImagePull no such image")
	must(jobs.Update(ctx, helmJob("dns", true, time.Now()), metav1.UpdateOptions{}))
	must(client.AppsV1().Deployments("kube-system").Create(ctx, dns, metav1.CreateOptions{}))
	must(client.AppsV1().DaemonSets("kube-system").Create(ctx, net, metav1.CreateOptions{}))
	expect("what nobody has seen yet", true, "dns", "net")
	dns, net = dns.DeepCopy(), net.DeepCopy()
	dns.Status = appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 1}
	net.Status = appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 1, UpdatedNumberScheduled: 1, NumberReady: 1}
	must(client.AppsV1().Deployments("kube-system").Update(ctx, dns, metav1.UpdateOptions{}))
	must(client.AppsV1().DaemonSets("kube-system").Update(ctx, net, metav1.UpdateOptions{}))
	expect("a pod of two", true, "dns")
	says("chart dns: deployment/coredns has 1 of 2 pods ready: pod dns-x: Unschedulable: no node")
	dns = dns.DeepCopy()
	dns.Status.AvailableReplicas = 2
	must(client.AppsV1().Deployments("kube-system").Update(ctx, dns, metav1.UpdateOptions{}))
	expect("all", true)
	if text := r.String(); !strings.Contains(text, "net=-/1") || !strings.Contains(text, "dns=1") || strings.Contains(text, "dns=-") {
		t.Errorf("it took %s", text)
	}
	must(nil, jobs.Delete(ctx, "helm-install-dns", metav1.DeleteOptions{}))
	expect("a job that is replaced", true, "dns")
}

func TestRemembered(t *testing.T) {
	pod := func(ready, runs bool) []corev1.Pod {
		status := corev1.ContainerStatus{Name: "c", Ready: ready, ContainerID: "containerd://old"}
		if runs {
			status.State.Running = &corev1.ContainerStateRunning{}
		}
		return []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{status}}}}
	}
	if err := remembered(pod(true, true), map[string]bool{"new": true}); err == nil || !strings.Contains(err.Error(), "pod n/p") {
		t.Errorf("a pod of before the reboot: %v", err)
	}
	for what, pods := range map[string][]corev1.Pod{"not ready": pod(false, true), "ended": pod(true, false)} {
		if err := remembered(pods, nil); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := remembered(pod(true, true), map[string]bool{"old": true}); err != nil {
		t.Errorf("one that runs: %v", err)
	}
}
