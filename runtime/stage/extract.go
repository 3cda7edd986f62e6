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

	"golang.org/x/sys/unix"
)

// extractor writes the files of /bin and /charts of a sequence of layers below
// root, flat: sub-folders of /bin are folded into it, as operators of this
// layout expect. Nothing but regular files is written.
type extractor struct {
	root  string
	left  int64 // bytes that may still be written
	files map[string]fileRecord
}

func (x *extractor) layer(ctx context.Context, layer Layer) (err error) {
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
		if err := x.entry(header, entries); err != nil {
			return err
		}
	}
	// The digest is known good only when the last byte was read.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return fmt.Errorf("reading a layer: %w", err)
	}
	return nil
}

func (x *extractor) entry(header *tar.Header, content io.Reader) error {
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
	if header.Size > x.left {
		return fmt.Errorf("layer entry %q: the image unpacks to more than %d bytes", header.Name, int64(maxUnpacked))
	}
	x.left -= header.Size
	mode := header.FileInfo().Mode().Perm() & 0o755
	name := path.Join(sub, base)
	hash := sha256.New()
	target := filepath.Join(x.root, filepath.FromSlash(name))
	// A later layer replaces a file of an earlier one.
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := writeFile(target, io.TeeReader(content, hash), mode); err != nil {
		return err
	}
	x.files[name] = fileRecord{SHA256: hex.EncodeToString(hash.Sum(nil)), Size: header.Size, Mode: mode}
	return nil
}

// writeFile writes a new file and makes it durable.
func writeFile(name string, content io.Reader, mode os.FileMode) (err error) {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := io.Copy(file, content); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := file.Chmod(mode); err != nil { // whatever the umask
		return err
	}
	return file.Sync()
}

func isNotEmpty(err error) bool { return errors.Is(err, unix.ENOTEMPTY) }
