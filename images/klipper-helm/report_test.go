package main

import (
	"bytes"
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
