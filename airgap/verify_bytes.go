package airgap

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/airgap/layer"
)

// verifyBytes hashes every blob of a plain archive, and unpacks the layers if that is
// asked for. The error is the context's.
func (a *Archive) verifyBytes(ctx context.Context, out *Verification, opt VerifyOptions) error {
	for _, e := range a.blobs {
		out.Bytes += e.size
	}
	out.Blobs = len(a.blobs)
	layers, err := a.unpackable(opt.Contents)
	if err != nil {
		out.fault(a.file, err)
		return ctx.Err()
	}
	out.Layers = len(layers)
	told := &tally{total: out.Bytes, tell: opt.Progress}
	c := &checker{told: told}
	defer c.decoders.Close()
	if a.comp == plain {
		c.blobs(ctx, a, layers)
	}
	if a.comp != plain || a.format == FormatDockerArchive {
		told.total = 0
		var all []stored
		for _, ids := range layers {
			all = append(all, ids[0])
			told.total += ids[0].size
		}
		// One pass, which ends with the first fault.
		err := a.visitStored(ctx, all, func(ctx context.Context, s stored, content io.Reader) error {
			return c.unpack(ctx, telling(content, told.add), layers[s.name])
		})
		if err != nil && ctx.Err() == nil {
			out.fault(a.file, err)
		}
	}
	slices.SortFunc(c.faults, func(x, y Fault) int { return cmp.Compare(x.Subject, y.Subject) })
	for _, f := range c.faults {
		h, _ := v1.NewHash(f.Subject)
		f.Subject = a.part(h)
		out.Faults = append(out.Faults, f)
	}
	return ctx.Err()
}

// unpackable lists the layers of all images by their names in the archive, each with all
// that configs say it unpacks to.
func (a *Archive) unpackable(wanted bool) (map[string][]stored, error) {
	out := map[string][]stored{}
	if !wanted {
		return out, nil
	}
	for _, img := range a.images {
		layers, err := a.stored(img)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", img.label(), err)
		}
		for _, l := range layers {
			if !l.absent && !slices.ContainsFunc(out[l.name], func(s stored) bool { return s.diffID == l.diffID }) {
				out[l.name] = append(out[l.name], l)
			}
		}
	}
	return out, nil
}

// checker verifies blobs on several cores.
type checker struct {
	mu     sync.Mutex
	faults []Fault
	told   *tally

	decoders layer.Decoders
}

// blobs reads every blob, the largest first, so that no core is left with one at the end.
func (c *checker) blobs(ctx context.Context, a *Archive, layers map[string][]stored) {
	order := slices.Clone(a.order)
	slices.SortFunc(order, func(x, y v1.Hash) int {
		return cmp.Or(cmp.Compare(a.blobs[y].size, a.blobs[x].size), cmp.Compare(x.Hex, y.Hex))
	})
	var g errgroup.Group
	g.SetLimit(min(8, runtime.GOMAXPROCS(0)))
	// Unpacking takes memory, hashing none.
	unpacking := make(chan struct{}, 1)
	for _, h := range order {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			e := a.blobs[h]
			content := telling(verify(cancelable{ctx, io.NewSectionReader(a.f, e.off, e.size)}, h, e.size), c.told.add)
			var err error
			if ids := layers[e.name]; len(ids) > 0 {
				unpacking <- struct{}{}
				err = c.unpack(ctx, content, ids)
				<-unpacking
			}
			// Also after a fault, to tell damage from a layer that was made wrong.
			_, worse := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{content}, make([]byte, 1<<20))
			if err = cmp.Or(worse, err); err != nil && ctx.Err() == nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.faults = append(c.faults, Fault{h.String(), err.Error()})
			}
			return nil
		})
	}
	_ = g.Wait() // nothing in it fails
}

// unpack reads a layer and holds it against what configs say that it unpacks to.
func (c *checker) unpack(ctx context.Context, content io.Reader, says []stored) error {
	got, err := layer.Read(ctx, content, layer.Options{Size: says[0].size, Decoders: &c.decoders}, func(layer.Entry, io.Reader) error { return nil })
	if err != nil {
		return layerFault(err)
	}
	for _, s := range says {
		if s.diffID != "" && s.diffID != got.DiffID {
			return fmt.Errorf("%w: it unpacks to %s, and the image's config says %s", ErrDamaged, got.DiffID, s.diffID)
		}
	}
	return nil
}
