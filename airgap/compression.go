package airgap

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4"
	"github.com/xi2/xz"
)

// Bounds on decompression. The window is what stock RKE2 accepts. The allowance
// stops an archive that unpacks to far more than images do, before it costs hours.
const (
	maxWindow      = 32 << 20
	freeExpansion  = 1 << 30
	maxCompression = 200 // times the compressed bytes read so far
)

// compression is found by content, not by the file's name.
type compression string

const (
	plain compression = "none"
	zst   compression = "zstd"
	gz    compression = "gzip"
	lz    compression = "lz4"
	bz    compression = "bzip2"
	xzc   compression = "xz"
)

// sniff tells an archive's compression by its first bytes; what can't be read
// is an error that says what it looks like.
func sniff(head []byte) (compression, error) {
	for _, m := range []struct {
		magic string
		c     compression
		other string
	}{
		{"\x28\xb5\x2f\xfd", zst, ""},
		{"\x1f\x8b", gz, ""},
		{"\x04\x22\x4d\x18", lz, ""},
		{"BZh", bz, ""},
		{"\xfd7zXZ\x00", xzc, ""},
		{"PK\x03\x04", "", "a zip archive"},
		{"7z\xbc\xaf", "", "a 7-Zip archive"},
		{"\x7fELF", "", "a program"},
		{"<", "", "a web page: the download got a page instead of the file"},
		{"{", "", "JSON"},
	} {
		if !bytes.HasPrefix(head, []byte(m.magic)) {
			continue
		}
		if m.other != "" && !bytes.Equal(tail(head, 257, 5), []byte("ustar")) {
			return "", fmt.Errorf("%w: it looks like %s", ErrNotArchive, m.other)
		}
		if m.c != "" {
			return m.c, nil
		}
	}
	return plain, nil
}

func tail(b []byte, off, n int) []byte {
	if len(b) < off+n {
		return nil
	}
	return b[off : off+n]
}

// decompress returns the uncompressed stream of r. Close releases the
// decompressor, not r.
func decompress(r io.Reader, c compression) (io.ReadCloser, error) {
	in := &counter{r: r}
	var out io.ReadCloser
	switch c {
	case zst:
		d, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Errorf("reading zstd: %w", err)
		}
		out = d.IOReadCloser()
	case gz:
		d, err := gzip.NewReader(bufio.NewReaderSize(in, 1<<16))
		if err != nil {
			return nil, tarFault(err, "in the gzip header", -1)
		}
		out = d
	case lz:
		out = io.NopCloser(lz4.NewReader(in))
	case bz:
		out = io.NopCloser(bzip2.NewReader(bufio.NewReaderSize(in, 1<<16)))
	case xzc:
		// A header of a hundred bytes can ask for gigabytes.
		d, err := xz.NewReader(bufio.NewReaderSize(in, 1<<16), maxWindow)
		if err != nil {
			return nil, tarFault(err, "in the xz header", -1)
		}
		out = io.NopCloser(d)
	default:
		return nil, fmt.Errorf("compression %q is not known", c)
	}
	return &bounded{out, in, 0}, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// bounded refuses to expand beyond what image archives do.
type bounded struct {
	io.ReadCloser
	in *counter
	n  int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.n > freeExpansion+maxCompression*b.in.n {
		return 0, fmt.Errorf("%w: %d compressed bytes became %d: this is no image archive", ErrRefusedContent, b.in.n, b.n)
	}
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}
