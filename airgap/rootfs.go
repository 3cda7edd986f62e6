package airgap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/airgap/layer"
)

// stored is a layer where an archive has it.
type stored struct {
	entry
	digest v1.Hash // zero in a legacy docker-archive
	diffID string  // of the uncompressed layer; empty if the config does not say
	absent bool    // it is not in this archive
}

// label names the layer in messages.
func (s stored) label() string {
	if s.digest == (v1.Hash{}) {
		return "layer " + s.name
	}
	return "layer " + s.digest.String()
}

// config reads an image's configuration.
func (a *Archive) config(img Image) (*v1.ConfigFile, error) {
	if img.legacy != nil {
		return img.legacy.config, nil
	}
	m, _, err := a.manifest(img.Desc.Digest)
	if err != nil {
		return nil, err
	}
	b, err := a.readBlob(m.Config.Digest, maxManifest)
	if err != nil {
		return nil, err
	}
	cfg, err := v1.ParseConfigFile(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w: config %s: %w", ErrDamaged, m.Config.Digest, err)
	}
	return cfg, nil
}

// here is an error if a layer is absent.
func here(layers []stored) error {
	for i, l := range layers {
		if l.absent {
			return fmt.Errorf("layer %d of %d (%s): %w", i+1, len(layers), l.digest, ErrNotFound)
		}
	}
	return nil
}

// stored lists an image's layers, the lowest first.
func (a *Archive) stored(img Image) ([]stored, error) {
	cfg, err := a.config(img)
	if err != nil {
		return nil, err
	}
	var out []stored
	if img.legacy != nil {
		for _, e := range img.legacy.layers {
			out = append(out, stored{entry: e})
		}
	} else {
		m, _, err := a.manifest(img.Desc.Digest)
		if err != nil {
			return nil, err
		}
		for _, l := range m.Layers {
			e, ok := a.blobs[l.Digest]
			out = append(out, stored{entry: e, digest: l.Digest, absent: !ok})
		}
	}
	ids := cfg.RootFS.DiffIDs
	if len(ids) > 0 && len(ids) != len(out) {
		return nil, fmt.Errorf("%w: its config speaks of %d layers and its manifest of %d", ErrDamaged, len(ids), len(out))
	}
	for i := range ids {
		out[i].diffID = ids[i].String()
	}
	return out, nil
}

// visitStored opens layers, each once, in the archive's order: a plain archive's on
// several cores, each other's in one pass. The content is verified as far as its digest
// is known.
func (a *Archive) visitStored(ctx context.Context, layers []stored, fn func(ctx context.Context, s stored, content io.Reader) error) error {
	wanted := map[string]stored{}
	var order []stored
	for _, l := range layers {
		if _, ok := wanted[l.name]; !ok {
			wanted[l.name] = l
			order = append(order, l)
		}
	}
	one := func(ctx context.Context, l stored, content io.Reader) error {
		if l.digest != (v1.Hash{}) {
			content = verify(content, l.digest, l.size)
		}
		if err := fn(ctx, l, content); err != nil {
			// Damage is a better answer than what it led to.
			if _, worse := io.Copy(io.Discard, content); errors.Is(worse, ErrDamaged) || errors.Is(worse, ErrTruncated) {
				err = worse
			}
			return fmt.Errorf("%s: %w", l.label(), err)
		}
		return nil
	}
	if a.comp == plain {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(min(2, runtime.GOMAXPROCS(0))) // each takes a decoder's window of memory
		for _, l := range order {
			g.Go(func() error { return one(ctx, l, io.NewSectionReader(a.f, l.off, l.size)) })
		}
		return g.Wait()
	}
	if len(order) == 0 {
		return nil
	}
	r, c, err := a.stream(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	left := len(order)
	_, err = scanTar(ctx, r, -1, func(e entry, _ []byte, content io.Reader) error {
		l, ok := wanted[e.name]
		if !ok {
			return nil
		}
		if err := one(ctx, l, content); err != nil {
			return err
		}
		if left--; left == 0 {
			return errHeadDone
		}
		return nil
	})
	if errors.Is(err, errHeadDone) {
		err = nil
	}
	return err
}

// listing is what the layers of images have, by the layer's name in the archive.
type listing map[string][]layer.Entry

// listLayers reads layers to their ends and lists them. progress is told the stored bytes.
func (a *Archive) listLayers(ctx context.Context, layers []stored, sums bool, progress func(n int)) (listing, error) {
	if err := here(layers); err != nil {
		return nil, err
	}
	out := listing{}
	var mu sync.Mutex
	var budget layer.Budget
	var decoders layer.Decoders
	defer decoders.Close()
	err := a.visitStored(ctx, layers, func(ctx context.Context, l stored, content io.Reader) error {
		var entries []layer.Entry
		opt := layer.Options{Size: l.size, Sums: sums, Budget: &budget, Decoders: &decoders}
		got, err := layer.Read(ctx, telling(content, progress), opt, func(e layer.Entry, _ io.Reader) error {
			entries = append(entries, e)
			return nil
		})
		if err == nil && l.diffID != "" && got.DiffID != l.diffID {
			err = fmt.Errorf("%w: it unpacks to %s, and the image's config says %s", ErrDamaged, got.DiffID, l.diffID)
		}
		mu.Lock()
		defer mu.Unlock()
		out[l.name] = entries
		return layerFault(err)
	})
	return out, err
}

// tree puts an image's layers together.
func (l listing) tree(layers []stored) (*layer.Tree, error) {
	t := layer.NewTree()
	for _, s := range layers {
		if err := t.Apply(l[s.name]); err != nil {
			return nil, fmt.Errorf("%s: %w", s.label(), layerFault(err))
		}
	}
	return t, nil
}

// layerFault makes a fault of a layer one of an archive.
func layerFault(err error) error {
	switch {
	case errors.Is(err, layer.ErrRefused):
		return fmt.Errorf("%w: %w", ErrRefusedContent, err)
	case errors.Is(err, layer.ErrMalformed):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// telling tells how many bytes of r have been read.
func telling(r io.Reader, tell func(n int)) io.Reader {
	if tell == nil {
		return r
	}
	return io.TeeReader(r, counting(tell))
}
