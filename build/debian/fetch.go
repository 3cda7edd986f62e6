package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/rancher/rke2/build/lock"
)

const (
	// silence is how long a mirror may send nothing.
	silence = time.Minute
	// attempts is how often a fetch that failed in a way that may pass is tried.
	attempts = 3
	fileKind = "debian-file"
	fileName = "file"
)

// NotFoundError says that a mirror doesn't have a file.
type NotFoundError struct{ URL string }

func (e *NotFoundError) Error() string { return e.URL + " is not there (404)" }

// MismatchError says that a mirror served something else than what was signed or locked.
type MismatchError struct {
	URL            string
	Expected, Got  string // hex sha256
	Size, GotBytes int64
	By             string // who says what is expected
}

func (e *MismatchError) Error() string {
	if e.GotBytes != e.Size {
		more := fmt.Sprintf("is %d bytes", e.GotBytes)
		if e.GotBytes > e.Size {
			more = "is larger"
		}
		return fmt.Sprintf("%s %s, expected %d by %s (sha256 %s): the mirror serves another or a truncated file", e.URL, more, e.Size, e.By, e.Expected)
	}
	return fmt.Sprintf("%s has sha256 %s, expected %s by %s: the mirror serves a changed file", e.URL, e.Got, e.Expected, e.By)
}

// passing marks an error that another attempt may not meet.
type passing struct{ error }

func (p passing) Unwrap() error { return p.error }

// get calls read with the body of url, again if the connection breaks.
func (a *Archive) get(ctx context.Context, url string, read func(io.Reader) error) error {
	for try := 1; ; try++ {
		err := a.once(ctx, url, read)
		var p passing
		if err == nil || ctx.Err() != nil || !errors.As(err, &p) || try == attempts {
			return err
		}
		select {
		case <-time.After(time.Duration(try) * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *Archive) once(ctx context.Context, url string, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", url, err)
	}
	// The bytes are hashed as they are stored in the archive.
	req.Header.Set("Accept-Encoding", "identity")
	res, err := a.o.HTTP.Do(req)
	if err != nil {
		return passing{fmt.Errorf("fetching %s: %w", url, err)}
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusGone:
		return &NotFoundError{URL: url}
	case res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests:
		return passing{fmt.Errorf("fetching %s: the mirror answers %s", url, res.Status)}
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("fetching %s: the mirror answers %s", url, res.Status)
	}
	watch := time.AfterFunc(silence, func() { cancel(fmt.Errorf("the mirror sent nothing for %s", silence)) })
	defer watch.Stop()
	return read(&alive{r: res.Body, watch: watch, ctx: ctx})
}

// alive puts the watch off while bytes come in.
type alive struct {
	r     io.Reader
	watch *time.Timer
	ctx   context.Context
}

func (a *alive) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	a.watch.Reset(silence)
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(a.ctx); cause != nil {
			err = cause
		}
		err = passing{err}
	}
	return n, err
}

// file gives the path, in the cache, of a file with a known hash.
func (a *Archive) file(ctx context.Context, url string, size int64, sum, by string) (string, error) {
	dir, _, err := a.cache.Fill(fileKind, sum, func(dir string) error {
		a.o.Fetching(url, size)
		return a.get(ctx, url, func(r io.Reader) error {
			return store(filepath.Join(dir, fileName), url, r, size, sum, by)
		})
	})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, fileName)
	if st, err := os.Stat(path); err != nil || st.Size() != size {
		// Somebody damaged it.
		if err := a.cache.Drop(fileKind, sum); err != nil {
			return "", err
		}
		return "", fmt.Errorf("%s was damaged in the build cache and is removed from it: run the command again", url)
	}
	return path, nil
}

// store writes exactly size bytes with the given hash, or fails.
func store(path, url string, r io.Reader, size int64, sum, by string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", url, err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, size+1))
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("fetching %s: after %d of %d bytes: %w", url, n, size, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("fetching %s: %w", url, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != size || got != sum {
		return &MismatchError{URL: url, Expected: sum, Got: got, Size: size, GotBytes: n, By: by}
	}
	return nil
}

// Package gives the path, in the cache, of a locked package's .deb.
func (a *Archive) Package(ctx context.Context, p lock.Package) (string, error) {
	return a.locked(ctx, p.Archive, p.Path, p.Size, p.SHA256, p.Name+" "+p.Version+" ("+p.Arch+")", p.Name)
}

// SourceFile gives the path, in the cache, of a file of a locked source package.
func (a *Archive) SourceFile(ctx context.Context, s lock.Source, f lock.SourceFile) (string, error) {
	return a.locked(ctx, s.Archive, f.Path, f.Size, f.SHA256, "source "+s.Name+" "+s.Version, s.Name)
}

func (a *Archive) locked(ctx context.Context, which lock.Archive, path string, size int64, sum, what, name string) (string, error) {
	got, err := a.file(ctx, a.base(which)+"/"+path, size, sum, lock.FileName)
	var gone *NotFoundError
	if errors.As(err, &gone) {
		return "", fmt.Errorf("package %s is no longer in the archive: %w; mirrors drop superseded versions. "+
			"Take the present one with: rke2-build lock --update %s; or name a mirror that keeps them in %s or %s", what, err, name, MirrorEnv, SecurityMirrorEnv)
	}
	if err != nil {
		return "", fmt.Errorf("package %s: %w", what, err)
	}
	return got, nil
}
