package buildkit

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
)

const (
	listName  = "files.json" // the tree that the layers make
	filesName = "files"      // what came from no context, by sha256
	// maxWindow is what K3s's importer allows zstd layers to need.
	maxWindow = 32 << 20
)

// Entry is a file of an image, as the last layer that has it says.
type Entry struct {
	Path    string // slash-separated, relative to the root
	Type    byte   // tar's: TypeReg, TypeDir, TypeSymlink, TypeChar, TypeBlock or TypeFifo
	Mode    fs.FileMode
	UID     int
	GID     int
	Link    string            `json:",omitempty"` // target of a symbolic link
	SHA256  string            `json:",omitempty"` // hex, of a regular file's content
	Size    int64             `json:",omitempty"`
	ModTime time.Time         // of no meaning for content
	Xattrs  map[string]string `json:",omitempty"`

	layer int
}

// Tree puts layers together, as image-spec's layer.md says: later ones win, whiteouts
// take away. The result is sorted by path. Layers are verified against their DiffIDs.
func Tree(layers []layer.Layer) ([]Entry, error) {
	t := merged{at: map[string]Entry{}}
	for i, l := range layers {
		err := each(l, func(h *tar.Header, r io.Reader) error { return t.add(i, h, r) })
		if err != nil {
			return nil, err
		}
	}
	out := make([]Entry, 0, len(t.at))
	for _, e := range t.at {
		out = append(out, e)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

// each reads a layer's entries in order.
func each(l layer.Layer, do func(*tar.Header, io.Reader) error) error {
	f, err := os.Open(l.Blob)
	if err != nil {
		return fmt.Errorf("reading layer: %w", err)
	}
	defer f.Close()
	z, err := zstd.NewReader(bufio.NewReaderSize(f, 1<<20), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("reading layer %s: %w", l.Digest, err)
	}
	defer z.Close()
	diff := sha256.New()
	all := io.TeeReader(z, diff)
	for t := tar.NewReader(all); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = do(h, t)
		}
		if err != nil {
			return fmt.Errorf("reading layer %s: %w", l.Digest, err)
		}
	}
	if _, err := io.Copy(io.Discard, all); err != nil {
		return fmt.Errorf("reading layer %s: %w", l.Digest, err)
	}
	if got := sum(diff); got != l.DiffID.Hex {
		return fmt.Errorf("reading layer %s: its tar has digest sha256:%s, its image says %s", l.Digest, got, l.DiffID)
	}
	return nil
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

type merged struct{ at map[string]Entry }

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

func (t *merged) add(number int, h *tar.Header, r io.Reader) error {
	p := strings.Trim(path.Clean("/"+h.Name), "/")
	dir, base := path.Split(p)
	switch {
	case p == "":
		return nil // the root
	case base == opaque:
		t.drop(strings.TrimSuffix(dir, "/"), number, false)
		return nil
	case strings.HasPrefix(base, whiteout):
		t.drop(dir+strings.TrimPrefix(base, whiteout), number, true)
		return nil
	}
	e := Entry{
		Path: p, Type: h.Typeflag, Mode: h.FileInfo().Mode() &^ fs.ModeType, UID: h.Uid, GID: h.Gid,
		ModTime: h.ModTime, layer: number,
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = v
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
		content := sha256.New()
		n, err := io.Copy(content, r)
		if err != nil {
			return err
		}
		e.SHA256, e.Size = sum(content), n
	case tar.TypeSymlink:
		e.Link = h.Linkname
	case tar.TypeLink:
		target, ok := t.at[strings.Trim(path.Clean("/"+h.Linkname), "/")]
		if !ok {
			return fmt.Errorf("/%s is a hard link to %s, which is not there", p, h.Linkname)
		}
		target.Path, target.layer = p, number
		e = target
	case tar.TypeDir, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return fmt.Errorf("/%s has the unknown type %q", p, h.Typeflag)
	}
	if old, ok := t.at[p]; ok && old.Type == tar.TypeDir && e.Type != tar.TypeDir {
		t.drop(p, number+1, false)
	}
	t.at[p] = e
	return nil
}

// drop takes away what layers before the given one have below p, and p too if asked.
func (t *merged) drop(p string, before int, itself bool) {
	for q, e := range t.at {
		if e.layer < before && (q == p && itself || p == "" || strings.HasPrefix(q, p+"/")) {
			delete(t.at, q)
		}
	}
}

// list writes down the image's tree, and keeps the content of files that come from no
// context: they are all that is not on this machine under another name.
func (j *job) list(img image.Image, dir string) error {
	entries, err := Tree(img.Layers)
	if err != nil {
		return err
	}
	data, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, listName), data, 0o644); err != nil {
		return err
	}
	known := j.origins()
	missing := map[string]bool{}
	for _, e := range entries {
		if e.SHA256 != "" && known[e.SHA256] == nil {
			missing[e.SHA256] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	files := filepath.Join(dir, filesName)
	if err := os.Mkdir(files, 0o755); err != nil {
		return err
	}
	for _, l := range img.Layers {
		err := each(l, func(h *tar.Header, r io.Reader) error {
			if h.Typeflag != tar.TypeReg || len(missing) == 0 {
				return nil
			}
			return extract(r, files, missing)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// extract keeps a file's content if it is one that is missing.
func extract(r io.Reader, dir string, missing map[string]bool) error {
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), r)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	name := sum(h)
	if !missing[name] {
		return os.Remove(f.Name())
	}
	delete(missing, name)
	return os.Rename(f.Name(), filepath.Join(dir, name))
}

// origins finds context files by content.
func (j *job) origins() map[string][]layer.File {
	out := map[string][]layer.File{}
	names := make([]string, 0, len(j.contexts))
	for n := range j.contexts {
		names = append(names, n)
	}
	sort.Strings(names)
	trees := []*tree{j.local}
	for _, n := range names {
		trees = append(trees, j.contexts[n])
	}
	for _, t := range trees {
		for _, n := range t.nodes {
			if n.file.SHA256 != "" && n.file.Link == "" {
				out[n.file.SHA256] = append(out[n.file.SHA256], n.file)
			}
		}
	}
	return out
}

// files gives the tree of a cache entry in the form of package image. Devices and pipes
// have no such form; they are in the layers only.
func (j *job) files(dir string) ([]layer.File, error) {
	data, err := os.ReadFile(filepath.Join(dir, listName))
	if err != nil {
		return nil, err
	}
	var entries []Entry
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, fmt.Errorf("%s: %w", listName, err)
	}
	known := j.origins()
	var out []layer.File
	for _, e := range entries {
		f := layer.File{Path: e.Path, Mode: e.Mode.Perm(), SHA256: e.SHA256}
		switch e.Type {
		case tar.TypeDir:
			f.Dir = true
		case tar.TypeSymlink:
			f.Link = e.Link
		case tar.TypeReg:
			if from := known[e.SHA256]; from != nil {
				best := closest(from, e.Path)
				f.Source, f.Package = best.Source, best.Package
			} else {
				f.Source = filepath.Join(dir, filesName, e.SHA256)
			}
		default:
			continue
		}
		out = append(out, f)
	}
	return out, nil
}

// closest chooses among files of the same content the one whose path ends most like p:
// packages have the same copyright file, or none, under different names.
func closest(files []layer.File, p string) layer.File {
	best, most := files[0], -1
	for _, f := range files {
		a, b := strings.Split(f.Path, "/"), strings.Split(p, "/")
		n := 0
		for n < len(a) && n < len(b) && a[len(a)-1-n] == b[len(b)-1-n] {
			n++
		}
		if n > most {
			best, most = f, n
		}
	}
	return best
}
