//go:build linux

package scenarios

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
)

const probePod = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q}, "spec": {
  "terminationGracePeriodSeconds": 1,
  "containers": [{"name": "probe", "image": %q, "imagePullPolicy": "IfNotPresent",
    "readinessProbe": {"httpGet": {"port": 8080, "path": "/ready"}, "periodSeconds": 1}}]}}`

// runsPod: a pod on the bridge network, whose image came in an operator's bundle
// and which answers on its own address.
func runsPod(ctx context.Context, t *testing.T, s *scenario) {
	started := time.Now()
	apply(ctx, t, s, fmt.Sprintf(probePod, "probe", probeReference))
	pod, err := s.WaitPod(ctx, "default", "probe", stepLimit)
	if err != nil {
		t.Fatal(err)
	}
	report(t, "an ordinary pod, from apply to ready", time.Since(started))
	if !strings.HasPrefix(pod.Status.PodIP, "10.42.0.") {
		t.Errorf("the pod's address is %q, not in the test's network", pod.Status.PodIP)
	}
	s.probeAddress = pod.Status.PodIP
	askProbe(ctx, t, s, "/hello")
}

// askProbe asks the probe's port from the node.
func askProbe(ctx context.Context, t *testing.T, s *scenario, path string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: s.DialContext, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	err := sealed.Wait(ctx, "the probe's answer", 10*time.Second, func(ctx context.Context) error {
		r, err := client.Get("http://" + s.probeAddress + ":8080" + path)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if want := "probe answers " + path + "\n"; err == nil && string(body) != want {
			return fmt.Errorf("it says %q, not %q", body, want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// logsAndExec: both go from the API server through the node's tunnel to the
// kubelet.
func logsAndExec(ctx context.Context, t *testing.T, s *scenario) {
	if out, err := s.Kubectl(ctx, "logs", "probe"); err != nil || !strings.Contains(out, "probe: listening on :8080") || !strings.Contains(out, "probe: asked for /hello") {
		t.Errorf("kubectl logs: %v\n%s", err, out)
	}
	if out, err := s.Kubectl(ctx, "exec", "probe", "--", "/probe", "exec-hello"); err != nil || out != "hello from probe\n" {
		t.Errorf("kubectl exec: %v\n%s", err, out)
	}
	if _, err := s.Kubectl(ctx, "exec", "probe", "--", "/probe", "no-such-word"); err == nil || !strings.Contains(err.Error(), "exit code 2") {
		t.Errorf("kubectl exec of a failing command: %v", err)
	}
}

// refusesStranger: an image that no trusted key signed is not in containerd, and
// the log says why.
func refusesStranger(ctx context.Context, t *testing.T, s *scenario) {
	// The kubelet tries to pull it, which the node, being offline, refuses
	// without a look outside; that nothing was dialled is checked at the end.
	apply(ctx, t, s, fmt.Sprintf(probePod, "stranger", strangerReference))
	err := sealed.Wait(ctx, "the kubelet to miss the stranger's image", stepLimit, func(ctx context.Context) error {
		out, err := s.Kubectl(ctx, "get", "pod", "stranger", "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}")
		if err == nil && out != "ErrImagePull" && out != "ImagePullBackOff" {
			err = fmt.Errorf("its container's state is %q", out)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if out, err := s.Kubectl(ctx, "delete", "pod", "stranger", "--wait=true", "--timeout=60s"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	log, err := s.Log()
	if err != nil {
		t.Fatal(err)
	}
	told := false
	for line := range strings.Lines(log) {
		told = told || strings.Contains(line, strangerReference) && strings.Contains(line, "site-stranger.tar") && strings.Contains(line, "refused")
	}
	if !told {
		t.Error("the log does not say that the stranger's image, in its file, is refused")
	}
	out, err := s.Command(ctx, "ctr", "-a", containerdSocket, "-n", "k8s.io", "images", "ls", "-q").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), probeReference) || strings.Contains(string(out), "stranger") {
		t.Errorf("containerd has the images\n%s", out)
	}
}

// containerdSocket is where the node's containerd listens.
const containerdSocket = "/run/k3s/containerd/containerd.sock"

func apply(ctx context.Context, t *testing.T, s *scenario, manifest string) {
	t.Helper()
	// A namespace's service account comes a moment after the namespace.
	err := sealed.Wait(ctx, "kubectl apply", stepLimit, func(ctx context.Context) error {
		c := s.Command(ctx, "kubectl", "apply", "-f", "-")
		c.Stdin = strings.NewReader(manifest)
		_, err := c.Output()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
