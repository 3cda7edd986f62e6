package push

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/rancher/rke2/airgap/publish"
	"github.com/rancher/rke2/airgap/registry"
)

// Meter shows a push: one line for each step that did something and, on a terminal,
// a last line with bytes, rate and time left that redraws itself.
type Meter struct {
	verb     string
	w        io.Writer
	terminal bool
	start    time.Time

	mu    sync.Mutex
	now   publish.Progress
	drawn time.Time
}

// NewMeter makes a meter that writes to w, usually standard error.
func NewMeter(w io.Writer, verb string) *Meter {
	f, ok := w.(*os.File)
	return &Meter{verb: verb, w: w, terminal: ok && term.IsTerminal(int(f.Fd())), start: time.Now()}
}

// Progress is told how far the bytes are.
func (m *Meter) Progress(p publish.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = p
	if time.Since(m.drawn) >= 100*time.Millisecond {
		m.draw()
	}
}

// draw shows the last line.
func (m *Meter) draw() {
	if !m.terminal {
		return
	}
	m.drawn = time.Now()
	rate := float64(m.now.Sent) / max(time.Since(m.start).Seconds(), 0.001)
	left := "?"
	if rate > 0 {
		left = time.Duration(float64(m.now.Total-m.now.Done) / rate * float64(time.Second)).Round(time.Second).String()
	}
	fmt.Fprintf(m.w, "\r\x1b[K%s  %d%%  %s of %s  %s/s  %s left", m.verb, 100*m.now.Done/max(m.now.Total, 1),
		size(m.now.Done), size(m.now.Total), size(int64(rate)), left)
}

// line prints a line above the last one.
func (m *Meter) line(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.terminal {
		fmt.Fprint(m.w, "\r\x1b[K")
	}
	fmt.Fprintf(m.w, format+"\n", args...)
	m.draw()
}

// Event is told each step.
func (m *Meter) Event(e publish.Event) {
	if e.Outcome == registry.Present && e.Step != publish.Tag {
		return
	}
	amount, was := size(e.Size), ""
	if e.Step == publish.Tag {
		amount = ""
	}
	if e.Was != "" {
		was = "  was " + e.Was
	}
	m.line("%-12s %-70s %-8s %8s %10s  %s%s", e.Step, e.Image, e.Outcome, e.Elapsed.Round(time.Millisecond), amount, e.What, was)
}

// Retrying is told what failed and is tried again.
func (m *Meter) Retrying(what string, cause error, pause time.Duration) {
	m.line("%s failed, again in %s: %v", what, pause.Round(100*time.Millisecond), cause)
}

// Done removes the last line.
func (m *Meter) Done() {
	if m.terminal {
		fmt.Fprint(m.w, "\r\x1b[K")
	}
}
