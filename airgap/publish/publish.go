// Package publish pushes images of an OCI image layout or of bundles to a registry, with
// their signatures and attestations under cosign's tags. What is there is left alone, so an
// interrupted push is taken up by running it again; and a tag is set only when all that
// it leads to is in the registry.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/airgap/registry"
)

// Options say what is pushed where.
type Options struct {
	Layout        string   // folder of the OCI image layout; or else
	Source        Source   // what has the images
	Images        []string // by name or reference; none: all, of a layout those that are not for tests alone
	To            Destination
	Client        *registry.Client
	Jobs          int  // how many blobs are sent at a time; 0: 4
	DryRun        bool // look what is there, send nothing
	AllowUnsigned bool
	// Report is told each step, Progress how far the bytes are. Both are called from
	// several goroutines, one at a time, and may be nil.
	Report   func(Event)
	Progress func(Progress)
}

// Step is what an event is about.
type Step string

const (
	Layer        Step = "layer"        // or config
	Manifest     Step = "manifest"     // by digest, an index too
	Signatures   Step = "signatures"   // cosign's tag .sig
	Attestations Step = "attestations" // cosign's tag .att
	Referrers    Step = "referrer"     // by digest, and in the registry's list
	Tag          Step = "tag"
)

// Event tells that a step is done.
type Event struct {
	Step    Step
	Image   string // reference at the destination
	What    string // digest or tag
	Outcome registry.Outcome
	Was     string // of a tag that named another image: its digest
	Size    int64  // bytes
	Elapsed time.Duration
}

// Progress is how far the bytes are.
type Progress struct {
	Done, Total int64 // of all repositories' blobs; what needn't be sent is done
	Sent        int64 // bytes that went out
}

// Result says what was pushed, or in a dry run would be.
type Result struct {
	Registry string      `json:"registry"`
	Layout   string      `json:"layout,omitempty"`
	DryRun   bool        `json:"dryRun"`
	Images   []Published `json:"images"`
	Bytes    int64       `json:"bytes"` // of layers and configs, each repository's counted
	Sent     int64       `json:"sent"`  // bytes of them that were sent
	Seconds  float64     `json:"seconds"`
}

// Published is one image of a Result.
type Published struct {
	Source       string           `json:"source"`         // the source's name for it
	Kind         string           `json:"kind,omitempty"` // chart or files; nothing: an image
	Reference    string           `json:"reference"`      // at the destination
	Digest       string           `json:"digest"`         // of its index, or manifest
	Platforms    []string         `json:"platforms,omitempty"`
	Outcome      registry.Outcome `json:"outcome"`            // of its tag: sent or present
	Replaced     string           `json:"replaced,omitempty"` // digest that the tag named before
	Blobs        Counts           `json:"blobs"`
	Sent         int64            `json:"sent"`         // bytes
	Signatures   int              `json:"signatures"`   // on its index and manifests
	Attestations int              `json:"attestations"` // on its manifests
}

// Counts counts blobs by what had to be done.
type Counts struct {
	Sent    int `json:"sent"`
	Mounted int `json:"mounted"`
	Present int `json:"present"`
}

type publisher struct {
	Options
	src  *source
	busy chan struct{} // as many as blobs are sent at a time

	mu       sync.Mutex // for Report and Progress
	progress Progress

	blobMu sync.Mutex
	blobs  map[v1.Hash]*delivery

	sharers map[v1.Hash][]*job // the images that need a blob
}

// delivery is the first push of a blob, after which other repositories can mount it.
type delivery struct {
	done chan struct{}
	repo string // that has it; set before done is closed
	job  *job   // whose blob was sent from a stream; nil: none
}

