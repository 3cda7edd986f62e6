package airgap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// counted counts the bytes that are read of a file.
type counted struct {
	*os.File
	n atomic.Int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.File.ReadAt(p, off)
	c.n.Add(int64(n))
	return n, err
}

// TestOpenReadsKilobytes: finding an image and its signatures costs the headers and
// manifests, whatever the size of the layers.
func TestOpenReadsKilobytes(t *testing.T) {
	f := simple(t, 8<<20)
	b := f.bytes(core())
	file, err := os.Open(file(t, "b.tar", b))
	noError(t, err)
	c := &counted{File: file}
	a, err := openSource("b.tar", c, int64(len(b)))
	noError(t, err)
	defer a.Close()
	for _, img := range a.Images() {
		if sigs, err := a.Signatures(img.Desc.Digest); err != nil || len(sigs) != 1 {
			t.Errorf("%d signatures, %v", len(sigs), err)
		}
	}
	if n := c.n.Load(); n > 64<<10 {
		t.Errorf("%d bytes of %d were read", n, len(b))
	}
}

// TestConcurrentUse: of a plain and of a compressed archive, from the first call on.
func TestConcurrentUse(t *testing.T) {
	b := simple(t, 5000).bytes(core())
	for _, how := range []compression{plain, zst} {
		a := mustOpen(t, file(t, "b.tar", compress(t, b, how)))
		var wg sync.WaitGroup
		errs := make(chan error, 100)
		for range 8 {
			wg.Go(func() {
				for _, img := range a.Images() {
					m, _, err := a.Manifest(img.Desc.Digest)
					if err != nil {
						errs <- err
						return
					}
					for _, l := range m.Layers {
						r, err := a.Blob(l.Digest)
						if err != nil {
							errs <- err
							return
						}
						n, err := io.Copy(io.Discard, r)
						if err := errors.Join(err, r.Close()); err != nil || n != l.Size {
							errs <- fmt.Errorf("%d of %d bytes: %w", n, l.Size, err)
						}
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			t.Errorf("%s: %v", how, err)
		}
	}
}

// TestReplacedWhileOpen: content that changes under an open archive is never handed out.
func TestReplacedWhileOpen(t *testing.T) {
	f := simple(t, 5000)
	b := f.bytes(core())
	other := simple(t, 5000).bytes(core()) // another key: other signatures
	for _, how := range []compression{plain, zst} {
		p := file(t, "b.tar", compress(t, b, how))
		a := mustOpen(t, p)
		noError(t, os.WriteFile(p, compress(t, other, how), 0o600))
		err := a.Walk(t.Context(), nil, func(d v1.Descriptor, r io.Reader) error {
			c, err := io.ReadAll(r)
			if err == nil && hashOf(c) != d.Digest {
				t.Errorf("%s: other bytes were handed out", how)
			}
			return err
		})
		if err == nil {
			t.Errorf("%s: went unnoticed", how)
		}
	}
}

// TestVerifierWithholds: no reader gets all bytes of a blob that is not what its
// digest says, however it reads.
func TestVerifierWithholds(t *testing.T) {
	good := []byte("some content")
	bad := []byte("some c0ntent")
	h := hashOf(good)
	for size := 1; size <= len(bad); size++ {
		v := verify(bytes.NewReader(bad), h, int64(len(bad)))
		buf := make([]byte, size)
		got := 0
		var err error
		for err == nil {
			var n int
			n, err = v.Read(buf)
			got += n
		}
		if !errors.Is(err, ErrDamaged) || got >= len(bad) {
			t.Errorf("reads of %d: %d bytes, %v", size, got, err)
		}
	}
	if _, err := io.ReadFull(verify(bytes.NewReader(bad), h, int64(len(bad))), make([]byte, len(bad))); !errors.Is(err, ErrDamaged) {
		t.Errorf("io.ReadFull: %v", err)
	}
	if _, err := io.ReadAll(verify(bytes.NewReader(good[:5]), h, int64(len(good)))); !errors.Is(err, ErrTruncated) {
		t.Errorf("short: %v", err)
	}
	if b, err := io.ReadAll(verify(bytes.NewReader(append(good, "more"...)), h, int64(len(good)))); err != nil || string(b) != "some content" {
		t.Errorf("what follows is not read: %q %v", b, err)
	}
	if _, err := io.ReadAll(verify(bytes.NewReader(nil), h, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("empty: %v", err)
	}
}
