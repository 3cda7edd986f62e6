// Package clidoc keeps a command's reference pages equal to the command: a test
// generates them and compares them with what is committed.
package clidoc

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Check compares dir with the Markdown pages of root and everything below it,
// or rewrites dir if update is set.
func Check(t *testing.T, root *cobra.Command, dir string, update bool) {
	t.Helper()
	root.DisableAutoGenTag = true
	fresh := t.TempDir()
	if err := doc.GenMarkdownTree(root, fresh); err != nil {
		t.Fatal(err)
	}
	if update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(dir, os.DirFS(fresh)); err != nil {
			t.Fatal(err)
		}
	}
	pages := names(t, fresh)
	if committed := names(t, dir); !slices.Equal(pages, committed) {
		t.Errorf("%s has the pages %q, want %q; run `make generate`", dir, committed, pages)
	}
	for _, page := range pages {
		want, err := os.ReadFile(filepath.Join(fresh, page))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, page)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs from the command (%v); run `make generate`", filepath.Join(dir, page), err)
		}
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
