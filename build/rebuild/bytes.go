package rebuild

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

const (
	lineBytes = 16
	before    = 16 // bytes shown before the line that differs
	shown     = 48 // bytes shown in all
	chunk     = 64 << 10
)

// firstBytes finds the first byte in which two streams differ, and shows what is around
// it. It is nil if they are equal.
func firstBytes(a, b io.Reader) (*Window, error) {
	ra, rb := bufio.NewReaderSize(a, 2*chunk), bufio.NewReaderSize(b, 2*chunk)
	var base int64 // offset of what is peeked at
	for {
		pa, err := peek(ra, chunk)
		if err != nil {
			return nil, err
		}
		pb, err := peek(rb, chunk)
		if err != nil {
			return nil, err
		}
		n := min(len(pa), len(pb))
		i := n
		if !bytes.Equal(pa[:n], pb[:n]) {
			for i = 0; pa[i] == pb[i]; i++ {
			}
		} else if len(pa) == len(pb) {
			if n < chunk { // both are at their end
				return nil, nil
			}
			i = -1
		}
		if i < 0 {
			// Keep enough to show what was before.
			skip := n - before - lineBytes
			if err := discard(ra, rb, skip); err != nil {
				return nil, err
			}
			base += int64(skip)
			continue
		}
		w := &Window{Offset: base + int64(i)}
		from := max(base, w.Offset/lineBytes*lineBytes-before)
		if err := discard(ra, rb, int(from-base)); err != nil {
			return nil, err
		}
		if pa, err = peek(ra, shown); err != nil {
			return nil, err
		}
		if pb, err = peek(rb, shown); err != nil {
			return nil, err
		}
		w.Built, w.Rebuilt = dump(pa, from), dump(pb, from)
		return w, nil
	}
}

// peek gives the next n bytes, or fewer at the end.
func peek(r *bufio.Reader, n int) ([]byte, error) {
	p, err := r.Peek(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return p, err
}

func discard(a, b *bufio.Reader, n int) error {
	if _, err := a.Discard(n); err != nil {
		return err
	}
	_, err := b.Discard(n)
	return err
}

// dump writes bytes as hexdump -C does.
func dump(data []byte, offset int64) []string {
	if len(data) == 0 {
		return []string{fmt.Sprintf("%08x  (end)", offset)}
	}
	var out []string
	for at := 0; at < len(data); at += lineBytes {
		row := data[at:min(at+lineBytes, len(data))]
		text := make([]byte, len(row))
		for i, c := range row {
			text[i] = '.'
			if c >= ' ' && c <= '~' {
				text[i] = c
			}
		}
		out = append(out, fmt.Sprintf("%08x  %-*s  |%s|", offset+int64(at), lineBytes*3-1, fmt.Sprintf("% x", row), text))
	}
	return out
}
