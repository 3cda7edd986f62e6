//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

const (
	media        = "/srv/usb stick" // a name as volumes have them
	notifySocket = "/run/notify.sock"
)

// TestInstall takes a host through what an operator does with a release: install.sh from
// a disk, a node that boots from what it put there, the same again, rke2-killall.sh,
// another boot, rke2-uninstall.sh. systemd does not run here (in TestSystemd it does);
// what its units ask of rke2 and of the scripts is done by hand.
func TestInstall(t *testing.T) {
	p := products(t)
	s := &scenario{Node: newNode(t, node.Options{
		Name:    "installed",
		Plugins: plugins(t, p),
		Env:     []string{"NOTIFY_SOCKET=" + notifySocket, "INSTALL_RKE2_TAR_PREFIX=/usr/local"},
	})}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	dropIn(ctx, t, p, s.Disk(media))
	notified := listen(t, s.Path(notifySocket))
	clean, kernel := hostFiles(t, s), kernelState(ctx, t, s)

	started := time.Now()
	sh(ctx, t, s, media+"/install.sh")
	report(t, "install.sh: verify, copy, all sets", time.Since(started))
	for _, want := range []string{"/usr/local/bin/rke2", node.ImagesDir + "/rke2-images-core.linux-amd64.tar"} {
		if _, err := os.Stat(s.Path(want)); err != nil {
			t.Fatal(err)
		}
	}

	// The operator's own images, beside.
	bundles, _ := operatorsBundles(t)
	if err := copyFile(bundles[0], s.Path(node.ImagesDir+"/site-probe.tar")); err != nil {
		t.Fatal(err)
	}
	boot(ctx, t, s, "install.sh to")
	select {
	case word := <-notified:
		if !slices.Contains(strings.Split(word, "\n"), "READY=1") {
			t.Errorf("rke2 told systemd %q", word)
		}
	case <-time.After(stepLimit):
		t.Error("rke2 never told systemd that it is ready")
	}
	runsPod(ctx, t, s)

	out := sh(ctx, t, s, media+"/install.sh")
	if strings.Contains(out, "installed  ") {
		t.Errorf("installing what is installed said\n%s", out)
	}

	// All of it runs now: the node, its pods, one of them with a network of its own.
	sh(ctx, t, s, "/usr/local/bin/rke2-killall.sh")
	nothingRuns(ctx, t, s, kernel)
	boot(ctx, t, s, "after rke2-killall.sh, start to")
	if err := s.Stop(ctx, stopLimit); err != nil {
		t.Errorf("rke2 did not end well after SIGTERM: %v\n%s", err, s.LastWords())
	}

	// rke2 is stopped and the pods are not, as systemctl stop leaves it; and they have lost
	// their shims, so nothing but their cgroups tells whose they are.
	shims, err := s.Find("containerd-shim-runc-v2")
	if err != nil || len(shims) == 0 {
		t.Errorf("no pod runs after rke2 was stopped: %v", err)
	}
	for _, p := range shims {
		if err := syscall.Kill(p.Pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	// Not etcd or the like: they may end by writing a line that nobody reads now.
	if left, err := s.Find("pause"); err != nil || len(left) == 0 {
		t.Errorf("no pod's sandbox has outlived its shim: %v", err)
	}
	sh(ctx, t, s, "/usr/local/bin/rke2-uninstall.sh")
	nothingRuns(ctx, t, s, kernel)
	for _, line := range node.Difference(clean, hostFiles(t, s)) {
		switch {
		// Configuration is rke2's, whoever wrote it; and empty folders of its name.
		case strings.HasPrefix(line, "- /etc/rancher/rke2"), strings.HasPrefix(line, "- /var/lib/") && strings.Contains(line, ": d"):
		case strings.HasPrefix(line, "+ /run/mount"): // umount's own notes
		default:
			t.Errorf("uninstalled: %s", line)
		}
	}
	if _, err := os.Stat(s.Path("/etc/rancher/rke2")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("/etc/rancher/rke2 is left: %v", err)
	}
	reachedNothing(ctx, t, s)
}

// dropIn lays the release out as `make release` does.
func dropIn(ctx context.Context, t *testing.T, p node.Products, dir string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, p.Build, "drop-in", "--dist", p.Dir, "--out", dir, "--platform", "linux/amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// sh runs a script of the host's and gives what it said.
func sh(ctx context.Context, t *testing.T, s *scenario, script string) string {
	t.Helper()
	out, err := s.Command(ctx, "sh", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	t.Logf("%s\n%s", script, out)
	return string(out)
}

func boot(ctx context.Context, t *testing.T, s *scenario, what string) {
	t.Helper()
	node.NextSecond()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, what+" node Ready", time.Since(s.Started()))
	if err := s.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
}

// listen is systemd's end of sd_notify(3). What rke2 is at, which it tells all along, is
// not passed on.
func listen(t *testing.T, path string) <-chan string {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	words := make(chan string, 16)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			word := string(buf[:n])
			if strings.HasPrefix(word, "STATUS=") && !strings.Contains(word, "\n") {
				continue
			}
			select {
			case words <- word:
			default: // nobody listens any more
			}
		}
	}()
	return words
}

// hostFiles are the files of the host where something could be installed or left.
func hostFiles(t *testing.T, s *scenario) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range []string{"/etc", "/usr/local", "/usr/lib/systemd", "/usr/libexec", "/opt", "/var", "/run", "/home", "/mnt", "/tmp"} {
		for name, text := range listing(t, s, dir) {
			if kind := text[0]; kind != 'd' || name != "." {
				all[filepath.Join(dir, name)] = text
			}
		}
	}
	return all
}

// kernelState is what the kernel holds for the host: mounts, interfaces, named network
// namespaces, control groups, rules.
func kernelState(ctx context.Context, t *testing.T, s *scenario) map[string]string {
	t.Helper()
	state := map[string]string{}
	for what, script := range map[string]string{
		"mount":     `cut -d ' ' -f 5 /proc/self/mountinfo | sort | uniq -c`,
		"interface": `ls /sys/class/net`,
		"namespace": `ls /run/netns 2>/dev/null || true`,
		"cgroup":    `find /sys/fs/cgroup -type d -path '*kubepods*'`,
		"rule":      `iptables-save | sed -n -e '/^-A/p' -e 's/^\(:[^ ]* -\) .*/\1/p' | sort | uniq -c`,
	} {
		out, err := s.Command(ctx, "sh", "-c", script).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		for line := range strings.Lines(string(out)) {
			state[what+" "+strings.TrimSpace(line)] = ""
		}
	}
	return state
}

// nothingRuns: no process, and the kernel holds what it held before.
func nothingRuns(ctx context.Context, t *testing.T, s *scenario, before map[string]string) {
	t.Helper()
	err := sealed.Wait(ctx, "processes to be gone", 5*time.Second, func(context.Context) error {
		left, err := s.Processes()
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d processes are left, such as %q", len(left), left[0].Args)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	after := kernelState(ctx, t, s)
	for _, key := range slices.Sorted(maps.Keys(after)) {
		if _, ok := before[key]; !ok {
			t.Errorf("left: %s", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[key]; !ok {
			t.Errorf("gone, and was not rke2's: %s", key)
		}
	}
}
