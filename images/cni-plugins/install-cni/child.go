package main

import (
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// child is a program that was started; a nil one never ends.
type child struct {
	command []string
	process *exec.Cmd
	done    chan struct{} // closed when it ended
	err     error         // why it ended; valid after done
}

func startChild(out io.Writer, command []string) (*child, error) {
	c := &child{command: command, process: exec.Command(command[0], command[1:]...), done: make(chan struct{})}
	c.process.Stdout, c.process.Stderr = out, out
	if err := c.process.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", command[0], err)
	}
	go func() {
		if err := c.process.Wait(); err != nil {
			c.err = fmt.Errorf("%s: %w", command[0], err)
		}
		close(c.done)
	}()
	return c, nil
}

func (c *child) ended() <-chan struct{} {
	if c == nil {
		return nil
	}
	return c.done
}

// exited is nil while the child runs.
func (c *child) exited() error {
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
		if c.err == nil {
			return fmt.Errorf("%s ended by itself", c.command[0])
		}
		return c.err
	default:
		return nil
	}
}

// end returns when the child is gone.
func (c *child) end() {
	_ = c.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(3 * time.Second):
		_ = c.process.Process.Kill()
		<-c.done
	}
}
