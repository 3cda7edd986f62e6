package serve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/catalog"
)

// soundness remembers which blobs were found to have their digest, so that each is hashed
// once, before it is sent for the first time, and not with every pull.
type soundness struct {
	mu    sync.Mutex
	blobs map[blobID]*check
}

// blobID is a blob in one state of one file.
type blobID struct {
	file string // its identity
	h    v1.Hash
}

type check struct {
	once sync.Once
	err  error
}

// forget drops what was found in files that are served no more.
func (s *soundness) forget(current map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.blobs {
		if !current[id.file] {
			delete(s.blobs, id)
		}
	}
}

// check reads a blob, if nobody did, and leaves the file at its first byte.
func (s *soundness) check(file string, h v1.Hash, c catalog.Content) error {
	id := blobID{file, h}
	s.mu.Lock()
	k := s.blobs[id]
	if k == nil {
		k = &check{}
		s.blobs[id] = k
	}
	s.mu.Unlock()
	k.once.Do(func() { k.err = hashed(h, c) })
	return k.err
}

func hashed(h v1.Hash, c catalog.Content) error {
	var r io.Reader = bytes.NewReader(c.Data)
	if c.File != nil {
		// At an offset of its own: the file's position stays.
		at, err := c.File.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		r = io.NewSectionReader(c.File, at, c.Size)
	}
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	if err != nil {
		return fmt.Errorf("reading blob %s in %s: %w", h, c.From, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != h.Hex || n != c.Size {
		return fmt.Errorf("%w: blob %s in %s has the digest sha256:%s: copy the file again", airgap.ErrDamaged, h, c.From, got)
	}
	return nil
}

// blob opens a blob that is sound.
func (s *Server) blob(sh *shelf, h v1.Hash) (catalog.Content, error) {
	c, err := sh.c.Open(h)
	if err != nil {
		return c, err
	}
	if err := s.sound.check(c.ID, h, c); err != nil {
		if c.File != nil {
			_ = c.File.Close() // it was only read
		}
		return catalog.Content{}, err
	}
	return c, nil
}
