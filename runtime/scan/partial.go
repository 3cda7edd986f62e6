package scan

import (
	"errors"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
)

// hoistDeltas moves each delta before the first of the bundles that it was made from.
func hoistDeltas(files []File) {
	// A chain of deltas needs as many rounds as it is long.
	for range files {
		moved := false
		for at := range files {
			first := slices.IndexFunc(files[:at], func(f File) bool { return isBase(files[at], f) })
			if first < 0 {
				continue
			}
			delta := files[at]
			copy(files[first+1:at+1], files[first:at])
			files[first] = delta
			moved = true
		}
		if !moved {
			return
		}
	}
}

// isBase tells whether a delta was made from what another file is, or is a part of.
func isBase(delta, of File) bool {
	if delta.Archive == nil || of.Archive == nil {
		return false
	}
	p, ok := delta.Archive.Partial()
	identity, has := of.Archive.Identity()
	if !ok || !has || identity == p.Whole.Index {
		return false
	}
	return slices.ContainsFunc(p.Bases, func(b airgap.Base) bool { return b.Index == identity })
}

// Holder is an archive of the folder that has a blob, rather one that is not compressed;
// nil if none has it. The error is why some archive can't tell.
func (f *Folder) Holder(h v1.Hash) (*airgap.Archive, error) {
	var errs []error
	for _, compressed := range [...]bool{false, true} {
		for _, file := range f.Files {
			if file.Archive == nil || (file.Archive.Compression() != "none") != compressed {
				continue
			}
			has, err := file.Archive.Has(h)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if has {
				return file.Archive, nil
			}
		}
	}
	return nil, errors.Join(errs...)
}

// Incomplete lists the partial bundles, each once, whose whole is not in the folder.
func (f *Folder) Incomplete() []*airgap.IncompleteError {
	var out []*airgap.IncompleteError
	seen := map[airgap.Whole]bool{}
	for _, file := range f.Files {
		if file.Archive == nil {
			continue
		}
		if p, ok := file.Archive.Partial(); ok && !seen[p.Whole] {
			seen[p.Whole] = true
			if e := f.Missing(file.Archive); e != nil {
				out = append(out, e)
			}
		}
	}
	return out
}

// Missing says what the folder lacks of the whole that a partial bundle is of; nil if it
// has all, or the archive is not partial. A bundle of the folder that can't be read is not
// counted.
func (f *Folder) Missing(archive *airgap.Archive) *airgap.IncompleteError {
	is, ok := archive.Partial()
	if !ok {
		return nil
	}
	missing, err := airgap.Missing(f.around(archive, is, false))
	if err != nil {
		missing, err = airgap.Missing(f.around(archive, is, true))
	}
	if err != nil {
		return nil // the archive itself can't be read, which its images' errors say
	}
	return missing
}

// around sorts the folder's archives into those of the same whole and the others; checked
// leaves out those that can't be read to their end, which takes reading compressed ones.
func (f *Folder) around(archive *airgap.Archive, is airgap.Partial, checked bool) (parts, others []*airgap.Archive) {
	parts = []*airgap.Archive{archive}
	for _, file := range f.Files {
		if file.Archive == nil || file.Archive == archive {
			continue
		}
		if checked {
			if _, err := file.Archive.Absent(); err != nil {
				continue
			}
		}
		if p, ok := file.Archive.Partial(); ok && p.Whole == is.Whole {
			parts = append(parts, file.Archive)
		} else {
			others = append(others, file.Archive)
		}
	}
	return parts, others
}
