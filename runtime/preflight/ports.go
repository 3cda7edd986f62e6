package preflight

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
)

// port is one that a node listens on.
type port struct {
	number    uint16
	component string
	local     bool // on 127.0.0.1 only
}

// ports are those of a role: what the engine, the kubelet and the control plane's pods
// listen on.
func ports(c config.Config) []port {
	out := []port{
		{10250, "kubelet", false},
		{10248, "kubelet", true},
		{10010, "containerd", true},
	}
	if c.Role == config.Agent {
		// What this node's components reach the servers through.
		return append(out, port{6443, "API load balancer", true}, port{6444, "supervisor load balancer", true})
	}
	out = append(out,
		port{9345, "supervisor", false},
		port{6443, "kube-apiserver", false},
		port{2379, "etcd", false},
		port{2380, "etcd", false},
		port{2381, "etcd", true},
		port{2382, "etcd", true},
		port{10257, "kube-controller-manager", true},
		port{10259, "kube-scheduler", true},
		port{10258, config.RoleCloudController, true},
	)
	return slices.DeleteFunc(out, func(p port) bool {
		return slices.Contains(c.Without, p.component) || p.component == config.RoleCloudController && !slices.Contains(c.Components(), p.component)
	})
}

// inTheWay tells whether a listener keeps a port from being listened on.
func (p port) inTheWay(l host.Listener) bool {
	at := l.At.Addr()
	return l.At.Port() == p.number && (!p.local || at.IsUnspecified() || at.IsLoopback() && at.Is4())
}

// Ports looks for who has the ports that a node listens on. What the node itself runs,
// also what an rke2 that ended left running, may have them.
func Ports(in Input) Check {
	const name = "ports"
	all, err := in.Machine.Listeners()
	if err != nil {
		return Check{Name: name, Verdict: Warn, Found: fmt.Sprintf("it cannot be told which ports are taken: %v", err), ToDo: "mount /proc"}
	}
	wanted := ports(in.Config)
	var inTheWay []host.Listener
	for _, l := range all {
		if slices.ContainsFunc(wanted, func(p port) bool { return p.inTheWay(l) }) {
			inTheWay = append(inTheWay, l)
		}
	}
	if len(inTheWay) == 0 {
		return ok(name, "%s are free", numbers(wanted))
	}
	owners := in.Machine.Owners(inTheWay)
	self := in.Machine.Ancestry(in.Machine.PID)
	var taken []string
	var own []port
	running := ""
	for _, p := range wanted {
		at := slices.IndexFunc(inTheWay, p.inTheWay)
		if at < 0 {
			continue
		}
		owner := owners[inTheWay[at]]
		switch whose(in, owner, self) {
		case another:
			running = owner.String()
			fallthrough
		case stranger:
			taken = append(taken, fmt.Sprintf("%d (%s) is taken by %s", p.number, p.component, owner))
		case ours:
			own = append(own, p)
		}
	}
	switch {
	case running != "" && in.Starting:
		return Check{Name: name, Verdict: Fail, Found: strings.Join(taken, "; "),
			ToDo: fmt.Sprintf("%s runs a node on this host already: stop it first (systemctl stop rke2-%s)", running, in.Config.Role)}
	case len(taken) > 0:
		return Check{Name: name, Verdict: Fail, Found: strings.Join(taken, "; "),
			ToDo: "stop what has the port, or have it listen on another: a node's ports are fixed"}
	case len(own) == len(wanted):
		return ok(name, "%s are this node's own", numbers(own))
	}
	free := slices.DeleteFunc(wanted, func(p port) bool { return slices.Contains(own, p) })
	return ok(name, "%s are this node's own; %s are free", numbers(own), numbers(free))
}

func numbers(ports []port) string {
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprint(p.number))
	}
	return and(out)
}

// owner is whose a process is.
type owner int

const (
	stranger owner = iota
	ours           // this node's, also of an rke2 that has ended
	another        // an rke2 that runs beside the one that starts
)

// whose tells whose a process is by the programs that it and its ancestors run: a node's
// are staged in its data folder, and containers have one of them, the shim, above them.
func whose(in Input, p host.Process, self []host.Process) owner {
	staged := filepath.Join(in.Config.DataDir, "data") + "/"
	for _, up := range in.Machine.Ancestry(p.PID) {
		if strings.HasPrefix(up.Exe, staged) {
			return ours
		}
	}
	if !isNode(p) {
		return stranger
	}
	if in.Starting && !slices.ContainsFunc(self, func(s host.Process) bool { return s.PID == p.PID }) {
		return another
	}
	return ours
}

// isNode tells whether a process is `rke2 server` or `rke2 agent`.
func isNode(p host.Process) bool {
	return filepath.Base(p.Exe) == "rke2" && len(p.Args) > 1 && (p.Args[1] == string(config.Server) || p.Args[1] == string(config.Agent))
}
