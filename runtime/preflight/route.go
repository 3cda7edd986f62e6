package preflight

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Route looks for the address that the node is going to have: node-ip, or else that of
// the interface which has the default route.
func Route(in Input) Check {
	const name = "route"
	interfaces, err := in.Machine.Interfaces()
	if err != nil {
		return Check{Name: name, Verdict: Warn, Found: err.Error(), ToDo: "run it as root, on the host itself"}
	}
	var have []string // NAME ADDRESS
	addresses := map[netip.Addr]string{}
	for _, i := range interfaces {
		for _, a := range i.Addresses {
			addresses[a.WithZone("")] = i.Name
			if i.Up && !i.Loopback && a.IsGlobalUnicast() {
				have = append(have, i.Name+" "+a.WithZone("").String())
			}
		}
	}
	list := "none"
	if len(have) > 0 {
		list = strings.Join(have, ", ")
	}
	if given := split(in.Config.NodeIPs); len(given) > 0 {
		return nodeIP(name, given, addresses, list)
	}
	four, six, err := in.Machine.DefaultRoutes()
	if err != nil {
		return Check{Name: name, Verdict: Warn, Found: err.Error(), ToDo: "mount /proc"}
	}
	routes := append(prefixed("IPv4 by ", four), prefixed("IPv6 by ", six)...)
	if len(routes) == 0 {
		todo := "set node-ip to an address of this host"
		if len(have) > 0 {
			_, first, _ := strings.Cut(have[0], " ")
			todo += ", for example `node-ip: " + first + "`"
		}
		return Check{Name: name, Verdict: Fail,
			Found: "there is no default route and no node-ip, so it is not known which address the node has (addresses: " + list + ")",
			ToDo:  todo + ", or add a default route; its gateway need not exist (ip route add default dev INTERFACE)"}
	}
	return ok(name, "default route of %s; addresses: %s", and(routes), list)
}

// nodeIP holds addresses that were given to those that the host has.
func nodeIP(name string, given []string, addresses map[netip.Addr]string, list string) Check {
	var found, wrong []string
	for _, g := range given {
		ip, err := netip.ParseAddr(g)
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("node-ip %q is no IP address", g))
		case addresses[ip] == "":
			wrong = append(wrong, fmt.Sprintf("node-ip %s is on no interface of this host (addresses: %s)", ip, list))
		default:
			found = append(found, fmt.Sprintf("node-ip %s on %s", ip, addresses[ip]))
		}
	}
	if len(wrong) > 0 {
		return Check{Name: name, Verdict: Fail, Found: strings.Join(wrong, "; "), ToDo: "correct node-ip, or give an interface that address"}
	}
	return ok(name, "%s", strings.Join(found, ", "))
}

func prefixed(prefix string, names []string) []string {
	var out []string
	for _, n := range slices.Compact(slices.Clone(names)) {
		out = append(out, prefix+n)
	}
	return out
}

// split takes apart what was given with commas.
func split(values []string) []string {
	var out []string
	for _, v := range values {
		for _, one := range strings.Split(v, ",") {
			if one = strings.TrimSpace(one); one != "" {
				out = append(out, one)
			}
		}
	}
	return out
}
