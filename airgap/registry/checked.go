package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"sync"
	"time"
)

// checked reads a blob from an offset on and fails instead of ending if the whole of it
// has not the digest and size that it should have. It reports a transfer that stands
// still, which is one that doesn't read.
type checked struct {
	blob  Blob
	moved func(to int64)
	stall time.Duration
	timer *time.Timer

	mu     sync.Mutex // net/http may close while it reads
	rc     io.ReadCloser
	h      hash.Hash
	at     int64
	fail   error
	closed bool
}

func newChecked(b Blob, from int64, moved func(int64), stall time.Duration, stalled func()) (*checked, error) {
	rc, err := b.Open()
	if err != nil {
		return nil, err
	}
	c := &checked{blob: b, rc: rc, h: sha256.New(), at: from, moved: moved, stall: stall}
	// What was sent before is hashed again, so that the digest is that of the whole.
	if n, err := io.CopyN(c.h, rc, from); err != nil {
		_ = rc.Close()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: blob %s has %d bytes instead of %d", ErrDamaged, b.Digest, n, b.Size)
		}
		return nil, err
	}
	moved(from)
	c.timer = time.AfterFunc(stall, stalled)
	return c, nil
}

// Read implements io.Reader.
func (c *checked) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.fail != nil:
		return 0, c.fail
	case c.closed:
		return 0, fs.ErrClosed
	}
	c.timer.Reset(c.stall)
	n, err := c.rc.Read(p)
	c.h.Write(p[:n])
	c.at += int64(n)
	switch {
	case c.at > c.blob.Size:
		err = fmt.Errorf("%w: blob %s has more than the %d bytes that its manifest says", ErrDamaged, c.blob.Digest, c.blob.Size)
	case c.at < c.blob.Size && errors.Is(err, io.EOF):
		err = fmt.Errorf("%w: blob %s has %d bytes instead of %d", ErrDamaged, c.blob.Digest, c.at, c.blob.Size)
	case c.at == c.blob.Size:
		// net/http need not read up to the end that Content-Length tells.
		if got := hex.EncodeToString(c.h.Sum(nil)); got != c.blob.Digest.Hex {
			err = fmt.Errorf("%w: blob %s has the content of sha256:%s", ErrDamaged, c.blob.Digest, got)
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		c.fail = final{err}
		return 0, c.fail
	}
	c.moved(c.at)
	return n, err
}

// used tells whether the body was given to a connection before.
func (c *checked) used() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// detach ends the reports, and gives what was wrong with the blob, if it was read that far.
func (c *checked) detach() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moved = func(int64) {}
	return c.fail
}

// Close implements io.Closer.
func (c *checked) Close() error {
	c.timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.rc.Close()
}
