//go:build linux

package sealed_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
)

// stubborn is what a node may look like when it must go: processes that ignore
// signals, mounts, namespaces below its own, cgroups with processes in them.
const stubborn = `
	trap '' TERM INT HUP
	mkdir -p /mnt/m; mount -t tmpfs none /mnt/m
	ip netns add inner
	for c in memory pids systemd unified .; do
		if [ -e /sys/fs/cgroup/$c/cgroup.procs ]; then
			mkdir -p /sys/fs/cgroup/$c/pods/pod1 && { (sleep 1000 & echo $! >/sys/fs/cgroup/$c/pods/pod1/cgroup.procs) || true; }
		fi
	done
	setsid unshare --mount --pid --fork sh -c 'trap "" TERM; sleep 1000; sleep 1000' &
	ip netns exec inner sleep 1000 &
	echo settled
	sleep 1000; sleep 1000`

func TestCloseLeavesNothing(t *testing.T) {
	before, err := sealed.Count()
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, sealed.Options{Name: "stubborn"})
	if _, err := h.Start(t.Context(), "stubborn", "sh", "-c", stubborn); err != nil {
		t.Fatal(err)
	}
	settled(t, h)
	if now, err := sealed.Count(); err != nil || len(now.Since(before)) < 10 {
		t.Fatalf("the census misses a running host: %v, %v", now.Since(before), err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := h.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	noLeaks(t, before)
}

// TestDeathOfTheKeeper: the host ends with it, Close says what happened and does
// its work.
func TestDeathOfTheKeeper(t *testing.T) {
	skipUnsupported(t)
	before, err := sealed.Count()
	if err != nil {
		t.Fatal(err)
	}
	h, err := sealed.New(t.Context(), sealed.Options{Name: "orphan"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Start(t.Context(), "stubborn", "sh", "-c", stubborn); err != nil {
		t.Fatal(err)
	}
	settled(t, h)
	if err := syscall.Kill(parentOf(t, h.Init()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err == nil || !strings.Contains(err.Error(), "keeper died") {
		t.Errorf("Close says %v", err)
	}
	noLeaks(t, before)
}

func TestContextEndsTheHost(t *testing.T) {
	before, err := sealed.Count()
	if err != nil {
		t.Fatal(err)
	}
	skipUnsupported(t)
	ctx, cancel := context.WithCancel(t.Context())
	h, err := sealed.New(ctx, sealed.Options{Name: "cancelled"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Start(t.Context(), "stubborn", "sh", "-c", stubborn); err != nil {
		t.Fatal(err)
	}
	settled(t, h)
	cancel()
	if err := sealed.Wait(t.Context(), "the host to end", 10*time.Second, func(context.Context) error {
		if h.Init() != 0 {
			return os.ErrExist
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	noLeaks(t, before)
}

func settled(t *testing.T, h *sealed.Host) {
	t.Helper()
	if err := sealed.Wait(t.Context(), "a stubborn host", 10*time.Second, func(context.Context) error {
		b, err := os.ReadFile(h.LogFile("stubborn"))
		if err == nil && !strings.Contains(string(b), "settled") {
			err = fmt.Errorf("log: %s", b)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// holdVar makes this test binary a program that holds a host and then ends in
// the way that the variable names.
const holdVar = "RKE2_SEALED_TEST_HOLD"

// holdHost makes a host, says where, and waits. In a way that speaks of a joined
// one, the host is on a switch.
func holdHost(how string) {
	opts := sealed.Options{Name: "held"}
	var err error
	if strings.Contains(how, "joined") {
		opts.Switch, err = sealed.NewSwitch(context.Background())
	}
	var h *sealed.Host
	if err == nil {
		h, err = sealed.New(context.Background(), opts)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if _, err := h.Start(context.Background(), "stubborn", "sh", "-c", stubborn); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for {
		b, _ := os.ReadFile(h.LogFile("stubborn"))
		if strings.Contains(string(b), "settled") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	fmt.Println(h.Init(), h.State())
	if how == "panic" {
		<-told
		panic("as a test would")
	}
	time.Sleep(time.Minute)
}

// TestDeathOfTheCaller ends a program that holds a host in every way a program
// can end, and looks for what is left.
func TestDeathOfTheCaller(t *testing.T) {
	skipUnsupported(t)
	for _, c := range []struct {
		how    string
		signal syscall.Signal
		keeper bool // is killed too
	}{
		{how: "panic", signal: syscall.SIGUSR1},
		{how: "interrupt", signal: syscall.SIGINT},
		{how: "terminate", signal: syscall.SIGTERM},
		{how: "kill", signal: syscall.SIGKILL},
		{how: "kill with keeper", signal: syscall.SIGKILL, keeper: true},
		{how: "kill, joined", signal: syscall.SIGKILL},
		{how: "kill with keeper, joined", signal: syscall.SIGKILL, keeper: true},
	} {
		t.Run(c.how, func(t *testing.T) {
			init, state, program := holder(t, c.how)
			cgroup := filepath.Base(state)
			if len(cgroupsOnDisk(t, cgroup)) == 0 {
				t.Fatal("the held host has no cgroup")
			}
			keeper := parentOf(t, init)
			space := networkOf(t, keeper)
			if c.signal != 0 {
				if err := program.Process.Signal(c.signal); err != nil {
					t.Fatal(err)
				}
			}
			if c.keeper {
				if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			_ = program.Wait()
			err := sealed.Wait(t.Context(), "the host to go", 20*time.Second, func(context.Context) error {
				for _, pid := range []int{init, keeper} {
					if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(b), "rke2-sealed") {
						return fmt.Errorf("process %d is there", pid)
					}
				}
				if n := users(t, space); n > 0 {
					return fmt.Errorf("%d threads or files hold the far end of its wire", n)
				}
				if left := cgroupsOnDisk(t, cgroup); len(left) > 0 && !c.keeper {
					return fmt.Errorf("cgroups %s", left)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			removed, err := sealed.Sweep()
			if err != nil {
				t.Error(err)
			}
			if c.keeper && len(removed) < 2 {
				t.Errorf("sweeping removed only %v", removed)
			}
			if _, err := os.Stat(state); err == nil {
				t.Errorf("%s is there", state)
			}
			if left := cgroupsOnDisk(t, cgroup); len(left) > 0 {
				t.Errorf("cgroups %s", left)
			}
		})
	}
}

func holder(t *testing.T, how string) (init int, state string, program *exec.Cmd) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program = exec.CommandContext(t.Context(), self)
	program.Env = append(os.Environ(), holdVar+"="+how)
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("held host: %q, %v", line, err)
	}
	number, state, ok := strings.Cut(strings.TrimSpace(line), " ")
	if init, err = strconv.Atoi(number); err != nil || !ok {
		t.Fatalf("held host: %q", line)
	}
	return init, state, program
}

// cgroupsOnDisk looks for a cgroup by name with find(1), not with the code that
// is under test.
func cgroupsOnDisk(t *testing.T, name string) []string {
	t.Helper()
	// find fails when a directory goes away under it.
	out, _ := exec.CommandContext(t.Context(), "find", "/sys/fs/cgroup", "-type", "d", "-name", name).Output()
	return strings.Fields(string(out))
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "PPid:"); ok {
			parent, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				t.Fatal(err)
			}
			return parent
		}
	}
	t.Fatalf("process %d has no parent", pid)
	return 0
}
