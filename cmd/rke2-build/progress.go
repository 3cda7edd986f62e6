package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rancher/rke2/build/pipeline"
)

// progress writes one line a step.
type progress struct{ w io.Writer }

func newProgress(w io.Writer) *progress { return &progress{w: w} }

func (p *progress) event(e pipeline.Event) {
	if !e.Done {
		fmt.Fprintf(p.w, "%-8s %-20s %-18s making %s\n", e.Step, e.Name, e.Detail, strings.Join(e.Making, " "))
		return
	}
	state := "built"
	switch {
	case e.Cached && e.Step == pipeline.Sign:
		state = "kept"
	case e.Cached:
		state = "cached"
	case e.Step == pipeline.Sign:
		state = "signed"
	}
	if e.Step == pipeline.Sign {
		fmt.Fprintf(p.w, "%-8s %-39s %s\n", e.Step, e.Name, state)
		return
	}
	fmt.Fprintf(p.w, "%-8s %-20s %-18s %-7s %8s %10s\n", e.Step, e.Name, e.Detail, state, e.Elapsed.Round(10*time.Millisecond), size(e.Size))
}

// size writes bytes for people: decimal megabytes, as disks are sold.
func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	default:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
}
