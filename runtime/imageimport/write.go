package imageimport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
)

// blob is one that containerd does not have yet.
type blob struct {
	desc ocispec.Descriptor
	of   trust.Admitted
}

// read copies blobs from an archive into containerd, in one pass.
func (r *run) read(ctx context.Context, archive *airgap.Archive, blobs map[v1.Hash]blob) error {
	if len(blobs) == 0 {
		return nil
	}
	want := func(h v1.Hash) bool { _, ok := blobs[h]; return ok }
	err := archive.Walk(ctx, want, func(desc v1.Descriptor, in io.Reader) error {
		b := blobs[desc.Digest]
		if err := r.write(ctx, b, r.progress.reader(in, b.of.Name())); err != nil {
			return fmt.Errorf("importing %s: %w", b.of.Name(), err)
		}
		r.have.blobs[desc.Digest.String()] = content.Info{
			Digest: b.desc.Digest, Size: b.desc.Size, Labels: r.sources(Item{Admitted: b.of}, nil),
		}
		r.result.Blobs++
		r.result.Bytes += b.desc.Size
		delete(blobs, desc.Digest)
		return nil
	})
	if err != nil {
		return err
	}
	for h, b := range blobs {
		return fmt.Errorf("importing %s: its blob %s is not in %s", b.of.Name(), h, archive.Path())
	}
	return nil
}

// write streams one blob into the content store, which checks size and digest.
// An ingest that a killed run left is resumed from its offset; one that failed
// is thrown away.
func (r *run) write(ctx context.Context, b blob, in io.Reader) error {
	store := r.Client.ContentStore()
	labels := content.WithLabels(r.sources(Item{Admitted: b.of}, nil))
	ref := "rke2-import-" + b.desc.Digest.String()
	if err := content.WriteBlob(ctx, store, ref, in, b.desc, labels); err != nil {
		// What was written may be what is wrong: it must not be resumed.
		if aborted := store.Abort(context.WithoutCancel(ctx), ref); aborted != nil && !errdefs.IsNotFound(aborted) {
			err = errors.Join(err, aborted)
		}
		return fmt.Errorf("writing blob %s: %w", b.desc.Digest, err)
	}
	return nil
}

func descriptor(d v1.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: string(d.MediaType),
		Digest:    digest.Digest(d.Digest.String()),
		Size:      d.Size,
	}
}

// Progress is how far an import is.
type Progress struct {
	Started time.Time // of this import, which tells it from others
	Image   string    // that is being read, or unpacked when all of it is read
	Done    int64     // bytes read from bundles
	Total   int64     // bytes to read, as far as was known at the start
	Images  int       // finished
	Of      int       // to import
}

// tracker tells an importer's Progress of what happens.
type tracker struct {
	tell func(Progress)
	now  Progress
	last time.Time
}

func (r *run) track(todo []wanted) tracker {
	t := tracker{tell: r.Progress, now: Progress{Started: time.Now(), Of: len(todo)}}
	counted := map[v1.Hash]bool{}
	for _, w := range todo {
		for _, desc := range w.blobs() {
			if !counted[desc.Digest] && !r.have.blob(desc) {
				counted[desc.Digest] = true
				t.now.Total += desc.Size
			}
		}
	}
	return t
}

// often is how seldom progress is told.
const often = 200 * time.Millisecond

func (t *tracker) report() {
	if t.tell == nil || time.Since(t.last) < often {
		return
	}
	t.last = time.Now()
	t.tell(t.now)
}

func (t *tracker) reader(in io.Reader, image string) io.Reader {
	t.now.Image = image
	return countingReader{in, t}
}

func (t *tracker) finished(image string) {
	t.now.Image = image
	t.now.Images++
	t.report()
}

type countingReader struct {
	io.Reader
	t *tracker
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.t.now.Done += int64(n)
	c.t.report()
	return n, err
}
