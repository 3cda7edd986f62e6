package collect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/mirrors"
)

// pool knows where each blob is: in the cache, in memory, in a file, in a layout or an
// archive, or in a registry, from where it is fetched when it is needed.
type pool struct {
	cache *Cache
	local []blobs // layouts and archives

	mu     sync.Mutex
	memory map[v1.Hash][]byte
	files  map[v1.Hash]string
	remote map[v1.Hash]remote
}

// blobs opens blobs by their digest.
type blobs interface {
	Blob(v1.Hash) (io.ReadCloser, error)
}

type remote struct {
	repo *mirrors.Repository // nil where nothing may be dialled
	desc v1.Descriptor
	of   string // the image, for messages
}

func newPool(c *Cache) *pool {
	return &pool{cache: c, memory: map[v1.Hash][]byte{}, files: map[v1.Hash]string{}, remote: map[v1.Hash]remote{}}
}

func (p *pool) keep(b []byte) v1.Hash {
	h := digestOf(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.memory[h] = b
	return h
}

func (p *pool) at(h v1.Hash, file string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files[h] = file
}

// known notes that a registry has a blob.
func (p *pool) known(r remote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.remote[r.desc.Digest]; !ok {
		p.remote[r.desc.Digest] = r
	}
}

// open opens a blob if it is on this machine; the error wraps fs.ErrNotExist if not.
func (p *pool) open(h v1.Hash) (io.ReadCloser, error) {
	p.mu.Lock()
	b, inMemory := p.memory[h]
	file, inFile := p.files[h]
	r, inRemote := p.remote[h]
	p.mu.Unlock()
	switch {
	case inMemory:
		return io.NopCloser(bytes.NewReader(b)), nil
	case inFile:
		return os.Open(file)
	case !inRemote || p.cache.Has(r.desc):
		if f, err := p.cache.Open(h); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	for _, s := range p.local {
		f, err := s.Blob(h)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, airgap.ErrNotFound) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("blob %s: %w", h, fs.ErrNotExist)
}

// fetch brings a blob of a registry into the cache.
func (p *pool) fetch(ctx context.Context, r remote, moved func(int64)) error {
	if r.repo == nil {
		if p.cache.Has(r.desc) {
			return nil
		}
		return fmt.Errorf("blob %s of %s is not in the cache %s, and no registry may be asked: run the same command once without --offline", r.desc.Digest, r.of, p.cache.Dir())
	}
	err := p.cache.Fetch(ctx, r.desc, func(f *os.File) error {
		if isManifest(r.desc.MediaType) { // registries keep these apart
			b, _, _, err := r.repo.Manifest(ctx, r.desc.Digest.String())
			if err != nil {
				return err
			}
			if err := f.Truncate(0); err != nil {
				return err
			}
			_, err = f.WriteAt(b, 0)
			return err
		}
		return r.repo.FetchBlob(ctx, r.desc, f, moved)
	})
	if err != nil {
		return fmt.Errorf("image %s: %w", r.of, err)
	}
	return nil
}

func isManifest(t types.MediaType) bool { return t.IsImage() || t.IsIndex() }

// small reads a manifest, config or payload, wherever it is.
func (p *pool) small(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	const most = 4 << 20 // the distribution specification's limit for manifests
	if d.Size > most {
		return nil, fmt.Errorf("blob %s has %d bytes, more than the %d that are read of its kind", d.Digest, d.Size, most)
	}
	if b, ok := p.cache.Small(d); ok {
		return b, nil
	}
	r, err := p.blob(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if digestOf(b) != d.Digest {
		return nil, fmt.Errorf("%w: blob %s has the digest %s", airgap.ErrDamaged, d.Digest, digestOf(b))
	}
	return b, nil
}

func (p *pool) blob(ctx context.Context, h v1.Hash) (io.ReadCloser, error) {
	f, err := p.open(h)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	p.mu.Lock()
	r, ok := p.remote[h]
	p.mu.Unlock()
	if !ok {
		return nil, err
	}
	if err := p.fetch(ctx, r, nil); err != nil {
		return nil, err
	}
	return p.cache.Open(h)
}

// source is what a bundle is written from: a list, and blobs of the pool.
type source struct {
	ctx     context.Context
	pool    *pool
	entries []v1.Descriptor
}

var _ airgap.Source = (*source)(nil)

// Index implements [airgap.Source].
func (s *source) Index() (*v1.IndexManifest, error) {
	return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: s.entries}, nil
}

// Blob implements [airgap.Source].
func (s *source) Blob(h v1.Hash) (io.ReadCloser, error) { return s.pool.blob(s.ctx, h) }
