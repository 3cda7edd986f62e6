//go:build linux

package sealed

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is one cgroup tree of the machine. Machines differ: one tree
// (version 2), or one a controller, or several controllers in one (cpu,cpuacct),
// with or without a tree of version 2 that has no controllers.
type hierarchy struct {
	Mount   string   // where the machine mounts it
	Unified bool     // version 2
	Options []string // version 1: controllers, or name=systemd
	Links   []string // other names beside Mount that point to it (cpu -> cpu,cpuacct)
	Parent  string   // the directory that the host's cgroup is made in
	Home    string   // the directory that this process was found in
}

// hierarchies finds the machine's cgroup trees from the kernel's own tables.
func hierarchies() ([]hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	mine, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	hs, err := parseHierarchies(string(mounts), string(mine))
	if err != nil {
		return nil, err
	}
	if len(hs) == 0 {
		return nil, fmt.Errorf("%w: no cgroup hierarchy is mounted", ErrUnsupported)
	}
	single := len(hs) == 1 && hs[0].Unified
	for i := range hs {
		h := &hs[i]
		h.Links = linksTo(h.Mount)
		if single {
			h.Parent = delegating(h.Mount, h.Home)
		} else {
			h.Parent = h.Home
		}
	}
	return hs, nil
}

// parseHierarchies reads /proc/self/mountinfo and /proc/self/cgroup (proc(5),
// cgroups(7)). A tree that is mounted more than once counts once: the last mount
// is the one that paths resolve to.
func parseHierarchies(mountinfo, cgroup string) ([]hierarchy, error) {
	homes := map[string]string{} // controller, name=… or "" → path in the tree
	for line := range strings.Lines(cgroup) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("/proc/self/cgroup: strange line %q", line)
		}
		for c := range strings.SplitSeq(f[1], ",") {
			homes[c] = f[2]
		}
	}
	found := map[string]hierarchy{}
	for line := range strings.Lines(mountinfo) {
		front, back, ok := strings.Cut(strings.TrimSpace(line), " - ")
		if !ok {
			return nil, fmt.Errorf("/proc/self/mountinfo: strange line %q", line)
		}
		f, b := strings.Fields(front), strings.Fields(back)
		if len(f) < 5 || len(b) < 3 {
			return nil, fmt.Errorf("/proc/self/mountinfo: strange line %q", line)
		}
		root, mount := f[3], f[4]
		var h hierarchy
		switch b[0] {
		case "cgroup2":
			h = hierarchy{Mount: mount, Unified: true}
			h.Home = home(mount, root, homes[""])
		case "cgroup":
			h = hierarchy{Mount: mount}
			for o := range strings.SplitSeq(b[2], ",") {
				if path, ok := homes[o]; ok && o != "" {
					h.Options = append(h.Options, o)
					h.Home = home(mount, root, path)
				}
			}
			if len(h.Options) == 0 {
				continue
			}
			slices.Sort(h.Options)
		default:
			continue
		}
		found[strings.Join(h.Options, ",")] = h
	}
	hs := make([]hierarchy, 0, len(found))
	for _, h := range found {
		hs = append(hs, h)
	}
	slices.SortFunc(hs, func(a, b hierarchy) int { return strings.Compare(a.Mount, b.Mount) })
	return hs, nil
}

// home maps a path in a cgroup tree to a directory, given what part of the tree
// is mounted. A path outside that part (a container without a cgroup namespace)
// falls back to the mount itself.
func home(mount, root, path string) string {
	rel, err := filepath.Rel(root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return mount
	}
	return filepath.Join(mount, rel)
}

// linksTo lists the symlinks beside a mount point that point to it.
func linksTo(mount string) []string {
	entries, err := os.ReadDir(filepath.Dir(mount))
	if err != nil {
		return nil
	}
	var links []string
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		to, err := os.Readlink(filepath.Join(filepath.Dir(mount), e.Name()))
		if err == nil && filepath.Base(to) == filepath.Base(mount) {
			links = append(links, e.Name())
		}
	}
	return links
}

// needed are the controllers that a kubelet refuses to run without.
var needed = []string{"cpu", "cpuset", "memory", "pids"}

// delegating returns the nearest directory above home whose children get the
// controllers that a kubelet needs, or the mount, where they can be switched on.
// (A version 2 cgroup that has processes can't give controllers to its children.)
func delegating(mount, home string) string {
	for dir := home; dir != mount && strings.HasPrefix(dir, mount); {
		dir = filepath.Dir(dir)
		have := controllers(dir, "cgroup.subtree_control")
		if !slices.ContainsFunc(needed, func(c string) bool { return !slices.Contains(have, c) }) {
			return dir
		}
	}
	return mount
}

func controllers(dir, file string) []string {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// enable switches every controller that a version 2 cgroup has on for its
// children. Controllers that can't be are left: the kubelet names what it misses.
func enable(dir string) {
	for _, c := range controllers(dir, "cgroup.controllers") {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
}

// make creates the cgroup name in the tree, ready for processes.
func (h hierarchy) make(name string) (string, error) {
	dir := filepath.Join(h.Parent, name)
	if h.Unified && h.Parent == h.Mount {
		enable(h.Parent)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("making cgroup: %w", err)
	}
	if slices.Contains(h.Options, "cpuset") {
		// A new version 1 cpuset is empty and takes no process until it is filled.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			b, err := os.ReadFile(filepath.Join(h.Parent, f))
			if err != nil {
				return "", fmt.Errorf("making cgroup %s: %w", dir, err)
			}
			if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
				return "", fmt.Errorf("making cgroup %s: %w", dir, err)
			}
		}
	}
	return dir, nil
}

// enter moves this process with all its threads into a cgroup.
func enter(dir string) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644)
	if err != nil {
		return fmt.Errorf("entering cgroup: %w", err)
	}
	return nil
}

// removeTree kills what is left in a cgroup and removes it, depth first. The
// kernel lets go of a cgroup a little after its last process, hence the limit.
func removeTree(dir string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		err := removeOnce(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("removing cgroup: %w", err)
		}
		for _, pid := range members(dir) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func removeOnce(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeOnce(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	// Not os.Remove: it tries unlink first, and reports that error.
	if err := unix.Rmdir(dir); err != nil {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// members lists the processes of a cgroup and all below it.
func members(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		f, err := os.Open(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if pid, err := strconv.Atoi(s.Text()); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}
