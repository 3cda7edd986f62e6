package publish

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/airgap/registry"
)

// streamed is a blob of a compressed archive, and the first image that needs it.
type streamed struct {
	job  *job
	repo *registry.Repository
	desc v1.Descriptor
}

// stream sends the blobs of compressed archives that the registry lacks, in the archives'
// order: opening each on its own would decompress all that precedes it.
func (p *publisher) stream(ctx context.Context, jobs []*job) error {
	src, ok := p.src.Source.(Streamer)
	if !ok || p.DryRun {
		return nil
	}
	all := map[v1.Hash]*streamed{}
	for _, j := range jobs {
		for _, d := range j.blobs {
			if all[d.Digest] == nil && src.Streamed(d.Digest) {
				all[d.Digest] = &streamed{job: j, desc: d}
			}
		}
	}
	if err := p.missing(ctx, all); err != nil {
		return err
	}
	want := func(h v1.Hash) bool { return all[h] != nil }
	return src.Stream(ctx, want, func(d v1.Descriptor, r io.Reader) error {
		if err := p.pass(ctx, all[d.Digest], r); err != nil {
			return fmt.Errorf("publishing %s: %w", all[d.Digest].job.name, err)
		}
		return ctx.Err()
	})
}

// missing takes away what the registry has.
func (p *publisher) missing(ctx context.Context, all map[v1.Hash]*streamed) error {
	var mu sync.Mutex
	var there []v1.Hash
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.Jobs)
	for h, s := range all {
		g.Go(func() (err error) {
			if s.repo, err = p.Client.Repository(gctx, s.job.target.Context(), registry.Push); err != nil {
				return err
			}
			found, err := s.repo.HasBlob(gctx, h)
			if err == nil && !found {
				var from string
				from, err = p.elsewhere(gctx, s.repo, s.job, h)
				found = from != "" // to be mounted
			}
			if found {
				mu.Lock()
				defer mu.Unlock()
				there = append(there, h)
			}
			return err
		})
	}
	err := g.Wait()
	for _, h := range there {
		delete(all, h)
	}
	return err
}

// pass sends a blob while it passes by.
func (p *publisher) pass(ctx context.Context, s *streamed, r io.Reader) error {
	start := time.Now()
	once := &passing{r: r}
	defer once.end() // the connection may still be reading where it broke
	outcome, err := s.repo.PushBlob(ctx, registry.Blob{
		Descriptor: s.desc,
		Open: func() (io.ReadCloser, error) {
			if once.take() {
				return once, nil
			}
			return p.src.Blob(s.desc.Digest) // again from the file's start, after a fault
		},
		Moved: func(n int64) { p.moved(n, n) },
	})
	if err != nil {
		return err
	}
	if outcome != registry.Sent {
		p.moved(s.desc.Size, 0)
	}
	s.job.count(outcome, s.desc.Size)
	done := make(chan struct{})
	close(done)
	p.blobs[s.desc.Digest] = &delivery{done: done, repo: s.job.target.RepositoryStr(), job: s.job}
	p.report(Event{Step: Layer, Image: s.job.called, What: s.desc.Digest.String(), Outcome: outcome, Size: s.desc.Size, Elapsed: time.Since(start)})
	return nil
}

// passing is content that can be read once, and only as long as it passes by.
type passing struct {
	mu    sync.Mutex
	r     io.Reader
	taken bool
	ended bool
}

func (p *passing) take() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.taken
	p.taken = true
	return !was
}

func (p *passing) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
}

// Read implements io.Reader.
func (p *passing) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return 0, fs.ErrClosed
	}
	return p.r.Read(b)
}

// Close implements io.Closer.
func (p *passing) Close() error {
	p.end()
	return nil
}
