package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Bounds on what a layer may unpack to.
const (
	maxWindow = 32 << 20 // of zstd, bytes: what container runtimes of nodes accept
	// A layer may unpack to free bytes and ratio times its compressed size.
	free  = 256 << 20
	ratio = 200
	// Files of an image and bytes of their names: more than large images have.
	maxEntries = 400_000
	maxNames   = 32 << 20
)

// Budget is what the layers of one image may have together, so that listing them is
// bounded in memory. The zero Budget is unspent.
type Budget struct{ entries, names int }

func (b *Budget) spend(e Entry) error {
	b.entries++
	b.names += len(e.Name) + len(e.Link) + len(e.Xattrs)
	switch {
	case b.entries > maxEntries:
		return fmt.Errorf("%w: more than %d files", ErrRefused, maxEntries)
	case b.names > maxNames:
		return fmt.Errorf("%w: more than %d bytes of names and attributes", ErrRefused, maxNames)
	}
	return nil
}

// Options say how to read a layer.
type Options struct {
	// Size is the layer's size as it is stored, from its descriptor: what it may unpack
	// to follows from that.
	Size int64
	// Sums asks for the SHA-256 of every file.
	Sums bool
	// Budget is spent on the layer's entries; nil: it has one of its own.
	Budget *Budget
	// Decoders are used again for several layers; nil: the layer gets one of its own.
	Decoders *Decoders
}

// Summary is what reading a whole layer showed.
type Summary struct {
	// DiffID is "sha256:" and the hex digest of the uncompressed layer: the image's
	// config lists it.
	DiffID string
	// Bytes is the uncompressed layer's size.
	Bytes int64
}

// Limit is the number of bytes that a layer stored in size bytes may unpack to.
func Limit(size int64) int64 { return free + ratio*size }

// Read reads a layer to its end: an uncompressed tar, or one compressed with gzip or
// zstd, which its first bytes tell. It calls fn for each change in the layer's order;
// content is a File's and only valid during the call; what fn leaves is skipped. With
// Sums, fn is called when the content has passed, and content is nil.
//
// Errors of fn and of r are returned as they are; all others wrap ErrMalformed or
// ErrRefused.
func Read(ctx context.Context, r io.Reader, opt Options, fn func(e Entry, content io.Reader) error) (Summary, error) {
	in := &source{r: r, ctx: ctx}
	plain, err := decompress(in, opt.Decoders)
	if err != nil {
		return Summary{}, in.fault(err)
	}
	defer plain.Close()
	out := &bounded{r: plain, left: Limit(opt.Size), sum: sha256.New()}
	if err := out.entries(in, opt, fn); err != nil {
		return Summary{}, err
	}
	// What follows the archive's end mark is part of the layer's digest; and r has to be
	// read to its end, because only there its own digest is known.
	if _, err := io.Copy(io.Discard, out); err != nil {
		return Summary{}, in.fault(err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return Summary{}, err
	}
	return Summary{DiffID: "sha256:" + hex.EncodeToString(out.sum.Sum(nil)), Bytes: out.n}, nil
}

// entries calls fn for each change.
func (b *bounded) entries(in *source, opt Options, fn func(e Entry, content io.Reader) error) error {
	tr := tar.NewReader(bufio.NewReaderSize(b, 256<<10))
	logical := int64(0)
	if opt.Budget == nil {
		opt.Budget = &Budget{}
	}
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return in.fault(err)
		}
		e, ok, err := parse(h)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := opt.Budget.spend(e); err != nil {
			return err
		}
		logical += e.Size // of a sparse file, more than is stored
		if e.Size < 0 || e.Size > Limit(opt.Size) || logical > Limit(opt.Size) {
			return fmt.Errorf("%w: at %s its files come to more than the %d bytes that a layer of %d bytes may unpack to", ErrRefused, quote(e.Name), Limit(opt.Size), opt.Size)
		}
		content := &faulty{tr, in}
		if opt.Sums && e.Type == File {
			sum := sha256.New()
			if _, err := io.Copy(sum, content); err != nil {
				return err
			}
			e.Sum = string(sum.Sum(nil))
		}
		var given io.Reader
		if !opt.Sums {
			given = content
		}
		if err := fn(e, given); err != nil {
			return err
		}
	}
}

// source remembers the fault of what a layer is read from, so that it is not taken for
// the layer's, and ends with its context.
type source struct {
	r   io.Reader
	ctx context.Context
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		s.err = err
		return 0, err
	}
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// fault says whose an error is.
func (s *source) fault(err error) error {
	switch {
	case s.err != nil:
		return s.err
	case errors.Is(err, ErrRefused), errors.Is(err, ErrMalformed):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ends early", ErrMalformed)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("%w: its zstd window is larger than %d MiB", ErrRefused, maxWindow>>20)
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

// faulty puts a content's errors into the words of fault.
type faulty struct {
	r  io.Reader
	in *source
}

func (f *faulty) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = f.in.fault(err)
	}
	return n, err
}

// bounded hashes the uncompressed layer and ends it where it is too large.
type bounded struct {
	r    io.Reader
	sum  hash.Hash
	n    int64
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.sum.Write(p[:n])
	b.n += int64(n)
	if b.left -= int64(n); b.left < 0 {
		return n, fmt.Errorf("%w: it unpacks to more than %d bytes", ErrRefused, b.n-1)
	}
	return n, err
}

// decompress finds out how a layer is compressed.
func decompress(r io.Reader, decoders *Decoders) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 128<<10)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return gzip.NewReader(in)
	case bytes.Equal(head, []byte("\x28\xb5\x2f\xfd")):
		return decoders.open(in)
	}
	return io.NopCloser(in), nil
}
