package host

import (
	"fmt"
	"strconv"
	"strings"
)

// Capability is one of capabilities(7), by the kernel's number.
type Capability uint

// The capabilities that a node's work takes.
const (
	CapChown       Capability = 0
	CapDACOverride Capability = 1
	CapKill        Capability = 5
	CapSetGID      Capability = 6
	CapSetUID      Capability = 7
	CapNetAdmin    Capability = 12
	CapNetRaw      Capability = 13
	CapSysModule   Capability = 16
	CapSysChroot   Capability = 18
	CapSysPtrace   Capability = 19
	CapSysAdmin    Capability = 21
	CapSysResource Capability = 24
	CapMknod       Capability = 27
)

// String is the name that capabilities(7) has.
func (c Capability) String() string {
	switch c {
	case CapChown:
		return "CAP_CHOWN"
	case CapDACOverride:
		return "CAP_DAC_OVERRIDE"
	case CapKill:
		return "CAP_KILL"
	case CapSetGID:
		return "CAP_SETGID"
	case CapSetUID:
		return "CAP_SETUID"
	case CapNetAdmin:
		return "CAP_NET_ADMIN"
	case CapNetRaw:
		return "CAP_NET_RAW"
	case CapSysModule:
		return "CAP_SYS_MODULE"
	case CapSysChroot:
		return "CAP_SYS_CHROOT"
	case CapSysPtrace:
		return "CAP_SYS_PTRACE"
	case CapSysAdmin:
		return "CAP_SYS_ADMIN"
	case CapSysResource:
		return "CAP_SYS_RESOURCE"
	case CapMknod:
		return "CAP_MKNOD"
	}
	return fmt.Sprintf("capability %d", uint(c))
}

// Lacks lists those capabilities that this process has not got in effect.
func (m Machine) Lacks(of ...Capability) ([]Capability, error) {
	const status = "proc/self/status"
	text, err := m.read(status)
	if err != nil {
		return nil, fmt.Errorf("reading this process's capabilities: %w", err)
	}
	for _, line := range strings.Split(text, "\n") {
		value, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("reading this process's capabilities: /%s: %w", status, err)
		}
		var out []Capability
		for _, c := range of {
			if set&(1<<c) == 0 {
				out = append(out, c)
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("reading this process's capabilities: /%s has no CapEff line", status)
}
