//go:build linux

package sealed

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestWire(t *testing.T) {
	a, b, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	left, err := dial(a)
	if err != nil {
		t.Fatal(err)
	}
	right, err := dial(b)
	if err != nil {
		t.Fatal(err)
	}
	defer right.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := send(left, request{Args: []string{"a", "b"}}, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var got request
	files, err := receive(right, &got)
	if err != nil || len(files) != 1 || len(got.Args) != 2 {
		t.Fatalf("%+v, %d files, %v", got, len(files), err)
	}
	if _, err := files[0].WriteString("through"); err != nil {
		t.Fatal(err)
	}
	closeAll(files)
	if text, err := io.ReadAll(r); err != nil || string(text) != "through" {
		t.Errorf("pipe: %q, %v", text, err)
	}
	if err := send(left, request{Dir: strings.Repeat("x", maxMessage)}); err == nil {
		t.Error("a message that is too long was sent")
	}
	if _, err := left.Write([]byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(right, &got); err == nil {
		t.Error("half a message was read")
	}
	left.Close()
	if _, err := receive(right, &got); !errors.Is(err, io.EOF) {
		t.Errorf("after the other end is gone: %v", err)
	}
}
