//go:build linux

package sealed

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A host's file system is the machine's own programs and settings under a
// writable layer, and everything that holds state of its own, on the disk that
// the state directory is on. The machine's files are never written.
//
//	<state>/disk/…               /, persistent: /var /opt /root /home /srv /tmp …
//	<state>/layers/<dir>/upper   what the host changed in /usr, /etc, …
//	<state>/private/<dir>        directories that must not show the machine's content
//	memory                       /run, /dev/shm

// layered are the machine's directories that a host sees through a writable layer.
var layered = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc"}

// private are the directories inside layered ones that start empty: the machine
// may be a node itself, or have its own tools.
var private = []string{"etc/rancher", "etc/cni", "etc/kubernetes", "usr/local", "usr/libexec/kubernetes"}

// empty are the directories of a new disk, with their modes.
var empty = map[string]fs.FileMode{
	"dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755, "tmp": 0o777 | fs.ModeSticky,
	"root": 0o700, "home": 0o755, "opt": 0o755, "srv": 0o755, "mnt": 0o755, "boot": 0o755,
	"var/lib/rancher": 0o755, "var/lib/kubelet": 0o755, "var/lib/cni": 0o755, "var/log": 0o755,
	"var/cache": 0o755, "var/tmp": 0o777 | fs.ModeSticky, "opt/cni/bin": 0o755,
}

// machineWide are settings that a kubelet writes and that namespaces do not
// separate. Inside a host they are files of its own, so that a test does not
// change how the machine behaves.
var machineWide = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

func disk(state string) string { return filepath.Join(state, "disk") }

