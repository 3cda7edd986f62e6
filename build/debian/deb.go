package debian

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	arMagic      = "!<arch>\n"
	arHeader     = 60
	maxControl   = 16 << 20
	maxData      = 4 << 30
	maxWindow    = 256 << 20 // what a decompressor may keep in memory
	xzHeaderSize = 12
)

// readDeb reads a binary package (deb(5)): control gets its control.tar, then data its
// data.tar, both decompressed. Readers are valid during the call.
func readDeb(r io.Reader, control, data func(io.Reader) error) error {
	br := bufio.NewReaderSize(r, 64<<10)
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(br, magic); err != nil || string(magic) != arMagic {
		return errors.New("this is no .deb: it doesn't begin as an ar archive")
	}
	step := 0
	for {
		name, size, err := arMember(br)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("it is truncated: it has no %s", [...]string{"debian-binary", "control.tar", "data.tar"}[step])
		}
		if err != nil {
			return err
		}
		body := &exactly{r: br, left: size}
		switch {
		case step == 0:
			version, err := io.ReadAll(io.LimitReader(body, 64))
			if name != "debian-binary" || err != nil || !bytes.HasPrefix(version, []byte("2.")) {
				return fmt.Errorf("format %.20q is not 2.0", version)
			}
			step++
		case strings.HasPrefix(name, "_"): // deb(5): to be ignored
		case step == 1 && strings.HasPrefix(name, "control.tar"):
			if err := decompress(body, strings.TrimPrefix(name, "control.tar"), maxControl, control); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			step++
		case step == 2 && strings.HasPrefix(name, "data.tar"):
			if err := decompress(body, strings.TrimPrefix(name, "data.tar"), maxData, data); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		default:
			return fmt.Errorf("member %q is not expected where it is", name)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if size%2 == 1 {
			if _, err := br.Discard(1); err != nil {
				return fmt.Errorf("%s: it is truncated", name)
			}
		}
	}
}

// arMember reads a header: the name, without the / that some writers end it with, and
// the size of what follows.
func arMember(r io.Reader) (name string, size int64, err error) {
	h := make([]byte, arHeader)
	if _, err := io.ReadFull(r, h); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return "", 0, errors.New("it is truncated in a member's header")
		}
		return "", 0, err
	}
	size, err = strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
	if err != nil || size < 0 || h[58] != '`' || h[59] != '\n' {
		return "", 0, errors.New("a member's header is damaged")
	}
	return strings.TrimSuffix(strings.TrimSpace(string(h[:16])), "/"), size, nil
}

// exactly reads left bytes; fewer are an error, not an end.
type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if errors.Is(err, io.EOF) && e.left > 0 {
		err = fmt.Errorf("it is truncated: %d bytes are missing", e.left)
	}
	return n, err
}

// decompress calls read with what is in a member, by the end of its name.
func decompress(r io.Reader, form string, most int64, read func(io.Reader) error) error {
	var plain io.Reader
	switch form {
	case "":
		plain = r
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		plain = z
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		defer z.Close()
		plain = z
	case ".xz":
		br := bufio.NewReaderSize(r, 64<<10)
		if err := checkXZ(br); err != nil {
			return err
		}
		z, err := xz.NewReader(br)
		if err != nil {
			return err
		}
		plain = z
	default:
		return fmt.Errorf("compression %q is not one of xz, zst and gz", form)
	}
	return read(&bounded{r: plain, left: most})
}

// checkXZ refuses a dictionary that wouldn't fit into memory, before it is made
// (The .xz File Format 1.2, 3.1 and 5.3.1). What it can't read is left to the decoder.
func checkXZ(br *bufio.Reader) error {
	h, err := br.Peek(xzHeaderSize + 6)
	if err != nil {
		return nil
	}
	block := h[xzHeaderSize:]
	const lzma2 = 0x21
	// Block header: size, flags, then the only filter, unless sizes are stored first.
	if block[1]&0xc3 != 0 || block[2] != lzma2 {
		return nil
	}
	bits := uint(block[4] & 0x3f)
	if bits > 40 {
		return nil
	}
	if size := (uint64(2) | uint64(bits&1)) << (bits/2 + 11); size > maxWindow {
		return fmt.Errorf("its xz dictionary of %d bytes is larger than %d", size, maxWindow)
	}
	return nil
}
