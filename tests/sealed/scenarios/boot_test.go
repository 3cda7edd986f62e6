//go:build linux

package scenarios

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed/node"
)

// boots: from bundles on a disk to a Ready node and four static pods.
func boots(ctx context.Context, t *testing.T, s *scenario) {
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitAPI(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	s.coldAPI = time.Since(s.Started())
	report(t, "cold start, API up", s.coldAPI)
	if err := s.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	s.cold = time.Since(s.Started())
	report(t, "cold start, node Ready", s.cold)
	if err := s.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "cold start, control plane's pods Running", time.Since(s.Started()))
	timelined(ctx, t, s, "cold", true)
	reportMemory(t, s, "the import")

	// The links that operators and scripts use.
	out, err := s.Kubectl(ctx, "get", "nodes", "-o", "wide")
	if err != nil || !strings.Contains(out, "sealed") || !strings.Contains(out, "Ready") {
		t.Errorf("kubectl get nodes: %v\n%s", err, out)
	}
	t.Log("\n" + out)
	for _, link := range []string{node.DataDir + "/bin/containerd", node.DataDir + "/bin/runc", node.DataDir + "/bin/ctr", node.DataDir + "/bin/crictl"} {
		if out, err := s.Command(ctx, link, "--version").CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", link, err, out)
		}
	}
	if out, err := s.Command(ctx, "stat", "-c", "%a", node.Kubeconfig).Output(); err != nil || strings.TrimSpace(string(out)) != "640" {
		t.Errorf("mode of the kubeconfig: %q, %v", out, err)
	}
	log, err := s.Log()
	if err != nil {
		t.Fatal(err)
	}
	// The log is read at 3 a.m.: a machine's peculiarity is said once.
	for _, word := range []string{"cgroup v1", "CAP_SYS_RESOURCE"} {
		if n := strings.Count(log, word); n > 1 {
			t.Errorf("the log speaks of %s %d times", word, n)
		}
	}
}

// reportMemory prints the most memory that the rke2 process ever had.
func reportMemory(t *testing.T, s *scenario, during string) {
	t.Helper()
	processes, err := s.Find("rke2")
	if err != nil || len(processes) == 0 {
		t.Fatalf("no rke2 process: %v", err)
	}
	var peak int64
	for _, p := range processes {
		peak = max(peak, p.PeakRSS)
	}
	report(t, "peak resident memory of rke2 up to "+during+", MiB", peak>>20)
}
