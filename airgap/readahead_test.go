package airgap

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// failing takes so many writes.
type failing struct{ writes int }

func (f *failing) Write(p []byte) (int, error) {
	if f.writes--; f.writes < 0 {
		return 0, errors.ErrUnsupported
	}
	return len(p), nil
}

// endless counts what is read of it.
type endless struct{ reads int }

func (e *endless) Read(p []byte) (int, error) {
	e.reads++
	return len(p), nil
}

func TestReadAhead(t *testing.T) {
	buffers := func() [2][]byte { return [2][]byte{make([]byte, 7), make([]byte, 7)} }
	content := bytes.Repeat([]byte("0123456789"), 100)
	for name, r := range map[string]io.Reader{
		"whole":         bytes.NewReader(content),
		"byte by byte":  iotest.OneByteReader(bytes.NewReader(content)),
		"end with data": iotest.DataErrReader(bytes.NewReader(content)),
	} {
		var out bytes.Buffer
		if err := readAhead(&out, r, buffers()); err != nil || !bytes.Equal(out.Bytes(), content) {
			t.Errorf("%s: %v, %d of %d bytes", name, err, out.Len(), len(content))
		}
	}
	var out bytes.Buffer
	broken := io.MultiReader(bytes.NewReader(content), iotest.ErrReader(io.ErrUnexpectedEOF))
	if err := readAhead(&out, broken, buffers()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a reader that fails: %v", err)
	}
	for writes := range 3 {
		r := &endless{}
		if err := readAhead(&failing{writes}, r, buffers()); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("a writer that fails: %v", err)
		}
		// It has come to rest: a race would be told by the detector.
		if before := r.reads; before < writes+1 || before > writes+3 {
			t.Errorf("%d reads for %d writes", before, writes+1)
		}
	}
}
