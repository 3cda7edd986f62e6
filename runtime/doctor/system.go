package doctor

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/preflight"
)

// kernel looks for what networks of pods are made with. Which of it is needed depends on
// the network plugin, so nothing here is a fault.
func kernel(in preflight.Input) preflight.Check {
	c := preflight.Check{Name: "kernel", Verdict: preflight.OK}
	k := in.Machine.Kernel()
	var have, missing, unsure []string
	for _, f := range []host.Feature{
		{Module: "br_netfilter", Option: "CONFIG_BRIDGE_NETFILTER", File: "proc/sys/net/bridge"},
		{Module: "bridge", Option: "CONFIG_BRIDGE"},
		{Module: "veth", Option: "CONFIG_VETH"},
		{Module: "vxlan", Option: "CONFIG_VXLAN"},
		{Module: "nf_conntrack", Option: "CONFIG_NF_CONNTRACK", File: "proc/sys/net/netfilter/nf_conntrack_max"},
		{Module: "nf_tables", Option: "CONFIG_NF_TABLES"},
		{Module: "nf_nat", Option: "CONFIG_NF_NAT"},
	} {
		switch k.Has(f) {
		case host.Missing:
			missing = append(missing, f.Module)
		case host.Uncertain:
			unsure = append(unsure, f.Module)
		case host.Present, host.Loadable:
			have = append(have, f.Module)
		}
	}
	c.Found = fmt.Sprintf("%s has %s", k.Release, strings.Join(have, ", "))
	if len(unsure) > 0 {
		c.Found += "; it does not tell whether it has " + strings.Join(unsure, ", ")
	}
	if len(missing) > 0 {
		c.Verdict = preflight.Warn
		c.Found += "; it lacks " + strings.Join(missing, ", ")
		c.ToDo = "install the modules of the kernel that runs (" + k.Release + "), if your network plugin or network policies need them"
	}
	return c
}

// namespaces looks for those that every container gets.
func namespaces(in preflight.Input) preflight.Check {
	c := preflight.Check{Name: "namespaces", Verdict: preflight.OK}
	var have, missing []string
	for _, ns := range []string{"ipc", "mnt", "net", "pid", "uts", "cgroup", "user"} {
		switch {
		case in.Machine.Exists("proc/self/ns/" + ns):
			have = append(have, ns)
		case ns != "user": // an option of pods
			missing = append(missing, ns)
		}
	}
	c.Found = strings.Join(have, ", ")
	if len(missing) > 0 {
		c.Verdict, c.Found = preflight.Fail, "the kernel has no "+strings.Join(missing, ", ")+" namespaces"
		c.ToDo = "use a kernel that has them"
	}
	return c
}

// capabilities looks for what a node's process must be allowed to do. Root in a container
// lacks some.
func capabilities(in preflight.Input) preflight.Check {
	c := preflight.Check{Name: "capabilities", Verdict: preflight.OK, Found: "all that a node needs"}
	must, err := in.Machine.Lacks(host.CapSysAdmin, host.CapNetAdmin, host.CapChown, host.CapDACOverride, host.CapKill, host.CapSetUID, host.CapSetGID, host.CapSysChroot, host.CapMknod)
	if err != nil {
		c.Verdict, c.Found, c.ToDo = preflight.Warn, err.Error(), "mount /proc"
		return c
	}
	if len(must) > 0 {
		c.Verdict, c.Found, c.ToDo = preflight.Fail, "this process lacks "+names(must), "run rke2 on the host itself, as root"
		return c
	}
	var lacks, so []string
	for _, may := range []struct {
		capability host.Capability
		without    string
	}{
		{host.CapSysResource, "control-plane pods are not protected from the OOM killer"},
		{host.CapSysModule, "kernel modules must be loaded beforehand"},
		{host.CapSysPtrace, "it is not seen which program of another user has a port"},
		{host.CapNetRaw, "network plugins may not start"},
	} {
		if missing, err := in.Machine.Lacks(may.capability); err == nil && len(missing) > 0 {
			lacks, so = append(lacks, may.capability.String()), append(so, may.without)
		}
	}
	if len(lacks) > 0 {
		c.Verdict, c.Found = preflight.Warn, "this process lacks "+strings.Join(lacks, ", ")
		c.ToDo = "grant it if you can; without it " + strings.Join(so, "; ")
	}
	return c
}

func names(of []host.Capability) string {
	var out []string
	for _, c := range of {
		out = append(out, c.String())
	}
	return strings.Join(out, ", ")
}

// Limits below which nodes with an ordinary number of pods have been seen to fail.
const (
	minFiles     = 65536 // open files of a process
	minInstances = 512   // of inotify, for a user
	minWatches   = 65536
	minPIDs      = 32768
)

// limits looks at those of the kernel that many pods reach.
func limits(in preflight.Input) preflight.Check {
	c := preflight.Check{Name: "limits", Verdict: preflight.OK}
	var found, todo []string
	if hard, ok := openFiles(in.Machine); ok {
		found = append(found, fmt.Sprintf("%d open files", hard))
		if hard < minFiles {
			todo = append(todo, fmt.Sprintf("raise the limit of open files (LimitNOFILE=1048576 in the unit) from %d", hard))
		}
	}
	for _, l := range []struct {
		key, what string
		least     int64
	}{
		{"fs.inotify.max_user_instances", "inotify instances", minInstances},
		{"fs.inotify.max_user_watches", "inotify watches", minWatches},
		{"kernel.pid_max", "process ids", minPIDs},
	} {
		text, err := in.Machine.ReadFile("proc/sys/" + strings.ReplaceAll(l.key, ".", "/"))
		n, bad := strconv.ParseInt(text, 10, 64)
		if err != nil || bad != nil {
			continue
		}
		found = append(found, fmt.Sprintf("%d %s", n, l.what))
		if n < l.least {
			todo = append(todo, fmt.Sprintf("sysctl -w %s=%d (in /etc/sysctl.d, too)", l.key, l.least))
		}
	}
	c.Found = strings.Join(found, ", ")
	if len(todo) > 0 {
		c.Verdict, c.ToDo = preflight.Warn, strings.Join(todo, "; ")
	}
	return c
}

// openFiles is the hard limit, to which a process may raise its own.
func openFiles(m host.Machine) (int64, bool) {
	text, err := m.ReadFile("proc/self/limits")
	if err != nil {
		return 0, false
	}
	for _, line := range strings.Split(text, "\n") {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if f := strings.Fields(rest); len(f) > 1 {
				hard, err := strconv.ParseInt(f[1], 10, 64)
				return hard, err == nil
			}
		}
	}
	return 0, false
}

// swap is used for pods only if the kubelet is told so.
func swap(in preflight.Input) preflight.Check {
	c := preflight.Check{Name: "swap", Verdict: preflight.OK, Found: "none"}
	text, err := in.Machine.ReadFile("proc/swaps")
	if lines := strings.Split(text, "\n"); err == nil && len(lines) > 1 {
		var devices []string
		for _, l := range lines[1:] {
			if f := strings.Fields(l); len(f) > 0 {
				devices = append(devices, f[0])
			}
		}
		c.Verdict, c.Found = preflight.Warn, "on "+strings.Join(devices, ", ")
		c.ToDo = "swapoff -a, and take it out of /etc/fstab: etcd and the kubelet's memory limits suffer from it"
	}
	return c
}
