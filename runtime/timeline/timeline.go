// Package timeline keeps when the phases of a node's start were reached, and what was
// read for them, so that the node itself can say in one line where the time went.
package timeline

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Phase is a point that every start passes. Its mark is when it was reached.
type Phase string

// The phases of a start. Agents have no etcd; they and the API server's phase mean the
// cluster's. The order of the marks is that of the clock, not this one.
const (
	Scan       Phase = "scan"       // the bundles' indexes are read
	Verify     Phase = "verify"     // the runtime image is admitted
	Stage      Phase = "stage"      // the runtime's files are in place and checked
	Containerd Phase = "containerd" // containerd serves the CRI
	Etcd       Phase = "etcd"       // etcd has a leader and this member votes
	API        Phase = "api"        // the API server answers /readyz
	Images     Phase = "images"     // all images of all bundles are in containerd
	Ready      Phase = "ready"      // the kubelet of this start has reported the node Ready
	Pods       Phase = "pods"       // this node's static pods are Running and Ready
	Charts     Phase = "charts"     // the packaged charts are installed, and their pods are Ready
)

// Kind is what a start found.
type Kind string

// The kinds of start.
const (
	Cold    Kind = "cold"    // a node that never ran
	Reboot  Kind = "reboot"  // a node's disk, none of its processes
	Restart Kind = "restart" // containers that run
)

// Line is the timeline of one start. It may be used by several goroutines. A nil *Line
// takes everything and keeps nothing.
type Line struct {
	started time.Time
	tell    func(status string)

	mu    sync.Mutex
	kind  Kind
	marks []mark
	blobs int
	bytes int64
}

type mark struct {
	phase Phase
	at    time.Duration
}

// New is a timeline that began at started. tell, if it is not nil, is called with each
// status in the operator's words: what the node is doing now.
func New(kind Kind, started time.Time, tell func(status string)) *Line {
	return &Line{kind: kind, started: started, tell: tell}
}

// Started is when the start began.
func (l *Line) Started() time.Time {
	if l == nil {
		return time.Time{}
	}
	return l.started
}

// Kind is what this start found.
func (l *Line) Kind() Kind {
	if l == nil {
		return ""
	}
	return l.kind
}

// Mark says that a phase is reached now. Only its first mark counts.
func (l *Line) Mark(phase Phase) {
	if l == nil {
		return
	}
	l.mu.Lock()
	known := l.has(phase)
	if !known {
		l.marks = append(l.marks, mark{phase, time.Since(l.started)})
	}
	status := next[phase]
	if phase == Images {
		// How far the import is was the last word: what else goes on is again now.
		for _, m := range l.marks {
			if slices.Contains(afterContainerd, m.phase) {
				status = next[m.phase]
			}
		}
	}
	l.mu.Unlock()
	if status != "" && !known {
		l.Status(status)
	}
}

// next is what a node does after a phase.
var next = map[Phase]string{
	Scan:       "verifying the runtime image",
	Verify:     "staging the runtime",
	Stage:      "starting containerd",
	Containerd: "importing images, starting the kubelet",
	Images:     "starting the kubelet",
	Etcd:       "waiting for the API server",
	API:        "waiting for this node to be Ready",
	Ready:      "waiting for this node's static pods",
	Pods:       "running",
	Charts:     "running",
}

// afterContainerd are the phases that the import of images goes on beside.
var afterContainerd = []Phase{Etcd, API, Ready, Pods, Charts}

// Status says what the node is doing now, between marks: "importing images: 1.2 of 2 GB".
func (l *Line) Status(text string) {
	if l != nil && l.tell != nil {
		l.tell(text)
	}
}

// Has tells whether a phase was marked.
func (l *Line) Has(phase Phase) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.has(phase)
}

func (l *Line) has(phase Phase) bool {
	return slices.ContainsFunc(l.marks, func(m mark) bool { return m.phase == phase })
}

// Read adds to what was read of bundles and registries: blobs, and their bytes as they
// are stored.
func (l *Line) Read(blobs int, bytes int64) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blobs += blobs
	l.bytes += bytes
}

// Log writes the line: the kind of start, the seconds from the start to each phase's mark
// in the order in which they were reached ("scan=0.12 verify=0.20 …"), and what was read.
func (l *Line) Log(log *slog.Logger) {
	if l == nil {
		return
	}
	log.Info("timeline", l.attrs()...)
}

func (l *Line) attrs() []any {
	l.mu.Lock()
	defer l.mu.Unlock()
	marks := make([]string, len(l.marks))
	for i, m := range l.marks {
		marks[i] = fmt.Sprintf("%s=%.2f", m.phase, m.at.Seconds())
	}
	return []any{"start", string(l.kind), "seconds", strings.Join(marks, " "), "blobs", l.blobs, "bytes", l.bytes}
}

type key struct{}

// With is a context that carries a timeline.
func With(ctx context.Context, l *Line) context.Context {
	return context.WithValue(ctx, key{}, l)
}

// Of is the timeline that a context carries, or nil, which takes marks too.
func Of(ctx context.Context) *Line {
	l, _ := ctx.Value(key{}).(*Line)
	return l
}
