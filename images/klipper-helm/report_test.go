package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLastWordsReplaceEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "termination-log")
	if err := os.WriteFile(path, []byte("of an earlier container, and longer"), 0o666); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r := &report{out: &out, termination: path}
	r.last("upgrade of %s", "web")
	r.say("a line of the log")
	r.last("done\n")
	data, err := os.ReadFile(path)
	if err != nil || string(data) != "done" {
		t.Errorf("%q, %v", data, err)
	}
	if out.String() != "upgrade of web\na line of the log\ndone\n" {
		t.Errorf("log: %q", out.String())
	}
}

// Outside of a pod nothing is made in /dev.
func TestNoTerminationFileIsMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	var out bytes.Buffer
	(&report{out: &out, termination: path}).last("x")
	if _, err := os.Stat(path); !os.IsNotExist(err) || out.String() != "x\n" {
		t.Errorf("%v, log %q", err, out.String())
	}
}

func TestShorten(t *testing.T) {
	long := "BEGIN" + strings.Repeat("ä", 4000) + "END"
	for most := 100; most < 110; most++ {
		s := shorten(long, most)
		if len(s) > most || !utf8.ValidString(s) || !strings.HasPrefix(s, "BEGIN") || !strings.HasSuffix(s, "END") {
			t.Errorf("shortened to %d: %d bytes, %q", most, len(s), s)
		}
	}
	if s := shorten("short", 100); s != "short" {
		t.Errorf("%q", s)
	}
}

func TestInLine(t *testing.T) {
	for text, want := range map[string]string{
		"hooks failed: 1 error occurred:\n\t* timed out\n\n":               "hooks failed: 1 error occurred: timed out",
		"hooks failed: 2 errors occurred:\n\t* timed out\n\t* no such\n\n": "hooks failed: 2 errors occurred: timed out; no such",
		"as it is":           "as it is",
		"several\n- lines\n": "several\n- lines",
	} {
		err := errors.New(text)
		if got := inLine(err); got.Error() != want || !errors.Is(got, err) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if inLine(nil) != nil {
		t.Error("no error is one")
	}
}
