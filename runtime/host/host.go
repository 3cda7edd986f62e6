// Package host tells what a Linux host can and cannot do, as far as a
// Kubernetes node has to know before it starts.
package host

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// capSysResource is CAP_SYS_RESOURCE of capabilities(7).
const capSysResource = 24

// Facts are what Detect found. A field is true where the host constrains the node.
type Facts struct {
	// NoSysResource: the process lacks CAP_SYS_RESOURCE, so nothing can lower
	// an oom_score_adj, which runc does for every critical pod.
	NoSysResource bool
	// CgroupV1: the controllers are mounted as cgroup v1 (or hybrid), which the
	// kubelet refuses by default from Kubernetes 1.35 on.
	CgroupV1 bool
}

// Detect reads the facts of the host that this process runs on.
func Detect() (Facts, error) {
	noSysResource, err := lacksCapability("/proc/self/status", capSysResource)
	if err != nil {
		return Facts{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return Facts{}, fmt.Errorf("looking at /sys/fs/cgroup: %w (mount the cgroup file system first)", err)
	}
	return Facts{
		NoSysResource: noSysResource,
		CgroupV1:      fs.Type != unix.CGROUP2_SUPER_MAGIC,
	}, nil
}

// Warnings is one sentence for each constraint: what it is and what the node
// does about it.
func (f Facts) Warnings() []string {
	var w []string
	if f.NoSysResource {
		w = append(w, "this host does not grant CAP_SYS_RESOURCE: OOM scores cannot be lowered, so containers start with restrict_oom_score_adj and control-plane pods are not protected from the OOM killer")
	}
	if f.CgroupV1 {
		w = append(w, "this host uses cgroup v1, which Kubernetes has deprecated: the kubelet runs with --fail-cgroupv1=false; boot with systemd.unified_cgroup_hierarchy=1 to move to cgroup v2")
	}
	return w
}

// lacksCapability reads the effective set of a proc(5) status file.
func lacksCapability(status string, capability uint) (bool, error) {
	file, err := os.Open(status)
	if err != nil {
		return false, fmt.Errorf("reading this process's capabilities: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		value, ok := strings.CutPrefix(lines.Text(), "CapEff:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return false, fmt.Errorf("reading this process's capabilities: %s: %w", status, err)
		}
		return set&(1<<capability) == 0, nil
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("reading this process's capabilities: %w", err)
	}
	return false, fmt.Errorf("reading this process's capabilities: %s has no CapEff line", status)
}
