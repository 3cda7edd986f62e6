package airgap

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// PartTooSmallError says that a bundle can't be split into parts of the wanted size,
// because one layer with all that each part must hold is larger.
type PartTooSmallError struct {
	Size, Least int64 // of a part, in bytes
	Layer       v1.Hash
}

func (e *PartTooSmallError) Error() string {
	return fmt.Sprintf("parts of %d bytes are too small: the layer %s needs a part of %d bytes (layers are not cut, so that each part can be verified): split into parts of at least %d bytes",
		e.Size, e.Layer, e.Least, e.Least)
}

// Split plans the parts of a bundle whose file is called name, each a tar of at most size
// bytes, for [PartName]. The same bundle and size give the same parts. A bundle that is
// small enough comes back as its only part, whole. Layers are packed the largest first,
// each into the first part that has room.
//
// The source is read once, for the whole's sum; progress, which may be nil, is told the
// bytes.
func Split(ctx context.Context, p *Plan, name string, size int64, progress func(done, total int64)) ([]*Plan, error) {
	if p.Size <= size {
		return []*Plan{p}, nil
	}
	if !baseName(name) {
		return nil, fmt.Errorf("splitting %s: it is no file's name", printable(name))
	}
	parts, err := p.pack(name, size)
	if err != nil {
		return nil, fmt.Errorf("splitting %s: %w", name, err)
	}
	whole, err := p.identify(ctx, name, progress)
	if err != nil {
		return nil, fmt.Errorf("splitting %s: %w", name, err)
	}
	var out []*Plan
	for i, keep := range parts {
		one, err := p.partial(Partial{Whole: whole, Part: i + 1, Of: len(parts)}, func(h v1.Hash) bool { return keep[h] })
		if err != nil {
			return nil, fmt.Errorf("splitting %s: %w", name, err)
		}
		if one.Size > size {
			return nil, fmt.Errorf("splitting %s: part %d has %d bytes, more than the %d that were wanted", name, i+1, one.Size, size)
		}
		out = append(out, one)
	}
	return out, nil
}

// pack decides which blobs go into which part: all small ones into each.
func (p *Plan) pack(name string, size int64) ([]map[v1.Hash]bool, error) {
	bulk, err := p.bulk()
	if err != nil {
		return nil, err
	}
	small := func(h v1.Hash) bool { return !bulk.layers[h] }
	// As long as a part's marker can be.
	widest := Whole{Name: name, Index: hashOf(nil), Size: p.Size, SHA256: strings.Repeat("0", 64)}
	base, err := p.partial(Partial{Whole: widest, Part: maxParts, Of: maxParts}, small)
	if err != nil {
		return nil, err
	}
	var layers []v1.Descriptor
	for _, b := range p.blobs {
		if bulk.layers[b.Digest] {
			layers = append(layers, b)
		}
	}
	slices.SortFunc(layers, func(x, y v1.Descriptor) int {
		return cmp.Or(cmp.Compare(y.Size, x.Size), strings.Compare(x.Digest.Hex, y.Digest.Hex))
	})
	var parts []map[v1.Hash]bool
	var room []int64
	for _, l := range layers {
		h, err := header(blobName(l.Digest), l.Size)
		if err != nil {
			return nil, err
		}
		needs := int64(len(h)) + l.Size + padding(l.Size)
		if base.Size+needs > size {
			return nil, &PartTooSmallError{Size: size, Least: base.Size + needs, Layer: l.Digest}
		}
		at := slices.IndexFunc(room, func(r int64) bool { return r >= needs })
		if at < 0 {
			keep := map[v1.Hash]bool{}
			for _, b := range p.blobs {
				if small(b.Digest) {
					keep[b.Digest] = true
				}
			}
			at, parts, room = len(parts), append(parts, keep), append(room, size-base.Size)
		}
		parts[at][l.Digest] = true
		room[at] -= needs
	}
	if len(parts) > maxParts {
		return nil, fmt.Errorf("parts of %d bytes are too small: it would be %d, and %d are the most", size, len(parts), maxParts)
	}
	return parts, nil
}

// bulk sorts out the blobs of a planned bundle.
func (p *Plan) bulk() (bulk, error) {
	idx, err := parseIndex(p.index())
	if err != nil {
		return bulk{}, err
	}
	c, err := bundleContents(idx)
	if err != nil {
		return bulk{}, err
	}
	return sortOut(c, p.manifest)
}

func (p *Plan) index() []byte { return p.head[1].content }

// manifest reads a manifest of a planned bundle.
func (p *Plan) manifest(h v1.Hash) (*v1.Manifest, error) {
	at, ok := slices.BinarySearchFunc(p.blobs, h, func(d v1.Descriptor, h v1.Hash) int { return strings.Compare(d.Digest.Hex, h.Hex) })
	if !ok {
		return nil, fmt.Errorf("manifest %s: %w", h, ErrNotFound)
	}
	r, err := p.src.Blob(h)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := readLimited(verify(r, h, p.blobs[at].Size), "manifest "+h.String(), p.blobs[at].Size, maxManifest)
	if err != nil {
		return nil, err
	}
	return parseManifest(b, h)
}

