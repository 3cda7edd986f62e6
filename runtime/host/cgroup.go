package host

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroups are a machine's control groups.
type Cgroups struct {
	Version int // 2, or 1 also where a tree of version 2 without controllers is beside it
	// Controllers are those that can be used: enabled in the kernel and, in version 1,
	// mounted.
	Controllers []string
	// Disabled are those that the kernel has and that were turned off at boot.
	Disabled []string
}

// Cgroups reads which control groups the machine has.
func (m Machine) Cgroups() (Cgroups, error) {
	magic, err := m.CgroupMagic()
	if err != nil {
		return Cgroups{}, fmt.Errorf("looking at /sys/fs/cgroup: %w", err)
	}
	c := Cgroups{Version: 1}
	for _, line := range m.lines("proc/cgroups") {
		// name, hierarchy, number of groups, enabled
		if f := strings.Fields(line); len(f) == 4 && f[3] == "0" {
			c.Disabled = append(c.Disabled, f[0])
		}
	}
	if magic == unix.CGROUP2_SUPER_MAGIC {
		c.Version = 2
		controllers, err := m.read("sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return c, fmt.Errorf("reading the cgroup controllers: %w", err)
		}
		c.Controllers = strings.Fields(controllers)
		return c, nil
	}
	for _, line := range m.lines("proc/self/mountinfo") {
		// … - fstype source options
		_, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(after)
		if !ok || len(f) < 3 || f[0] != "cgroup" {
			continue
		}
		for _, o := range strings.Split(f[2], ",") {
			if o != "rw" && o != "ro" && o != "xattr" && !strings.Contains(o, "=") && !slices.Contains(c.Controllers, o) {
				c.Controllers = append(c.Controllers, o)
			}
		}
	}
	slices.Sort(c.Controllers)
	return c, nil
}
