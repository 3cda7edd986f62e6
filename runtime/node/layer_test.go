package node

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// single is a blob that may be read by one at a time, as one whose digest is taken.
type single struct {
	r              io.Reader
	readers        atomic.Int32
	together, late atomic.Bool
	closed         atomic.Bool
}

func (a *single) Read(p []byte) (int, error) {
	if a.readers.Add(1) > 1 {
		a.together.Store(true)
	}
	defer a.readers.Add(-1)
	if a.closed.Load() {
		a.late.Store(true)
	}
	time.Sleep(100 * time.Microsecond) // as a disk does
	return a.r.Read(p[:min(len(p), 64<<10)])
}

func (a *single) Close() error {
	a.closed.Store(true)
	return nil
}

// TestLayerGivenUp: who takes only the start of a layer, as on a full disk, does not read
// the rest beside the decoder, which reads ahead.
func TestLayerGivenUp(t *testing.T) {
	content := make([]byte, 8<<20)
	rand.New(rand.NewSource(1)).Read(content)
	var packed bytes.Buffer
	w, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(packed.Bytes())
	copy(damaged[len(damaged)/2:], bytes.Repeat([]byte{0xff}, 1<<20)) // no block begins so
	for name, c := range map[string]struct {
		blob  []byte
		takes int64
	}{
		"its reader stops": {packed.Bytes(), 1000},
		"it is damaged":    {damaged, int64(len(content))},
	} {
		blob := &single{r: bytes.NewReader(c.blob)}
		layer := blobLayer{desc: v1.Descriptor{MediaType: types.OCILayerZStd}, open: func() (io.ReadCloser, error) { return blob, nil }}
		r, err := layer.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, r, c.takes); err != nil && errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if blob.together.Load() || blob.late.Load() {
			t.Errorf("%s: read by two at once: %v, after it was closed: %v", name, blob.together.Load(), blob.late.Load())
		}
		if n, err := blob.r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("%s: it was not read to its end", name)
		}
	}
}