// Publish pushes the images. Its result holds what was done, also with an error.
func Publish(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	res := Result{Registry: o.To.String(), Layout: o.Layout, DryRun: o.DryRun, Images: []Published{}}
	src, err := openSource(o)
	if err != nil {
		return res, err
	}
	defer src.Close()
	if o.Jobs < 1 {
		o.Jobs = 4
	}
	p := &publisher{Options: o, src: src, busy: make(chan struct{}, o.Jobs), blobs: map[v1.Hash]*delivery{}, sharers: map[v1.Hash][]*job{}}
	jobs, err := p.plan()
	if err != nil {
		return res, err
	}
	if err := p.stream(ctx, jobs); err != nil {
		res.Bytes, res.Sent, res.Seconds = p.progress.Total, p.progress.Sent, time.Since(start).Seconds()
		return res, p.stopped(ctx, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(o.Jobs)
	for _, j := range jobs {
		g.Go(func() error {
			if err := p.publish(gctx, j); err != nil {
				return fmt.Errorf("publishing %s: %w", j.name, err)
			}
			return nil
		})
	}
	err = p.stopped(ctx, g.Wait())
	for _, j := range jobs {
		if j.published.Outcome != "" {
			res.Images = append(res.Images, j.published)
		}
	}
	res.Bytes, res.Sent, res.Seconds = p.progress.Total, p.progress.Sent, time.Since(start).Seconds()
	return res, err
}

// stopped says of an error that somebody wanted it.
func (p *publisher) stopped(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("publishing was stopped: run the same command again, it goes on where it stopped: %w", context.Cause(ctx))
}

// publish pushes one image: blobs, manifests by digest, what is said about them, and
// the tag last.
func (p *publisher) publish(ctx context.Context, j *job) error {
	repo, err := p.Client.Repository(ctx, j.target.Context(), registry.Push)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, b := range j.blobs {
		g.Go(func() error { return p.blob(gctx, repo, j, b) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := j.root.walk(func(n *node) error { return p.manifest(ctx, repo, j, n) }); err != nil {
		return err
	}
	for _, s := range j.said {
		if err := p.statements(ctx, repo, j, s); err != nil {
			return err
		}
	}
	if err := p.referrers(ctx, repo, j); err != nil {
		return err
	}
	return p.tag(ctx, repo, j)
}

// blob pushes a blob, or mounts it if another repository of this run has it.
func (p *publisher) blob(ctx context.Context, repo *registry.Repository, j *job, d v1.Descriptor) error {
	start := time.Now()
	p.blobMu.Lock()
	first := p.blobs[d.Digest]
	mine := first == nil
	if mine {
		first = &delivery{done: make(chan struct{})}
		p.blobs[d.Digest] = first
	}
	p.blobMu.Unlock()
	if first.job == j {
		return nil // it was sent, and told of, before
	}
	if mine {
		defer close(first.done)
	} else {
		select {
		case <-first.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case p.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.busy }()
	from := first.repo
	if mine {
		var err error
		if from, err = p.elsewhere(ctx, repo, j, d.Digest); err != nil {
			return err
		}
	}
	b := registry.Blob{
		Descriptor: d,
		Open:       func() (io.ReadCloser, error) { return p.src.Blob(d.Digest) },
		From:       from,
		Moved:      func(n int64) { p.moved(n, n) },
	}
	outcome, err := p.push(ctx, repo, b)
	if errors.Is(err, registry.ErrDamaged) {
		return fmt.Errorf("%w in %s; %s", err, p.src.Where(d.Digest), p.src.mend)
	}
	if err != nil {
		return err
	}
	if mine {
		first.repo = j.target.RepositoryStr()
	}
	if outcome != registry.Sent || p.DryRun {
		p.moved(d.Size, 0)
	}
	j.count(outcome, d.Size)
	p.report(Event{Step: Layer, Image: j.called, What: d.Digest.String(), Outcome: outcome, Size: d.Size, Elapsed: time.Since(start)})
	return nil
}

// elsewhere is another repository that has a blob which this one lacks, of those that are
// pushed to: an earlier run that was interrupted may have left it there.
func (p *publisher) elsewhere(ctx context.Context, repo *registry.Repository, j *job, h v1.Hash) (string, error) {
	if len(p.sharers[h]) < 2 {
		return "", nil
	}
	if found, err := repo.HasBlob(ctx, h); err != nil || found {
		return "", err
	}
	for _, o := range p.sharers[h] {
		if o.target.Context() == j.target.Context() {
			continue
		}
		other, err := p.Client.Repository(ctx, o.target.Context(), registry.Push)
		if err != nil {
			return "", err
		}
		if found, err := other.HasBlob(ctx, h); err != nil || found {
			return o.target.RepositoryStr(), err
		}
	}
	return "", nil
}

func (p *publisher) push(ctx context.Context, repo *registry.Repository, b registry.Blob) (registry.Outcome, error) {
	if !p.DryRun {
		return repo.PushBlob(ctx, b)
	}
	found, err := repo.HasBlob(ctx, b.Digest)
	switch {
	case found:
		return registry.Present, err
	case b.From != "":
		return registry.Mounted, err
	}
	return registry.Sent, err
}

// manifest puts a manifest under its digest.
func (p *publisher) manifest(ctx context.Context, repo *registry.Repository, j *job, n *node) error {
	start := time.Now()
	_, found, err := repo.Resolve(ctx, n.desc.Digest.String())
	if err != nil {
		return err
	}
	outcome := registry.Present
	if !found {
		outcome = registry.Sent
		if !p.DryRun {
			if err := repo.PutManifest(ctx, n.desc.Digest.String(), n.desc.MediaType, n.raw); err != nil {
				return err
			}
		}
	}
	j.stored = outcome // of the root in the end
	p.report(Event{Step: Manifest, Image: j.called, What: n.desc.Digest.String(), Outcome: outcome, Size: n.desc.Size, Elapsed: time.Since(start)})
	return nil
}

// statements puts signatures or attestations under cosign's tag.
func (p *publisher) statements(ctx context.Context, repo *registry.Repository, j *job, s said) error {
	start := time.Now()
	e := Event{Step: s.step, Image: j.called, What: s.st.tag, Outcome: registry.Present, Size: int64(len(s.st.raw))}
	complete, was, err := s.st.unite(ctx, repo)
	if err != nil {
		return err
	}
	if !complete {
		if e.Outcome = registry.Sent; was.Hex != "" {
			e.Was = was.String()
		}
		blobs, err := s.st.blobs(p.src)
		if err != nil {
			return err
		}
		for _, b := range blobs {
			if p.DryRun {
				continue
			}
			if _, err := repo.PushBlob(ctx, b); err != nil {
				return err
			}
		}
		if !p.DryRun {
			if err := repo.PutManifest(ctx, s.st.tag, mediaType(s.st.raw), s.st.raw); err != nil {
				return err
			}
		}
	}
	e.Elapsed = time.Since(start)
	p.report(e)
	return nil
}

// tag sets the image's tag, if it has one.
func (p *publisher) tag(ctx context.Context, repo *registry.Repository, j *job) error {
	start := time.Now()
	if j.name.Tag == "" {
		j.published.Outcome = j.stored
		return nil
	}
	d, found, err := repo.Resolve(ctx, j.target.TagStr())
	if err != nil {
		return err
	}
	outcome := registry.Present
	if d.Digest != j.root.desc.Digest {
		if outcome = registry.Sent; found {
			j.published.Replaced = d.Digest.String()
		}
		if !p.DryRun {
			if err := repo.PutManifest(ctx, j.target.TagStr(), j.root.desc.MediaType, j.root.raw); err != nil {
				return err
			}
		}
	}
	j.published.Outcome = outcome
	p.report(Event{Step: Tag, Image: j.called, What: j.root.desc.Digest.String(), Outcome: outcome, Was: j.published.Replaced, Elapsed: time.Since(start)})
	return nil
}

func (p *publisher) report(e Event) {
	if p.Report == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Report(e)
}

func (p *publisher) moved(done, sent int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress.Done += done
	p.progress.Sent += sent
	if p.Progress != nil {
		p.Progress(p.progress)
	}
}
