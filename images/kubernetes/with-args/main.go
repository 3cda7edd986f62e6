// Command with-args runs a program with arguments that are in a file, one a line: a pod
// that is the same on every node runs kube-proxy with what its own node says.
//
// It waits for the file, hands signals on, and ends the program when the file changes or
// goes away, so that the kubelet starts both again with the new arguments.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const usage = `Runs a program with the arguments that are in a file, one a line.

Usage: with-args FILE -- PROGRAM [ARGUMENT…]

Waits until FILE is there. What is in it comes after the arguments given here; empty lines
are passed over. When FILE changes or goes away the program is ended, and so is with-args,
with exit code 0: whoever started it starts it again. Otherwise its exit code is the
program's.
`

func main() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	r := runner{poll: time.Second, grace: 10 * time.Second, signals: signals, out: os.Stdout, err: os.Stderr}
	os.Exit(r.main(os.Args[1:]))
}

// runner is one run of with-args.
type runner struct {
	poll     time.Duration // how often the file is looked at
	grace    time.Duration // how long the program may take to end when the file changed
	signals  <-chan os.Signal
	out, err io.Writer
}

func (r runner) main(args []string) int {
	if len(args) == 1 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
		fmt.Fprint(r.out, usage)
		return 0
	}
	if len(args) < 3 || args[1] != "--" {
		fmt.Fprint(r.err, usage)
		return 2
	}
	file, program := args[0], args[2:]
	content, stopped, err := r.wait(file)
	if stopped {
		return 0
	}
	code := 1
	if err == nil {
		code, err = r.run(file, content, append(program, lines(content)...))
	}
	if err != nil {
		fmt.Fprintln(r.err, "with-args:", err)
	}
	return code
}

// wait gives the file's content once it is there, or tells that a signal came first.
func (r runner) wait(file string) (content []byte, stopped bool, err error) {
	// Looked at often: a node's network waits for this.
	const often = 100 * time.Millisecond
	for told := false; ; told = true {
		content, err := os.ReadFile(file)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return content, false, err
		}
		if !told {
			fmt.Fprintf(r.out, "with-args: waiting for %s, which the node writes\n", file)
		}
		select {
		case s := <-r.signals:
			if ends(s) {
				return nil, true, nil
			}
		case <-time.After(min(often, r.poll)):
		}
	}
}

// run gives the program's exit code, or 0 when it was ended because file is no longer
// what it was.
func (r runner) run(file string, content []byte, command []string) (int, error) {
	program := exec.Command(command[0], command[1:]...)
	program.Stdout, program.Stderr = r.out, r.err
	if err := program.Start(); err != nil {
		return 1, fmt.Errorf("starting %s: %w", command[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()
	look := time.NewTicker(r.poll)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			return exitCode(err)
		case s := <-r.signals:
			// That it has just ended is no error: its exit code comes next.
			_ = program.Process.Signal(s)
		case <-look.C:
			now, err := os.ReadFile(file)
			switch {
			case errors.Is(err, os.ErrNotExist):
				fmt.Fprintf(r.out, "with-args: %s was removed: ending %s\n", file, command[0])
			case err != nil || bytes.Equal(now, content):
				continue // what cannot be read right now says nothing
			default:
				fmt.Fprintf(r.out, "with-args: %s changed: ending %s\n", file, command[0])
			}
			r.end(program.Process, ended)
			return 0, nil
		}
	}
}

// end asks the program to end and, if it takes too long, makes it.
func (r runner) end(p *os.Process, ended <-chan error) {
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(r.grace):
		_ = p.Kill()
		<-ended
	}
}

// exitCode is a shell's: 128 and the signal's number for a program that a signal ended.
func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	if err == nil {
		return 0, nil
	}
	if !errors.As(err, &exit) {
		return 1, err
	}
	if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal()), nil
	}
	return exit.ExitCode(), nil
}

func ends(s os.Signal) bool {
	return s == syscall.SIGTERM || s == syscall.SIGINT || s == syscall.SIGQUIT
}

// lines are the arguments in a file's content, each as it stands but for a carriage
// return at its end.
func lines(content []byte) []string {
	var args []string
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			args = append(args, line)
		}
	}
	return args
}
