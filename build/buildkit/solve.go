package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

// solve has BuildKit build the image and keeps it in dir.
func (b *Builder) solve(ctx context.Context, j *job, dir string) error {
	c, err := b.running(ctx, j.file.network)
	if err != nil {
		return err
	}
	inner, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	mounts, attrs := j.mounts(fail)
	opt := client.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		LocalMounts:   mounts,
		// As with the names of contexts: what one digest means is not taken for another's.
		SharedKey:    j.digests[""],
		SourcePolicy: onlyContexts(),
	}
	if j.file.network {
		opt.AllowedEntitlements = []string{networkHost}
	}
	r, w := io.Pipe()
	kept := make(chan error, 1)
	opt.Exports = []client.ExportEntry{{
		Type: client.ExporterOCI, Attrs: exported,
		Output: func(map[string]string) (io.WriteCloser, error) { return w, nil },
	}}
	go func() {
		err := j.keep(r, dir)
		// BuildKit's next write fails with this.
		_ = r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		kept <- err
	}()
	journal := &journal{out: b.o.Log, name: j.file.path, steps: map[string]*step{}}
	status := make(chan *client.SolveStatus)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := range status {
			journal.add(s)
		}
	}()
	_, err = c.Solve(inner, nil, opt, status)
	<-read
	_ = w.CloseWithError(io.ErrUnexpectedEOF) // has no effect where the export came to its end
	keepErr := <-kept
	// The build is over, whatever Solve made of the error of a file that wasn't read.
	if err == nil {
		err = inner.Err()
	}
	if err != nil {
		if inner.Err() != nil {
			return fmt.Errorf("building %s: %w", j.file.path, context.Cause(inner))
		}
		if keepErr != nil && !errors.Is(keepErr, io.ErrUnexpectedEOF) {
			return keepErr // the cause, not what BuildKit made of it
		}
		return j.explain(err, journal)
	}
	return keepErr
}

// onlyContexts refuses every source that would be fetched, also where reading the
// Dockerfile has not found it out.
func onlyContexts() *spb.Policy {
	deny := func(pattern string) *spb.Rule {
		return &spb.Rule{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: pattern}}
	}
	return &spb.Policy{Version: 1, Rules: []*spb.Rule{
		deny("docker-image://*"), deny("git://*"), deny("http://*"), deny("https://*"), deny("oci-layout://*"),
	}}
}

// reference is what BuildKit calls a tree, which says nothing to a reader of errors.
var reference = regexp.MustCompile(`^failed to compute cache key: failed to calculate checksum of ref [^ ]+: `)

// explain turns BuildKit's error into one that names the line, with the end of what the
// failed step said.
func (j *job) explain(err error, journal *journal) error {
	at := 0
	for _, s := range errdefs.Sources(err) {
		if s.Info != nil && s.Info.Filename == j.file.base() && len(s.Ranges) > 0 {
			at = int(s.Ranges[0].Start.Line)
		}
	}
	text := reference.ReplaceAllString(strings.TrimPrefix(err.Error(), "failed to solve: "), "")
	if said := journal.failed(); said != "" {
		text += ":\n" + said
	}
	if at == 0 {
		return fmt.Errorf("building %s with BuildKit: %s", j.file.path, text)
	}
	return j.file.errorf(at, "%s", text)
}

// journal follows the steps of one build.
type journal struct {
	out   io.Writer // may be nil
	name  string
	steps map[string]*step // by digest
	count int
}

type step struct {
	number  int
	name    string
	ended   bool
	err     string
	partial string   // of a line
	lines   []string // the last ones
}

// lastLines is how much of a step's output an error shows.
const lastLines = 30

func (l *journal) add(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		st := l.step(v.Digest.String())
		if st.name == "" && v.Started != nil {
			st.name = v.Name
			l.printf("#%d %s", st.number, v.Name)
		}
		st.err = v.Error
		if v.Completed != nil && !st.ended {
			st.ended = true
			took := ""
			if v.Started != nil {
				took = fmt.Sprintf(" %.1fs", v.Completed.Sub(*v.Started).Seconds())
			}
			switch {
			case v.Cached:
				l.printf("#%d cached", st.number)
			case v.Error != "":
				l.printf("#%d failed%s: %s", st.number, took, v.Error)
			default:
				l.printf("#%d done%s", st.number, took)
			}
		}
	}
	for _, log := range s.Logs {
		st := l.step(log.Vertex.String())
		lines := strings.Split(st.partial+string(log.Data), "\n")
		st.partial = lines[len(lines)-1]
		for _, line := range lines[:len(lines)-1] {
			l.printf("#%d %s", st.number, line)
			st.lines = append(st.lines, line)
		}
		st.lines = st.lines[max(0, len(st.lines)-lastLines):]
	}
}

func (l *journal) step(digest string) *step {
	st := l.steps[digest]
	if st == nil {
		l.count++
		st = &step{number: l.count}
		l.steps[digest] = st
	}
	return st
}

// failed is the end of what the failed step said.
func (l *journal) failed() string {
	for _, st := range l.steps {
		if st.err != "" && len(st.lines)+len(st.partial) > 0 {
			return strings.TrimRight(strings.Join(append(st.lines, st.partial), "\n"), "\n")
		}
	}
	return ""
}

func (l *journal) printf(format string, args ...any) {
	if l.out != nil {
		fmt.Fprintf(l.out, "%s "+format+"\n", append([]any{l.name}, args...)...)
	}
}
