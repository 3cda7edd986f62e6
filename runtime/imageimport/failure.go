package imageimport

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Failure is one image that could not be imported, and why.
type Failure struct {
	Item Item
	Err  error
}

// Failures are the images of an import that could not be imported; the others were.
type Failures []Failure

func (f Failures) Error() string {
	var lines []string
	for _, one := range f {
		lines = append(lines, one.Err.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the error of each.
func (f Failures) Unwrap() []error {
	var all []error
	for _, one := range f {
		all = append(all, one.Err)
	}
	return all
}

func (r *run) fail(item Item, err error) {
	r.failures = append(r.failures, Failure{item, err})
}

// general tells whether an error is nothing that one image is at fault for.
func general(ctx context.Context, err error) bool {
	var space *SpaceError
	return ctx.Err() != nil || errors.As(err, &space) || diskFull(err) || errdefs.IsUnavailable(err)
}

// SpaceError says that containerd's disk has too little room for an import.
type SpaceError struct {
	Dir  string // on that disk
	Need int64  // bytes that are still to be written, before they are unpacked
	Free int64  // bytes
	Err  error  // what containerd said, if it was tried
}

func (e *SpaceError) Error() string {
	where := e.Dir
	if where == "" {
		where = "containerd"
	}
	s := fmt.Sprintf("the disk of %s is full: %d MB are free", where, e.Free/1e6)
	if e.Need > 0 {
		s += fmt.Sprintf(" and more than %d MB are needed", e.Need/1e6)
	}
	s += ": make room"
	if e.Err != nil {
		s += " (" + e.Err.Error() + ")"
	}
	return s
}

func (e *SpaceError) Unwrap() error { return e.Err }

// Reserve is what an import leaves free on the disk: others write there, too.
const Reserve = 64 << 20

// room fails if the disk cannot take the blobs.
func (r *run) room(blobs map[v1.Hash]blob) error {
	var need int64
	for _, b := range blobs {
		need += b.desc.Size
	}
	return r.roomFor(need)
}

func (i *Importer) roomFor(need int64) error {
	if i.Blobs == "" || need == 0 {
		return nil
	}
	free, err := Free(i.Blobs)
	if err != nil || free >= need+Reserve {
		return nil // where it cannot be known, it is tried
	}
	return &SpaceError{Dir: i.Blobs, Need: need + Reserve, Free: free}
}

// Free is the room on the disk of a folder, which need not exist yet, in bytes.
func Free(dir string) (int64, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		switch {
		case err == nil:
			return int64(st.Bavail) * st.Bsize, nil
		case !errors.Is(err, syscall.ENOENT) || filepath.Dir(dir) == dir:
			return 0, err
		}
		dir = filepath.Dir(dir)
	}
}

// diskFull recognises a full disk in what containerd answers, which is text.
func diskFull(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	return strings.Contains(err.Error(), syscall.ENOSPC.Error()) || strings.Contains(err.Error(), syscall.EDQUOT.Error())
}

// explain makes a SpaceError of what a full disk caused.
func (i *Importer) explain(err error) error {
	var space *SpaceError
	if err == nil || errors.As(err, &space) || !diskFull(err) {
		return err
	}
	space = &SpaceError{Dir: i.Blobs, Err: err}
	if free, statErr := Free(i.Blobs); statErr == nil {
		space.Free = free
	}
	return space
}
