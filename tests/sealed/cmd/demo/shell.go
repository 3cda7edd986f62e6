//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// lastWords is how long a terminal is read after its command has ended, for what
// a process in the background may hold open.
const lastWords = 500 * time.Millisecond

// shell runs a shell on the node until it ends. Its exit status, that of the last
// command typed, is no error of the demo.
func shell(ctx context.Context, n *node.Node) error {
	c := n.Command(ctx, "bash", "--noprofile", "--norc")
	c.Env = []string{"PS1=[sealed \\h \\w]# ", "TERM=" + os.Getenv("TERM")}
	var err error
	if term.IsTerminal(int(os.Stdin.Fd())) {
		err = onTerminal(c)
	} else {
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		err = c.Run()
	}
	var status *sealed.ExitError
	if errors.As(err, &status) {
		return ctx.Err()
	}
	return err
}

// onTerminal runs a command on a terminal of its own, and this terminal shows it:
// a terminal can't be handed to a session in another place.
func onTerminal(c *sealed.Cmd) error {
	outer := int(os.Stdin.Fd())
	inner, its, err := openTerminal()
	if err != nil {
		return err
	}
	defer inner.Close()
	raw, err := inner.SyscallConn()
	if err != nil {
		return err
	}
	resize := func() {
		if size, err := unix.IoctlGetWinsize(outer, unix.TIOCGWINSZ); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
		}
	}
	resize()
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	go func() {
		for range changed {
			resize()
		}
	}()
	c.Stdin, c.Stdout, c.Stderr, c.TTY = its, its, its, true
	err = c.Start()
	_ = its.Close() // the command has it
	if err != nil {
		return err
	}
	saved, err := term.MakeRaw(outer)
	if err != nil {
		return err
	}
	defer func() { _ = term.Restore(outer, saved) }()
	go func() { _, _ = io.Copy(inner, os.Stdin) }()
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		_, _ = io.Copy(os.Stdout, inner) // ends when the last process lets go of it, or the time is up
	}()
	err = c.Wait()
	_ = inner.SetReadDeadline(time.Now().Add(lastWords))
	<-shown
	return err
}

// openTerminal makes a pseudo-terminal (pts(4)): our end and the command's.
func openTerminal() (*os.File, *os.File, error) {
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a terminal: %w", err)
	}
	fail := func(err error) (*os.File, *os.File, error) {
		_ = ours.Close()
		return nil, nil, fmt.Errorf("making a terminal: %w", err)
	}
	raw, err := ours.SyscallConn()
	if err != nil {
		return fail(err)
	}
	var number int
	var failed error
	err = raw.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			number, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return fail(err)
	}
	its, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fail(err)
	}
	return ours, its, nil
}
