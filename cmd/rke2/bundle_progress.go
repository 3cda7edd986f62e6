package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// meter shows bytes, rate and time left: a line that redraws itself on a terminal,
// and one line at the end of the work in a log.
type meter struct {
	w        io.Writer
	verb     string
	terminal bool
	start    time.Time
	drawn    time.Time
	subject  string
	now, all int64
}

func newMeter(w io.Writer, verb string) *meter {
	f, ok := w.(*os.File)
	return &meter{w: w, verb: verb, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// show is told where the work on a subject is.
func (m *meter) show(subject string, done, total int64) {
	if subject != m.subject {
		m.done()
		m.subject, m.start = subject, time.Now()
	}
	m.now, m.all = done, total
	if !m.terminal || time.Since(m.drawn) < 100*time.Millisecond {
		return
	}
	m.drawn = time.Now()
	rate := float64(done) / max(time.Since(m.start).Seconds(), 0.001)
	left := time.Duration(float64(total-done) / max(rate, 1) * float64(time.Second)).Round(time.Second)
	fmt.Fprintf(m.w, "\r\x1b[K%s %s  %d%%  %s of %s  %s/s  %s left", m.verb, subject,
		100*done/max(total, 1), humanBytes(done), humanBytes(total), humanBytes(int64(rate)), left)
}

// done ends the current subject with its last line.
func (m *meter) done() {
	if m.subject == "" {
		return
	}
	if m.terminal {
		fmt.Fprint(m.w, "\r\x1b[K")
	}
	took := time.Since(m.start)
	if m.now == m.all {
		fmt.Fprintf(m.w, "%s %s  %s in %s  %s/s\n", m.verb, m.subject, humanBytes(m.now), took.Round(10*time.Millisecond),
			humanBytes(int64(float64(m.now)/max(took.Seconds(), 0.001))))
	}
	m.subject = ""
}

// humanBytes prints a size in decimal units, as disks are sold.
func humanBytes(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
