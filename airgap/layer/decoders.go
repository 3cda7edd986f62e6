package layer

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Decoders keeps zstd decoders, each of which holds a window in memory, from one layer to
// the next. A nil Decoders keeps none. Close it when no more layers are read with it.
type Decoders struct {
	mu   sync.Mutex
	idle []*zstd.Decoder
}

// open returns the uncompressed content of r. Its Close gives the decoder back.
func (d *Decoders) open(r io.Reader) (io.ReadCloser, error) {
	if d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		if n := len(d.idle); n > 0 {
			z := d.idle[n-1]
			d.idle = d.idle[:n-1]
			return &borrowed{z, d}, z.Reset(r)
		}
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &borrowed{z, d}, nil
}

// Close releases the decoders.
func (d *Decoders) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, z := range d.idle {
		z.Close()
	}
	d.idle = nil
}

type borrowed struct {
	*zstd.Decoder
	of *Decoders
}

// Close gives the decoder back, or releases it where nobody keeps it.
func (b *borrowed) Close() error {
	if b.of == nil || b.Reset(nil) != nil {
		b.Decoder.Close()
		return nil
	}
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.of.idle = append(b.of.idle, b.Decoder)
	return nil
}
