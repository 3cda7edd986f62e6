package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxTermination is what the kubelet reads of a termination message, in bytes.
const maxTermination = 4096

// report tells what the job does: a line at a time in the pod's log, and the latest
// state as the container's termination message, which is what `kubectl describe pod`
// shows and what is left when the process is killed.
type report struct {
	mu          sync.Mutex // Helm logs from several goroutines
	out         io.Writer
	termination string // path; nothing is written if it is not there
}

// say writes one line to the log.
func (r *report) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintln(r.out, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
}

// last writes a line to the log and makes it the termination message.
func (r *report) last(format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	r.say("%s", text)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.terminate(text); err != nil {
		fmt.Fprintf(r.out, "writing the termination message: %v\n", err)
	}
}

// terminate replaces the termination message. The kubelet makes the file; outside of a
// pod there is none, and none is made.
func (r *report) terminate(text string) error {
	f, err := os.OpenFile(r.termination, os.O_WRONLY|os.O_TRUNC, 0)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := io.WriteString(f, shorten(text, maxTermination)); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// helm logs a line of Helm's own.
func (r *report) helm(format string, args ...any) { r.say("helm: "+format, args...) }

// shorten keeps the beginning, which says what failed, and the end, which says why.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	const gap = "\n…\n"
	head, tail := text[:most/4], text[len(text)-(most-most/4-len(gap)):]
	for len(head) > 0 && !utf8.ValidString(head) {
		head = head[:len(head)-1]
	}
	for len(tail) > 0 && !utf8.RuneStart(tail[0]) {
		tail = tail[1:]
	}
	return head + gap + tail
}

// inLine puts an error that lists others, an item a line, into one line.
func inLine(err error) error {
	if err == nil {
		return nil
	}
	return listed{err}
}

type listed struct{ error }

func (l listed) Error() string {
	items := strings.Split(l.error.Error(), "\n\t* ")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return strings.TrimSpace(items[0] + " " + strings.Join(items[1:], "; "))
}

func (l listed) Unwrap() error { return l.error }
