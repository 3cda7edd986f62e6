// Package host tells what a Linux host can and cannot do, as far as a
// Kubernetes node has to know before it starts.
package host

import "golang.org/x/sys/unix"

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
func Detect() (Facts, error) { return This().Facts() }

// Facts reads what constrains the node. A machine without cgroups is for a check to
// refuse.
func (m Machine) Facts() (Facts, error) {
	lacks, err := m.Lacks(CapSysResource)
	if err != nil {
		return Facts{}, err
	}
	magic, err := m.CgroupMagic()
	return Facts{NoSysResource: len(lacks) > 0, CgroupV1: err == nil && magic != unix.CGROUP2_SUPER_MAGIC}, nil
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
