package upstream

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// limits bound what an image may unpack to.
type limits struct {
	bytes   int64 // of all files of all layers
	entries int   // of all layers
}

// Large images of vendors have a few hundred thousand files and some 20 GB.
var defaultLimits = limits{bytes: 64 << 30, entries: 2 << 20}

const (
	whiteout = ".wh."         // removes a name of lower layers (image-spec, layer.md)
	opaque   = ".wh..wh..opq" // removes all of lower layers in the folder
	maxPath  = 4096
	maxHops  = 40 // of symbolic links on the way to a file
	// maxOverhead is what a layer's archive may have beside the files' bytes.
	maxOverhead = 1 << 30
	// window is the most memory that a zstd frame may ask for.
	window = 128 << 20
)

// errBlob: a layer's bytes are not what its digest says.
var errBlob = errors.New("wrong digest")

// entry is a file with the layer that it came from.
type entry struct {
	node
	layer int
}

// unpacker applies layers to a tree that exists in memory only: file contents go to files
// named by their hashes, so no name in a layer reaches this machine's file system.
type unpacker struct {
	dir    string
	limits limits
	at     map[string]*entry          // by path; folders above a file are always there
	kids   map[string]map[string]bool // names in a folder
	stored map[string]bool            // hashes of contents in dir
	n      int
	bytes  int64
}

// layer applies one layer and checks its digests.
func (u *unpacker) layer(i int, blob string, digest, diffID v1.Hash) (err error) {
	f, err := os.Open(blob)
	if err != nil {
		return err
	}
	defer f.Close()
	packed := sha256.New()
	r, err := decompress(io.TeeReader(f, packed))
	if err != nil {
		return err
	}
	defer r.Close()
	plain := sha256.New()
	limited := &io.LimitedReader{R: r, N: u.limits.bytes + maxOverhead}
	in := io.TeeReader(limited, plain)
	applied := u.apply(i, tar.NewReader(in))
	if applied == nil {
		_, applied = io.Copy(io.Discard, in) // what follows the archive's end
	}
	// A damaged file is told by its digest, whatever else it looks like.
	if _, err := io.Copy(packed, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(packed.Sum(nil)); got != digest.Hex {
		return fmt.Errorf("%w: sha256:%s instead of %s", errBlob, got, digest)
	}
	if limited.N <= 0 {
		return u.tooLarge()
	}
	if applied != nil {
		return applied
	}
	if got := hex.EncodeToString(plain.Sum(nil)); got != diffID.Hex {
		return fmt.Errorf("unpacked it is sha256:%s, its config says %s: the image is wrong", got, diffID)
	}
	return nil
}

// decompress looks at the first bytes, as media types of layers are not to be relied on.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(window), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

func (u *unpacker) apply(layer int, tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading its archive: %w", err)
		}
		if u.n++; u.n > u.limits.entries {
			return fmt.Errorf("the image has more than %d entries", u.limits.entries)
		}
		if err := u.entry(layer, h, tr); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

func (u *unpacker) entry(layer int, h *tar.Header, r io.Reader) error {
	p, err := u.place(h.Name)
	if err != nil {
		return err
	}
	if base := path.Base(p); strings.HasPrefix(base, whiteout) {
		return u.remove(layer, path.Dir(p), base)
	}
	if p == "" {
		return nil // the root itself
	}
	e := &entry{node: node{Path: p, Mode: fs.FileMode(h.Mode) & fs.ModePerm}, layer: layer}
	switch h.Typeflag {
	case tar.TypeDir:
		e.Dir = true
		if old := u.at[p]; old != nil && old.Dir {
			u.at[p] = e // what is in it stays
			return nil
		}
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxPath || strings.ContainsRune(h.Linkname, 0) {
			return errors.New("a symbolic link without a proper target")
		}
		e.Link, e.Mode = h.Linkname, fs.ModePerm
	case tar.TypeLink:
		if err := u.link(e, h.Linkname); err != nil {
			return err
		}
	case tar.TypeReg:
		if err := u.store(e, r); err != nil {
			return err
		}
	default:
		return fmt.Errorf("type %q is neither a file, a folder nor a link: images here hold nothing else", string(h.Typeflag))
	}
	u.drop(p, func(*entry) bool { return true })
	u.add(e)
	return nil
}

// add puts an entry into its folder, which is made where no layer lists it.
func (u *unpacker) add(e *entry) {
	u.at[e.Path] = e
	for p := e.Path; p != ""; {
		dir := parent(p)
		if u.kids[dir] == nil {
			u.kids[dir] = map[string]bool{}
		}
		u.kids[dir][path.Base(p)] = true
		if dir == "" || u.at[dir] != nil {
			return
		}
		u.at[dir] = &entry{node: node{Path: dir, Mode: 0o755, Dir: true}, layer: e.layer}
		p = dir
	}
}

func parent(p string) string {
	if dir := path.Dir(p); dir != "." {
		return dir
	}
	return ""
}

// place gives the path that a name stands for: relative to the image's root, with
// symbolic links on the way to it followed inside of the image, as runtimes do.
func (u *unpacker) place(name string) (string, error) {
	if len(name) > maxPath || strings.ContainsRune(name, 0) {
		return "", errors.New("not a proper path")
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", errors.New("the path leads out of the image: the image is wrong or hostile")
		}
	}
	p := strings.Trim(path.Clean("/"+name), "/")
	dir, base := path.Split(p)
	dir, err := u.follow(strings.Trim(dir, "/"))
	if err != nil {
		return "", err
	}
	return path.Join(dir, base), nil
}