// buildRoot mounts a host's file system and makes it the root of this mount
// namespace. It runs in init, before any command.
func buildRoot(p plan) error {
	// First of all: nothing that is mounted from here on may show outside.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := disk(p.State)
	for _, dir := range sortedKeys(empty) {
		if err := mkdir(filepath.Join(root, dir), empty[dir]); err != nil {
			return err
		}
	}
	if err := symlink("../run", filepath.Join(root, "var/run")); err != nil {
		return err
	}
	if err := mount(root, root, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	steps := []func() error{
		func() error { return mountLayers(p.State, root) },
		func() error { return mountPrivate(p.State, root) },
		func() error { return mountKernel(root, p.Hierarchies) },
		func() error { return hideMachineWide(p.State, root) },
		func() error { return bindAll(root, p.Binds) },
		func() error { return writeIdentity(root, p) },
		func() error { return pivot(root) },
		// As systemd leaves it: pods rely on mounts that propagate.
		func() error { return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func mountLayers(state, root string) error {
	for _, name := range layered {
		machine, here := "/"+name, filepath.Join(root, name)
		info, err := os.Lstat(machine)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(machine)
			if err != nil {
				return err
			}
			if err := symlink(to, here); err != nil {
				return err
			}
			continue
		}
		upper := filepath.Join(state, "layers", name, "upper")
		work := filepath.Join(state, "layers", name, "work")
		for _, dir := range []string{here, upper, work} {
			if err := mkdir(dir, 0o755); err != nil {
				return err
			}
		}
		options := "lowerdir=" + machine + ",upperdir=" + escape(upper) + ",workdir=" + escape(work)
		if err := mount("overlay", here, "overlay", 0, options); err != nil {
			return err
		}
	}
	return nil
}

// escape protects what overlayfs gives a meaning to in a path.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`, ":", `\:`).Replace(path)
}

func mountPrivate(state, root string) error {
	for _, name := range private {
		from := filepath.Join(state, "private", name)
		fresh := !exists(from)
		if err := mkdir(from, 0o755); err != nil {
			return err
		}
		if fresh && name == "usr/local" {
			for _, dir := range []string{"bin", "sbin", "lib", "share", "etc"} {
				if err := mkdir(filepath.Join(from, dir), 0o755); err != nil {
					return err
				}
			}
		}
		to := filepath.Join(root, name)
		if err := mkdir(to, 0o755); err != nil {
			return err
		}
		if err := mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// mountKernel mounts what the kernel shows, each for the new namespaces.
func mountKernel(root string, hs []hierarchy) error {
	at := func(p string) string { return filepath.Join(root, p) }
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("proc", at("proc"), "proc", safe, ""); err != nil {
		return err
	}
	if err := mount("sysfs", at("sys"), "sysfs", safe, ""); err != nil {
		return err
	}
	if err := mount("/dev", at("dev"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", at("dev/shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return err
	}
	if err := mount("tmpfs", at("run"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	if err := mkdir(at("run/lock"), 0o777|fs.ModeSticky); err != nil {
		return err
	}
	return mountCgroups(at("sys/fs/cgroup"), hs)
}

// mountCgroups shows the host's own cgroups (this process is in a cgroup
// namespace) the way the machine lays its hierarchies out.
func mountCgroups(base string, hs []hierarchy) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if len(hs) == 1 && hs[0].Unified {
		if err := mount("cgroup2", base, "cgroup2", safe, ""); err != nil {
			return err
		}
		// Controllers can be handed down only from a cgroup without processes.
		leaf := filepath.Join(base, "init")
		if err := mkdir(leaf, 0o755); err != nil {
			return err
		}
		if err := enter(leaf); err != nil {
			return err
		}
		enable(base)
		return nil
	}
	if err := mount("tmpfs", base, "tmpfs", safe, "mode=755"); err != nil {
		return err
	}
	for _, h := range hs {
		name := filepath.Base(h.Mount)
		dir := filepath.Join(base, name)
		if err := mkdir(dir, 0o755); err != nil {
			return err
		}
		kind, options := "cgroup", strings.Join(h.Options, ",")
		if h.Unified {
			kind = "cgroup2"
		} else if strings.HasPrefix(options, "name=") {
			options = "none," + options
		}
		if err := mount(kind, dir, kind, safe, options); err != nil {
			return err
		}
		for _, link := range h.Links {
			if err := symlink(name, filepath.Join(base, link)); err != nil {
				return err
			}
		}
	}
	return nil
}

func hideMachineWide(state, root string) error {
	dir := filepath.Join(state, "settings")
	if err := mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range machineWide {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		// Written anew at each start: a reboot resets them.
		copied := filepath.Join(dir, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(copied, value, 0o644); err != nil {
			return err
		}
		if err := mount(copied, filepath.Join(root, "proc/sys", name), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

func bindAll(root string, binds []Bind) error {
	for _, b := range binds {
		to := filepath.Join(root, b.Target)
		info, err := os.Stat(b.Source)
		if err != nil {
			return fmt.Errorf("binding into the host: %w", err)
		}
		if info.IsDir() {
			err = mkdir(to, 0o755)
		} else if err = mkdir(filepath.Dir(to), 0o755); err == nil && !exists(to) {
			err = os.WriteFile(to, nil, 0o644)
		}
		if err != nil {
			return err
		}
		if err := mount(b.Source, to, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if b.Writable {
			continue
		}
		if err := mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	return nil
}

// writeIdentity gives the host a name, an address book without the outside, and
// a machine id that is the same after a reboot.
func writeIdentity(root string, p plan) error {
	address, err := netip.ParsePrefix(p.Address)
	if err != nil {
		return fmt.Errorf("host address: %w", err)
	}
	id := sha256.Sum256([]byte("sealed host " + p.Name))
	for name, text := range map[string]string{
		"hostname":   p.Name + "\n",
		"hosts":      fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", address.Addr(), p.Name),
		"machine-id": hex.EncodeToString(id[:16]) + "\n",
		// A name server that never answers, as behind an air gap. Not a loopback
		// address: pods could not be given it.
		"resolv.conf": "nameserver " + p.Gateway + "\noptions timeout:1 attempts:1\n",
	} {
		path := filepath.Join(root, "etc", name)
		// May be a symlink to where only the machine has something.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pivot makes root the root and lets go of the old one (pivot_root(2), the form
// with "." twice).
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing root to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("letting go of the old root: %w", err)
	}
	return os.Chdir("/")
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", strings.TrimSpace(kind+" "+source), target, err)
	}
	return nil
}

// mkdir makes a directory with exactly this mode if it is not there.
func mkdir(path string, mode fs.FileMode) error {
	if exists(path) {
		return nil
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

func symlink(to, path string) error {
	if err := os.Symlink(to, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
