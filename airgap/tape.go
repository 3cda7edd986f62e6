package airgap

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
)

// entry is one file of a tar.
type entry struct {
	name string // cleaned
	kind byte   // tar.TypeReg, or a type that only legacy archives may have
	link string
	off  int64 // of its content in the uncompressed archive
	size int64
}

// tape feeds a tar reader and keeps the bytes between one entry's content and
// the next's: padding and headers, which archive/tar checks only loosely.
type tape struct {
	r       io.Reader
	pos     int64
	dataEnd int64 // content before this offset is not kept
	gap     []byte
	tooLong bool
}

func (t *tape) Read(p []byte) (int, error) {
	if t.tooLong {
		return 0, fmt.Errorf("%w: headers of more than %d bytes before one entry", ErrRefusedContent, maxGap)
	}
	n, err := t.r.Read(p)
	if from := max(0, t.dataEnd-t.pos); from < int64(n) {
		t.gap = append(t.gap, p[from:n]...)
		t.tooLong = len(t.gap) > maxGap
	}
	t.pos += int64(n)
	return n, err
}

// seekTape lets archive/tar skip content that nobody read.
type seekTape struct {
	*tape
	s io.Seeker
}

func (t seekTape) Seek(offset int64, whence int) (int64, error) {
	n, err := t.s.Seek(offset, whence)
	if err == nil {
		t.pos = n
	}
	return n, err
}

// visitor is called for each entry of a tar. gap holds the bytes since the content
// before it; both are only valid during the call. Content that it leaves unread is
// skipped.
type visitor func(e entry, gap []byte, content io.Reader) error

// scanTar reads a tar from its start to its end and returns the bytes after the last
// content. It refuses names that lead outside, duplicates, and file types that no
// image archive has. size is the length of the uncompressed archive, or -1.
// A file that seeks is not read where nobody looks.
func scanTar(ctx context.Context, r io.Reader, size int64, visit visitor) (end []byte, err error) {
	t := &tape{r: r}
	var tr *tar.Reader
	if s, ok := r.(io.Seeker); ok {
		tr = tar.NewReader(seekTape{t, s})
	} else {
		tr = tar.NewReader(t)
	}
	seen := map[string]bool{}
	last := "its first header"
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t.gap = t.gap[:0]
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, tarFault(err, "after "+last, n)
		}
		if n >= maxEntries {
			return nil, fmt.Errorf("%w: more than %d entries", ErrRefusedContent, maxEntries)
		}
		e, err := checkEntry(hdr)
		if err != nil {
			return nil, err
		}
		e.off = t.pos
		t.dataEnd = t.pos + e.size
		last = e.name
		if size >= 0 && t.dataEnd > size {
			return nil, fmt.Errorf("%w: %s needs %d bytes and the file has %d more: copy the file again", ErrTruncated, e.name, e.size, size-t.pos)
		}
		if seen[e.name] && e.kind != tar.TypeDir {
			return nil, fmt.Errorf("%w: %s is in it twice", ErrRefusedContent, e.name)
		}
		seen[e.name] = true
		if err := visit(e, t.gap, contentReader{tr, e.name}); err != nil {
			return nil, err
		}
	}
	return readEnd(t)
}

// checkEntry turns a tar header into an entry, if it is of a kind that image
// archives have.
func checkEntry(hdr *tar.Header) (entry, error) {
	e := entry{name: path.Clean(hdr.Name), kind: hdr.Typeflag, link: hdr.Linkname, size: hdr.Size}
	if path.IsAbs(e.name) || e.name == ".." || strings.HasPrefix(e.name, "../") || strings.ContainsAny(hdr.Name, "\\\x00") {
		return e, fmt.Errorf("%w: the name %q leads outside the archive", ErrRefusedContent, hdr.Name)
	}
	switch e.kind {
	case tar.TypeReg:
		for k := range hdr.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse.") {
				return e, fmt.Errorf("%w: %q is a sparse file", ErrRefusedContent, hdr.Name)
			}
		}
		if e.size > 1<<50 {
			return e, fmt.Errorf("%w: %q claims %d bytes", ErrRefusedContent, hdr.Name, e.size)
		}
	case tar.TypeDir, tar.TypeSymlink:
		e.size = 0
	default:
		return e, fmt.Errorf("%w: %q is not a regular file (tar type %q)", ErrRefusedContent, hdr.Name, string(hdr.Typeflag))
	}
	return e, nil
}

// readEnd checks what follows the last content: two zero blocks, then at most the
// zeros that fill tar's records.
func readEnd(t *tape) ([]byte, error) {
	const maxFill = 1 << 20
	if _, err := io.CopyN(io.Discard, t, maxFill); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, tarFault(err, "at its end", -1)
		}
		return nil, fmt.Errorf("%w: more follows the end of the archive", ErrRefusedContent)
	}
	if len(bytes.Trim(t.gap, "\x00")) > 0 {
		return nil, fmt.Errorf("%w: something other than zeros follows the end of the archive", ErrDamaged)
	}
	if len(t.gap) < trailer {
		return nil, fmt.Errorf("%w: the end-of-archive mark is missing: copy the file again", ErrTruncated)
	}
	return t.gap, nil
}

// contentReader names the entry in errors of its content.
type contentReader struct {
	r    io.Reader
	name string
}

func (c contentReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = tarFault(err, "in "+c.name, -1)
	}
	return n, err
}

// tarFault puts an error of archive/tar or of a decompressor into an operator's
// words. n is the number of entries before it.
func tarFault(err error, where string, n int) error {
	switch {
	case errors.Is(err, ErrTruncated), errors.Is(err, ErrRefusedContent), errors.Is(err, ErrDamaged), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ends %s: copy the file again", ErrTruncated, where)
	case errors.Is(err, tar.ErrFieldTooLong):
		return fmt.Errorf("%w: a header %s is larger than any real one", ErrRefusedContent, where)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("%w: the zstd window is larger than %d MiB: compress it without --long or --ultra", ErrRefusedContent, maxWindow>>20)
	case errors.Is(err, xz.ErrMemlimit):
		return fmt.Errorf("%w: the xz dictionary is larger than %d MiB: unpack it with xz -d, or compress it with xz -8 or less", ErrRefusedContent, maxWindow>>20)
	case errors.Is(err, xz.ErrBuf):
		return fmt.Errorf("%w: its xz stream ends %s: copy the file again", ErrTruncated, where)
	case errors.Is(err, tar.ErrHeader) && n == 0:
		return fmt.Errorf("%w: no tar header at its start", ErrNotArchive)
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("%w: no valid tar header %s", ErrDamaged, where)
	}
	return fmt.Errorf("%w: %s: %w", ErrDamaged, where, err)
}
