//go:build linux

package scenarios

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// placeFile makes a file appear whole where another one may be. It is linked where that
// can be done: bundles are large.
func placeFile(t *testing.T, from, to string) {
	t.Helper()
	temporary := filepath.Join(filepath.Dir(to), "."+filepath.Base(to)+".new")
	err := os.MkdirAll(filepath.Dir(to), 0o755)
	if err == nil {
		if real, resolved := filepath.EvalSymlinks(from); resolved == nil {
			from = real
		}
		if err = os.Link(from, temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
			err = copyFile(from, temporary)
		}
	}
	if err == nil {
		err = os.Rename(temporary, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}
