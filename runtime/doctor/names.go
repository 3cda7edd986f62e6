package doctor

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/preflight"
)

// hostname looks at the name that the node gets if none is set.
func hostname(in preflight.Input) preflight.Check {
	c := preflight.Check{Name: "hostname", Verdict: preflight.OK}
	name, err := in.Machine.Hostname()
	if err != nil {
		c.Verdict, c.Found, c.ToDo = preflight.Warn, err.Error(), "set a host name, or node-name"
		return c
	}
	label := regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`) // a subdomain of RFC 1123
	lower := strings.ToLower(name)
	c.Found = name
	switch {
	case !label.MatchString(lower) || len(lower) > 253:
		c.Verdict, c.Found = preflight.Warn, fmt.Sprintf("%q cannot be a node's name", name)
		c.ToDo = "rename the host (letters, digits, dashes and dots), or set node-name"
	case lower == "localhost" || strings.HasPrefix(lower, "localhost."):
		c.Verdict, c.ToDo = preflight.Warn, "name the host, or set node-name: every node of a cluster needs a name of its own"
	case len(hostsFile(in.Machine, name)) == 0:
		c.Found += " (not in /etc/hosts; the node does not need it there)"
	default:
		c.Found += fmt.Sprintf(" (%v in /etc/hosts)", strings.Join(hostsFile(in.Machine, name), ", "))
	}
	return c
}

// hostsFile lists the addresses that /etc/hosts has for a name.
func hostsFile(m host.Machine, name string) []string {
	text, err := m.ReadFile("etc/hosts")
	if err != nil {
		return nil
	}
	var out []string
	for _, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if f := strings.Fields(line); len(f) > 1 && slices.Contains(f[1:], name) {
			out = append(out, f[0])
		}
	}
	return out
}

// resolver looks at the name servers that pods with dnsPolicy Default, and the cluster's
// DNS for names outside, are sent to.
func resolver(in preflight.Input) preflight.Check {
	c := preflight.Check{Name: "resolver", Verdict: preflight.OK}
	var servers []string
	local := false
	text, err := in.Machine.ReadFile("etc/resolv.conf")
	for _, line := range strings.Split(text, "\n") {
		if f := strings.Fields(line); err == nil && len(f) > 1 && f[0] == "nameserver" {
			servers = append(servers, f[1])
			ip, err := netip.ParseAddr(f[1])
			local = local || err == nil && ip.IsLoopback()
		}
	}
	c.Found = "name servers: " + strings.Join(servers, ", ")
	switch {
	case len(servers) == 0:
		c.Found = "/etc/resolv.conf names no server: names outside of the cluster do not resolve in pods"
		if !in.Config.Offline {
			c.Verdict, c.ToDo = preflight.Warn, "name a server, or a file that does with resolv-conf, or set offline: true if there is none"
		}
	case local && !in.Machine.Exists("run/systemd/resolve/resolv.conf"):
		c.Verdict, c.ToDo = preflight.Warn, "an address of this host alone is no use to pods: name a file with others in resolv-conf"
	}
	return c
}
