// Package cc finds a C compiler for a platform, and says what it is in a way that tells
// compilers apart which would make other bytes.
package cc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/rancher/rke2/build/artifact"
)

// Compiler is an installed C compiler.
type Compiler struct {
	Path   string
	Triple string // aarch64-linux-gnu in form: its tools are called <triple>-ar …
	// ID names compiler and linker with their versions, and has a hash of the parts of
	// the compiler that it links into every program.
	ID string
}

// Triple is Debian's name of a platform.
func Triple(p artifact.Platform) (string, error) {
	switch p {
	case artifact.Platform{OS: "linux", Arch: "amd64"}:
		return "x86_64-linux-gnu", nil
	case artifact.Platform{OS: "linux", Arch: "arm64"}:
		return "aarch64-linux-gnu", nil
	}
	return "", fmt.Errorf("there is no C compiler for platform %s", p)
}

// Find looks for <triple>-gcc: Debian calls the host's own compiler so too.
func Find(ctx context.Context, p artifact.Platform) (Compiler, error) {
	triple, err := Triple(p)
	if err != nil {
		return Compiler{}, err
	}
	c := Compiler{Triple: triple}
	if c.Path, err = exec.LookPath(triple + "-gcc"); err != nil {
		return c, fmt.Errorf("a C compiler for %s is needed, and %s-gcc is not installed; on Debian: apt-get install %s", p, triple, debianPackage(triple))
	}
	version, err := c.say(ctx, "--version")
	if err != nil {
		return c, err
	}
	ld, err := c.say(ctx, "-print-prog-name=ld")
	if err != nil {
		return c, err
	}
	linker, err := say(ctx, ld, "--version")
	if err != nil {
		return c, err
	}
	own, err := c.runtime(ctx)
	if err != nil {
		return c, err
	}
	c.ID = version + "; " + linker + "; libgcc sha256:" + own
	return c, nil
}

func debianPackage(triple string) string {
	if here, err := Triple(artifact.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH}); err == nil && here == triple {
		return "gcc"
	}
	return "gcc-" + strings.ReplaceAll(triple, "_", "-")
}

// runtime hashes what comes from the compiler's own folder.
func (c Compiler) runtime(ctx context.Context) (string, error) {
	h := sha256.New()
	for _, name := range []string{"crtbeginT.o", "crtend.o", "libgcc.a", "libgcc_eh.a"} {
		path, err := c.say(ctx, "-print-file-name="+name)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(path) {
			return "", fmt.Errorf("the C compiler %s doesn't have its %s; on Debian: apt-get install %s", c.Path, name, debianPackage(c.Triple))
		}
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("identifying the C compiler: %w", err)
		}
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return "", fmt.Errorf("identifying the C compiler: %s: %w", path, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (c Compiler) say(ctx context.Context, arg string) (string, error) { return say(ctx, c.Path, arg) }

// say gives the first line of what a program answers.
func say(ctx context.Context, program, arg string) (string, error) {
	cmd := exec.CommandContext(ctx, program, arg)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("asking %s %s: %w: %s", program, arg, err, bytes.TrimSpace(stderr.Bytes()))
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line), nil
}
