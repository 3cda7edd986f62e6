package doctor

import (
	"fmt"
	"strings"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/preflight"
)

// firewall looks for services that drop what nodes and pods send one another.
func firewall(in preflight.Input) preflight.Check {
	c := preflight.Check{Name: "firewall", Verdict: preflight.OK, Found: "neither firewalld nor ufw is at work"}
	var at []string
	for _, p := range in.Machine.Named("firewalld") {
		at = append(at, p.String())
	}
	if conf, err := in.Machine.ReadFile("etc/ufw/ufw.conf"); err == nil && strings.Contains(conf, "ENABLED=yes") {
		at = append(at, "ufw (/etc/ufw/ufw.conf)")
	}
	if len(at) > 0 {
		open := "10250/tcp"
		if in.Config.Role == config.Server {
			open = "6443/tcp, 9345/tcp, 2379-2381/tcp, 10250/tcp"
		}
		c.Verdict, c.Found = preflight.Warn, strings.Join(at, " and ")+" is at work"
		c.ToDo = "turn it off, or let " + open + " and your network plugin's ports in from the other nodes, and trust the networks of pods and services"
	}
	return c
}

// networkManager takes interfaces of pods for its own unless told not to.
func networkManager(in preflight.Input) preflight.Check {
	c := preflight.Check{Name: "interfaces", Verdict: preflight.OK, Found: "NetworkManager does not run"}
	if p := in.Machine.Named("nm-cloud-setup"); len(p) > 0 || in.Machine.Exists("etc/systemd/system/timers.target.wants/nm-cloud-setup.timer") {
		c.Verdict, c.Found = preflight.Warn, "nm-cloud-setup is enabled: it adds routes that break those of pods"
		c.ToDo = "systemctl disable --now nm-cloud-setup.service nm-cloud-setup.timer, and reboot"
		return c
	}
	running := in.Machine.Named("NetworkManager")
	if len(running) == 0 {
		return c
	}
	for _, folder := range []string{"etc", "run", "usr/lib"} {
		for _, file := range in.Machine.Glob(folder + "/NetworkManager/conf.d/*.conf") {
			if text, err := in.Machine.ReadFile(file); err == nil && strings.Contains(text, "unmanaged-devices") {
				c.Found = fmt.Sprintf("%s runs, and %s keeps it off some interfaces", running[0], file)
				return c
			}
		}
	}
	c.Verdict, c.Found = preflight.Warn, running[0].String()+" runs, and may take over the interfaces of pods"
	c.ToDo = "write /etc/NetworkManager/conf.d/rke2.conf with [keyfile] and unmanaged-devices=interface-name:cali*;interface-name:flannel*;interface-name:cni*;interface-name:veth*"
	return c
}

// security says which of the kernel's security modules has a say.
func security(in preflight.Input) preflight.Check {
	c := preflight.Check{Name: "security", Verdict: preflight.OK, Found: "neither SELinux nor AppArmor is on"}
	if enabled, err := in.Machine.ReadFile("sys/module/apparmor/parameters/enabled"); err == nil && enabled == "Y" {
		c.Found = "AppArmor is on; containers get containerd's profile"
		if len(in.Machine.Glob("sbin/apparmor_parser"))+len(in.Machine.Glob("usr/sbin/apparmor_parser")) == 0 {
			c.Found = "AppArmor is on, without apparmor_parser: containers get no profile"
		}
	}
	enforcing, err := in.Machine.ReadFile("sys/fs/selinux/enforce")
	switch {
	case err != nil:
	case in.Config.SELinux:
		c.Found = "SELinux is on, and containers are labelled"
	case enforcing == "1":
		c.Verdict, c.Found = preflight.Warn, "SELinux is enforcing, and containers are not labelled"
		c.ToDo = "install the rke2-selinux policy and set selinux: true"
	default:
		c.Found = "SELinux is permissive"
	}
	return c
}
