package scan

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/rancher/rke2/airgap"
)

// OpenFile reads the index of one file that may be a bundle.
func OpenFile(path string) File {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("reading bundle %s: not a regular file", path)
	}
	if err != nil {
		return File{Path: path, Err: err}
	}
	archive, err := airgap.Open(path)
	return File{Path: path, Archive: archive, Err: err, Info: info}
}

// Put adds a file to the folder, in place of the one of its path if there is one, which
// is closed.
func (f *Folder) Put(file File) error {
	err := f.Drop(file.Path)
	f.Exists = true
	f.Files = append(f.Files, file)
	f.order()
	return err
}

// Drop takes the file of a path out of the folder and closes it.
func (f *Folder) Drop(path string) error {
	at := slices.IndexFunc(f.Files, func(file File) bool { return file.Path == path })
	if at < 0 {
		return nil
	}
	old := f.Files[at].Archive
	f.Files = slices.Delete(f.Files, at, at+1)
	f.order()
	if old == nil {
		return nil
	}
	if err := old.Close(); err != nil {
		return errors.Join(errors.New("closing a bundle that is no longer used"), err)
	}
	return nil
}

// order is that of Open: by name, folder by folder, and deltas before what they are made
// from.
func (f *Folder) order() {
	separate := func(path string) string { return strings.ReplaceAll(path, "/", "\x00") }
	slices.SortFunc(f.Files, func(a, b File) int { return strings.Compare(separate(a.Path), separate(b.Path)) })
	hoistDeltas(f.Files)
}
