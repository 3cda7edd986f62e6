//go:build linux

package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
)

// TestDemo runs `make demo`'s program as a user would, with what they type coming
// from a pipe; and once interrupts it while the node boots.
func TestDemo(t *testing.T) {
	products(t)
	program := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/rancher/rke2/tests/sealed/cmd/demo").CombinedOutput(); err != nil {
		t.Fatalf("building the demo: %v\n%s", err, out)
	}
	for _, c := range []struct {
		name, typed string
		interrupt   bool
		out, errs   []string
	}{
		{
			name: "a session", typed: "kubectl get nodes --no-headers\nkubectl get pods -A --no-headers\nhostname\nexit\n",
			out: []string{"Ready", "rke2-ingress-nginx-controller", "demo\n"}, errs: []string{"Leave with exit", "node Ready", "charts' pods Ready", "stopping rke2"},
		},
		{name: "interrupted while it boots", interrupt: true, errs: []string{"interrupted"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
			defer cancel()
			var out, errs bytes.Buffer
			cmd := exec.CommandContext(ctx, program)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.typed), &out, &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if c.interrupt {
				booting(ctx, t, cmd.Process.Pid)
				if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Wait(); (err != nil) != c.interrupt {
				t.Errorf("demo ended with %v", err)
			}
			for _, w := range c.out {
				if !strings.Contains(out.String(), w) {
					t.Errorf("stdout has no %q", w)
				}
			}
			for _, w := range c.errs {
				if !strings.Contains(errs.String(), w) {
					t.Errorf("stderr has no %q", w)
				}
			}
			// The demo looks for what it left itself; so do we.
			if left := traces(t, cmd.Process.Pid); len(left) > 0 {
				t.Errorf("the demo left %s", left)
			}
			if t.Failed() {
				t.Logf("stdout:\n%s\nstderr:\n%s", &out, &errs)
			}
		})
	}
}

// booting waits until the program has a host with an rke2 in it.
func booting(ctx context.Context, t *testing.T, pid int) {
	t.Helper()
	err := sealed.Wait(ctx, "the demo's node to boot", time.Minute, func(context.Context) error {
		logs, err := filepath.Glob(filepath.Join(sealed.Base(), fmt.Sprintf("rke2-sealed-%d-*", pid), "logs", "rke2.log"))
		if err == nil && len(logs) == 0 {
			err = fmt.Errorf("no log of rke2")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // into the middle of it
}

// traces finds what has the name of a program's hosts: cgroups and state.
func traces(t *testing.T, pid int) []string {
	t.Helper()
	name := fmt.Sprintf("rke2-sealed-%d-*", pid)
	// find fails when a directory goes away under it.
	out, _ := exec.CommandContext(t.Context(), "find", "/sys/fs/cgroup", "-type", "d", "-name", name).Output()
	states, err := filepath.Glob(filepath.Join(sealed.Base(), name))
	if err != nil {
		t.Fatal(err)
	}
	temporary, err := filepath.Glob(filepath.Join(os.TempDir(), "rke2-demo-*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(append(strings.Fields(string(out)), states...), temporary...)
}
