package pull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

const (
	together = 3               // blobs that are fetched at a time
	interval = 5 * time.Second // between two lines about how far it is
)

// Fetch brings the image's config and layers into dir, each in a file named for its
// digest (hex), and verifies them. What dir has of them already, from a run that was cut
// short, is not fetched again. After an error dir has what is good for another try, and
// nothing if the disk is full.
func (r *Remote) Fetch(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pulling %s: %w", r.Ref, err)
	}
	blobs, total := r.blobs()
	var done atomic.Int64
	began, stop := time.Now(), make(chan struct{})
	r.log.Info("pulling an image", "image", r.Ref.String(), "from", r.From.String(), "blobs", len(blobs), "size", human(total))
	var watch errgroup.Group
	watch.Go(func() error { r.tell(stop, &done, total); return nil })
	group, grouped := errgroup.WithContext(ctx)
	group.SetLimit(together)
	for _, d := range blobs {
		group.Go(func() error { return r.blob(grouped, dir, d, func(n int64) { done.Add(n) }) })
	}
	err := group.Wait()
	close(stop)
	_ = watch.Wait() // it has no error
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errors.Join(fmt.Errorf("pulling %s: the disk of %s is full (%s were to be fetched): make room: %w", r.Ref, dir, human(total), err), os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("pulling %s: %w", r.Ref, err)
	}
	r.log.Info("pulled an image", "image", r.Ref.String(), "size", human(total), "seconds", time.Since(began).Seconds())
	return nil
}

// FetchBlob is Fetch of one of the image's blobs alone.
func (r *Remote) FetchBlob(ctx context.Context, dir string, d v1.Descriptor) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pulling %s: %w", r.Ref, err)
	}
	r.log.Info("pulling a layer of an image", "image", r.Ref.String(), "from", r.From.String(), "layer", d.Digest.String(), "size", human(d.Size))
	if err := r.blob(ctx, dir, d, nil); err != nil {
		return fmt.Errorf("pulling %s: %w", r.Ref, err)
	}
	return nil
}

// blobs are config and layers, each once.
func (r *Remote) blobs() (out []v1.Descriptor, total int64) {
	seen := map[v1.Hash]bool{}
	for _, d := range append([]v1.Descriptor{r.Manifest.Config}, r.Manifest.Layers...) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, d)
			total += d.Size
		}
	}
	return out, total
}

func (r *Remote) blob(ctx context.Context, dir string, d v1.Descriptor, moved func(int64)) (err error) {
	f, err := os.OpenFile(filepath.Join(dir, d.Digest.Hex), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return r.repo.FetchBlob(ctx, d, f, moved)
}

// tell says now and then how far it is.
func (r *Remote) tell(stop chan struct{}, done *atomic.Int64, total int64) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	last, at := done.Load(), time.Now()
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			n := done.Load()
			rate := float64(n-last) / now.Sub(at).Seconds()
			r.log.Info("pulling an image", "image", r.Ref.String(), "done", human(n)+" of "+human(total), "rate", human(int64(max(rate, 0)))+"/s")
			last, at = n, now
		}
	}
}
