//go:build linux

package sealed

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Census is what hosts could leave behind on the machine, counted at one moment.
type Census struct {
	items map[string]bool
}

// Count takes a census: this process' keepers and inits and what runs below
// them, cgroups, state directories; and of the whole machine, mounts and network
// devices that this process sees, named network namespaces, and settings that a
// kubelet likes to change.
func Count() (Census, error) {
	c := Census{items: map[string]bool{}}
	run, err := thisRun()
	if err != nil {
		return c, err
	}
	hs, err := hierarchies()
	if err != nil {
		return c, err
	}
	ours := func(name string) bool { return strings.HasPrefix(name, run+"-") }
	for _, h := range hs {
		for _, dir := range cgroupsNamed(h.Mount, ours) {
			c.add("cgroup %s", dir)
		}
	}
	if err := c.countProcesses(); err != nil {
		return c, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return c, err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 {
			c.add("mount %s on %s", f[3], f[4])
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return c, err
	}
	for _, l := range links {
		c.add("network device %s", l.Name)
	}
	for _, dir := range []string{"/run/netns", "/var/run/netns"} {
		named, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, n := range named {
			c.add("network namespace %s", n)
		}
	}
	states, _ := filepath.Glob(filepath.Join(Base(), run+"-*"))
	for _, s := range states {
		c.add("state directory %s", s)
	}
	for _, name := range machineWide {
		if b, err := os.ReadFile(filepath.Join("/proc/sys", name)); err == nil {
			c.add("setting %s = %s", name, strings.TrimSpace(string(b)))
		}
	}
	return c, nil
}

func (c Census) add(format string, args ...any) { c.items[fmt.Sprintf(format, args...)] = true }

// countProcesses counts keepers that this process started and all below them.
func (c Census) countProcesses() error {
	all, err := processes()
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.Parent != os.Getpid() || len(p.Args) == 0 || p.Args[0] != keeperName {
			continue
		}
		c.add("process %d %s", p.Pid, keeperName)
		below, err := processesBelow(p.Pid)
		if err != nil {
			return err
		}
		for _, q := range below {
			c.add("process %d %s", q.Pid, strings.Join(q.Args, " "))
		}
	}
	return nil
}

// Since lists what is there now and was not before.
func (c Census) Since(before Census) []string {
	var added []string
	for item := range c.items {
		if !before.items[item] {
			added = append(added, item)
		}
	}
	slices.Sort(added)
	return added
}

// Leaks counts until nothing has been added since before, or the limit is over,
// and returns what is left. The kernel takes a moment to let go.
func Leaks(before Census, limit time.Duration) ([]string, error) {
	deadline := time.Now().Add(limit)
	for {
		now, err := Count()
		if err != nil {
			return nil, err
		}
		left := now.Since(before)
		if len(left) == 0 || time.Now().After(deadline) {
			return left, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}
