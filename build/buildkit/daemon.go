package buildkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"
	toml "github.com/pelletier/go-toml/v2"
)

const (
	// startWithin is how long a daemon may take until it answers. It takes a second.
	startWithin = 60 * time.Second
	stopWithin  = 10 * time.Second
	socketName  = "buildkitd.sock"
	rootName    = "root"
	logName     = "log"
	// nameFile, in a daemon's folder, has the path of its socket's folder.
	nameFile = "socket"
)

// Programs are what a daemon consists of: paths of executables.
type Programs struct {
	Buildkitd string
	Runc      string
}

// DaemonOptions are what a daemon is started with.
type DaemonOptions struct {
	Programs Programs
	// Dir is where daemons have their state, a folder each that goes with them. It
	// needs room for everything that is built.
	Dir string
	// Network leaves the daemon in the host's network. Without, there is no network in
	// it at all, neither for what it does nor for what a Dockerfile runs.
	Network bool
}

// Daemon is a running buildkitd. It lives in its own mount, process and (unless told
// otherwise) network namespaces, so nothing of it outlives it, and it ends with the
// process that started it, however that ends.
type Daemon struct {
	dir    string // state; locked as long as the daemon runs
	socket string // folder of the socket: a path of a socket may have 107 bytes
	cgroup string // name, below the root of each hierarchy
	lock   *os.File
	cmd    *exec.Cmd
	exited chan struct{} // closed after cmd ended
	ended  error
	client *client.Client
}

// Start starts a daemon and waits until it answers. It needs root.
func Start(ctx context.Context, o DaemonOptions) (*Daemon, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("starting buildkitd: this needs root: become root, name a running daemon with --buildkit-addr, or use --builder daemonless")
	}
	for _, p := range []string{o.Programs.Buildkitd, o.Programs.Runc} {
		if info, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("starting buildkitd: %w", err)
		} else if !info.Mode().IsRegular() || info.Mode()&0o100 == 0 {
			return nil, fmt.Errorf("starting buildkitd: %s is not a program", p)
		}
	}
	if _, err := exec.LookPath("unshare"); err != nil {
		return nil, fmt.Errorf("starting buildkitd: it is given its own namespaces by unshare, which is in Debian's util-linux: %w", err)
	}
	d, err := prepare(o)
	if err != nil {
		return nil, fmt.Errorf("starting buildkitd: %w", err)
	}
	if err := d.start(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("starting buildkitd: %w%s", err, d.said()), d.Stop())
	}
	return d, nil
}

// Client speaks to the daemon, until Stop.
func (d *Daemon) Client() *client.Client { return d.client }

// prepare makes the daemon's folders, after taking away those of daemons whose owner was
// killed.
func prepare(o DaemonOptions) (*Daemon, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	// Nobody makes or takes away folders in between.
	guard, err := locked(filepath.Join(o.Dir, ".lock"), os.O_CREATE|os.O_RDWR, syscall.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	if err := sweep(o.Dir); err != nil {
		return nil, err
	}
	d := &Daemon{exited: make(chan struct{})}
	if d.dir, err = os.MkdirTemp(o.Dir, "daemon-"); err != nil {
		return nil, err
	}
	if d.lock, err = locked(d.dir, os.O_RDONLY, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, os.RemoveAll(d.dir))
	}
	d.cgroup = "rke2-build-" + filepath.Base(d.dir)
	if d.socket, err = os.MkdirTemp("", "rke2-buildkit-"); err != nil {
		return nil, errors.Join(err, d.remove())
	}
	if err := os.WriteFile(filepath.Join(d.dir, nameFile), []byte(d.socket), 0o600); err != nil {
		return nil, errors.Join(err, d.remove())
	}
	return d, nil
}

// sweep takes away folders in dir that no process holds.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		old := &Daemon{dir: filepath.Join(dir, e.Name()), cgroup: "rke2-build-" + e.Name()}
		if old.lock, err = locked(old.dir, os.O_RDONLY, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			continue // in use
		}
		if name, err := os.ReadFile(filepath.Join(old.dir, nameFile)); err == nil && strings.HasPrefix(filepath.Base(string(name)), "rke2-buildkit-") {
			old.socket = string(name)
		}
		if err := old.remove(); err != nil {
			return fmt.Errorf("taking away what an earlier daemon left: %w", err)
		}
	}
	return nil
}

