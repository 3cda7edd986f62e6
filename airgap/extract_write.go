package airgap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rancher/rke2/airgap/layer"
)

// target is a file or folder to write, and its path below the hidden folder.
type target struct {
	name string
	node *layer.Node
}

// extract writes what the options ask for.
func (x *extractor) extract(ctx context.Context, opt ExtractOptions) (Extraction, error) {
	out := Extraction{Name: x.name, Dir: opt.Dir}
	all, err := x.choose(opt.Paths)
	if err != nil {
		return out, err
	}
	whole := len(opt.Paths) == 0
	if names, err := os.ReadDir(opt.Dir); whole && err == nil && len(names) > 0 {
		return out, fmt.Errorf("folder %s is not empty", opt.Dir)
	}
	parent := opt.Dir
	if whole {
		parent = filepath.Dir(filepath.Clean(opt.Dir))
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return out, err
	}
	tmp, err := os.MkdirTemp(parent, ".extract.partial-")
	if err != nil {
		return out, err
	}
	defer func() { removeTree(tmp) }() // nothing, if it was renamed
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return out, err
	}
	defer root.Close()
	w := &treeWriter{x: x, root: root, owners: opt.Owners, out: &out, first: map[*layer.Node]string{}, ids: map[fileID][]*layer.Node{}}
	if err := w.write(ctx, tmp, all); err != nil {
		return out, err
	}
	if whole {
		return out, errors.Join(os.Chmod(tmp, 0o755), unix.Rename(tmp, opt.Dir), syncDir(parent))
	}
	for _, name := range topNames(all) {
		to := filepath.Join(opt.Dir, name)
		if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(tmp, name), unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
			return out, fmt.Errorf("%s: %w", to, err)
		}
	}
	return out, syncDir(parent)
}

// choose lists what to write, folders before what is in them.
func (x *extractor) choose(paths []string) ([]target, error) {
	var out []target
	if len(paths) == 0 {
		for name, n := range x.tree.All() {
			if name != "." {
				out = append(out, target{name, n})
			}
		}
		return out, nil
	}
	taken := map[string]string{}
	for _, p := range paths {
		n, at, err := x.tree.Follow(p)
		if err != nil {
			return nil, err
		}
		base := path.Base(path.Clean("/" + p))
		if base == "/" {
			return nil, errors.New("/ is everything: leave the path out")
		}
		if other, ok := taken[base]; ok {
			return nil, fmt.Errorf("%s and %s would both become %s: take one at a time", other, p, base)
		}
		taken[base] = p
		for name, n := range x.tree.Below(at, n) {
			out = append(out, target{path.Join(base, strings.TrimPrefix(name, at)), n})
		}
	}
	return out, nil
}

// topNames are the names in the destination itself.
func topNames(all []target) []string {
	var out []string
	for _, t := range all {
		if !strings.Contains(t.name, "/") {
			out = append(out, t.name)
		}
	}
	return out
}

// treeWriter writes files below a root that nothing leads out of.
type treeWriter struct {
	x      *extractor
	root   *os.Root
	owners bool
	out    *Extraction
	first  map[*layer.Node]string   // where a file is written; its other names are links
	ids    map[fileID][]*layer.Node // whose content it is
}

// write writes folders, then files, then links, so that no link is there to be followed,
// and modes last.
func (w *treeWriter) write(ctx context.Context, dir string, all []target) error {
	if err := w.room(dir, all); err != nil {
		return err
	}
	for _, t := range all {
		if t.node.Type != layer.Dir {
			continue
		}
		w.out.Folders++
		if err := w.root.Mkdir(t.name, 0o700); err != nil {
			return err
		}
	}
	if err := w.files(ctx); err != nil {
		return err
	}
	for _, t := range all {
		if err := w.other(t); err != nil {
			return err
		}
	}
	for _, t := range slices.Backward(all) {
		if t.node.Type == layer.Dir {
			if err := w.attributes(t); err != nil {
				return err
			}
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// room notes the files to write and makes sure that there is place for them.
func (w *treeWriter) room(dir string, all []target) error {
	need := int64(0)
	for _, t := range all {
		if t.node.Type != layer.File || w.first[t.node] != "" {
			continue
		}
		w.first[t.node] = t.name
		id := w.x.id(t.node)
		w.ids[id] = append(w.ids[id], t.node)
		need += t.node.Size
	}
	if free, err := freeBytes(dir); err == nil && need > free {
		return fmt.Errorf("%d bytes are needed and %d are free in %s", need, free, filepath.Dir(dir))
	}
	return nil
}

// files writes each regular file once.
func (w *treeWriter) files(ctx context.Context) error {
	want := map[fileID]bool{}
	for id := range w.ids {
		want[id] = true
	}
	buf := make([]byte, 256<<10)
	err := w.x.contents(ctx, want, func(id fileID, r io.Reader) error {
		for _, n := range w.ids[id] {
			size, err := w.file(w.first[n], r, buf)
			if err == nil && size != n.Size {
				err = fmt.Errorf("%w: %s has %d bytes instead of %d", ErrDamaged, w.first[n], size, n.Size)
			}
			if err != nil {
				return err
			}
			w.out.Files++
			w.out.Bytes += size
			// Where the same layer is there twice, an entry may be two files.
			again, err := w.root.Open(w.first[n])
			if err != nil {
				return err
			}
			defer again.Close()
			r = again
		}
		delete(w.ids, id)
		return nil
	})
	if err == nil && len(w.ids) > 0 {
		err = fmt.Errorf("%w: %d files are gone: the archive changed while it was open", ErrDamaged, len(w.ids))
	}
	return err
}

func (w *treeWriter) file(name string, r io.Reader, buf []byte) (int64, error) {
	f, err := w.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, buf)
	return n, errors.Join(err, f.Close())
}

// other makes what is no folder: links, and the attributes of files.
func (w *treeWriter) other(t target) error {
	switch t.node.Type {
	case layer.Dir:
		return nil
	case layer.File:
		if at := w.first[t.node]; at != t.name {
			return w.root.Link(at, t.name)
		}
		return w.attributes(t)
	case layer.Symlink:
		w.out.Links++
		if err := w.root.Symlink(t.node.Link, t.name); err != nil {
			return err
		}
		if w.owners {
			return w.root.Lchown(t.name, int(t.node.UID), int(t.node.GID))
		}
		return nil
	}
	w.out.LeftOut = append(w.out.LeftOut, t.name)
	return nil
}

// attributes sets owner, mode and time, in the order in which they stay.
func (w *treeWriter) attributes(t target) error {
	mode := fs.FileMode(t.node.Mode & 0o777)
	if w.owners {
		if err := w.root.Lchown(t.name, int(t.node.UID), int(t.node.GID)); err != nil {
			return err
		}
		for bit, is := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
			if t.node.Mode&bit != 0 {
				mode |= is
			}
		}
	}
	when := time.Unix(t.node.ModTime, 0)
	return cmp.Or(w.root.Chmod(t.name, mode), w.root.Chtimes(t.name, when, when))
}

// removeTree removes a folder, also one whose folders can't be written to.
func removeTree(dir string) {
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) // RemoveAll tells what matters
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}
