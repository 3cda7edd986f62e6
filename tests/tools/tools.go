// Package tools builds programs that others wrote, to hold our own against them. Each is
// pinned by a module of its own, below a testdata folder.
package tools

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Environment is what Go programs of others are built with for tests: as the images are,
// so that Go's build cache has most of it already.
func Environment() []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOFIPS140=v1.0.0", "GOWORK=off",
		"GOFLAGS=-trimpath -buildvcs=false -tags=netgo,osusergo -gcflags=all=-dwarf=false")
}

// Build builds a pinned tool, if Go's cache does not have it, and returns its path. dir is
// the folder of the tool's module, in this project.
func Build(t testing.TB, dir, name string) string {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatalf("finding the project's folder: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-n", name)
	cmd.Dir = filepath.Join(strings.TrimSpace(string(root)), filepath.FromSlash(dir))
	cmd.Env = Environment()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		Absent(t, "%s can't be built here: %v\n%s", name, err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// Absent ends a test that lacks something: it is skipped on a developer's machine, and
// fails where CI=true.
func Absent(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
