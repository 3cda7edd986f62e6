package csource

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/ulikunitz/xz"

	"github.com/rancher/rke2/build/lock"
)

const (
	maxUnpacked = 4 << 30
	maxEntries  = 200_000
)

// fetched is a source package's file on this machine.
type fetched struct {
	name string // as the archive calls it
	path string
}

// unpackSource unpacks a Debian source package (dsc(5), dpkg-source(1)) into dir: the
// original tarball, then Debian's folder and its patches.
func unpackSource(ctx context.Context, s lock.Source, files []fetched, dir string, epoch time.Time) error {
	format, err := sourceFormat(files)
	if err != nil {
		return err
	}
	var orig, debian *fetched
	for i, f := range files {
		switch {
		case strings.HasSuffix(f.name, ".dsc"), strings.HasSuffix(f.name, ".asc"):
		case strings.Contains(f.name, ".debian.tar."):
			debian = &files[i]
		case strings.Contains(f.name, ".orig.tar."), format == "3.0 (native)" && strings.Contains(f.name, ".tar."):
			orig = &files[i]
		default:
			return fmt.Errorf("file %s of source package %s is of no kind that we unpack", f.name, s.Name)
		}
	}
	if orig == nil || (debian == nil) != (format == "3.0 (native)") {
		return fmt.Errorf("source package %s lacks its original or Debian's tarball", s.Name)
	}
	if err := untar(*orig, dir, true); err != nil {
		return fmt.Errorf("unpacking %s: %w", orig.name, err)
	}
	if debian != nil {
		// Debian's folder replaces one of the original's.
		if err := os.RemoveAll(filepath.Join(dir, "debian")); err != nil {
			return err
		}
		if err := untar(*debian, dir, false); err != nil {
			return fmt.Errorf("unpacking %s: %w", debian.name, err)
		}
		if err := applyPatches(ctx, dir); err != nil {
			return err
		}
	}
	return settle(dir, epoch)
}

func sourceFormat(files []fetched) (string, error) {
	for _, f := range files {
		if !strings.HasSuffix(f.name, ".dsc") {
			continue
		}
		data, err := os.ReadFile(f.path)
		if err != nil {
			return "", err
		}
		for _, line := range strings.Split(string(data), "\n") {
			if v, ok := strings.CutPrefix(line, "Format:"); ok {
				switch v = strings.TrimSpace(v); v {
				case "3.0 (quilt)", "3.0 (native)":
					return v, nil
				default:
					return "", fmt.Errorf("%s has format %q; 3.0 (quilt) and 3.0 (native) are unpacked here", f.name, v)
				}
			}
		}
		return "", fmt.Errorf("%s has no Format", f.name)
	}
	return "", errors.New("there is no .dsc")
}

// untar unpacks a tarball, without the folder that it is in if strip is set. os.Root
// keeps what it names in dir.
func untar(f fetched, dir string, strip bool) error {
	in, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer in.Close()
	var r io.Reader = bufio.NewReader(in)
	switch path.Ext(f.name) {
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".xz":
		r, err = xz.NewReader(r)
	case ".bz2":
		r = bzip2.NewReader(r)
	default:
		return errors.New("its compression is not one of gz, xz and bz2")
	}
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	left := &budget{r: r, left: maxUnpacked}
	tr := tar.NewReader(left)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n == maxEntries {
			return fmt.Errorf("it has more than %d files", maxEntries)
		}
		if slices.Contains(strings.Split(h.Name, "/"), "..") {
			return fmt.Errorf("path %q leads out of the source package", h.Name)
		}
		name := strings.Trim(path.Clean(h.Name), "/")
		if strip {
			_, name, _ = strings.Cut(name, "/")
		}
		if name == "" || name == "." || h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := place(root, name, h, tr, strip); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func place(root *os.Root, name string, h *tar.Header, r io.Reader, strip bool) error {
	if h.Typeflag == tar.TypeDir {
		return root.MkdirAll(name, 0o755)
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644|fs.FileMode(h.Mode)&0o111)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, r); err != nil {
			_ = f.Close()
			return err
		}
		return f.Close()
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		target := strings.Trim(path.Clean(h.Linkname), "/")
		if strip {
			_, target, _ = strings.Cut(target, "/")
		}
		return root.Link(target, name)
	}
	return fmt.Errorf("tar type %q has no place in a source package", h.Typeflag)
}

// budget fails when more is unpacked than is sensible.
type budget struct {
	r    io.Reader
	left int64
}

func (b *budget) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("it unpacks to more than %d bytes", int64(maxUnpacked))
	}
	return n, err
}

// applyPatches applies debian/patches as dpkg-source does: in the order of the series,
// without fuzz.
func applyPatches(ctx context.Context, dir string) error {
	series, err := os.ReadFile(filepath.Join(dir, "debian", "patches", "series"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading Debian's patches: %w", err)
	}
	for _, line := range strings.Split(string(series), "\n") {
		line, _, _ = strings.Cut(line, "#")
		name := strings.TrimSpace(line)
		if name == "" {
			continue
		}
		if strings.ContainsAny(name, " \t") || !filepath.IsLocal(name) {
			return fmt.Errorf("debian/patches/series: %q is not the plain name of a patch", name)
		}
		program, err := exec.LookPath("patch")
		if err != nil {
			return fmt.Errorf("debian/patches/%s can't be applied: %w; on Debian: apt-get install patch", name, err)
		}
		var said bytes.Buffer
		cmd := exec.CommandContext(ctx, program, "-p1", "-u", "--batch", "--forward", "--fuzz=0", "--no-backup-if-mismatch",
			"-V", "never", "-i", filepath.Join("debian", "patches", name))
		cmd.Dir = dir
		cmd.Env = environment(nil)
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("applying debian/patches/%s: %w:\n%s", name, err, tail(said.Bytes()))
		}
	}
	return nil
}

// settle gives everything one time, so that make takes nothing for older than what it is
// made from, and nothing depends on when it was unpacked.
func settle(dir string, epoch time.Time) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(p, epoch, epoch)
	})
}
