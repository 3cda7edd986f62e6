//go:build linux

package sealed_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
)

func TestHostIsAMachineOfItsOwn(t *testing.T) {
	h := newHost(t, sealed.Options{Name: "alone", Env: []string{"COLOUR=green"}})
	for _, c := range []struct{ what, script, want string }{
		{"host name", "hostname", "alone"},
		{"init is process 1", "cat /proc/1/cmdline | tr -d '\\0'", "rke2-sealed-init"},
		{"own cgroup is the root", "cut -d: -f3 /proc/self/cgroup | sort -u", "/"},
		{"own address", "ip -4 -o addr show scope global | awk '{print $2, $4}'", "eth0 198.51.100.10/24"},
		{"default route", "ip route show default", "default via 198.51.100.1 dev eth0"},
		{"two devices", "ls /sys/class/net", "eth0\nlo"},
		{"environment", "echo $COLOUR", "green"},
		{"foreign environment", "env | grep -ic _proxy || true", "0"},
		{"nothing of a node that the machine may be", "ls -A /etc/rancher /etc/cni /usr/local/bin /var/lib/rancher | grep -v : | grep . || true", ""},
		{"mounts propagate", "findmnt -no PROPAGATION /", "shared"},
	} {
		if got := strings.TrimSpace(run(t, h, c.script)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestHostWritesNothingOutside(t *testing.T) {
	before, err := sealed.Count()
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, sealed.Options{Name: "writer"})
	const mark = "rke2-sealed-test-mark"
	run(t, h, `
		for d in /usr /etc /opt /var/lib /root /tmp /run; do touch $d/`+mark+`; done
		echo 7 >/proc/sys/vm/overcommit_memory; echo 7 >/proc/sys/kernel/panic
		mkdir /mnt/m; mount -t tmpfs none /mnt/m
		ip netns add inner; ip link add near type veth peer name far`)
	if got := run(t, h, "cat /proc/sys/kernel/panic"); got != "7\n" {
		t.Errorf("setting reads %q inside", got)
	}
	for _, d := range []string{"/usr", "/etc", "/opt", "/var/lib", "/root", "/tmp", "/run"} {
		if _, err := os.Lstat(filepath.Join(d, mark)); err == nil {
			t.Errorf("%s/%s shows outside", d, mark)
		}
	}
	now, err := sealed.Count()
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range now.Since(before) {
		if !strings.HasPrefix(item, "cgroup ") && !strings.HasPrefix(item, "process ") && !strings.HasPrefix(item, "state directory ") {
			t.Errorf("shows outside: %s", item)
		}
	}
}

func TestHostSeesBinds(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("from outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, sealed.Options{Name: "binds", Binds: []sealed.Bind{
		{Source: file, Target: "/var/lib/rancher/rke2/agent/images/file"},
		{Source: dir, Target: "/shared", Writable: true},
	}})
	if got := run(t, h, "cat /var/lib/rancher/rke2/agent/images/file"); got != "from outside\n" {
		t.Errorf("bound file reads %q", got)
	}
	if err := h.Command(t.Context(), "sh", "-c", "echo x >/var/lib/rancher/rke2/agent/images/file").Run(); err == nil {
		t.Error("a read-only bind was written")
	}
	run(t, h, "echo back >/shared/answer")
	if b, err := os.ReadFile(filepath.Join(dir, "answer")); err != nil || string(b) != "back\n" {
		t.Errorf("writable bind: %q, %v", b, err)
	}
}

func TestHostThatCannotStartLeavesNothing(t *testing.T) {
	skipUnsupported(t)
	before, err := sealed.Count()
	if err != nil {
		t.Fatal(err)
	}
	_, err = sealed.New(t.Context(), sealed.Options{Name: "broken", Binds: []sealed.Bind{{Source: "/does/not/exist", Target: "/x"}}})
	if err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("error %v does not name what is missing", err)
	}
	noLeaks(t, before)
	for _, name := range []string{"", "Upper", "a/b", "-x", strings.Repeat("x", 40)} {
		if _, err := sealed.New(t.Context(), sealed.Options{Name: name}); err == nil {
			t.Errorf("host name %q was taken", name)
		}
	}
}

