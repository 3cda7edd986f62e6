package cc

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rancher/rke2/build/artifact"
)

func TestFind(t *testing.T) {
	p := artifact.Platform{OS: "linux", Arch: runtime.GOARCH}
	c, err := Find(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(c.Path) || !strings.Contains(c.ID, "ld (GNU Binutils") || !strings.Contains(c.ID, "libgcc sha256:") || !strings.HasSuffix(c.Triple, "-linux-gnu") {
		t.Errorf("%+v", c)
	}
	again, err := Find(context.Background(), p)
	if err != nil || again != c {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestFindRefuses(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("PATH", empty)
	other := artifact.Platform{OS: "linux", Arch: map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]}
	for p, want := range map[artifact.Platform]string{
		{OS: "linux", Arch: runtime.GOARCH}: "on Debian: apt-get install gcc",
		other:                               "on Debian: apt-get install gcc-",
		{OS: "linux", Arch: "riscv64"}:      "there is no C compiler for platform linux/riscv64",
	} {
		if _, err := Find(context.Background(), p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", p, err)
		}
	}
	// Something of that name that is no compiler.
	triple, err := Triple(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(empty, triple+"-gcc"), []byte("#!/bin/sh\necho broken >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(context.Background(), other); err == nil || !strings.Contains(err.Error(), "--version: exit status 3: broken") {
		t.Errorf("got %v", err)
	}
}
