package airgap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Set is several archives of which parts and deltas have been joined to what they
// are parts of.
type Set struct {
	// Archives are those that stand for themselves and those that were joined, in the
	// order in which the first of their files was given.
	Archives []*Archive
	// Loose are partial bundles whose whole can't be made of the set. Each is sound.
	Loose []Loose

	opened, joined []*Archive
}

// Loose is a partial bundle of which something is missing.
type Loose struct {
	Archive *Archive
	Err     *IncompleteError
}

// OpenSet opens archives and joins what belongs together: parts of one split bundle, a
// delta and the archives of the set that have what it leaves out. Close the set when its
// archives are no longer read. A file that can't be read as an archive is an error; a part
// that is missing is not, see [Set.Loose] and [Set.Complete].
func OpenSet(files ...string) (*Set, error) {
	s := &Set{}
	for _, f := range files {
		a, err := Open(f)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.opened = append(s.opened, a)
	}
	done := map[Whole]bool{}
	for _, a := range s.opened {
		p, ok := a.Partial()
		if !ok {
			s.Archives = append(s.Archives, a)
			continue
		}
		if done[p.Whole] {
			continue
		}
		done[p.Whole] = true
		if err := s.join(p.Whole); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// join makes one whole of all that the set has.
func (s *Set) join(w Whole) error {
	var parts, others []*Archive
	for _, a := range s.opened {
		if p, ok := a.Partial(); ok && p.Whole == w {
			parts = append(parts, a)
		} else {
			others = append(others, a)
		}
	}
	joined, err := Join(parts, others...)
	var incomplete *IncompleteError
	switch {
	case errors.As(err, &incomplete):
		for _, a := range parts {
			s.Loose = append(s.Loose, Loose{a, incomplete})
		}
		return nil
	case err != nil:
		return err
	}
	s.Archives, s.joined = append(s.Archives, joined), append(s.joined, joined)
	return nil
}

// Complete is an error that names what is missing, if something is.
func (s *Set) Complete() error {
	var errs []error
	said := map[*IncompleteError]bool{}
	for _, l := range s.Loose {
		if !said[l.Err] {
			said[l.Err] = true
			errs = append(errs, l.Err)
		}
	}
	return errors.Join(errs...)
}

// One is the set's only archive: a file, the whole that was joined of all files, or what a
// delta makes of the bundles that it was made from. A partial bundle comes alone as it is.
func (s *Set) One() (*Archive, error) {
	switch {
	case len(s.Archives) == 1 && len(s.Loose) == 0:
		return s.Archives[0], nil
	case len(s.Archives) == 0 && len(s.Loose) == 1:
		return s.Loose[0].Archive, nil
	}
	if err := s.Complete(); err != nil {
		return nil, err
	}
	for _, a := range s.joined {
		if s.baseFor(a) {
			return a, nil
		}
	}
	return nil, fmt.Errorf("%d bundles were given: give one, or all parts of one", len(s.Archives))
}

// baseFor tells whether all other archives of the set are what a delta for a was made from.
func (s *Set) baseFor(a *Archive) bool {
	identity, _ := a.Identity()
	bases := map[v1.Hash]bool{}
	for _, o := range s.opened {
		if p, ok := o.Partial(); ok && p.Whole.Index == identity {
			for _, b := range p.Bases {
				bases[b.Index] = true
			}
		}
	}
	for _, other := range s.Archives {
		if h, _ := other.Identity(); other != a && !bases[h] {
			return false
		}
	}
	return true
}

// Close closes every archive of the set.
func (s *Set) Close() error {
	var errs []error
	for _, a := range append(s.joined, s.opened...) {
		errs = append(errs, a.Close())
	}
	return errors.Join(errs...)
}

// AssembleOptions says what to make a whole bundle of.
type AssembleOptions struct {
	// Parts are the parts of one split bundle, or a delta.
	Parts []string
	// From are archives with the layers that a delta leaves out.
	From []string
	// Output is the file, or a folder to put the whole under its own name into. The ending
	// .tar.zst or .tar.gz compresses the tar as a whole.
	Output string
	// Progress is told the bytes of the whole's tar.
	Progress func(file string, done, total int64)
}

// Assembled is a bundle that was made again of its parts.
type Assembled struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // of the file
	// Tar is the bundle as it was before it was split: its name, size and sum.
	Tar Whole `json:"tar"`
}

// Assemble writes the whole bundle again, byte for byte what it was, and compares its
// sum before the file appears.
func Assemble(ctx context.Context, opt AssembleOptions) (Assembled, error) {
	s := &Set{}
	defer s.Close()
	var groups [2][]*Archive
	for i, files := range [][]string{opt.Parts, opt.From} {
		for _, f := range files {
			a, err := Open(f)
			if err != nil {
				return Assembled{}, err
			}
			s.opened = append(s.opened, a)
			groups[i] = append(groups[i], a)
		}
	}
	joined, err := Join(groups[0], groups[1]...)
	if err != nil {
		return Assembled{}, err
	}
	s.joined = append(s.joined, joined)
	p, _ := groups[0][0].Partial()
	file, ext, err := outputFile(opt.Output, p.Whole.Name, append(opt.Parts, opt.From...))
	if err != nil {
		return Assembled{}, err
	}
	out := Assembled{File: file, Tar: p.Whole}
	sum, err := writeFile(file, p.Whole.Size, func(w io.Writer) error {
		w, finish, err := compressor(w, ext)
		if err != nil {
			return err
		}
		return errors.Join(joined.copyTo(ctx, w, p.Whole, progressOf(opt.Progress, file, p.Whole.Size)), finish())
	})
	out.Size, out.SHA256 = sum.size, sum.hex
	return out, err
}

// copyTo writes a joined archive's tar, which must have the whole's sum. Only if it has
// not is each blob looked at, to say which file is at fault.
func (a *Archive) copyTo(ctx context.Context, w io.Writer, whole Whole, counter io.Writer) error {
	sum := sha256.New()
	r := cancelable{ctx, io.NewSectionReader(a.f, 0, a.size)}
	_, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(w, sum, counter)}, struct{ io.Reader }{r}, make([]byte, 1<<20))
	if err != nil || hex.EncodeToString(sum.Sum(nil)) == whole.SHA256 {
		return err
	}
	if v, ok := a.f.(*virtual); ok {
		if err := v.pool.verify(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: what was put together is not %s as it was made", ErrDamaged, whole.Name)
}

// verify reads every blob from the archive that it was found in.
func (p *pool) verify(ctx context.Context) error {
	for h, a := range p.holders {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := a.Blob(h)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// outputFile is the file to write and its compression: output, or name in it if it is a
// folder. It must not be one of the inputs.
func outputFile(output, name string, inputs []string) (file, ext string, err error) {
	file = output
	if info, err := os.Stat(output); err == nil && info.IsDir() {
		file = filepath.Join(output, name)
	}
	for _, e := range [...]string{".tar", ".tar.zst", ".tar.gz"} {
		if strings.HasSuffix(file, e) {
			ext = e
		}
	}
	if ext == "" {
		return "", "", fmt.Errorf("writing %s: a bundle's name ends in .tar, .tar.zst or .tar.gz", file)
	}
	there, err := os.Stat(file)
	if err != nil {
		return file, ext, nil
	}
	for _, in := range inputs {
		if other, err := os.Stat(in); err == nil && os.SameFile(there, other) {
			return "", "", fmt.Errorf("writing %s: it is what is read: give the new file another name", file)
		}
	}
	return file, ext, nil
}
