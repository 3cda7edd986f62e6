package fake

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
)

// Bulk is a source of images as large as one likes: their layers are plain tars of one
// file of bytes that do not compress, made while they are read and never in memory. The
// zero Bulk is empty.
type Bulk struct {
	small  Store
	layers map[v1.Hash]bulkLayer
}

var _ airgap.Source = (*Bulk)(nil)

// Index lists what was added.
func (b *Bulk) Index() (*v1.IndexManifest, error) { return b.small.Index() }

// Blob opens a blob.
func (b *Bulk) Blob(h v1.Hash) (io.ReadCloser, error) {
	if l, ok := b.layers[h]; ok {
		return l.Uncompressed()
	}
	return b.small.Blob(h)
}

// Add adds an image with a layer of about size bytes for each seed. The same seed and
// size are the same layer.
func (b *Bulk) Add(reference, architecture string, size int64, seeds ...uint64) error {
	image := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	for _, seed := range seeds {
		layer, err := newBulkLayer(seed, size)
		if err != nil {
			return err
		}
		if b.layers == nil {
			b.layers = map[v1.Hash]bulkLayer{}
		}
		b.layers[layer.hash] = layer
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return err
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return err
	}
	d, err := partial.Descriptor(image)
	if err != nil {
		return err
	}
	if err := b.small.keep(image, *d); err != nil {
		return err
	}
	b.small.AddBase(v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest}, reference)
	return nil
}

// keep stores an image's manifest and configuration, not its layers.
func (s *Store) keep(image v1.Image, d v1.Descriptor) (err error) {
	if s.blobs == nil {
		s.blobs = map[v1.Hash][]byte{}
	}
	if s.blobs[d.Digest], err = image.RawManifest(); err != nil {
		return err
	}
	config, err := image.ConfigName()
	if err != nil {
		return err
	}
	s.blobs[config], err = image.RawConfigFile()
	return err
}

// WriteBundle writes all of it as a bundle.
func (b *Bulk) WriteBundle(ctx context.Context, path, architecture string) (err error) {
	return writeBundle(ctx, b, path, architecture)
}

func writeBundle(ctx context.Context, from airgap.Source, path, architecture string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
	}()
	return airgap.Write(ctx, f, from, airgap.Selection{
		Platform: v1.Platform{OS: "linux", Architecture: architecture}, AllowUnsigned: true,
	})
}

// bulkLayer is an uncompressed layer that is made when it is read.
type bulkLayer struct {
	seed   uint64
	size   int64 // of the file in it
	head   []byte
	length int64
	hash   v1.Hash
}

var _ v1.Layer = bulkLayer{}

func newBulkLayer(seed uint64, size int64) (bulkLayer, error) {
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("bulk-%d", seed), Mode: 0o644, Size: size, Format: tar.FormatPAX}); err != nil {
		return bulkLayer{}, err
	}
	l := bulkLayer{seed: seed, size: size, head: head.Bytes()}
	sum := sha256.New()
	n, err := io.Copy(sum, l.read())
	l.length, l.hash = n, v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	return l, err
}

func (l bulkLayer) read() io.Reader {
	var seed [32]byte
	for i := range 8 {
		seed[i] = byte(l.seed >> (8 * i))
	}
	const block = 512 // tar's; two empty ones end it
	padding := (block-l.size%block)%block + 2*block
	return io.MultiReader(bytes.NewReader(l.head), io.LimitReader(rand.NewChaCha8(seed), l.size), bytes.NewReader(make([]byte, padding)))
}

func (l bulkLayer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l bulkLayer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l bulkLayer) Compressed() (io.ReadCloser, error)   { return io.NopCloser(l.read()), nil }
func (l bulkLayer) Uncompressed() (io.ReadCloser, error) { return io.NopCloser(l.read()), nil }
func (l bulkLayer) Size() (int64, error)                 { return l.length, nil }
func (l bulkLayer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }
