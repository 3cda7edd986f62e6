package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// write makes an artifact. Nobody sees it before the whole folder is in place.
func (l *layouter) write(name string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = fmt.Errorf("writing %s: %w", name, err)
		}
	}()
	sum := sha256.New()
	size := &counter{}
	if err := write(io.MultiWriter(f, sum, size)); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Sync()); err != nil {
		return err
	}
	l.note(Artifact{Name: name, Size: size.n, SHA256: hex.EncodeToString(sum.Sum(nil))})
	return nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func (l *layouter) bytes(name string, content []byte, mode fs.FileMode) error {
	return l.write(name, mode, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(content))
		return err
	})
}

func (l *layouter) copy(from, name string, mode fs.FileMode) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return l.write(name, mode, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// link places a product that is only ever replaced as a whole: its bytes are shared.
// Where that can't be, on another file system, it is copied.
func (l *layouter) link(from, name string) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	err = os.Link(from, filepath.Join(l.dir, name))
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EMLINK) {
		return l.copy(from, name, 0o644)
	}
	if err != nil {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("reading %s: %w", from, err)
	}
	l.note(Artifact{Name: name, Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))})
	return nil
}

func (l *layouter) note(a Artifact) {
	l.made[a.Name] = a
	if l.Report != nil {
		l.Report(a)
	}
}
