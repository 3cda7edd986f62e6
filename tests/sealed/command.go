//go:build linux

package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// drainLimit is how long output is read after a command has ended: a child that
// it left behind may hold the pipe for ever.
const drainLimit = 2 * time.Second

// Cmd is a command to run once inside a host, in the manner of os/exec. The
// command leads a session of its own. When ctx is done, its process group is
// killed.
type Cmd struct {
	Args   []string
	Env    []string // added to the host's
	Dir    string   // default /root
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// TTY makes Stdin, which must be a terminal's *os.File, the controlling one.
	TTY bool

	ctx   context.Context
	host  *Host
	conn  *net.UnixConn
	pid   int
	feeds sync.WaitGroup // output
	pipes []*os.File     // our ends
	stop  func() bool
	done  chan struct{}
	err   error
}

// ExitError is a command that ran and failed. Stderr holds its last output when
// the caller did not take it.
type ExitError struct {
	Args   []string
	Status syscall.WaitStatus
	Stderr []byte
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Status.ExitStatus())
	if e.Status.Signaled() {
		how = "killed by " + e.Status.Signal().String()
	}
	msg := fmt.Sprintf("%s: %s", strings.Join(e.Args, " "), how)
	if text := bytes.TrimSpace(e.Stderr); len(text) > 0 {
		if len(text) > 2000 {
			text = append([]byte("…"), text[len(text)-2000:]...)
		}
		msg += ": " + string(text)
	}
	return msg
}

// Command prepares a command. Its name is looked up in the host's PATH.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Args: append([]string{name}, args...), ctx: ctx, host: h}
}

// Start runs a command in the background with its output appended to the log
// [Host.LogFile] of that name.
func (h *Host) Start(ctx context.Context, log, name string, args ...string) (*Cmd, error) {
	f, err := os.OpenFile(h.LogFile(log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := h.Command(ctx, name, args...)
	c.Stdout, c.Stderr = f, f
	return c, c.Start()
}

// Start starts the command. Wait must be called.
func (c *Cmd) Start() error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if c.done != nil {
		return errors.New("command was started already")
	}
	fail := func(err error) error {
		for _, f := range c.pipes {
			_ = f.Close()
		}
		return fmt.Errorf("running %s on sealed host %s: %w", c.Args[0], c.host.plan.Name, err)
	}
	var theirs []*os.File // to close once passed
	defer func() { closeAll(theirs) }()
	stdio, err := c.plumb(&theirs)
	if err != nil {
		return fail(err)
	}
	ours, other, err := socketpair()
	if err != nil {
		return fail(err)
	}
	theirs = append(theirs, other)
	if c.conn, err = dial(ours); err != nil {
		return fail(err)
	}
	if err := c.host.ask(request{Args: c.Args, Env: c.Env, Dir: c.Dir, TTY: c.TTY}, append([]*os.File{other}, stdio...)); err != nil {
		_ = c.conn.Close()
		return fail(err)
	}
	closeAll(theirs)
	theirs = nil
	var r report
	if _, err := receive(c.conn, &r); err != nil {
		_ = c.conn.Close()
		return fail(fmt.Errorf("the host is gone: %w", err))
	}
	if r.Error != "" {
		_ = c.conn.Close()
		return fail(errors.New(r.Error))
	}
	c.pid = r.Pid
	c.done = make(chan struct{})
	c.stop = context.AfterFunc(c.ctx, func() { _ = c.conn.CloseWrite() })
	go c.watch()
	return nil
}

// plumb makes the files that the command gets, and starts what copies between
// them and the caller's readers and writers.
func (c *Cmd) plumb(theirs *[]*os.File) ([]*os.File, error) {
	stdio := make([]*os.File, 3)
	switch in := c.Stdin.(type) {
	case nil:
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		*theirs = append(*theirs, null)
		stdio[0] = null
	case *os.File:
		stdio[0] = in
	default:
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*theirs = append(*theirs, r)
		stdio[0] = r
		go func() {
			_, _ = io.Copy(w, in)
			_ = w.Close()
		}()
	}
	var err error
	if stdio[1], err = c.output(c.Stdout, theirs); err != nil {
		return nil, err
	}
	if c.Stderr != nil && c.Stderr == c.Stdout {
		stdio[2] = stdio[1]
		return stdio, nil
	}
	stdio[2], err = c.output(c.Stderr, theirs)
	return stdio, err
}

func (c *Cmd) output(to io.Writer, theirs *[]*os.File) (*os.File, error) {
	switch out := to.(type) {
	case nil:
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		*theirs = append(*theirs, null)
		return null, nil
	case *os.File:
		return out, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	*theirs = append(*theirs, w)
	c.pipes = append(c.pipes, r)
	c.feeds.Go(func() { _, _ = io.Copy(to, r) })
	return w, nil
}

// watch waits for the end of a started command.
func (c *Cmd) watch() {
	defer close(c.done)
	var r report
	_, err := receive(c.conn, &r)
	c.stop()
	_ = c.conn.Close()
	for _, f := range c.pipes {
		_ = f.SetReadDeadline(time.Now().Add(drainLimit))
	}
	c.feeds.Wait()
	closeAll(c.pipes)
	ws := syscall.WaitStatus(r.Status)
	switch {
	case err != nil || !r.Ended:
		c.err = fmt.Errorf("%s: sealed host %s ended while it ran", c.Args[0], c.host.plan.Name)
	case ws.ExitStatus() != 0:
		c.err = &ExitError{Args: c.Args, Status: ws}
	}
	if cause := context.Cause(c.ctx); c.err != nil && cause != nil {
		c.err = errors.Join(c.err, cause)
	}
}

// Wait waits for the command's end: nil if it exited with 0, an [ExitError] if it
// failed, another error if the host ended first.
func (c *Cmd) Wait() error {
	if c.done == nil {
		return errors.New("command was not started")
	}
	<-c.done
	return c.err
}

// Done is closed when the command has ended.
func (c *Cmd) Done() <-chan struct{} { return c.done }

// Pid is the command's process id inside the host.
func (c *Cmd) Pid() int { return c.pid }

// Signal sends a signal to the command, not to its children.
func (c *Cmd) Signal(s syscall.Signal) error { return send(c.conn, order{Signal: int(s)}) }

// Run starts the command and waits for it.
func (c *Cmd) Run() error {
	var stderr *tail
	if c.Stderr == nil {
		stderr = &tail{}
		c.Stderr = stderr
	}
	if err := c.Start(); err != nil {
		return err
	}
	err := c.Wait()
	var failed *ExitError
	if errors.As(err, &failed) && stderr != nil {
		failed.Stderr = stderr.kept
	}
	return err
}

// Output runs the command and returns what it wrote to stdout.
func (c *Cmd) Output() ([]byte, error) {
	var b bytes.Buffer
	c.Stdout = &b
	err := c.Run()
	return b.Bytes(), err
}

// CombinedOutput runs the command and returns all that it wrote.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	return b.Bytes(), err
}

// ask hands a request to init.
func (h *Host) ask(req request, files []*os.File) error {
	h.mu.Lock()
	p := h.power
	h.mu.Unlock()
	if p == nil {
		return errors.New("the host is off")
	}
	p.agentMu.Lock()
	defer p.agentMu.Unlock()
	return send(p.agent, req, files...)
}

// tail keeps the last few kilobytes written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if extra := len(t.kept) - 8<<10; extra > 0 {
		t.kept = append([]byte(nil), t.kept[extra:]...)
	}
	return len(p), nil
}
