package main

import (
	"flag"
	"testing"

	"github.com/rancher/rke2/cmd/internal/clidoc"
)

var update = flag.Bool("update", false, "rewrite the generated pages")

func TestDocs(t *testing.T) { clidoc.Check(t, newRoot(), "docs", *update) }
