package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestAligned(t *testing.T) {
	for _, dirs := range groups {
		late, err := differences(filepath.Join("..", ".."), dirs)
		if err != nil {
			t.Error(err)
		}
		for _, d := range late {
			t.Errorf("%s: run go run ./hack/align", d)
		}
	}
}

func TestDifferences(t *testing.T) {
	root := t.TempDir()
	for dir, text := range map[string]string{
		"first": `module first
require (
	example.com/a v1.2.0
	example.com/b v1.0.0
	example.com/c v1.0.0
)
replace example.com/b => example.com/fork/b v1.0.1
`,
		"second": `module second
require (
	example.com/a v1.10.0
	example.com/b v1.5.0
	example.com/c v0.9.0
	example.com/d v1.0.0
)
replace example.com/c => example.com/fork/c v0.9.0
`,
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, dir, "go.mod"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	late, err := differences(root, []string{"first", "second"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range late {
		got = append(got, d.dir+" "+d.edit())
	}
	want := []string{
		"first -require=example.com/a@v1.10.0",
		"second -replace=example.com/b=example.com/fork/b@v1.0.1", // c is the second's own
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := differences(root, []string{"first", "absent"}); err == nil {
		t.Error("a module that is not there")
	}
}
