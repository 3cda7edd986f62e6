package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/sys/unix"
)

// Machine is a host as checks see it. [This] is the one that this program runs on; a
// test's has files and answers of its own.
type Machine struct {
	// Root is the folder that holds the /proc, /sys, /etc and /lib that are read.
	Root       string
	Now        func() time.Time
	Hostname   func() (string, error)
	Interfaces func() ([]Interface, error)
	// Disk describes the file system of the nearest folder above a path that is there.
	Disk func(path string) (Disk, error)
	// Writable is nil if this process may make files in a folder, or where the folder
	// would be made.
	Writable func(dir string) error
	// CgroupMagic is the type of the file system at /sys/fs/cgroup, as statfs(2) has it.
	CgroupMagic func() (int64, error)
	UID         int // effective
	PID         int
	// Made is a time after which this program was made; zero if nothing is known.
	Made time.Time
}

// Interface is a network interface and its addresses.
type Interface struct {
	Name      string
	Up        bool
	Loopback  bool
	Addresses []netip.Addr
}

// Disk is a file system, in bytes and inodes.
type Disk struct {
	ID         uint64 // tells file systems apart
	Path       string // the folder that was looked at
	Free       int64  // to this process: with root's reserve, if it may use that
	Available  int64  // without the reserve, as the kubelet counts
	Total      int64
	FreeInodes int64
	Inodes     int64 // 0 where the file system has no fixed number
	ReadOnly   bool
}

// This is the machine that this program runs on.
func This() Machine {
	m := Machine{
		Root: "/", Now: time.Now, Hostname: os.Hostname, Interfaces: interfaces,
		Writable: writable, UID: os.Geteuid(), PID: os.Getpid(),
		CgroupMagic: func() (int64, error) {
			var s unix.Statfs_t
			err := unix.Statfs("/sys/fs/cgroup", &s)
			return s.Type, err
		},
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		m.Made = madeAfter(info)
	}
	m.Disk = func(path string) (Disk, error) {
		d, err := diskOf(path)
		if lacks, unknown := m.Lacks(CapSysResource); unknown != nil || len(lacks) > 0 {
			d.Free = d.Available
		}
		return d, err
	}
	return m
}

// madeAfter is the latest time that the version of a part of a program names (Go's pseudo
// versions have one). The program cannot be older, and need not carry a date of its own,
// which would make two builds of one source differ.
func madeAfter(info *debug.BuildInfo) time.Time {
	var latest time.Time
	for _, dep := range info.Deps {
		for _, m := range []*debug.Module{dep, dep.Replace} {
			if m == nil || !module.IsPseudoVersion(m.Version) {
				continue
			}
			if at, err := module.PseudoVersionTime(m.Version); err == nil && at.After(latest) {
				latest = at
			}
		}
	}
	return latest
}

// path is a file of the machine.
func (m Machine) path(elem ...string) string {
	return filepath.Join(append([]string{m.Root}, elem...)...)
}

// read is a file of the machine without the white space around it.
func (m Machine) read(path string) (string, error) {
	b, err := os.ReadFile(m.path(path))
	return strings.TrimSpace(string(b)), err
}

// ReadFile reads a file of the machine, without the white space around its content.
func (m Machine) ReadFile(path string) (string, error) { return m.read(path) }

// Exists tells whether the machine has a file.
func (m Machine) Exists(path string) bool {
	_, err := os.Stat(m.path(path))
	return err == nil
}

// Glob lists files of the machine by their path on it.
func (m Machine) Glob(pattern string) []string {
	found, _ := filepath.Glob(m.path(pattern)) // the pattern is ours
	for i, f := range found {
		found[i] = "/" + strings.TrimPrefix(strings.TrimPrefix(f, m.Root), "/")
	}
	return found
}

func interfaces() ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing network interfaces: %w", err)
	}
	var out []Interface
	for _, i := range all {
		addresses, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("listing the addresses of %s: %w", i.Name, err)
		}
		one := Interface{Name: i.Name, Up: i.Flags&net.FlagUp != 0, Loopback: i.Flags&net.FlagLoopback != 0}
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				one.Addresses = append(one.Addresses, p.Addr())
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// Nearest is the folder itself, or the nearest above it that is there.
func Nearest(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func diskOf(path string) (Disk, error) {
	at := Nearest(path)
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err != nil {
		return Disk{}, fmt.Errorf("looking at the file system of %s: %w", at, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		return Disk{}, fmt.Errorf("looking at the file system of %s: %w", at, err)
	}
	return Disk{
		ID: st.Dev, Path: at,
		Free: int64(s.Bfree) * s.Bsize, Available: int64(s.Bavail) * s.Bsize, Total: int64(s.Blocks) * s.Bsize,
		FreeInodes: int64(s.Ffree), Inodes: int64(s.Files), ReadOnly: s.Flags&unix.ST_RDONLY != 0,
	}, nil
}

// writable asks the kernel, and writes nothing: it knows of read-only mounts, immutable
// folders and security modules, also for root.
func writable(dir string) error {
	at := Nearest(dir)
	info, err := os.Stat(at)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "using", Path: at, Err: errors.New("it is not a folder")}
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		return &fs.PathError{Op: "writing in", Path: at, Err: err}
	}
	return nil
}
