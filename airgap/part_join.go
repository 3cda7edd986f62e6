package airgap

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// IncompleteError says that a bundle can't be made whole of the archives at hand, and
// what is wanted.
type IncompleteError struct {
	Partial Partial // one of those at hand
	File    string  // its file
	// Parts are the numbers of the missing parts of a split bundle.
	Parts []int
	// Changed names archives that have a wanted base's file name and are not that base.
	Changed []string
	// Blobs that are nowhere, and their bytes.
	Blobs []v1.Hash
	Bytes int64
}

func (e *IncompleteError) Error() string {
	var b strings.Builder
	p := e.Partial
	fmt.Fprintf(&b, "%s is not complete: ", p.Whole.Name)
	switch {
	case p.IsDelta():
		var bases []string
		for _, base := range p.Bases {
			bases = append(bases, base.String())
		}
		fmt.Fprintf(&b, "%s is a delta from %s, and of the blobs that it leaves out %d (%d bytes) are not there", e.File, strings.Join(bases, " and "), len(e.Blobs), e.Bytes)
		for _, c := range e.Changed {
			fmt.Fprintf(&b, "; %s has that name and is another bundle", c)
		}
	case len(e.Parts) > 0:
		var parts []string
		for _, n := range e.Parts {
			parts = append(parts, fmt.Sprintf("part %d of %d (%s)", n, p.Of, PartName(p.Whole.Name, n, p.Of)))
		}
		verb := "is"
		if len(parts) > 1 {
			verb = "are"
		}
		fmt.Fprintf(&b, "%s %s missing", strings.Join(parts, ", "), verb)
	default:
		fmt.Fprintf(&b, "%d blobs (%d bytes) are in none of its %d parts", len(e.Blobs), e.Bytes, p.Of)
	}
	return b.String()
}

// Join makes one archive of a split bundle's parts, or of a delta: it reads like the
// whole bundle's file, byte for byte. Layers that the parts lack are taken from bases,
// which may be any archives. What is needed and not there is an [*IncompleteError]; parts
// of different bundles are an error.
//
// Layers in compressed archives are copied to a temporary file when the first is
// read. The caller closes the archive before those that it is made of.
func Join(parts []*Archive, bases ...*Archive) (*Archive, error) {
	if len(parts) == 0 {
		return nil, errors.New("joining bundles: there is none")
	}
	first, ok := parts[0].Partial()
	for _, a := range parts {
		p, isPart := a.Partial()
		switch {
		case !isPart:
			return nil, fmt.Errorf("joining bundles: %s is not a part of another bundle", a.file)
		case !ok || p.Whole != first.Whole:
			return nil, fmt.Errorf("joining bundles: %s is %s (%s), and %s is %s (%s): they do not belong together",
				parts[0].file, first, short(first.Whole.Index), a.file, p, short(p.Whole.Index))
		}
	}
	plan, pool, err := gather(parts, bases)
	if err != nil {
		return nil, err
	}
	if e := pool.lacking(plan, parts, bases); e != nil {
		return nil, fmt.Errorf("joining bundles: %w", e)
	}
	v, err := newVirtual(plan, pool)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(filepath.Dir(parts[0].file), first.Whole.Name)
	joined, err := openSource(name, v, plan.Size)
	if err != nil {
		return nil, fmt.Errorf("joining bundles: %s: %w", name, err)
	}
	return joined, nil
}

// Missing tells what archives lack to be the whole that parts, all of one whole, are
// made of; nil if nothing. Compressed bases are only read if the others do not suffice.
func Missing(parts, bases []*Archive) (*IncompleteError, error) {
	plan, pool, err := gather(parts, bases)
	if err != nil {
		return nil, err
	}
	return pool.lacking(plan, parts, bases), nil
}

// gather lays the whole out and looks for its blobs.
func gather(parts, bases []*Archive) (*Plan, *pool, error) {
	plan, err := parts[0].wholeOf()
	if err != nil {
		return nil, nil, err
	}
	pool := newPool(append(slices.Clone(parts), bases...))
	return plan, pool, pool.find(plan)
}

func short(h v1.Hash) string { return h.Algorithm + ":" + h.Hex[:min(12, len(h.Hex))] }

