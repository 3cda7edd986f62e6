//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// managed is a host whose services systemd runs.
type managed struct {
	*scenario
	systemd int // its process, as the host has it
}

// TestSystemd installs a release on a host that has systemd, and does with the unit what
// an operator does: enable, stop, start, and a process that dies; then it uninstalls.
func TestSystemd(t *testing.T) {
	t.Parallel()
	p := products(t)
	h := &managed{scenario: &scenario{Node: newNode(t, node.Options{Name: "managed", Plugins: plugins(t, p)})}}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Minute)
	defer cancel()
	dropIn(ctx, t, p, h.Disk(media))
	h.boot(ctx, t)
	h.run(ctx, t, "sh", "-c", "INSTALL_RKE2_TAR_PREFIX=/usr/local sh '"+media+"/install.sh'")

	// Type=notify: systemctl returns when rke2 says that it is ready.
	enabled := time.Now()
	h.run(ctx, t, "systemctl", "enable", "--now", "rke2-server")
	if err := h.ReadySince(ctx, enabled, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "systemctl enable --now to node Ready", time.Since(enabled))
	if err := h.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	h.says(ctx, t, "StatusText", "running")
	// Its cgroups are made by systemd, as the kubelet asks where systemd is.
	h.run(ctx, t, "systemctl", "is-active", "kubepods.slice")
	before := h.containers(t)
	if len(before) < len(node.ControlPlane) {
		t.Fatalf("processes of containers: %v", before)
	}

	h.run(ctx, t, "systemctl", "stop", "rke2-server")
	h.says(ctx, t, "ActiveState", "inactive")
	h.says(ctx, t, "Result", "success")
	h.run(ctx, t, "systemctl", "start", "rke2-server")
	h.says(ctx, t, "ActiveState", "active")

	// It dies, and systemd starts it again after five seconds.
	node.NextSecond()
	killed := time.Now()
	process, err := strconv.Atoi(h.show(ctx, t, "MainPID"))
	if err != nil {
		t.Fatal(err)
	}
	h.run(ctx, t, "kill", "-KILL", strconv.Itoa(process))
	h.says(ctx, t, "NRestarts", "1")
	h.says(ctx, t, "ActiveState", "active")
	if err := h.ReadySince(ctx, killed, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "rke2 killed, to node Ready again by the one that systemd started", time.Since(killed))
	if after := h.containers(t); !maps.Equal(before, after) {
		t.Errorf("containers did not outlive rke2: %v before, %v after", before, after)
	}

	h.run(ctx, t, "/usr/local/bin/rke2-uninstall.sh")
	if left := h.run(ctx, t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "rke2*", "kubepods*", "cri-containerd*"); left != "" {
		t.Errorf("units are left:\n%s", left)
	}
	h.says(ctx, t, "LoadState", "not-found")
	if left := h.run(ctx, t, "find", "/sys/fs/cgroup", "-type", "d", "-path", "*kubepods*"); left != "" {
		t.Errorf("control groups are left:\n%s", left)
	}
	if left := h.containers(t); len(left) > 0 {
		t.Errorf("processes of containers are left: %v", left)
	}
	if _, err := os.Stat(h.Path(node.DataDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", node.DataDir, err)
	}
	reachedNothing(ctx, t, h.scenario)
}

// boot starts systemd as the first process of a namespace in the host. Units that see to
// the machine, which the host shares (its devices, kernel parameters, clock, disks), and
// timers that would download, are masked.
func (h *managed) boot(ctx context.Context, t *testing.T) {
	t.Helper()
	const units = "/lib/systemd/system"
	mask := []string{"timers.target", "systemd-remount-fs.service"}
	for _, dir := range []string{units, "/etc/systemd/system"} {
		entries, err := os.ReadDir(filepath.Join(dir, "sysinit.target.wants"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !strings.Contains(e.Name(), "journal") {
				mask = append(mask, e.Name())
			}
		}
	}
	script := "set -e\nmkdir -p /etc/systemd/system\n"
	for _, unit := range mask {
		script += "ln -sf /dev/null /etc/systemd/system/" + unit + "\n"
	}
	script += `cat >/etc/systemd/system/sealed.target <<'UNIT'
[Unit]
Requires=basic.target
After=basic.target
AllowIsolate=yes
UNIT
# The settings that the host has as files of its own, for the machine's are no test's to
# change: the new /proc gets copies.
own=$(awk '$5 ~ "^/proc/sys/" {print $5}' /proc/self/mountinfo)
[ -n "$own" ]
mkdir /run/settings
cp --parents $own /run/settings
export container=sealed own
exec unshare --pid --fork --kill-child --mount --propagation unchanged --mount-proc sh -ec '
  for f in $own; do mount --bind "/run/settings$f" "$f"; done
  exec /lib/systemd/systemd --system --unit=sealed.target'
`
	if _, err := h.Host.Start(ctx, "systemd", "sh", "-c", script); err != nil {
		t.Fatal(err)
	}
	err := sealed.Wait(ctx, "systemd", stepLimit, func(ctx context.Context) error {
		found, err := h.Find("systemd")
		if err != nil {
			return err
		}
		for _, p := range found {
			if len(p.Args) > 1 && p.Args[1] == "--system" {
				h.systemd = p.Inside
			}
		}
		if h.systemd == 0 {
			return errors.New("it does not run yet")
		}
		_, err = h.try(ctx, "systemctl", "is-active", "sealed.target")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// try runs a command where systemd is the first process.
func (h *managed) try(ctx context.Context, args ...string) (string, error) {
	out, err := h.Command(ctx, "nsenter", append([]string{"-t", strconv.Itoa(h.systemd), "-a"}, args...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

func (h *managed) run(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.try(ctx, args...)
	if err != nil {
		status, _ := h.try(ctx, "systemctl", "status", "--no-pager", "-n", "20", "rke2-server")
		t.Fatalf("%v\n%s", err, status)
	}
	return out
}

// show is a property of rke2's unit.
func (h *managed) show(ctx context.Context, t *testing.T, property string) string {
	t.Helper()
	return h.run(ctx, t, "systemctl", "show", "--value", "-p", property, "rke2-server")
}

// says waits until a property of rke2's unit is that.
func (h *managed) says(ctx context.Context, t *testing.T, property, want string) {
	t.Helper()
	if err := sealed.Wait(ctx, property+" to be "+want, stepLimit, func(ctx context.Context) error {
		got, err := h.try(ctx, "systemctl", "show", "--value", "-p", property, "rke2-server")
		if err == nil && got != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// containers are the processes of containers, by what tells them from later ones.
func (h *managed) containers(t *testing.T) map[string]string {
	t.Helper()
	processes, err := h.ContainerProcesses()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range processes {
		out[fmt.Sprintf("%d started at %d", p.Pid, p.Started)] = p.Name
	}
	return out
}
