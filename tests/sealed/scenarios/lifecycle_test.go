//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// content is containerd's content store: what was imported.
const content = node.DataDir + "/agent/containerd/io.containerd.content.v1.content"

// kubeletKilled: a kubelet that dies is started again, and pods do not notice.
func kubeletKilled(ctx context.Context, t *testing.T, s *scenario) {
	before := containers(ctx, t, s)
	node.NextSecond()
	killed := time.Now()
	old := kill(t, s, "kubelet")
	err := sealed.Wait(ctx, "a new kubelet", stepLimit, func(context.Context) error {
		_, err := other(s, "kubelet", old)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ReadySince(ctx, killed, stepLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "kubelet killed, node Ready again by the new one's word", time.Since(killed))
	unchanged(ctx, t, s, before)
}

// stopsClean: SIGTERM ends all that rke2 started but the containers' shims.
func stopsClean(ctx context.Context, t *testing.T, s *scenario) {
	before, err := s.ContainerProcesses()
	if err != nil || len(before) == 0 {
		t.Fatalf("containers before: %d, %v", len(before), err)
	}
	asked := time.Now()
	if err := s.Stop(ctx, stopLimit); err != nil {
		t.Errorf("rke2 did not end well after SIGTERM: %v\n%s", err, s.LastWords())
	}
	report(t, "SIGTERM to exit", time.Since(asked))
	rest, err := s.OtherProcesses()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range rest {
		t.Errorf("process %d is left: %s", p.Pid, strings.Join(p.Args, " "))
	}
	after, err := s.ContainerProcesses()
	if err != nil {
		t.Fatal(err)
	}
	if d := node.Difference(describe(before), describe(after)); len(d) > 0 {
		t.Errorf("containers changed:\n%s", strings.Join(d, "\n"))
	}
	askProbe(ctx, t, s, "/rke2-is-off")
}

// startsAgain: rke2 finds its containers and images as they are.
func startsAgain(ctx context.Context, t *testing.T, s *scenario) {
	// The API server runs: it was not stopped.
	before := containers(ctx, t, s)
	stored, err := s.Listing(content)
	if err != nil || len(stored) == 0 {
		t.Fatalf("content store: %d files, %v", len(stored), err)
	}
	staged := listing(t, s, node.DataDir+"/data")
	node.NextSecond()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitAPI(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "restart of rke2, API up", time.Since(s.Started()))
	if err := s.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "restart of rke2, node Ready", time.Since(s.Started()))
	if err := s.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	log := imported(ctx, t, s)
	report(t, "restart of rke2, images found to be there", time.Since(s.Started()))
	for _, word := range []string{"imported=0", "blobs=0", "bytes=0"} {
		if !strings.Contains(log, word) {
			t.Errorf("not %s: %s", word, log)
		}
	}
	if d := node.Difference(stored, listing(t, s, content)); len(d) > 0 {
		t.Errorf("containerd's content changed:\n%s", strings.Join(d, "\n"))
	}
	if d := node.Difference(staged, listing(t, s, node.DataDir+"/data")); len(d) > 0 {
		t.Errorf("the staged runtime changed:\n%s", strings.Join(d, "\n"))
	}
	timelined(ctx, t, s, "restart", false)
	unchanged(ctx, t, s, before)
	askProbe(ctx, t, s, "/rke2-is-back")
	reportMemory(t, s, "a restart")
}

// imported is the log line that sums the import up.
func imported(ctx context.Context, t *testing.T, s *scenario) string {
	t.Helper()
	var found string
	err := sealed.Wait(ctx, "the end of the import", stepLimit, func(context.Context) error {
		log, err := s.Log()
		if err != nil {
			return err
		}
		for line := range strings.Lines(log) {
			if strings.Contains(line, "images are ready") {
				found = strings.TrimSpace(line)
				return nil
			}
		}
		return errors.New("the log has no line about it")
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// containerdKilled: without containerd rke2 is of no use, and says so.
func containerdKilled(ctx context.Context, t *testing.T, s *scenario) {
	kill(t, s, "containerd")
	killed := time.Now()
	err := s.Wait(ctx, stopLimit)
	var failed *sealed.ExitError
	if !errors.As(err, &failed) || failed.Status.Signaled() {
		t.Errorf("rke2 did not end with an error of its own: %v", err)
	}
	report(t, "containerd killed to rke2's exit", time.Since(killed))
	if words := s.LastWords(); !strings.Contains(words, "containerd") {
		t.Errorf("rke2's last words do not name containerd:\n%s", words)
	}
	rest, err := s.OtherProcesses()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range rest {
		t.Errorf("process %d is left: %s", p.Pid, strings.Join(p.Args, " "))
	}
	// systemd would start it again.
	before := containers(ctx, t, s)
	node.NextSecond()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "started again after containerd's death, node Ready", time.Since(s.Started()))
	unchanged(ctx, t, s, before)
}

// reboots: the power is cut while the node runs; all processes are gone, the disk
// is kept, and nobody presses a key.
func reboots(ctx context.Context, t *testing.T, s *scenario) {
	stored := listing(t, s, content)
	if err := s.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Processes(); err != nil || len(all) > 0 {
		t.Fatalf("processes after the reboot: %v, %v", all, err)
	}
	node.NextSecond()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitAPI(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "after a reboot, API up", time.Since(s.Started()))
	if err := s.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "after a reboot, node Ready", time.Since(s.Started()))
	if err := s.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	err := sealed.Wait(ctx, "the probe to run again", stepLimit, func(context.Context) error {
		found, err := s.Find("probe")
		if err == nil && len(found) == 0 {
			err = errors.New("no process probe")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pod, err := s.WaitPod(ctx, "default", "probe", stepLimit)
	if err != nil {
		t.Fatal(err)
	}
	report(t, "after a reboot, all pods Running", time.Since(s.Started()))
	s.probeAddress = pod.Status.PodIP
	timelined(ctx, t, s, "reboot", false)
	askProbe(ctx, t, s, "/back")
	if log := imported(ctx, t, s); !strings.Contains(log, "bytes=0") {
		t.Errorf("images were imported again: %s", log)
	}
	if d := node.Difference(stored, listing(t, s, content)); len(d) > 0 {
		t.Errorf("containerd's content changed:\n%s", strings.Join(d, "\n"))
	}
	if err := s.Stop(ctx, stopLimit); err != nil {
		t.Errorf("stopping after the reboot: %v\n%s", err, s.LastWords())
	}
}

// reachedNothing: offline means that no packet ever left.
func reachedNothing(_ context.Context, t *testing.T, s *scenario) {
	sent, err := s.Outside()
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range sent {
		t.Errorf("the node sent something to %s", to)
	}
}

func containers(ctx context.Context, t *testing.T, s *scenario) map[string]string {
	t.Helper()
	c, err := s.Containers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// unchanged fails if any container was restarted or replaced.
func unchanged(ctx context.Context, t *testing.T, s *scenario, before map[string]string) {
	t.Helper()
	if d := node.Difference(before, containers(ctx, t, s)); len(d) > 0 {
		t.Errorf("containers changed:\n%s", strings.Join(d, "\n"))
	}
}

func describe(ps []sealed.Process) map[string]string {
	m := map[string]string{}
	for _, p := range ps {
		m[fmt.Sprint(p.Pid)] = fmt.Sprintf("%s started %d", strings.Join(p.Args, " "), p.Started)
	}
	return m
}

func listing(t *testing.T, s *scenario, path string) map[string]string {
	t.Helper()
	l, err := s.Listing(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// kill ends the one process of a program, without warning, and returns it.
func kill(t *testing.T, s *scenario, name string) sealed.Process {
	t.Helper()
	p, err := other(s, name, sealed.Process{})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return p
}

// other is the one process of a program that is not the old one.
func other(s *scenario, name string, old sealed.Process) (sealed.Process, error) {
	found, err := s.Find(name)
	if err != nil {
		return sealed.Process{}, err
	}
	for _, p := range found {
		if p.Pid != old.Pid {
			return p, nil
		}
	}
	return sealed.Process{}, fmt.Errorf("no (other) process %s", name)
}
