// Package catalog is one view over several bundles, foreign archives and OCI layouts:
// what they hold together, by name and by digest, and what of it a policy trusts. A
// bundle that holds only some of the layers of its images finds the rest in the others;
// bundles of several platforms of one image make one image index.
package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
)

// maxManifest bounds a manifest: the OCI distribution specification's limit.
const maxManifest = 4 << 20

// Options say how files are opened.
type Options struct {
	// Policy decides which images are in the catalog; what it does not admit is in
	// Refused. Its mode is ModeAll where it says nothing.
	Policy trust.Policy
	// Unpack is a folder that the blobs of compressed archives are written into, once.
	// With "" they are read in place, which decompresses all that precedes them.
	Unpack string
	// Whole: an index some of whose manifests are in none of the files does not stand for
	// a name, as most registries refuse such; one is made of those that are there.
	Whole bool
	// Progress is told the bytes that are read of a compressed archive; may be nil.
	Progress func(what, file string, done, total int64)
}

// Catalog is what its files hold. It is read-only and may be used from several
// goroutines.
type Catalog struct {
	stores  []store
	items   []Item
	refused []Refusal
	repos   map[string]*Repository
	memory  map[v1.Hash][]byte // manifests that are in no file
	index   v1.IndexManifest
}

var _ airgap.Source = (*Catalog)(nil)

// Item is an image, a chart or a set of files that is in the catalog.
type Item struct {
	Kind string // airgap.KindImage, KindChart or KindFiles
	Name Name
	// Root is what the name stands for: a manifest, or an index of several platforms.
	Root v1.Descriptor
	// Manifests are those of its platforms; one, if Root is a manifest.
	Manifests []v1.Descriptor
	Files     []string // that it was found in
	// By is on what ground it is here: a key, "not required" or "verification off".
	By string
	// Verified: by a trusted key's signature.
	Verified bool
}

// Refusal is an image, or a whole file, that is not in the catalog.
type Refusal struct {
	Subject string   // a reference, or a file
	Files   []string // where it was found
	Err     error
}

// File is one archive or layout that a catalog is made of.
type File struct {
	Path string
	// Named: somebody asked for this very file, and did not only find it in a folder.
	Named bool
}

// Files are the archives and layouts that paths mean: an archive, an OCI layout, or a
// folder, whose archives are found as a node finds them in agent/images: at any depth, by
// their extension, without hidden ones.
func Files(paths []string) ([]File, error) {
	var out []File
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("looking for bundles: %w", err)
		}
		if !info.IsDir() || isLayout(p) {
			out = append(out, File{p, true})
			continue
		}
		err = filepath.WalkDir(p, func(at string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case at != p && strings.HasPrefix(d.Name(), "."):
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			case d.IsDir() && isLayout(at):
				out = append(out, File{at, false})
				return fs.SkipDir
			case d.IsDir() || !airgap.HasArchiveName(at):
				return nil
			}
			if info, err := os.Stat(at); err == nil && info.Mode().IsRegular() {
				out = append(out, File{at, false})
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("looking for bundles in %s: %w", p, err)
		}
	}
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return slices.CompactFunc(out, func(a, b File) bool { return a.Path == b.Path }), nil
}

func isLayout(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "oci-layout"))
	return err == nil
}

// Open opens files. One that can't be read is an error if it was named, and a refusal if
// it was found in a folder. The caller closes the catalog.
func Open(ctx context.Context, files []File, opt Options) (_ *Catalog, err error) {
	c := &Catalog{repos: map[string]*Repository{}, memory: map[v1.Hash][]byte{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if opt.Policy.Mode == "" {
		opt.Policy.Mode = trust.ModeAll
	}
	b := &builder{c: c, policy: opt.Policy, whole: opt.Whole, attached: map[v1.Hash][]airgap.Attachment{}, groups: map[string]*group{}}
	for _, f := range files {
		s, err := openStore(f.Path, opt)
		if err == nil {
			c.stores = append(c.stores, s)
			err = b.list(ctx, s)
		}
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil:
		case f.Named:
			return nil, err
		default:
			if s != nil {
				c.stores = c.stores[:len(c.stores)-1]
				err = errors.Join(err, s.Close())
			}
			c.refused = append(c.refused, Refusal{Subject: f.Path, Files: []string{f.Path}, Err: err})
		}
	}
	if err := b.build(); err != nil {
		return nil, err
	}
	return c, nil
}

// Close closes the files. Readers of their blobs must not be used after.
func (c *Catalog) Close() error {
	var errs []error
	for _, s := range c.stores {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Items are what is in the catalog, by name.
func (c *Catalog) Items() []Item { return c.items }

// Refused is what is not in the catalog though a file has it, and why.
func (c *Catalog) Refused() []Refusal { return c.refused }

// Index lists items and what is attached to them, annotated as package airgap says.
func (c *Catalog) Index() (*v1.IndexManifest, error) { return &c.index, nil }

// Size is a blob's length in bytes.
func (c *Catalog) Size(h v1.Hash) (int64, error) {
	if b, ok := c.memory[h]; ok {
		return int64(len(b)), nil
	}
	if s, size := c.holder(h); s != nil {
		return size, nil
	}
	return 0, fmt.Errorf("blob %s: %w", h, fs.ErrNotExist)
}

// holder is the first file that has a blob.
func (c *Catalog) holder(h v1.Hash) (store, int64) {
	for _, s := range c.stores {
		if size, ok := s.size(h); ok {
			return s, size
		}
	}
	return nil, 0
}

// Blob opens a blob. The digest of one that comes from a layout's folder is not checked.
func (c *Catalog) Blob(h v1.Hash) (io.ReadCloser, error) {
	if b, ok := c.memory[h]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	s, _ := c.holder(h)
	if s == nil {
		return nil, fmt.Errorf("blob %s: %w", h, fs.ErrNotExist)
	}
	return s.open(h)
}

// Where names the place of a blob for messages.
func (c *Catalog) Where(h v1.Hash) string {
	if s, _ := c.holder(h); s != nil {
		return s.where(h)
	}
	return "memory"
}

// read reads a manifest or another small blob, and checks it.
func (c *Catalog) read(d v1.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("%w: blob %s has %d bytes, more than the %d that are read of its kind", airgap.ErrRefusedContent, d.Digest, d.Size, limit)
	}
	r, err := c.Blob(d.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if got, _, err := v1.SHA256(bytes.NewReader(b)); err != nil || got != d.Digest {
		return nil, fmt.Errorf("%w: blob %s in %s has the digest %s", airgap.ErrDamaged, d.Digest, c.Where(d.Digest), got)
	}
	return b, nil
}

// Stream reads, in one pass each, the blobs of compressed archives that want accepts. It
// calls fn with each blob once; its content is checked, and is of no use after fn returned.
func (c *Catalog) Stream(ctx context.Context, want func(v1.Hash) bool, fn func(v1.Descriptor, io.Reader) error) error {
	seen := map[v1.Hash]bool{}
	for _, s := range c.stores {
		w, ok := s.(walker)
		if !ok {
			continue
		}
		mine := func(h v1.Hash) bool {
			first, _ := c.holder(h)
			return first == s && !seen[h] && want(h)
		}
		err := w.walk(ctx, mine, func(d v1.Descriptor, r io.Reader) error {
			seen[d.Digest] = true
			return fn(d, r)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Streamed tells whether a blob is in a compressed archive only, where Blob is slow.
func (c *Catalog) Streamed(h v1.Hash) bool {
	s, _ := c.holder(h)
	_, ok := s.(walker)
	return ok
}
