//go:build linux

package ingress

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/rancher/rke2/tests/imagefs"
)

const (
	insideVar = "RKE2_TEST_INGRESS_INSIDE" // name of the test that has its namespaces
	workVar   = "RKE2_TEST_INGRESS_WORK"   // a folder that the test outside removes
	imageName = "nginx-ingress-controller"
	limit     = 3 * time.Minute
)

// Addresses of this world, all on its loopback interface.
var addresses = []string{"10.20.0.1/32", "10.20.0.2/32", "10.20.0.3/32", "fd00:20::1/128", "fd00:20::2/128"}

// inside tells whether the test runs in namespaces of its own. If not, it runs it there
// and reports what came of it.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVar) == t.Name() {
		if err := enter(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces and chroot")
	}
	layout := filepath.Join(dist(t), "oci")
	if _, err := imagefs.Find(layout, imageName, runtime.GOARCH); err != nil {
		t.Fatalf("%v\nrun make airgap first, or set RKE2_DIST", err)
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout="+limit.String())
	cmd.Env = append(os.Environ(), insideVar+"="+t.Name(), workVar+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	start := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("in its namespaces, after %s:\n%s", time.Since(start).Round(time.Millisecond), out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatal("the test did not run in its namespaces")
	}
	return false
}

// enter makes the new namespaces fit to live in.
func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("setting the loopback interface up: %w", err)
	}
	for _, a := range addresses {
		address, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, address); err != nil {
			return fmt.Errorf("adding %s: %w", a, err)
		}
	}
	// As containerd does for pods (enable_unprivileged_ports).
	return os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0o644)
}

func dist(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("RKE2_DIST")
	if dir == "" {
		dir = filepath.Join("..", "..", "dist")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// container is the image's root file system, with what a container runtime adds.
type container struct {
	t    *testing.T
	root string
	args []string // entrypoint and command
	env  []string
}

func newContainer(t *testing.T) *container {
	t.Helper()
	i, err := imagefs.Find(filepath.Join(dist(t), "oci"), imageName, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	c := &container{t: t, root: filepath.Join(os.Getenv(workVar), "root"), args: append(i.Config.Entrypoint, i.Config.Cmd...), env: i.Config.Env}
	if i.Config.User != "101:82" {
		t.Errorf("the image's user is %q; these tests run it as 101:82", i.Config.User)
	}
	if err := os.Mkdir(c.root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := i.Unpack(c.root, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.mount(); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *container) mount() error {
	for _, m := range []struct {
		dir, kind string
		flags     uintptr
	}{
		{"proc", "proc", 0}, {"sys", "sysfs", unix.MS_RDONLY}, {"dev", "tmpfs", 0},
	} {
		at := filepath.Join(c.root, m.dir)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, at, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mounting /%s: %w", m.dir, err)
		}
	}
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "random": 8, "urandom": 9} {
		if err := unix.Mknod(filepath.Join(c.root, "dev", name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return fmt.Errorf("making /dev/%s: %w", name, err)
		}
		if err := os.Chmod(filepath.Join(c.root, "dev", name), 0o666); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, filepath.Join(c.root, "dev", name)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(c.root, "etc", "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644)
}

// write puts a file where the container's user can read it.
func (c *container) write(path, content string) {
	c.t.Helper()
	at := filepath.Join(c.root, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// command runs as the image's user in the image.
func (c *container) command(env []string, args ...string) *exec.Cmd {
	return &exec.Cmd{
		Path: args[0], Args: args, Dir: "/etc/nginx", Env: append(append([]string{}, c.env...), env...),
		SysProcAttr: &syscall.SysProcAttr{Chroot: c.root, Credential: &syscall.Credential{Uid: 101, Gid: 82, NoSetGroups: false}},
	}
}

// process is one that was started and is killed with the test.
type process struct {
	cmd  *exec.Cmd
	name string
	log  string
	done chan struct{}
	err  error // once done is closed
}

func start(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, name: name, log: filepath.Join(os.Getenv(workVar), name+".log"), done: make(chan struct{})}
	f, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Chmod(0o666); err != nil { // the container opens it again as /dev/stdout
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s said at last:\n%s", name, p.last(40))
		}
	})
	return p
}

func (p *process) said() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// last gives the last lines that are of interest.
func (p *process) last(n int) string {
	var lines []string
	for _, l := range strings.Split(p.said(), "\n") {
		if !strings.Contains(l, "shared_informer") && !strings.Contains(l, "Go-http-client") && !strings.Contains(l, "empty byte size") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// until waits for a condition, as long as the process lives.
func (p *process) until(t *testing.T, what string, limit time.Duration, ok func() error) {
	t.Helper()
	last, deadline := error(nil), time.Now().Add(limit)
	for time.Now().Before(deadline) {
		if last = ok(); last == nil {
			return
		}
		select {
		case <-p.done:
			t.Fatalf("waiting until %s: %s exited: %v", what, p.name, p.err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	t.Fatalf("waiting until %s, %s: %v", what, limit, last)
}
