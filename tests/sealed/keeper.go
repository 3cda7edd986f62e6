//go:build linux

package sealed

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The names under which the calling binary runs again.
const (
	keeperName = "rke2-sealed-keeper"
	initName   = "rke2-sealed-init"
)

// File descriptors that keeper and init are started with.
const (
	fdStatus = 3 // to whoever started it
	fdAgent  = 4 // from the caller to init: commands
)

// removeLimit is how long the cgroups of a host that has ended may take to go.
const removeLimit = 10 * time.Second

// Main runs keeper or init and does not return if the process was started as
// one; else it does nothing. A program that makes hosts calls it first of all: in
// TestMain or main.
func Main() {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case keeperName:
		// The kernel ties init's parent-death signal to the thread that started
		// it: this one must live as long as the process.
		runtime.LockOSThread()
		os.Exit(keep())
	case initName:
		os.Exit(runInit())
	}
}

// keep is the keeper's life. It says on the status socket how far the host is,
// and that it is gone; it ends when the caller hangs up or dies, or init dies.
func keep() int {
	caller, err := dial(os.NewFile(fdStatus, "status"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var p plan
	if _, err := receive(caller, &p); err != nil {
		fmt.Fprintln(os.Stderr, "sealed host keeper: no plan:", err)
		return 1
	}
	k := &keeper{plan: p}
	err = k.run(caller)
	k.end()
	last := status{Gone: true}
	if err = errors.Join(err, k.clear()); err != nil {
		last.Error = err.Error()
	}
	_ = send(caller, last) // the caller may be dead
	return 0
}

type keeper struct {
	plan    plan
	init    int
	cgroups []string
}

// run starts the host and returns when it is to end.
func (k *keeper) run(caller *net.UnixConn) error {
	toInit, err := k.start()
	if err != nil {
		return err
	}
	if k.plan.UplinkMAC, err = layWire(k.plan, k.init); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(k.plan.State, "logs", "outside.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := watchUplink(k.plan, log); err != nil {
		return err
	}
	if err := send(toInit, k.plan); err != nil {
		return fmt.Errorf("talking to init: %w", err)
	}
	var answer status
	if _, err := receive(toInit, &answer); err != nil {
		return fmt.Errorf("init ended while it set the host up (%w): see %s", err, filepath.Join(k.plan.State, "logs", "init.log"))
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	if err := send(caller, status{Ready: true, Init: k.init}); err != nil {
		return nil
	}
	over := make(chan struct{}, 2)
	go func() {
		k.obey(caller) // it hangs up, or dies
		over <- struct{}{}
	}()
	go func() {
		var m status
		_, _ = receive(toInit, &m)
		over <- struct{}{}
	}()
	<-over
	return nil
}

// obey does what the caller wishes until it is gone.
func (k *keeper) obey(caller *net.UnixConn) {
	for {
		var w wish
		if _, err := receive(caller, &w); err != nil {
			return
		}
		answer := status{Ready: true}
		if err := plugIn(k.plan.Uplink, w.Plug); err != nil {
			answer.Error = err.Error()
		}
		if err := send(caller, answer); err != nil {
			return
		}
	}
}

// start makes the cgroups and, from inside them, init in its namespaces. (A
// cgroup namespace takes the cgroup that its maker is in for its root, so the
// keeper enters and then leaves.)
func (k *keeper) start() (*net.UnixConn, error) {
	var err error
	if k.plan.Hierarchies, err = hierarchies(); err != nil {
		return nil, err
	}
	for _, h := range k.plan.Hierarchies {
		dir, err := h.make(k.plan.Cgroup)
		if dir != "" {
			k.cgroups = append(k.cgroups, dir)
		}
		if err != nil {
			return nil, err
		}
		if err := enter(dir); err != nil {
			return nil, err
		}
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	conn, err := dial(ours)
	if err != nil {
		return nil, err
	}
	console, err := os.OpenFile(filepath.Join(k.plan.State, "logs", "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	agent := os.NewFile(fdAgent, "agent")
	defer agent.Close()
	k.init, err = syscall.ForkExec("/proc/self/exe", []string{initName}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: []uintptr{null.Fd(), console.Fd(), console.Fd(), theirs.Fd(), agent.Fd()},
		Sys: &syscall.SysProcAttr{
			Setsid:    true,
			Pdeathsig: syscall.SIGKILL,
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
				unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: starting init in new namespaces: %w", ErrUnsupported, err)
	}
	return conn, k.leave()
}

// leave moves the keeper back to where it came from: the host's cgroups are the
// host's alone, and must be empty to be removed.
func (k *keeper) leave() error {
	var errs []error
	for _, h := range k.plan.Hierarchies {
		errs = append(errs, enter(h.Home))
	}
	return errors.Join(errs...)
}

// end kills init, and with it every process of the host, and waits: the kernel
// reports a namespace's first process last.
func (k *keeper) end() {
	if k.init == 0 {
		return
	}
	_ = unix.Kill(k.init, unix.SIGKILL)
	for {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(k.init, &ws, 0, nil); err != unix.EINTR {
			return
		}
	}
}

func (k *keeper) clear() error {
	errs := []error{k.leave()}
	cutWire(k.plan)
	for _, dir := range k.cgroups {
		errs = append(errs, removeTree(dir, removeLimit))
	}
	return errors.Join(errs...)
}
