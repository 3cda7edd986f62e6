package preflight

import (
	"maps"
	"testing"

	"github.com/rancher/rke2/runtime/cis"
)

func TestHardening(t *testing.T) {
	w := newWorld(t)
	verdict(t, Hardening(w.input()), OK, "none is set")
	w.in.Config.Profile = cis.CIS
	verdict(t, Hardening(w.input()), Fail, "not prepared", "vm.overcommit_memory is not there, must be 1", "user and group etcd", "sysctl -p", "useradd")
	maps.Copy(w.files, map[string]string{
		"proc/sys/vm/overcommit_memory": "1\n", "proc/sys/vm/panic_on_oom": "0\n", "proc/sys/kernel/panic": "10\n",
		"proc/sys/kernel/panic_on_oops": "1\n", "proc/sys/kernel/keys/root_maxkeys": "1000000\n", "proc/sys/kernel/keys/root_maxbytes": "25000000\n",
		"etc/passwd": "etcd:x:52:52::/:/sbin/nologin\n", "etc/group": "etcd:x:52:\n",
	})
	verdict(t, Hardening(w.input()), OK, "prepared for profile cis")
	w.in.Config.SELinux = true
	verdict(t, Hardening(w.input()), Fail, "without SELinux")
	w.files["sys/fs/selinux/enforce"] = "1"
	verdict(t, Hardening(w.input()), OK)
}