func locked(path string, flags, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// config is the daemon's buildkitd.toml. Everything is said, so that a file in /etc
// changes nothing.
func (d *Daemon) config(o DaemonOptions) ([]byte, error) {
	no, yes := map[string]any{"enabled": false}, map[string]any{
		"enabled":             true,
		"gc":                  false, // it doesn't live long enough
		"networkMode":         "host",
		"binary":              o.Programs.Runc,
		"defaultCgroupParent": "/" + d.cgroup,
	}
	return toml.Marshal(map[string]any{
		"root":                  filepath.Join(d.dir, rootName),
		"insecure-entitlements": []string{networkHost},
		"grpc":                  map[string]any{"address": []string{d.address()}},
		"otel":                  map[string]any{"socketPath": filepath.Join(d.socket, "otel.sock")},
		"cdi":                   map[string]any{"disabled": true},
		"worker":                map[string]any{"oci": yes, "containerd": no},
	})
}

func (d *Daemon) address() string { return "unix://" + filepath.Join(d.socket, socketName) }

func (d *Daemon) start(ctx context.Context, o DaemonOptions) error {
	config, err := d.config(o)
	if err != nil {
		return err
	}
	file := filepath.Join(d.dir, "buildkitd.toml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(d.dir, logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// util-linux's unshare makes /proc fit the new process namespace before the daemon
	// starts. Its end is the daemon's, and the daemon's that of all it started.
	args := []string{"--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if !o.Network {
		args = append(args, "--net")
	}
	d.cmd = exec.Command("unshare", append(args, o.Programs.Buildkitd, "--config", file)...)
	d.cmd.Dir = d.dir
	d.cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + d.dir, "TMPDIR=" + d.dir}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The death signal is sent when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := d.cmd.Start(); err != nil {
			d.cmd = nil
			close(d.exited)
			started <- err
			return
		}
		started <- nil
		d.ended = d.cmd.Wait()
		close(d.exited)
	}()
	if err := <-started; err != nil {
		return err
	}
	return d.answer(ctx)
}

// answer waits until the daemon has a worker.
func (d *Daemon) answer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	socket := filepath.Join(d.socket, socketName)
	for {
		// Dialled first: the client's own retries take a second.
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			break
		}
		select {
		case <-d.exited:
			return fmt.Errorf("it ended: %w", d.ended)
		case <-ctx.Done():
			return fmt.Errorf("it did not answer on %s: %w", socket, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	c, err := client.New(ctx, d.address())
	if err != nil {
		return err
	}
	d.client = c
	workers, err := c.ListWorkers(ctx)
	if err != nil {
		return err
	}
	if len(workers) == 0 {
		return errors.New("it has no worker")
	}
	return nil
}

func (d *Daemon) hasEnded() bool {
	select {
	case <-d.exited:
		return true
	default:
		return false
	}
}

// said is the end of the daemon's log, for an error.
func (d *Daemon) said() string {
	data, err := os.ReadFile(filepath.Join(d.dir, logName))
	if err != nil || len(bytes.TrimSpace(data)) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "\n" + strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// Stop ends the daemon and takes away everything that it had. It may be called twice.
func (d *Daemon) Stop() error {
	if d.lock == nil {
		return nil
	}
	var errs []error
	if d.client != nil {
		errs = append(errs, d.client.Close())
		d.client = nil
	}
	if d.cmd != nil {
		errs = append(errs, d.kill())
	}
	errs = append(errs, d.remove())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stopping buildkitd: %w", err)
	}
	return nil
}

// kill ends the first process of the namespace. The kernel then ends all others in it,
// and lets the parent see the end only after that. There is nothing to save: the state
// goes with the daemon.
func (d *Daemon) kill() error {
	if pid := child(d.cmd.Process.Pid); pid > 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	} else {
		_ = d.cmd.Process.Kill()
	}
	select {
	case <-d.exited:
		return nil
	case <-time.After(stopWithin):
		_ = d.cmd.Process.Kill()
		<-d.exited
		return fmt.Errorf("process %d did not end within %s of being killed", d.cmd.Process.Pid, stopWithin)
	}
}

// child finds a process whose parent is pid, or gives 0.
func child(pid int) int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		data, err := os.ReadFile(s)
		if err != nil {
			continue // it ended meanwhile
		}
		// pid (name) state ppid …, and the name may have anything in it.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			n, err := strconv.Atoi(filepath.Base(filepath.Dir(s)))
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// remove takes away the daemon's folders and cgroups, and gives up the lock.
func (d *Daemon) remove() error {
	var errs []error
	if d.socket != "" {
		errs = append(errs, os.RemoveAll(d.socket))
	}
	errs = append(errs, removeCgroups(d.cgroup), os.RemoveAll(d.dir), d.lock.Close())
	d.lock = nil
	return errors.Join(errs...)
}

// removeCgroups removes the named group below the root of each hierarchy, version 1 or
// 2, with the empty groups that runc leaves in it.
func removeCgroups(name string) error {
	var roots []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		found, _ := filepath.Glob(pattern)
		roots = append(roots, found...)
	}
	var errs []error
	for _, root := range roots {
		if info, err := os.Lstat(filepath.Dir(root)); err != nil || !info.IsDir() {
			continue // a link to a hierarchy that is removed from under its own name
		}
		var dirs []string
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, p)
			}
			return err
		})
		errs = append(errs, err)
		for i := len(dirs) - 1; i >= 0; i-- {
			errs = append(errs, removeCgroup(dirs[i]))
		}
	}
	return errors.Join(errs...)
}

// removeCgroup waits a moment for a group whose last process is just ending.
func removeCgroup(dir string) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
}
