package pod

import (
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func TestParseResources(t *testing.T) {
	got, err := ParseResources("control-plane-resource-requests", []string{"kube-apiserver-cpu=500m, kube-apiserver-memory=512Mi", "etcd-memory=1Gi", "kube-proxy-cpu=1"})
	want := map[string]Resources{"kube-apiserver": {"cpu": "500m", "memory": "512Mi"}, "etcd": {"memory": "1Gi"}, "kube-proxy": {"cpu": "1"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for item, says := range map[string]string{
		"kube-apiserver-cpu":        "want COMPONENT-cpu=QUANTITY",
		"apiserver-cpu=1":           "it starts with no component",
		"kube-apiserver-gpu=1":      `"gpu" is not a resource`,
		"kube-apiserver-cpu=plenty": `"plenty" is not a quantity`,
	} {
		if _, err := ParseResources("control-plane-resource-requests", []string{item}); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), item) {
			t.Errorf("%s: got %v, want %q in it", item, err, says)
		}
	}
}

func TestParseTimings(t *testing.T) {
	got, err := ParseTimings("o", []string{"etcd-startup-failure-threshold=60,etcd-startup-period-seconds=3", "kube-scheduler-liveness-initial-delay-seconds=0"})
	want := map[string]Timings{"etcd": {"startup": {Failures: 60, Period: 3}}, "kube-scheduler": {"liveness": {}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for item, says := range map[string]string{
		"etcd-startup-failure-threshold=-1": "not a number",
		"etcd-startup-period-seconds=0":     "not a number",
		"etcd-starting-period-seconds=1":    `"starting" is not a probe`,
		"etcd-startup-color=1":              `"color" is not a value`,
		"etcd-startup":                      "want COMPONENT-",
	} {
		if _, err := ParseTimings("o", []string{item}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want %q in it", item, err, says)
		}
	}
}

func TestTunedManifest(t *testing.T) {
	c := sample()
	c.Requests = c.Requests.Over(Resources{"cpu": "2"})
	c.Limits = Resources{"cpu": "1", "memory": "4Gi"}
	c.Readiness = &Probe{Scheme: "HTTPS", Host: "::1", Port: 6443, Path: "/readyz"}
	c.Timings = Timings{"startup": {Failures: 7}, "readiness": {Period: 3}}
	user := int64(52034)
	c.User, c.Group = &user, &user
	c.Grace = 7
	if grace := manifest(t, c).Spec.TerminationGracePeriodSeconds; *grace != 7 {
		t.Errorf("it may take %d s to end", *grace)
	}
	container := manifest(t, c).Spec.Containers[0]
	if cpu := container.Resources.Requests[corev1.ResourceCPU]; cpu.String() != "1" {
		t.Errorf("a request above its limit: %s, want the limit", cpu.String())
	}
	if memory := container.Resources.Requests[corev1.ResourceMemory]; memory.String() != "1Gi" {
		t.Errorf("memory request: %s", memory.String())
	}
	if container.StartupProbe.FailureThreshold != 7 || container.StartupProbe.PeriodSeconds != startupPeriod {
		t.Errorf("startup probe: %+v", container.StartupProbe)
	}
	if p := container.ReadinessProbe; p == nil || p.PeriodSeconds != 3 || p.HTTPGet.Host != "::1" {
		t.Errorf("readiness probe: %+v", p)
	}
	if s := container.SecurityContext; *s.RunAsUser != user || *s.RunAsGroup != user {
		t.Errorf("it runs as %v", s)
	}
	if plain := manifest(t, sample()).Spec.Containers[0]; plain.ReadinessProbe != nil || plain.SecurityContext.RunAsUser != nil || plain.Resources.Limits != nil {
		t.Errorf("what nobody asked for: %+v", plain)
	}
}

func manifest(t *testing.T, c Component) corev1.Pod {
	t.Helper()
	raw, err := Manifest(c)
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.Unmarshal(raw, &pod); err != nil {
		t.Fatal(err)
	}
	return pod
}
