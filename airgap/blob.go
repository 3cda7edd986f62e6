package airgap

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// verifier passes a blob through and holds back its last bytes until the digest of
// all of them is known to be right.
type verifier struct {
	r    io.Reader
	sum  hash.Hash
	want v1.Hash
	size int64
	left int64
	err  error
}

func verify(r io.Reader, want v1.Hash, size int64) *verifier {
	return &verifier{r: r, sum: sha256.New(), want: want, size: size, left: size}
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err == nil && v.left == 0 {
		v.err = v.finish() // an empty blob, or nothing is left
	}
	if v.err != nil {
		return 0, v.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := v.r.Read(p[:min(int64(len(p)), v.left)])
	v.sum.Write(p[:n])
	v.left -= int64(n)
	switch {
	case v.left == 0:
		if v.err = v.finish(); !errors.Is(v.err, io.EOF) {
			return 0, v.err
		}
		return n, nil
	case err == io.EOF:
		v.err = fmt.Errorf("%w: blob %s ends %d bytes early", ErrTruncated, v.want, v.left)
		return n, v.err
	case err != nil:
		v.err = err
	}
	return n, err
}

func (v *verifier) finish() error {
	if got := hex.EncodeToString(v.sum.Sum(nil)); got != v.want.Hex {
		return fmt.Errorf("%w: blob %s has the digest sha256:%s: copy the file again", ErrDamaged, v.want, got)
	}
	return io.EOF
}

// reader closes what is behind a blob.
type reader struct {
	io.Reader
	io.Closer
}

// Blob opens a blob. Its digest and size are verified while it is read: if they are
// wrong, the error comes instead of the last bytes and io.EOF. The caller closes it.
//
// In a compressed archive this decompresses everything before the blob;
// [Archive.Walk] reads many blobs in one pass.
func (a *Archive) Blob(h v1.Hash) (io.ReadCloser, error) {
	if err := a.whole(); err != nil {
		return nil, err
	}
	e, ok := a.blobs[h]
	if !ok {
		return nil, fmt.Errorf("reading bundle %s: blob %s: %w", a.file, h, ErrNotFound)
	}
	if b, ok := a.small[h]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	if a.comp == plain {
		sec := io.NewSectionReader(a.f, e.off, e.size)
		return reader{a.named(verify(sec, h, e.size)), io.NopCloser(nil)}, nil
	}
	r, c, err := a.stream(nil)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, e.off); err != nil {
		return nil, errors.Join(fmt.Errorf("reading bundle %s: %w", a.file, tarFault(err, "before "+e.name, -1)), c.Close())
	}
	return reader{a.named(verify(r, h, e.size)), c}, nil
}

// Walk reads blobs in the archive's order, in one pass: for each that want accepts
// (nil: every one) it calls fn with its descriptor and content. The content is
// verified as in [Archive.Blob], also what fn leaves unread. An error of fn ends the walk.
//
// The descriptor's media type is empty for a blob that no manifest mentions.
func (a *Archive) Walk(ctx context.Context, want func(v1.Hash) bool, fn func(v1.Descriptor, io.Reader) error) error {
	if err := a.whole(); err != nil {
		return err
	}
	one := func(h v1.Hash, size int64, content io.Reader) error {
		d, ok := a.descs[h]
		if !ok {
			d = v1.Descriptor{Digest: h, Size: size}
		}
		v := a.named(verify(content, h, size))
		if err := fn(d, v); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, v)
		return err
	}
	if a.comp == plain {
		for _, h := range a.order {
			if err := ctx.Err(); err != nil {
				return err
			}
			if want != nil && !want(h) {
				continue
			}
			e := a.blobs[h]
			if err := one(h, e.size, io.NewSectionReader(a.f, e.off, e.size)); err != nil {
				return err
			}
		}
		return nil
	}
	r, c, err := a.stream(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	var inner error // of fn: not to be dressed as a fault of the archive
	_, err = scanTar(ctx, r, -1, func(e entry, _ []byte, content io.Reader) error {
		h, ok := parseBlobName(e.name)
		if !ok || e.kind != tar.TypeReg || want != nil && !want(h) {
			return nil
		}
		inner = one(h, e.size, content)
		return inner
	})
	if err != nil && inner == nil {
		return fmt.Errorf("reading bundle %s: %w", a.file, err)
	}
	return err
}

// named puts the archive's name into the errors of r.
func (a *Archive) named(r io.Reader) io.Reader { return namedReader{r, a.file} }

type namedReader struct {
	r    io.Reader
	file string
}

func (n namedReader) Read(p []byte) (int, error) {
	c, err := n.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("reading bundle %s: %w", n.file, err)
	}
	return c, err
}

// readBlob reads a small blob whole, verified.
func (a *Archive) readBlob(h v1.Hash, limit int64) ([]byte, error) {
	e, ok := a.blobs[h]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", h, ErrNotFound)
	}
	if e.size > limit {
		return nil, fmt.Errorf("%w: blob %s has %d bytes, more than the %d that are read of its kind", ErrRefusedContent, h, e.size, limit)
	}
	if b, ok := a.small[h]; ok {
		return b, nil
	}
	var r io.Reader = io.NewSectionReader(a.f, e.off, e.size)
	if a.comp != plain {
		s, c, err := a.stream(nil)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if _, err := io.CopyN(io.Discard, s, e.off); err != nil {
			return nil, tarFault(err, "before "+e.name, -1)
		}
		r = s
	}
	return io.ReadAll(verify(r, h, e.size))
}
