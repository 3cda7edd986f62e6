package main

import (
	"flag"
	"testing"

	"github.com/rancher/rke2/cmd/internal/clidoc"
)

var update = flag.Bool("update", false, "rewrite the generated pages")

func TestDocs(t *testing.T) {
	// Flags show what the environment makes their default.
	for _, name := range []string{"REGISTRY", "REPO", "PLATFORMS", "SOURCE_DATE_EPOCH", "COSIGN_KEY", "BUILDKIT_HOST"} {
		t.Setenv(name, "")
	}
	clidoc.Check(t, newRoot(), "docs", *update)
}