// wholeOf is wholePlan of an archive that may not have been read to its end.
func (a *Archive) wholeOf() (*Plan, error) {
	if err := a.whole(); err != nil {
		return nil, err
	}
	return a.wholePlan()
}

// lacking tells what is missing of a plan's blobs.
func (p *pool) lacking(plan *Plan, parts, bases []*Archive) *IncompleteError {
	is, _ := parts[0].Partial()
	e := &IncompleteError{Partial: is, File: parts[0].file}
	for _, b := range plan.blobs {
		if p.holders[b.Digest] == nil {
			e.Blobs = append(e.Blobs, b.Digest)
			e.Bytes += b.Size
		}
	}
	if len(e.Blobs) == 0 {
		return nil
	}
	have := map[int]bool{}
	for _, a := range parts {
		if q, _ := a.Partial(); q.Of == is.Of {
			have[q.Part] = true
		}
	}
	for n := 1; n <= is.Of; n++ {
		if !have[n] {
			e.Parts = append(e.Parts, n)
		}
	}
	for _, want := range is.Bases {
		for _, a := range bases {
			if h, ok := a.Identity(); filepath.Base(a.file) == want.Name && (!ok || h != want.Index) {
				e.Changed = append(e.Changed, a.file)
			}
		}
	}
	return e
}

// Identity is the digest of an archive's index.json, a partial bundle's that of its whole.
// A legacy docker-archive has none.
func (a *Archive) Identity() (v1.Hash, bool) {
	switch {
	case a.head.partial != nil:
		return a.head.partial.Whole.Index, true
	case a.head.index == nil:
		return v1.Hash{}, false
	}
	return hashOf(a.head.index), true
}

// virtual reads like the file of a planned bundle whose blobs are in several archives.
type virtual struct {
	files  []virtualFile
	starts []int64 // of each file's header
	size   int64
	pool   *pool
}

type virtualFile struct {
	name    string
	size    int64
	content []byte // of the head's files
	blob    v1.Hash
}

var _ source = (*virtual)(nil)

func newVirtual(plan *Plan, pool *pool) (*virtual, error) {
	v := &virtual{pool: pool}
	add := func(f virtualFile) error {
		h, err := header(f.name, f.size)
		v.files, v.starts = append(v.files, f), append(v.starts, v.size)
		v.size += int64(len(h)) + f.size + padding(f.size)
		return err
	}
	for _, h := range plan.head {
		if err := add(virtualFile{name: h.name, size: int64(len(h.content)), content: h.content}); err != nil {
			return nil, err
		}
	}
	for _, b := range plan.blobs {
		if err := add(virtualFile{name: blobName(b.Digest), size: b.Size, blob: b.Digest}); err != nil {
			return nil, err
		}
	}
	v.size += trailer
	return v, nil
}

// ReadAt reads headers, blobs and padding as they are in the whole's file. Blobs are not
// verified: whoever reads the archive does.
func (v *virtual) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) && off < v.size {
		n, err := v.read(p[done:min(int64(len(p)), int64(done)+v.size-off)], off)
		done += n
		off += int64(n)
		if err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// read fills p at most to the end of the stretch that off is in.
func (v *virtual) read(p []byte, off int64) (int, error) {
	i := sort.Search(len(v.starts), func(i int) bool { return v.starts[i] > off }) - 1
	f := v.files[i]
	off -= v.starts[i]
	h, err := header(f.name, f.size)
	if err != nil {
		return 0, err
	}
	if off < int64(len(h)) {
		return copy(p, h[off:]), nil
	}
	off -= int64(len(h))
	if off >= f.size { // padding, or the end of the archive
		end := v.size
		if i+1 < len(v.starts) {
			end = v.starts[i+1]
		}
		n := int(min(int64(len(p)), end-v.starts[i]-int64(len(h))-off))
		clear(p[:n])
		return n, nil
	}
	p = p[:min(int64(len(p)), f.size-off)]
	if f.content != nil {
		return copy(p, f.content[off:]), nil
	}
	content, err := v.pool.section(f.blob)
	if err != nil {
		return 0, err
	}
	n, err := content.ReadAt(p, off)
	if n == len(p) || errors.Is(err, io.EOF) && n > 0 {
		err = nil
	}
	return n, err
}

// Close removes temporary files. The archives stay open.
func (v *virtual) Close() error { return v.pool.Close() }
