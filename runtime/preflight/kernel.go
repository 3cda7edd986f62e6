package preflight

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rancher/rke2/runtime/host"
)

// Cgroups looks for the controllers that the kubelet and runc need.
func Cgroups(in Input) Check {
	const name = "cgroups"
	c, err := in.Machine.Cgroups()
	if err != nil {
		return Check{Name: name, Verdict: Fail, Found: err.Error(), ToDo: "mount the cgroup file system at /sys/fs/cgroup"}
	}
	must, should := []string{"cpu", "cpuset", "memory"}, []string{"io", "pids"}
	if c.Version == 1 {
		must, should = []string{"cpu", "cpuacct", "cpuset", "devices", "memory"}, []string{"blkio", "freezer", "pids"}
	}
	lacks := func(of []string) []string {
		return slices.DeleteFunc(of, func(s string) bool { return slices.Contains(c.Controllers, s) })
	}
	check := ok(name, "version %d with %s", c.Version, and(c.Controllers))
	if missing := lacks(must); len(missing) > 0 {
		check.Verdict = Fail
		check.Found = fmt.Sprintf("version %d without %s", c.Version, and(missing))
		check.ToDo = "enable them: " + enable(c, missing)
		return check
	}
	if c.Version == 1 {
		check.Verdict = Warn
		check.ToDo = "boot with systemd.unified_cgroup_hierarchy=1: Kubernetes has deprecated cgroup v1, and the kubelet runs with --fail-cgroupv1=false"
	}
	if missing := lacks(should); len(missing) > 0 {
		check.Verdict = Warn
		check.Found += ", without " + and(missing)
		check.ToDo = strings.TrimPrefix(check.ToDo+"; limits of these do not work: "+enable(c, missing), "; ")
	}
	return check
}

func enable(c host.Cgroups, missing []string) string {
	if slices.ContainsFunc(missing, func(s string) bool { return slices.Contains(c.Disabled, s) }) {
		return fmt.Sprintf("the kernel was booted with them turned off; boot with cgroup_enable=%s and without cgroup_disable", strings.Join(missing, " cgroup_enable="))
	}
	if c.Version == 2 {
		return "they are not handed to this group: on the host (not in a container) /sys/fs/cgroup/cgroup.controllers must list them"
	}
	return "mount them below /sys/fs/cgroup, or use a kernel that has them"
}

// Filesystem looks for overlayfs, which containers' root file systems are made with.
func Filesystem(in Input) Check {
	const name = "overlayfs"
	if s := in.Config.Snapshotter; s != "" && s != "overlayfs" {
		return ok(name, "not needed: the snapshotter is %s", s)
	}
	if in.Machine.Filesystem("overlay") {
		return ok(name, "the kernel has it")
	}
	k := in.Machine.Kernel()
	if k.Has(host.Feature{Module: "overlay", Option: "CONFIG_OVERLAY_FS", FS: "overlay"}) == host.Missing {
		return Check{Name: name, Verdict: Fail, Found: fmt.Sprintf("the kernel %s has no overlayfs", k.Release),
			ToDo: "load it (modprobe overlay) or install the modules of the kernel that runs; or set snapshotter: native, which takes much more disk"}
	}
	return ok(name, "in a module")
}
