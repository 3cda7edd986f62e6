package airgap

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Write writes the bundle of the selected images to w: plain tar, a few MiB of memory,
// every blob verified on its way. If it fails, what w got is no bundle.
func Write(ctx context.Context, w io.Writer, src Source, sel Selection) error {
	p, err := NewPlan(src, sel)
	if err != nil {
		return fmt.Errorf("writing bundle: %w", err)
	}
	return p.Write(ctx, w)
}

// Write writes the planned bundle: Size bytes.
func (p *Plan) Write(ctx context.Context, w io.Writer) error {
	buffers := [2][]byte{make([]byte, 1<<20), make([]byte, 1<<20)}
	for _, h := range p.head {
		if err := writeEntry(ctx, w, h.name, h.content); err != nil {
			return fmt.Errorf("writing bundle: %s: %w", h.name, err)
		}
	}
	for _, b := range p.blobs {
		if err := p.writeBlob(ctx, w, b, buffers); err != nil {
			return fmt.Errorf("writing bundle: %w", err)
		}
	}
	if _, err := w.Write(make([]byte, trailer)); err != nil {
		return fmt.Errorf("writing bundle: %w", err)
	}
	return nil
}

func writeEntry(ctx context.Context, w io.Writer, name string, content []byte) error {
	h, err := header(name, int64(len(content)))
	if err != nil {
		return err
	}
	for _, b := range [][]byte{h, content, make([]byte, padding(int64(len(content))))} {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (p *Plan) writeBlob(ctx context.Context, w io.Writer, d v1.Descriptor, buffers [2][]byte) error {
	h, err := header(blobName(d.Digest), d.Size)
	if err != nil {
		return err
	}
	if _, err := w.Write(h); err != nil {
		return err
	}
	r, err := p.src.Blob(d.Digest)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := readAhead(w, cancelable{ctx, verify(r, d.Digest, d.Size)}, buffers); err != nil {
		return err
	}
	_, err = w.Write(make([]byte, padding(d.Size)))
	return err
}

// readAhead copies r to w until r ends, and reads a piece while the one before is written:
// there is a digest to be had on both sides. Nothing is read any more when it returns.
func readAhead(w io.Writer, r io.Reader, buffers [2][]byte) error {
	type piece struct {
		buffer []byte
		n      int
		err    error
	}
	free, full := make(chan []byte, len(buffers)), make(chan piece, len(buffers))
	for _, b := range buffers {
		free <- b
	}
	go func() {
		defer close(full)
		for b := range free {
			n, err := r.Read(b)
			full <- piece{b, n, err}
			if err != nil {
				return
			}
		}
	}()
	var failed error
	for p := range full {
		if failed != nil {
			continue // read before the reader heard of it
		}
		if _, err := w.Write(p.buffer[:p.n]); err != nil {
			failed = err
			close(free)
			continue
		}
		switch {
		case p.err == nil:
			free <- p.buffer
		case !errors.Is(p.err, io.EOF):
			failed = p.err
		}
	}
	return failed
}

// cancelable ends reading when its context does.
type cancelable struct {
	ctx context.Context
	r   io.Reader
}

func (c cancelable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
