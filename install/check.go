package install

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
)

// checkBinary makes sure that a node binary is what the release's users get: for this
// platform, static, stripped, and with this very release inside.
func (l *layouter) checkBinary(file string, p v1.Platform) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("node binary %s: %w: run make rke2", file, err)
	}
	defer f.Close()
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[p.Architecture]; f.Machine != want {
		return fmt.Errorf("node binary %s is for %s, not for %s: run make rke2 PLATFORMS=%s", file, f.Machine, p.Architecture, p)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return fmt.Errorf("node binary %s is not static: it needs libraries of the host", file)
	}
	if f.Section(".symtab") != nil {
		return fmt.Errorf("node binary %s is not stripped: link it with -s -w", file)
	}
	has, err := contains(file, l.Release)
	if err == nil && !has {
		err = fmt.Errorf("node binary %s was built for another release than %s: run make rke2", file, l.release.Version)
	}
	return err
}

// contains tells whether a file has these bytes in it.
func contains(file string, needle []byte) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf := make([]byte, max(1<<20, 4*len(needle)))
	kept := 0
	for {
		n, err := io.ReadFull(f, buf[kept:])
		if bytes.Contains(buf[:kept+n], needle) {
			return true, nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("reading %s: %w", file, err)
		}
		kept = copy(buf, buf[kept+n-min(kept+n, len(needle)-1):kept+n])
	}
}

// checkBundle makes sure that a bundle holds images of this release, and gives its sets.
// Its blobs are not read: `rke2 bundle verify` did, and a node does.
func (l *layouter) checkBundle(file string, p v1.Platform) ([]string, error) {
	a, err := airgap.Open(file)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	if err := l.checkImages(a.Images(), p); err != nil {
		return nil, fmt.Errorf("bundle %s: %w", file, err)
	}
	return a.Sets(), nil
}

func (l *layouter) checkImages(found []airgap.Image, p v1.Platform) error {
	digests := map[string]string{}
	for _, i := range l.release.Images {
		digests[i.Reference] = i.Digests[p.OS+"/"+p.Architecture]
	}
	for _, i := range found {
		for _, ref := range i.Refs {
			switch digests[ref.String()] {
			case i.Desc.Digest.String():
			case "":
				return fmt.Errorf("image %s is not in release %s for %s: remove the bundle, or run make airgap", ref.String(), l.release.Version, p)
			default:
				return fmt.Errorf("image %s is %s, and release %s has %s: run make airgap", ref.String(), i.Desc.Digest, l.release.Version, digests[ref.String()])
			}
		}
	}
	return nil
}
