package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/rancher/rke2/airgap"
)

// unpacked is a compressed archive whose blobs are files of a folder. They are named by
// their digests, so archives share them and a later start finds them.
type unpacked struct {
	*archive
	dir string
}

func unpack(s *archive, dir string) (*unpacked, error) {
	u := &unpacked{archive: s, dir: filepath.Join(dir, "blobs", "sha256")}
	if err := os.MkdirAll(u.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the work folder: %w", err)
	}
	return u, nil
}

func (u *unpacked) path(h v1.Hash) string { return filepath.Join(u.dir, h.Hex) }

// list writes what is not there yet. The archive's own reader bounds what comes out of a
// compressed one.
func (u *unpacked) list(ctx context.Context) ([]found, []airgap.Attachment, error) {
	out, attached, err := u.archive.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	missing := func(h v1.Hash) bool {
		want, _ := u.a.Locate(h)
		st, err := os.Stat(u.path(h))
		return err != nil || st.Size() != want.Size
	}
	total, done := int64(0), int64(0)
	if err := u.a.Each(func(h v1.Hash, size int64) {
		if missing(h) {
			total += size
		}
	}); err != nil {
		return nil, nil, err
	}
	if total == 0 {
		return out, attached, nil
	}
	if free, err := freeBytes(u.dir); err == nil && total > free {
		return nil, nil, fmt.Errorf("expanding %s: %d bytes are needed and %d are free in %s: name another folder with --work-dir", u.file(), total, free, u.dir)
	}
	tell := u.tell("expanding")
	err = u.a.Walk(ctx, missing, func(d v1.Descriptor, r io.Reader) error {
		if err := u.write(d.Digest, r); err != nil {
			return fmt.Errorf("expanding %s: %w", u.file(), err)
		}
		if done += d.Size; tell != nil {
			tell(done, total)
		}
		return nil
	})
	return out, attached, err
}

// write makes a blob's file appear whole.
func (u *unpacked) write(h v1.Hash, r io.Reader) (err error) {
	f, err := os.CreateTemp(u.dir, ".expand-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err = io.Copy(f, r); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), u.path(h))
}

func (u *unpacked) where(h v1.Hash) string {
	return fmt.Sprintf("%s (expanded from %s; remove it and start again)", u.path(h), u.file())
}

func (u *unpacked) open(h v1.Hash) (io.ReadCloser, error) { return u.place(h) }

func (u *unpacked) place(h v1.Hash) (*os.File, error) {
	if _, ok := u.a.Locate(h); !ok {
		return nil, fmt.Errorf("reading bundle %s: blob %s: %w", u.file(), h, airgap.ErrNotFound)
	}
	return os.Open(u.path(h))
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
