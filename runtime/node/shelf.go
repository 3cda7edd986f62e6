package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/scan"
)

// contentStore is the folder where containerd keeps blobs by digest, whether it runs or not.
func contentStore(dataDir string) string {
	return filepath.Join(dataDir, "agent", "containerd", "io.containerd.content.v1.content", "blobs", "sha256")
}

// shelf is where the layers of an image in a bundle are looked for: in that bundle, then
// in the others of the folder, then in what containerd has stored; of an image in no
// bundle, there first. All are verified while they are read.
type shelf struct {
	folder  *scan.Folder
	archive *airgap.Archive // nil if there is none
	store   string          // contentStore
}

// open opens a layer; what says which it is.
func (s shelf) open(desc v1.Descriptor, what string) (io.ReadCloser, error) {
	if s.archive == nil {
		if stored, err := s.stored(desc); stored != nil || err != nil {
			return stored, err
		}
	} else {
		has, err := s.archive.Has(desc.Digest)
		if err != nil {
			return nil, err
		}
		if has {
			return s.archive.Blob(desc.Digest)
		}
	}
	other, unreadable := s.folder.Holder(desc.Digest)
	if other != nil {
		return other.Blob(desc.Digest)
	}
	stored, err := s.stored(desc)
	if stored != nil || err != nil {
		return stored, err
	}
	absent := &absentError{layer: desc, what: what, dir: s.folder.Dir, unreadable: unreadable}
	if s.archive != nil {
		absent.missing = s.folder.Missing(s.archive)
	}
	return nil, absent
}

// absentError says that a layer is nowhere, and what would bring it.
type absentError struct {
	layer      v1.Descriptor
	what, dir  string
	missing    *airgap.IncompleteError // nil if the folder has all that is known of
	unreadable error                   // of bundles that might have it
}

func (e *absentError) Error() string {
	text := fmt.Sprintf("%s (%s, %d bytes) is in no bundle and not in containerd", e.what, e.layer.Digest, e.layer.Size)
	if e.missing != nil {
		text += fmt.Sprintf(": %v: copy what is missing into %s", e.missing, e.dir)
	}
	if e.unreadable != nil {
		text += "\n  " + e.unreadable.Error()
	}
	return text
}

// stored opens what containerd has of a blob; nil if it has nothing whole.
func (s shelf) stored(desc v1.Descriptor) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(s.store, desc.Digest.Hex))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading containerd's blob %s: %w", desc.Digest, err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != desc.Size {
		return nil, errors.Join(err, f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{storedBlob{airgap.Verified(f, desc.Digest, desc.Size), f.Name()}, f}, nil
}

// storedBlob names the file in errors of what is read of it.
type storedBlob struct {
	r    io.Reader
	file string
}

func (b storedBlob) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("reading containerd's %s: %w", b.file, err)
	}
	return n, err
}
