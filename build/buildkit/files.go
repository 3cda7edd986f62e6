package buildkit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/layer"
)

// ignoreFile is what BuildKit reads from the root of a context to leave files out. The
// daemonless builder doesn't, so a context that has one would not give the same image.
const ignoreFile = ".dockerignore"

// node is a file as BuildKit gets to see it.
type node struct {
	file layer.File
	data []byte // the content, where file.Source is ""
	size int64
}

// tree serves listed files to BuildKit from where they are: without a copy, owned by
// root, and all of one date. Content is checked while it is sent.
type tree struct {
	nodes []node // in fsutil's order: a folder, then what is in it
	at    map[string]int
	epoch time.Time
}

var _ fsutil.FS = (*tree)(nil)

// newTree takes files as layer.Builder does: in any order, with the folders above them
// or without. Files whose sum is unknown are hashed.
func newTree(files []layer.File, epoch time.Time) (*tree, error) {
	t := &tree{at: map[string]int{}, epoch: epoch}
	seen := map[string]int{}
	add := func(n node) error {
		if i, ok := seen[n.file.Path]; ok {
			if !t.nodes[i].file.Dir || !n.file.Dir {
				return fmt.Errorf("there are two entries for /%s", n.file.Path)
			}
			t.nodes[i] = n
			return nil
		}
		seen[n.file.Path] = len(t.nodes)
		t.nodes = append(t.nodes, n)
		return nil
	}
	for _, f := range files {
		f.Path = strings.Trim(path.Clean("/"+f.Path), "/")
		if f.Path == "" {
			continue // the root itself
		}
		if f.Path == ignoreFile {
			return nil, fmt.Errorf("/%s: BuildKit would leave out files by it, and the daemonless builder would not: leave it out of the context", f.Path)
		}
		n, err := stat(f)
		if err != nil {
			return nil, err
		}
		if err := add(n); err != nil {
			return nil, err
		}
	}
	for _, n := range append([]node(nil), t.nodes...) {
		for up := path.Dir(n.file.Path); up != "."; up = path.Dir(up) {
			i, ok := seen[up]
			if ok && !t.nodes[i].file.Dir {
				return nil, fmt.Errorf("there is /%s, which is no folder, and /%s in it", up, n.file.Path)
			}
			if !ok {
				if err := add(node{file: layer.File{Path: up, Mode: 0o755, Dir: true}}); err != nil {
					return nil, err
				}
			}
		}
	}
	sort.Slice(t.nodes, func(i, j int) bool {
		return fsutil.ComparePath(t.nodes[i].file.Path, t.nodes[j].file.Path) < 0
	})
	for i, n := range t.nodes {
		t.at[n.file.Path] = i
	}
	return t, nil
}

// oneFile is a tree of a single file with this content.
func oneFile(name string, data []byte, epoch time.Time) *tree {
	n := node{file: layer.File{Path: name, Mode: 0o644}, data: data, size: int64(len(data))}
	return &tree{nodes: []node{n}, at: map[string]int{name: 0}, epoch: epoch}
}

func stat(f layer.File) (node, error) {
	n := node{file: f}
	if f.Dir || f.Link != "" {
		return n, nil
	}
	info, err := os.Stat(f.Source)
	if err != nil {
		return n, fmt.Errorf("/%s: %w", f.Path, err)
	}
	if !info.Mode().IsRegular() {
		return n, fmt.Errorf("/%s: %s is not a regular file", f.Path, f.Source)
	}
	n.size = info.Size()
	if f.SHA256 == "" {
		if n.file.SHA256, err = cache.Sum(f.Source); err != nil {
			return n, fmt.Errorf("/%s: %w", f.Path, err)
		}
	}
	return n, nil
}

// Walk implements fsutil.FS.
func (t *tree) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	target = strings.Trim(path.Clean("/"+filepath.ToSlash(target)), "/")
	skip := ""
	for _, n := range t.nodes {
		p := n.file.Path
		if target != "" && p != target && !strings.HasPrefix(p, target+"/") {
			continue
		}
		if skip != "" && strings.HasPrefix(p, skip) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		err := fn(p, &fsutil.DirEntryInfo{Stat: t.stat(n)}, nil)
		switch {
		case err == nil:
		case err == fs.SkipAll: //nolint:errorlint // as filepath.WalkDir: the value itself is the request
			return nil
		case err == fs.SkipDir && n.file.Dir: //nolint:errorlint // the same
			skip = p + "/"
		case err == fs.SkipDir: //nolint:errorlint // the same
			if skip = path.Dir(p) + "/"; skip == "./" {
				return nil
			}
		default:
			return err
		}
	}
	return nil
}

func (t *tree) stat(n node) *types.Stat {
	mode := n.file.Mode.Perm()
	switch {
	case n.file.Dir:
		mode |= fs.ModeDir
	case n.file.Link != "":
		mode = 0o777 | fs.ModeSymlink
	}
	return &types.Stat{
		Path: n.file.Path, Mode: uint32(mode), Size: n.size, ModTime: t.epoch.UnixNano(), Linkname: n.file.Link,
	}
}

// Open implements fsutil.FS. The reader's last Read fails if the content is not what
// its sum says.
func (t *tree) Open(name string) (io.ReadCloser, error) {
	i, ok := t.at[strings.Trim(path.Clean("/"+filepath.ToSlash(name)), "/")]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
	}
	n := t.nodes[i]
	if n.file.Dir || n.file.Link != "" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EINVAL}
	}
	if n.file.Source == "" {
		return io.NopCloser(bytes.NewReader(n.data)), nil
	}
	f, err := os.Open(n.file.Source)
	if err != nil {
		return nil, err
	}
	return &checked{f: f, h: sha256.New(), want: n.file.SHA256}, nil
}

// guarded tells when a file can't be read: fsutil's sender takes one that doesn't open
// for an empty one, and after an error later on it waits for ever.
type guarded struct {
	fsutil.FS
	fail func(error)
}

// Open implements fsutil.FS.
func (g guarded) Open(name string) (io.ReadCloser, error) {
	r, err := g.FS.Open(name)
	if err != nil {
		g.fail(fmt.Errorf("/%s: %w", strings.TrimPrefix(name, "/"), err))
		return nil, err
	}
	return &guardedReader{r, g.fail}, nil
}

type guardedReader struct {
	io.ReadCloser
	fail func(error)
}

func (g *guardedReader) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		g.fail(err)
	}
	return n, err
}

// listed is what the digest of a context is made of.
type listed struct {
	Path   string
	Mode   fs.FileMode
	Dir    bool   `json:",omitempty"`
	Link   string `json:",omitempty"`
	SHA256 string `json:",omitempty"`
}

// digest identifies what the tree holds, in hex.
func (t *tree) digest() (string, error) {
	out := make([]listed, 0, len(t.nodes))
	for _, n := range t.nodes {
		l := listed{Path: n.file.Path, Mode: n.file.Mode.Perm(), Dir: n.file.Dir, Link: n.file.Link, SHA256: n.file.SHA256}
		if n.file.Link != "" {
			l.Mode, l.SHA256 = 0o777, ""
		}
		out = append(out, l)
	}
	data, err := json.Marshal(out)
	if err != nil {
		return "", fmt.Errorf("hashing a build context: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

type checked struct {
	f    *os.File
	h    hash.Hash
	want string
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.f.Read(p)
	c.h.Write(p[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(c.h.Sum(nil)); got != c.want {
			return n, fmt.Errorf("%s has sha256 %s, expected %s: it was changed; remove it and build again", c.f.Name(), got, c.want)
		}
	}
	return n, err
}

func (c *checked) Close() error { return c.f.Close() }
