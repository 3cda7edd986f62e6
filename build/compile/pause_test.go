package compile

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/images"
)

// pause builds the real component from the declarations.
func pause(t *testing.T) (images.Component, Binary) {
	t.Helper()
	tree, err := images.Load(filepath.Join("..", "..", "images"))
	if err != nil {
		t.Fatal(err)
	}
	c, ok := tree.Component("pause")
	if !ok {
		t.Fatal("there is no component pause")
	}
	a, _ := compile(t, newCompiler(t), c)
	return c, a.Binaries[0]
}

func TestPause(t *testing.T) {
	c, a := pause(t)
	_, b := pause(t)
	if a.SHA256 != b.SHA256 {
		t.Error("two caches, two different binaries")
	}
	if got := run(t, a.Path, "-v"); strings.TrimSpace(got) != "pause "+c.Version {
		t.Errorf("it says %q", got)
	}
}

func TestPauseEndsWhenTold(t *testing.T) {
	_, b := pause(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd := exec.Command(b.Path)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := bufio.NewReader(stderr)
		// It warns that it is not process 1 once it listens to signals.
		if first, err := said.ReadString('\n'); err != nil || !strings.Contains(first, "not process 1") {
			t.Errorf("it says %q, %v", first, err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		var last string
		go func() {
			last, _ = said.ReadString('\n')
			done <- cmd.Wait()
		}()
		select {
		case err := <-done:
			if err != nil || !strings.Contains(last, "shutting down") {
				t.Errorf("%s: %v: %s", sig, err, last)
			}
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			t.Errorf("%s: it stays", sig)
		}
	}
}

// As process 1 of a pod it reaps orphans of other containers.
func TestPauseReaps(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	_, b := pause(t)
	cmd := exec.Command(b.Path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	time.Sleep(200 * time.Millisecond)
	// The shell ends at once, and leaves its child to process 1.
	out, err := exec.Command("nsenter", "--pid", "--target", fmt.Sprint(cmd.Process.Pid), "sh", "-c", "sleep 0.5 >/dev/null 2>&1 &").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if n := len(children(t, cmd.Process.Pid)); n != 1 {
		t.Fatalf("%d orphans: the test found no way to make one", n)
	}
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if len(children(t, cmd.Process.Pid)) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("still there: %v", children(t, cmd.Process.Pid))
}

// children lists the processes whose parent is pid, zombies too.
func children(t *testing.T, pid int) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range stats {
		data, err := os.ReadFile(s)
		if err != nil {
			continue // gone meanwhile
		}
		// pid (comm) state ppid …; comm may hold anything.
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(fields) > 1 && fields[1] == fmt.Sprint(pid) {
			out = append(out, strings.TrimSpace(string(data)))
		}
	}
	return out
}
