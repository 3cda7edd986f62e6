//go:build linux

package sealed

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// runInit is process 1's life: build the host, then run commands and reap.
func runInit() int {
	toKeeper, err := dial(os.NewFile(fdStatus, "status"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	agent, err := dial(os.NewFile(fdAgent, "agent"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var p plan
	if _, err := receive(toKeeper, &p); err != nil {
		fmt.Fprintln(os.Stderr, "sealed host init: no plan:", err)
		return 1
	}
	if err := buildHost(p); err != nil {
		_ = send(toKeeper, status{Error: fmt.Sprintf("building sealed host %s: %v", p.Name, err)})
		return 1
	}
	r := &runner{plan: p, waiting: map[int]chan syscall.WaitStatus{}}
	go r.reap()
	if err := send(toKeeper, status{Ready: true}); err != nil {
		return 1
	}
	r.serve(agent)
	// The keeper takes the end of this connection for the end of init: the
	// garbage collector must not bring it about.
	runtime.KeepAlive(toKeeper)
	return 0
}

func buildHost(p plan) error {
	if err := unix.Sethostname([]byte(p.Name)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	if err := takeWire(p); err != nil {
		return err
	}
	return buildRoot(p)
}

// runner starts commands and is the only one that waits for processes, as it
// must: any of them may be an orphan that nobody else waits for.
type runner struct {
	plan    plan
	mu      sync.Mutex // held while a process is started or reaped
	waiting map[int]chan syscall.WaitStatus
}

func (r *runner) reap() {
	child := make(chan os.Signal, 1)
	signal.Notify(child, syscall.SIGCHLD)
	for {
		for r.reapOne() {
		}
		<-child
	}
}

// reapOne waits for one process that has ended and says if there was one.
func (r *runner) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ws syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
	if err == syscall.EINTR {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if done, ok := r.waiting[pid]; ok {
		delete(r.waiting, pid)
		done <- ws
	}
	return true
}

// serve takes commands until the caller hangs up.
func (r *runner) serve(agent *net.UnixConn) {
	for {
		var req request
		files, err := receive(agent, &req)
		if err != nil {
			fmt.Fprintln(os.Stderr, "end of requests:", err)
			return
		}
		want := 1
		if len(req.Args) > 0 {
			want = 4
		}
		if len(files) != want {
			fmt.Fprintf(os.Stderr, "request for %q came with %d files, not %d\n", req.Args, len(files), want)
			closeAll(files)
			continue
		}
		conn, err := dial(files[0])
		if err != nil {
			fmt.Fprintf(os.Stderr, "request for %q: %v\n", req.Args, err)
			closeAll(files[1:])
			continue
		}
		if len(req.Args) == 0 {
			go connect(conn, req)
			continue
		}
		go r.run(conn, req, files[1:])
	}
}

// run starts one command and reports its life on conn. When the other end of
// conn is closed, the command's process group is killed.
func (r *runner) run(conn *net.UnixConn, req request, stdio []*os.File) {
	defer conn.Close()
	pid, done, err := r.start(req, stdio)
	closeAll(stdio)
	if err != nil {
		_ = send(conn, report{Error: err.Error()})
		return
	}
	if err := send(conn, report{Pid: pid}); err != nil {
		fmt.Fprintf(os.Stderr, "%q: %v\n", req.Args, err)
	}
	go func() {
		for {
			var o order
			if _, err := receive(conn, &o); err != nil {
				o.Signal = int(syscall.SIGKILL)
				r.signal(-pid, pid, o.Signal)
				return
			}
			r.signal(pid, pid, o.Signal)
		}
	}()
	ws := <-done
	_ = send(conn, report{Ended: true, Status: uint32(ws)})
}

// signal sends a signal to a process or group if its leader was not reaped yet:
// its number may be another's by now.
func (r *runner) signal(target, leader, number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.waiting[leader]; ok {
		_ = syscall.Kill(target, syscall.Signal(number))
	}
}

func (r *runner) start(req request, stdio []*os.File) (int, chan syscall.WaitStatus, error) {
	env := append(r.environment(), req.Env...)
	path, err := find(req.Args[0], env)
	if err != nil {
		return 0, nil, err
	}
	dir := req.Dir
	if dir == "" {
		dir = "/root"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, req.Args, &syscall.ProcAttr{
		Dir:   dir,
		Env:   env,
		Files: []uintptr{stdio[0].Fd(), stdio[1].Fd(), stdio[2].Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: req.TTY, Ctty: 0},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("starting %s on sealed host %s: %w", path, r.plan.Name, err)
	}
	done := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = done
	return pid, done, nil
}

// environment is what every command gets: the machine's own is not passed on.
func (r *runner) environment() []string {
	return append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "LANG=C.UTF-8",
	}, r.plan.Env...)
}

// find looks a command up in the PATH of env, whose last setting counts.
func find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	for _, dir := range filepath.SplitList(path) {
		candidate := filepath.Join(dir, name)
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("%w: %s in %s", exec.ErrNotFound, name, path)
}
