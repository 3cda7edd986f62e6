package stage

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// extractor writes the files of /bin and /charts of a sequence of layers below
// root, flat: sub-folders of /bin are folded into it, as operators of this
// layout expect. Nothing but regular files is written.
type extractor struct {
	root  string
	left  int64 // bytes that may still be written
	files map[string]fileRecord
	// only, if set, tells which files are wanted.
	only map[string]bool
}

func (x *extractor) makeFolders() error {
	for _, sub := range folders {
		dir := filepath.Join(x.root, sub)
		if err := os.Mkdir(dir, folderMode); err != nil {
			return target(err)
		}
		if err := os.Chmod(dir, folderMode); err != nil { // whatever the umask
			return target(err)
		}
	}
	return nil
}

// layer takes the files of the image's layer with that number.
func (x *extractor) layer(ctx context.Context, number int, layer Layer) (err error) {
	stream, err := layer.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	entries := tar.NewReader(stream)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading a layer: %w", err)
		}
		if err := x.entry(number, header, entries); err != nil {
			return err
		}
	}
	// The digest is known good only when the last byte was read.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return fmt.Errorf("reading a layer: %w", err)
	}
	return nil
}

func (x *extractor) entry(layer int, header *tar.Header, content io.Reader) error {
	clean := path.Clean("/" + header.Name)
	if strings.Contains(header.Name, "..") && clean != "/"+strings.TrimPrefix(header.Name, "./") {
		return fmt.Errorf("layer entry %q: leaves the image's root", header.Name)
	}
	sub, rest, ok := strings.Cut(strings.TrimPrefix(clean, "/"), "/")
	if !ok || (sub != "bin" && sub != "charts") {
		return nil
	}
	base := path.Base(rest)
	if strings.HasPrefix(base, ".wh.") {
		return fmt.Errorf("layer entry %q: a runtime image cannot remove files of its lower layers", header.Name)
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return nil
	case tar.TypeReg:
	default:
		return fmt.Errorf("layer entry %q: only regular files may be in /bin and /charts of a runtime image", header.Name)
	}
	name := path.Join(sub, base)
	if x.only != nil && !x.only[name] {
		return nil
	}
	if header.Size > x.left {
		return fmt.Errorf("layer entry %q: the image unpacks to more than %d bytes", header.Name, int64(maxUnpacked))
	}
	x.left -= header.Size
	mode := header.FileInfo().Mode().Perm() & 0o755
	hash := sha256.New()
	file := filepath.Join(x.root, filepath.FromSlash(name))
	// A later layer replaces a file of an earlier one.
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return target(err)
	}
	if err := writeFile(file, io.TeeReader(content, hash), mode); err != nil {
		return err
	}
	x.files[name] = fileRecord{SHA256: hex.EncodeToString(hash.Sum(nil)), Size: header.Size, Mode: mode, Layer: layer}
	return nil
}

// writeFile writes a new file and makes it durable.
func writeFile(name string, content io.Reader, mode os.FileMode) (err error) {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return target(err)
	}
	defer func() { err = errors.Join(err, target(file.Close())) }()
	w := &watched{w: file}
	if _, err := io.Copy(w, content); err != nil {
		if w.err != nil {
			return target(w.err)
		}
		return fmt.Errorf("reading what belongs in %s: %w", filepath.Base(name), err)
	}
	if err := file.Chmod(mode); err != nil { // whatever the umask
		return target(err)
	}
	return target(file.Sync())
}

// watched tells errors of writing from those of reading.
type watched struct {
	w   io.Writer
	err error
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

// ErrTarget: the disk that is staged to does not take it. The image from
// another source would not help.
var ErrTarget = errors.New("it cannot be written")

// target marks an error as the disk's; nil stays nil.
func target(err error) error {
	if err == nil || errors.Is(err, ErrTarget) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: the disk is full: make room there: %w", ErrTarget, err)
	}
	return fmt.Errorf("%w: %w", ErrTarget, err)
}
