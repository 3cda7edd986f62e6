package node

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/runtime/timeline"
)

func drain(r io.ReadCloser, err error) error {
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// blobLayer is a layer in its compressed form; open verifies while it reads.
type blobLayer struct {
	desc v1.Descriptor
	open func() (io.ReadCloser, error)
}

// maxWindow is the largest zstd window that is decoded: what the builder writes.
const maxWindow = 32 << 20

func (l blobLayer) Open(ctx context.Context) (io.ReadCloser, error) {
	timeline.Of(ctx).Read(1, l.desc.Size)
	blob, err := l.open()
	if err != nil {
		return nil, err
	}
	layer := &layerStream{blob: blob}
	switch l.desc.MediaType {
	case types.OCIUncompressedLayer, types.DockerUncompressedLayer:
		layer.Reader = blob
	case types.OCILayerZStd:
		decoder, err := zstd.NewReader(blob, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, errors.Join(err, blob.Close())
		}
		layer.Reader, layer.close = decoder, decoder.Close
	case types.OCILayer, types.DockerLayer:
		decoder, err := gzip.NewReader(blob)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reading layer %s: %w", l.desc.Digest, err), blob.Close())
		}
		layer.Reader = decoder
	default:
		return nil, errors.Join(fmt.Errorf("layer %s: unknown media type %q", l.desc.Digest, l.desc.MediaType), blob.Close())
	}
	return layer, nil
}

type layerStream struct {
	io.Reader
	blob   io.ReadCloser
	close  func()
	failed bool // Read has said what is wrong
}

// Read prefers the digest's verdict to the decompressor's: what a decoder makes
// of damaged bytes helps nobody.
func (s *layerStream) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed = true
		s.stop()
		if _, verdict := io.Copy(io.Discard, s.blob); verdict != nil {
			err = verdict
		}
	}
	return n, err
}

// Close reads the blob to its end first: bytes after the compressed stream are
// part of its digest.
func (s *layerStream) Close() error {
	var err error
	s.stop()
	if !s.failed {
		_, err = io.Copy(io.Discard, s.blob)
	}
	return errors.Join(err, s.blob.Close())
}

// stop ends the decoder, which reads ahead in a goroutine of its own: nobody else may read
// the blob before.
func (s *layerStream) stop() {
	if s.close != nil {
		s.close()
		s.close = nil
	}
}
