package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestReadySince(t *testing.T) {
	now := time.Now().Truncate(time.Second).Add(700 * time.Millisecond)
	condition := func(status corev1.ConditionStatus, heard time.Time) *corev1.Node {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
		node.Status.Conditions = []corev1.NodeCondition{
			{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, LastHeartbeatTime: metav1.NewTime(now)},
			{Type: corev1.NodeReady, Status: status, LastHeartbeatTime: metav1.NewTime(heard), Message: "no network yet"},
		}
		return node
	}
	for _, c := range []struct {
		what string
		node *corev1.Node
		want string // "" for ready
	}{
		{"ready since", condition(corev1.ConditionTrue, now.Truncate(time.Second)), ""},
		{"ready, says an earlier kubelet", condition(corev1.ConditionTrue, now.Add(-time.Second).Truncate(time.Second)), "a word of its kubelet"},
		{"not ready", condition(corev1.ConditionFalse, now), "no network yet"},
		{"new", &corev1.Node{}, "a word of its kubelet"},
	} {
		err := readySince(c.node, now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}

func TestStaticPodsRun(t *testing.T) {
	pod := func(source string, ready bool, id string) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "etcd-a", Annotations: map[string]string{"kubernetes.io/config.source": source}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
				{Name: "etcd", Ready: ready, ContainerID: "containerd://" + id},
			}},
		}
	}
	running := map[string]bool{"new": true}
	for _, c := range []struct {
		what string
		pods []corev1.Pod
		want string
	}{
		{"runs", []corev1.Pod{pod("file", true, "new")}, ""},
		{"not ready", []corev1.Pod{pod("file", false, "new")}, "not ready"},
		{"what the API remembers of before a reboot", []corev1.Pod{pod("file", true, "old")}, "not ready"},
		{"nothing is known", nil, "1 of 1 static pods"},
		{"another pod", []corev1.Pod{pod("api", true, "new")}, "1 of 1 static pods"},
	} {
		err := staticPodsRun([]string{"etcd.yaml"}, c.pods, running)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}

func TestManifests(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"etcd.yaml", "own.json", "notes.txt", ".etcd.yaml.tmp"} {
		write(t, filepath.Join(dir, name), "x")
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := manifests(dir)
	if want := []string{"etcd.yaml", "own.json"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if got, err := manifests(filepath.Join(dir, "none")); err != nil || len(got) > 0 {
		t.Errorf("a folder that is not there: %q, %v", got, err)
	}
}
