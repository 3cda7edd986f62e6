//go:build linux

package main

import (
	"fmt"
	"io"
	"time"
)

// progress shows steps and how long they take: on a terminal the seconds run, in
// a log a step is one line.
type progress struct {
	w        io.Writer
	terminal bool
}

func newProgress(w io.Writer, terminal bool) *progress { return &progress{w, terminal} }

func (p *progress) step(what string, do func() error) error {
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- do() }()
	show := func(mark, end string) {
		fmt.Fprintf(p.w, "%s %-52s %5.1f s%s", mark, what, time.Since(start).Seconds(), end)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			mark := "✓"
			if err != nil {
				mark = "✗"
			}
			if p.terminal {
				fmt.Fprint(p.w, "\r")
			}
			show(mark, "\n")
			return err
		case <-tick.C:
			if p.terminal {
				fmt.Fprint(p.w, "\r")
				show("…", "")
			}
		}
	}
}