func TestRebootKeepsTheDiskOnly(t *testing.T) {
	h := newHost(t, sealed.Options{Name: "phoenix"})
	run(t, h, "echo kept >/var/lib/rancher/kept; echo kept >/etc/kept; echo lost >/run/lost; echo 7 >/proc/sys/kernel/panic; ip addr add 198.51.100.99/24 dev eth0")
	sleeper, err := h.Start(t.Context(), "sleeper", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	first := h.Init()
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Wait(); err == nil {
		t.Error("a process outlived the reboot")
	}
	if ps, err := h.Processes(); err != nil || len(ps) != 0 {
		t.Errorf("processes after the reboot: %v, %v", ps, err)
	}
	if h.Init() == first {
		t.Error("the same init runs")
	}
	if got := run(t, h, "cat /var/lib/rancher/kept /etc/kept; ls /run; ip -4 -o addr show eth0 | wc -l"); got != "kept\nkept\nlock\n1\n" {
		t.Errorf("after the reboot: %q", got)
	}
	if got := run(t, h, "cat /proc/sys/kernel/panic"); got == "7\n" {
		t.Error("a setting outlived the reboot")
	}
}

func TestStateIsKeptForANewHost(t *testing.T) {
	skipUnsupported(t)
	if err := os.MkdirAll(sealed.Base(), 0o755); err != nil {
		t.Fatal(err)
	}
	state, err := os.MkdirTemp(sealed.Base(), "kept-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(state); err != nil {
			t.Error(err)
		}
	})
	for i, want := range []string{"", "written\n"} {
		h := newHost(t, sealed.Options{Name: "again", State: state})
		if got := run(t, h, "cat /var/lib/rancher/note 2>/dev/null || true"); got != want {
			t.Errorf("host %d reads %q, want %q", i, got, want)
		}
		run(t, h, "echo written >/var/lib/rancher/note")
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(h.Disk("/var/lib/rancher/note")); err != nil || string(b) != "written\n" {
			t.Errorf("disk of the closed host: %q, %v", b, err)
		}
	}
}

func TestProcessesAreTheHostsOnly(t *testing.T) {
	h := newHost(t, sealed.Options{Name: "busy"})
	if ps, err := h.Processes(); err != nil || len(ps) != 0 {
		t.Fatalf("idle host: %v, %v", ps, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c, err := h.Start(ctx, "tree", "sh", "-c", "sleep 1001 & unshare --pid --fork sleep 1002")
	if err != nil {
		t.Fatal(err)
	}
	var sleeps []sealed.Process
	if err := sealed.Wait(t.Context(), "two sleeps", 5*time.Second, func(context.Context) error {
		sleeps, err = h.Find("sleep")
		if err == nil && len(sleeps) != 2 {
			err = os.ErrNotExist
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range sleeps {
		if p.Inside == 0 || p.Inside == p.Pid || p.PeakRSS == 0 || !slices.Contains(p.Args, "1001") && !slices.Contains(p.Args, "1002") {
			t.Errorf("strange process %+v", p)
		}
	}
	cancel()
	if err := c.Wait(); err == nil {
		t.Error("a command whose context is done ended well")
	}
	if err := sealed.Wait(t.Context(), "an idle host", 5*time.Second, func(context.Context) error {
		ps, err := h.Processes()
		if err == nil && len(ps) != 0 {
			err = os.ErrExist
		}
		return err
	}); err != nil {
		ps, _ := h.Processes()
		t.Errorf("%v: %v", err, ps)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	h := newHost(t, sealed.Options{Name: "orphans"})
	run(t, h, "for i in 1 2 3 4 5 6 7 8; do (setsid sleep 0.1 &) ; done")
	time.Sleep(300 * time.Millisecond)
	if got := run(t, h, "grep -c '^State:.*Z' /proc/[0-9]*/status | grep -v ':0$' || true"); got != "" {
		t.Errorf("zombies: %s", got)
	}
}

func noLeaks(t *testing.T, before sealed.Census) {
	t.Helper()
	left, err := sealed.Leaks(before, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range left {
		t.Errorf("left behind: %s", item)
	}
}