// follow resolves the symbolic links in a folder's path. The root is the image's: ".."
// never leads above it.
func (u *unpacker) follow(dir string) (string, error) {
	done, rest := "", dir
	for hops := 0; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			done = strings.Trim(path.Dir("/"+done), "/")
			continue
		}
		next := path.Join(done, part)
		e := u.at[next]
		if e == nil || e.Link == "" {
			if e != nil && !e.Dir {
				return "", fmt.Errorf("/%s is a file, not a folder", next)
			}
			done = next
			continue
		}
		if hops++; hops > maxHops {
			return "", fmt.Errorf("symbolic links at /%s lead in a circle", next)
		}
		if strings.HasPrefix(e.Link, "/") {
			done = ""
		}
		rest = path.Join(e.Link, rest) // Clean keeps leading ".." of relative targets
		rest = strings.TrimPrefix(rest, "/")
	}
	return done, nil
}

// remove applies a whiteout: it hides what lower layers have, not its own.
func (u *unpacker) remove(layer int, dir, base string) error {
	if dir == "." {
		dir = ""
	}
	lower := func(e *entry) bool { return e.layer < layer }
	if base == opaque {
		u.dropBelow(dir, lower)
		return nil
	}
	name := strings.TrimPrefix(base, whiteout)
	if name == "" || name == "." || name == ".." || strings.HasPrefix(name, whiteout) {
		return errors.New("a whiteout of no name")
	}
	u.drop(path.Join(dir, name), lower)
	return nil
}

// drop removes a path and all below it where the condition holds. A folder in which
// something stays does so too.
func (u *unpacker) drop(p string, when func(*entry) bool) {
	e := u.at[p]
	if e == nil {
		return
	}
	if e.Dir {
		u.dropBelow(p, when)
	}
	if when(e) && len(u.kids[p]) == 0 {
		delete(u.at, p)
		delete(u.kids, p)
		delete(u.kids[parent(p)], path.Base(p))
	}
}

func (u *unpacker) dropBelow(dir string, when func(*entry) bool) {
	for name := range u.kids[dir] {
		u.drop(path.Join(dir, name), when)
	}
}

// link makes a hard link: the same content under another name.
func (u *unpacker) link(e *entry, target string) error {
	t, err := u.place(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	old := u.at[t]
	if old == nil || old.Dir {
		return fmt.Errorf("hard link to %q, which is no file of the image", target)
	}
	e.Mode, e.Link, e.SHA256, e.Size = old.Mode, old.Link, old.SHA256, old.Size
	return nil
}

// store puts a file's content under its hash.
func (u *unpacker) store(e *entry, r io.Reader) error {
	tmp, err := os.CreateTemp(u.dir, "content-*")
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, h), io.LimitReader(r, u.limits.bytes-u.bytes+1))
	if err := errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	if u.bytes += n; u.bytes > u.limits.bytes {
		return u.tooLarge()
	}
	e.SHA256, e.Size = hex.EncodeToString(h.Sum(nil)), n
	u.stored[e.SHA256] = true
	return os.Rename(tmp.Name(), filepath.Join(u.dir, e.SHA256))
}

func (u *unpacker) tooLarge() error {
	return fmt.Errorf("the image unpacks to more than %d bytes", u.limits.bytes)
}
