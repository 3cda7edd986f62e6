package airgap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// pool finds blobs in any of several archives.
type pool struct {
	archives []*Archive
	holders  map[v1.Hash]*Archive
	mu       sync.Mutex
	spools   map[*Archive]*spool
}

func newPool(archives []*Archive) *pool {
	return &pool{archives: archives, holders: map[v1.Hash]*Archive{}, spools: map[*Archive]*spool{}}
}

// find notes who has the blobs of a plan: rather an archive that is not compressed.
func (p *pool) find(plan *Plan) error {
	want := map[v1.Hash]int64{}
	for _, b := range plan.blobs {
		want[b.Digest] = b.Size
	}
	for _, compressed := range [...]bool{false, true} {
		for _, a := range p.archives {
			if (a.comp != plain) != compressed || len(want) == 0 {
				continue
			}
			if err := a.whole(); err != nil {
				return err
			}
			for h, size := range want {
				if e, ok := a.blobs[h]; ok && e.size == size {
					p.holders[h] = a
					delete(want, h)
				}
			}
		}
	}
	return nil
}

// section is the content of a blob that was found.
func (p *pool) section(h v1.Hash) (io.ReaderAt, error) {
	a := p.holders[h]
	if a == nil {
		return nil, fmt.Errorf("blob %s: %w", h, ErrNotFound)
	}
	e := a.blobs[h]
	if b, ok := a.small[h]; ok {
		return bytes.NewReader(b), nil
	}
	if a.comp == plain {
		return io.NewSectionReader(a.f, e.off, e.size), nil
	}
	p.mu.Lock()
	s := p.spools[a]
	if s == nil {
		s = &spool{a: a}
		p.spools[a] = s
	}
	p.mu.Unlock()
	return s.section(h, e.size, func(h v1.Hash) bool { return p.holders[h] == a })
}

// Close gives the temporary files back.
func (p *pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, s := range p.spools {
		errs = append(errs, s.Close())
	}
	p.spools = map[*Archive]*spool{}
	return errors.Join(errs...)
}

// spool holds the blobs of a compressed archive in a file without a name, because a
// compressed archive can only be read from its start.
type spool struct {
	a    *Archive
	once sync.Once
	f    *os.File
	at   map[v1.Hash]int64
	err  error
}

func (s *spool) section(h v1.Hash, size int64, want func(v1.Hash) bool) (io.ReaderAt, error) {
	s.once.Do(func() {
		if err := s.fill(want); err != nil {
			s.err = fmt.Errorf("reading bundle %s into a temporary file in %s (set TMPDIR to a folder with room, or decompress the bundle first): %w", s.a.file, os.TempDir(), err)
		}
	})
	off, ok := s.at[h]
	switch {
	case s.err != nil:
		return nil, s.err
	case !ok:
		return nil, fmt.Errorf("reading bundle %s: blob %s: %w", s.a.file, h, ErrNotFound)
	}
	return io.NewSectionReader(s.f, off, size), nil
}

// fill copies the wanted blobs, verified, in one pass.
func (s *spool) fill(want func(v1.Hash) bool) error {
	f, err := os.CreateTemp("", ".rke2-bundle-*")
	if err != nil {
		return err
	}
	s.f, s.at = f, map[v1.Hash]int64{}
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	end := int64(0)
	return s.a.Walk(context.Background(), want, func(d v1.Descriptor, r io.Reader) error {
		n, err := io.Copy(f, r)
		s.at[d.Digest] = end
		end += n
		return err
	})
}

// Close frees the file.
func (s *spool) Close() error {
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}

// Verified reads a blob, whose error at its end tells if digest or size are not as wanted:
// it comes instead of the last bytes.
func Verified(r io.Reader, h v1.Hash, size int64) io.Reader { return verify(r, h, size) }
