package collect

import (
	"bytes"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// rawLayer is a blob that is pushed as it is.
type rawLayer struct{ data []byte }

var _ v1.Layer = (*rawLayer)(nil)

func (r *rawLayer) Digest() (v1.Hash, error) { return digestOf(r.data), nil }

func (r *rawLayer) DiffID() (v1.Hash, error) { return digestOf(r.data), nil }

func (r *rawLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(r.data)), nil
}

func (r *rawLayer) Uncompressed() (io.ReadCloser, error) { return r.Compressed() }

func (r *rawLayer) Size() (int64, error) { return int64(len(r.data)), nil }

func (r *rawLayer) MediaType() (types.MediaType, error) { return "application/octet-stream", nil }
