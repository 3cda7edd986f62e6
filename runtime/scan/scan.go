// Package scan finds images in the bundles that operators dropped into a
// folder. It reads indexes only and trusts nothing: what it finds is a claim
// until package trust admits it.
package scan

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
)

// File is one candidate of the folder: an open archive, or why it cannot be read.
type File struct {
	Path    string
	Archive *airgap.Archive // nil when Err is set
	Err     error
	Info    fs.FileInfo // as it was just before it was opened; nil if that is not known
}

// Folder is the result of a scan. Close it to close the archives in it.
type Folder struct {
	Dir    string
	Exists bool
	// Files are in name order, but that a delta comes before the bundles that it was made
	// from: of images with one name, its is the later.
	Files []File
	Other []string
}

// Open reads the index of every bundle below dir, recursively and in name
// order. Hidden files are passed over, and so is what has no bundle's suffix
// (listed in Other). A missing folder is an empty one. A file that cannot be
// read as a bundle is reported in its File and does not stop the scan.
func Open(dir string) (*Folder, error) {
	folder := &Folder{Dir: dir}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if path == dir && errors.Is(err, fs.ErrNotExist) {
				return fs.SkipAll
			}
			return err
		}
		if path == dir {
			folder.Exists = true
			return nil
		}
		if strings.HasPrefix(entry.Name(), ".") {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			return nil
		}
		if !airgap.HasArchiveName(entry.Name()) {
			folder.Other = append(folder.Other, path)
			return nil
		}
		folder.Files = append(folder.Files, OpenFile(path))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for bundles in %s: %w", dir, errors.Join(err, folder.Close()))
	}
	hoistDeltas(folder.Files)
	return folder, nil
}

// Close closes every archive of the folder.
func (f *Folder) Close() error {
	var errs []error
	for _, file := range f.Files {
		if file.Archive != nil {
			errs = append(errs, file.Archive.Close())
		}
	}
	return errors.Join(errs...)
}

// Found is an image in a bundle.
type Found struct {
	Ref   name.Reference // the one that was looked for
	File  File
	Image airgap.Image
}

// Find is the first of [Folder.FindAll].
func (f *Folder) Find(wanted ...name.Reference) (Found, error) {
	all, err := f.FindAll(wanted...)
	if err != nil {
		return Found{}, err
	}
	return all[0], nil
}

// FindAll looks for images of this platform that carry one of the wanted references, in
// their order and then in the files' order. A digest finds the image, or the image index
// that it was taken out of, under any name. There is at least one, or else a
// *NotFoundError, which says everything there is to say.
func (f *Folder) FindAll(wanted ...name.Reference) ([]Found, error) {
	var out []Found
	for _, ref := range wanted {
		for _, file := range f.Files {
			if file.Archive == nil {
				continue
			}
			for _, image := range file.Archive.Images() {
				again := slices.ContainsFunc(out, func(o Found) bool {
					return o.File.Archive == file.Archive && o.Image.Desc.Digest == image.Desc.Digest && image.Desc.Digest != (v1.Hash{})
				})
				if !again && here(image) && carries(image, ref) {
					out = append(out, Found{Ref: ref, File: file, Image: image})
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, &NotFoundError{Folder: f, Wanted: wanted}
	}
	return out, nil
}

// here tells whether an image is for this machine, as far as its archive says.
func here(image airgap.Image) bool {
	p := image.Platform
	return p == nil || p.OS == "linux" && p.Architecture == runtime.GOARCH
}

func carries(image airgap.Image, ref name.Reference) bool {
	switch ref := ref.(type) {
	case name.Tag:
		return image.Has(ref)
	case name.Digest:
		d := ref.DigestStr()
		return d == image.Desc.Digest.String() || d == image.Index.String() ||
			slices.ContainsFunc(image.Digests, func(named name.Digest) bool { return named.Name() == ref.Name() })
	}
	return false
}

// NotFoundError says which image no bundle has, where was looked, and what is
// there instead.
type NotFoundError struct {
	Folder *Folder
	Wanted []name.Reference
}

// Error is several lines: the reference wanted, the folder, each file with the
// related references in it or the reason why it could not be read.
func (e *NotFoundError) Error() string {
	var b strings.Builder
	names := make([]string, len(e.Wanted))
	for i, w := range e.Wanted {
		names[i] = w.String()
	}
	fmt.Fprintf(&b, "no bundle has the image %s\n", strings.Join(names, " or "))
	switch {
	case !e.Folder.Exists:
		fmt.Fprintf(&b, "  looked in: %s (the folder does not exist)\n", e.Folder.Dir)
	case len(e.Folder.Files) == 0:
		fmt.Fprintf(&b, "  looked in: %s (no *.tar, *.tar.zst, *.tar.gz, *.tar.lz4, *.tar.bz2 or *.tar.xz in it)\n", e.Folder.Dir)
	default:
		fmt.Fprintf(&b, "  looked in: %s\n", e.Folder.Dir)
	}
	for _, file := range e.Folder.Files {
		if file.Err != nil {
			fmt.Fprintf(&b, "  %s: cannot be read: %v\n", filepath.Base(file.Path), file.Err)
			continue
		}
		near, total := e.near(file)
		switch {
		case len(near) > 0:
			fmt.Fprintf(&b, "  %s: has %s\n", filepath.Base(file.Path), strings.Join(near, ", "))
		default:
			fmt.Fprintf(&b, "  %s: %d images, none of them in that repository\n", filepath.Base(file.Path), total)
		}
	}
	for _, path := range e.Folder.Other {
		if ext := strings.ToLower(filepath.Ext(path)); ext != ".txt" && ext != ".json" {
			fmt.Fprintf(&b, "  %s: not looked at (its name does not end like a bundle's)\n", filepath.Base(path))
		}
	}
	fmt.Fprintf(&b, "  to do: copy the rke2-images-core bundle of exactly this version into %s", e.Folder.Dir)
	return b.String()
}

// near lists the names in a file that share a repository path with what was wanted,
// whatever their registry, and what is other about them.
func (e *NotFoundError) near(file File) (near []string, total int) {
	for _, image := range file.Archive.Images() {
		total++
		for _, w := range e.Wanted {
			for _, ref := range image.Refs {
				if ref.RepositoryStr() == w.Context().RepositoryStr() {
					near = append(near, ref.String()+differs(image, w, ref))
				}
			}
			for _, ref := range image.Digests {
				if ref.RepositoryStr() == w.Context().RepositoryStr() {
					near = append(near, ref.String()+differs(image, w, ref))
				}
			}
		}
	}
	slices.Sort(near)
	return slices.Compact(near), total
}

// differs says what of an image is other than wanted, under one of its names.
func differs(image airgap.Image, wanted, has name.Reference) string {
	_, byDigest := wanted.(name.Digest)
	switch {
	case !here(image):
		return fmt.Sprintf(" (for %s, not linux/%s)", image.Platform, runtime.GOARCH)
	case byDigest:
		return fmt.Sprintf(" (another digest, %s)", image.Desc.Digest)
	case wanted.Identifier() == has.Identifier():
		return " (another registry)"
	}
	return " (another tag)"
}
