package airgap

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// folder makes one source of the files of an OCI layout: each has a range of it. Links
// that lead out of the folder can't be opened.
type folder struct {
	root  *os.Root
	files []entry // by offset, without gaps
	size  int64
}

func (f *folder) Close() error { return f.root.Close() }

var _ source = (*folder)(nil)

// ReadAt reads within one file.
func (f *folder) ReadAt(p []byte, off int64) (int, error) {
	i := sort.Search(len(f.files), func(i int) bool { return f.files[i].off+f.files[i].size > off })
	if i == len(f.files) {
		return 0, io.EOF
	}
	e := f.files[i]
	file, err := f.root.Open(e.name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	rest := e.off + e.size - off
	n, err := file.ReadAt(p[:min(int64(len(p)), rest)], off-e.off)
	if errors.Is(err, io.EOF) && int64(n) < min(int64(len(p)), rest) {
		return n, fmt.Errorf("%w: %s became shorter while it was read", ErrDamaged, e.name)
	}
	if err == nil && n < len(p) {
		err = io.EOF // of the range; what follows is another file's
	}
	return n, err
}

// add gives a file its range, if it is there.
func (f *folder) add(name string) (entry, bool, error) {
	info, err := f.root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return entry{}, false, nil
	}
	if err != nil {
		return entry{}, false, fmt.Errorf("%w: %s: %w", ErrRefusedContent, name, err)
	}
	if !info.Mode().IsRegular() {
		return entry{}, false, fmt.Errorf("%w: %s is no regular file", ErrRefusedContent, name)
	}
	if len(f.files) >= maxEntries {
		return entry{}, false, fmt.Errorf("%w: more than %d files", ErrRefusedContent, maxEntries)
	}
	e := entry{name: name, kind: '0', off: f.size, size: info.Size()}
	f.files = append(f.files, e)
	f.size += e.size
	return e, true, nil
}

// openFolder opens an OCI image layout in a folder as if it were an archive.
func openFolder(dir string) (_ *Archive, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f := &folder{root: root}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	a := &Archive{file: dir, f: f, comp: plain, blobs: map[v1.Hash]entry{}, small: map[v1.Hash][]byte{}, descs: map[v1.Hash]v1.Descriptor{}}
	var h head
	for _, one := range []struct {
		name  string
		to    *[]byte
		limit int64
	}{{layoutFile, &h.layout, 4 << 10}, {indexFile, &h.index, maxIndex}, {manifestFile, &h.manifest, maxIndex}} {
		e, ok, err := f.add(one.name)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if *one.to, err = readLimited(io.NewSectionReader(f, e.off, e.size), e.name, e.size, one.limit); err != nil {
			return nil, err
		}
	}
	if h.layout == nil || h.index == nil {
		return nil, fmt.Errorf("%w: a folder without %s and %s", ErrNotArchive, layoutFile, indexFile)
	}
	if err := a.listBlobs(f); err != nil {
		return nil, err
	}
	a.head, a.size, a.format = h, f.size, FormatOCI
	if err := a.resolveLayout(h); err != nil {
		return nil, err
	}
	a.scanned, a.listed = true, true
	return a, nil
}

// listBlobs finds the layout's blobs, in the order of their names.
func (a *Archive) listBlobs(f *folder) error {
	dir, err := f.root.Open(path.Clean(blobPrefix))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	sort.Strings(names)
	for _, n := range names {
		h, ok := parseBlobName(blobPrefix + n)
		if !ok {
			continue // a tool's temporary file
		}
		e, ok, err := f.add(blobPrefix + n)
		if err != nil {
			return err
		}
		if ok {
			a.blobs[h] = e
			a.order = append(a.order, h)
		}
	}
	return nil
}