// partial plans a partial bundle of the blobs that keep accepts.
func (p *Plan) partial(is Partial, keep func(v1.Hash) bool) (*Plan, error) {
	if err := is.check(); err != nil {
		return nil, err
	}
	idx, err := parseIndex(p.index())
	if err != nil {
		return nil, err
	}
	out := &Plan{Images: p.Images, src: p.src}
	var hashes []v1.Hash
	for _, b := range p.blobs {
		if keep(b.Digest) {
			out.blobs = append(out.blobs, b)
			hashes = append(hashes, b.Digest)
		}
	}
	about, err := partialMarker(is, hashes)
	if err != nil {
		return nil, err
	}
	if sets := idx.Annotations[annotationSets]; sets != "" {
		about[annotationSets] = sets
	}
	index, err := sealWith(*idx, about)
	if err != nil {
		return nil, err
	}
	out.head = []headFile{p.head[0], {indexFile, index}, p.head[2]}
	return out, out.measure()
}

// identify reads a planned bundle whole, verified, for its sum.
func (p *Plan) identify(ctx context.Context, name string, progress func(done, total int64)) (Whole, error) {
	sum := sha256.New()
	tell := func(_ string, done, total int64) {
		if progress != nil {
			progress(done, total)
		}
	}
	if err := p.Write(ctx, io.MultiWriter(sum, progressOf(tell, name, p.Size))); err != nil {
		return Whole{}, err
	}
	return Whole{Name: name, Index: hashOf(p.index()), Size: p.Size, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// archiveBlobs is a bundle of ours as the source of others.
type archiveBlobs struct{ a *Archive }

var _ Source = archiveBlobs{}

// Index is that of the bundle.
func (s archiveBlobs) Index() (*v1.IndexManifest, error) {
	return parseIndex(bytes.Clone(s.a.head.index))
}

// Blob opens a blob, verified.
func (s archiveBlobs) Blob(h v1.Hash) (io.ReadCloser, error) { return s.a.Blob(h) }

// SplitOptions says which bundle to split, and where to put the parts.
type SplitOptions struct {
	File string
	// Size that no part is larger than, in bytes.
	Size      int64
	OutputDir string
	Progress  func(file string, done, total int64)
}

// Part is a part that was written.
type Part struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// SplitFile splits a bundle that is a file, plain or compressed, into plain parts. Each
// appears whole or not at all. A bundle that is no larger than a part is an error.
func SplitFile(ctx context.Context, opt SplitOptions) ([]Part, error) {
	a, err := Open(opt.File)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	if _, partial := a.Partial(); partial || !a.IsBundle() {
		return nil, fmt.Errorf("splitting %s: only a whole bundle that rke2 bundle wrote can be split", opt.File)
	}
	plan, err := a.wholeOf()
	if err != nil {
		return nil, err
	}
	pool := newPool([]*Archive{a})
	defer pool.Close()
	if err := pool.find(plan); err != nil {
		return nil, err
	}
	plan.src = pooled{archiveBlobs{a}, pool}
	name := plainName(opt.File)
	parts, err := Split(ctx, plan, name, opt.Size, func(done, total int64) {
		if opt.Progress != nil {
			opt.Progress(opt.File, done, total)
		}
	})
	if err != nil {
		return nil, err
	}
	if len(parts) == 1 {
		return nil, fmt.Errorf("splitting %s: it has %d bytes as a plain tar, and parts may have %d: nothing is to be split", opt.File, plan.Size, opt.Size)
	}
	if err := os.MkdirAll(opt.OutputDir, 0o755); err != nil {
		return nil, fmt.Errorf("splitting %s: %w", opt.File, err)
	}
	var out []Part
	for i, p := range parts {
		file := filepath.Join(opt.OutputDir, PartName(name, i+1, len(parts)))
		sum, err := writeFile(file, p.Size, func(w io.Writer) error {
			return p.Write(ctx, io.MultiWriter(w, progressOf(opt.Progress, file, p.Size)))
		})
		if err != nil {
			return out, fmt.Errorf("splitting %s: %w", opt.File, err)
		}
		out = append(out, Part{file, sum.size, sum.hex})
	}
	return out, nil
}

// plainName is the base name that a bundle's plain tar has.
func plainName(file string) string {
	base := filepath.Base(file)
	return strings.TrimSuffix(strings.TrimSuffix(base, ".zst"), ".gz")
}

// progressOf is a writer that tells how many bytes of a file went through it.
func progressOf(tell func(file string, done, total int64), file string, total int64) io.Writer {
	done := int64(0)
	return counting(func(n int) {
		if done += int64(n); tell != nil {
			tell(file, done, total)
		}
	})
}
