// Package layout writes an OCI image layout (image-spec v1.1, image-layout.md): blobs
// first, each whole or not there, then the index that names them, in one step.
package layout

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations of index entries. A signature has no reference, so that tools that don't
// know it don't take it for an image.
const (
	RefName   = "org.opencontainers.image.ref.name" // full reference: registry/repo/name:tag
	ImageName = "io.containerd.image.name"          // the same, for containerd
	Sets      = "io.rancher.rke2.sets"              // bundles the image is in, joined by commas
	Signs     = "io.rancher.rke2.signs"             // digest of the signed manifest
	Kind      = "kind"                              // what cosign save writes: KindImage or KindSigs
	KindImage = "dev.cosignproject.cosign/image"
	KindSigs  = "dev.cosignproject.cosign/sigs"
	KindAtts  = "dev.cosignproject.cosign/atts" // attestations
)

const temporary = ".tmp-"

// Layout is a folder that is written to by one process at a time.
type Layout struct {
	dir  string
	lock *os.File
}

// Open makes the layout where there is none, and waits for another process that has it
// open. Close it when done.
func Open(dir string) (*Layout, error) {
	l := &Layout{dir: dir}
	if err := os.MkdirAll(l.blobs(), 0o755); err != nil {
		return nil, fmt.Errorf("opening layout: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening layout: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("opening layout %s: locking: %w", dir, err)
	}
	l.lock = f
	if err := Tidy(dir); err != nil {
		_ = f.Close()
		return nil, err
	}
	version := filepath.Join(dir, "oci-layout")
	if _, err := os.Stat(version); errors.Is(err, fs.ErrNotExist) {
		if err := WriteFile(version, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
			_ = f.Close()
			return nil, err
		}
	}
	return l, nil
}

// Close lets other processes in.
func (l *Layout) Close() error { return l.lock.Close() }

// Index reads index.json. Where there is none yet the index is empty.
func (l *Layout) Index() (v1.IndexManifest, error) {
	data, err := os.ReadFile(l.indexPath())
	if errors.Is(err, fs.ErrNotExist) {
		return v1.IndexManifest{}, nil
	}
	if err != nil {
		return v1.IndexManifest{}, fmt.Errorf("reading layout: %w", err)
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(data, &m); err != nil {
		return v1.IndexManifest{}, fmt.Errorf("reading layout: %s is damaged (remove the folder and build again): %w", l.indexPath(), err)
	}
	return m, nil
}

// Has tells whether the blob is there in its full size.
func (l *Layout) Has(d v1.Descriptor) bool {
	st, err := os.Stat(l.blob(d.Digest))
	return err == nil && st.Mode().IsRegular() && st.Size() == d.Size
}

// Read gives a small blob, such as a manifest, after checking its digest.
func (l *Layout) Read(h v1.Hash) ([]byte, error) {
	data, err := os.ReadFile(l.blob(h))
	if err != nil {
		return nil, fmt.Errorf("reading layout: %w", err)
	}
	if got := sum(data); got != h {
		return nil, fmt.Errorf("reading layout: %s has digest %s; remove it and build again", l.blob(h), got)
	}
	return data, nil
}

// Platforms gives the manifests of an index entry: those of the image index that it is,
// or the entry itself.
func (l *Layout) Platforms(d v1.Descriptor) ([]v1.Descriptor, error) {
	if !d.MediaType.IsIndex() {
		return []v1.Descriptor{d}, nil
	}
	data, err := l.Read(d.Digest)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("reading image index %s: %w", d.Digest, err)
	}
	return m.Manifests, nil
}

// Put stores a small blob.
func (l *Layout) Put(data []byte) (v1.Hash, error) {
	h := sum(data)
	if l.Has(v1.Descriptor{Digest: h, Size: int64(len(data))}) {
		return h, nil
	}
	return h, WriteFile(l.blob(h), data, 0o644)
}

// PutFile stores the file at path under its descriptor, unless it is there already. The
// digest is checked while copying.
func (l *Layout) PutFile(d v1.Descriptor, path string) error {
	if l.Has(d) {
		return nil
	}
	src, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("storing blob: %w", err)
	}
	defer src.Close()
	return replace(l.blob(d.Digest), 0o644, func(w io.Writer) error {
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(w, h), src); err != nil {
			return err
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != d.Digest.Hex {
			return fmt.Errorf("%s has sha256 %s, expected %s; remove it and build again", path, got, d.Digest.Hex)
		}
		return nil
	})
}

// Commit makes the index name these manifests, in this order, and then removes blobs
// that none of them needs.
func (l *Layout) Commit(manifests []v1.Descriptor) error {
	keep, err := l.reachable(manifests)
	if err != nil {
		return err
	}
	data, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: manifests})
	if err != nil {
		return fmt.Errorf("writing layout: %w", err)
	}
	if err := WriteFile(l.indexPath(), data, 0o644); err != nil {
		return err
	}
	blobs, err := os.ReadDir(l.blobs())
	if err != nil {
		return fmt.Errorf("cleaning layout: %w", err)
	}
	for _, b := range blobs {
		if !keep[b.Name()] {
			if err := os.Remove(filepath.Join(l.blobs(), b.Name())); err != nil {
				return fmt.Errorf("cleaning layout: %w", err)
			}
		}
	}
	return nil
}

// reachable gives the names of all blobs of the manifests, each of which must be there.
func (l *Layout) reachable(manifests []v1.Descriptor) (map[string]bool, error) {
	keep := map[string]bool{}
	for todo := slices.Clone(manifests); len(todo) > 0; {
		d := todo[0]
		todo = todo[1:]
		data, err := l.Read(d.Digest)
		if err != nil {
			return nil, err
		}
		if d.MediaType.IsIndex() {
			below, err := v1.ParseIndexManifest(bytes.NewReader(data))
			if err != nil {
				return nil, fmt.Errorf("reading image index %s: %w", d.Digest, err)
			}
			keep[d.Digest.Hex] = true
			todo = append(todo, below.Manifests...)
			continue
		}
		m, err := v1.ParseManifest(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("reading manifest %s: %w", d.Digest, err)
		}
		keep[d.Digest.Hex] = true
		for _, b := range append([]v1.Descriptor{m.Config}, m.Layers...) {
			if !l.Has(b) {
				return nil, fmt.Errorf("writing layout: blob %s of manifest %s is missing", b.Digest, d.Digest)
			}
			keep[b.Digest.Hex] = true
		}
	}
	return keep, nil
}

func (l *Layout) blobs() string         { return filepath.Join(l.dir, "blobs", "sha256") }
func (l *Layout) blob(h v1.Hash) string { return filepath.Join(l.blobs(), h.Hex) }
func (l *Layout) indexPath() string     { return filepath.Join(l.dir, "index.json") }

func sum(data []byte) v1.Hash {
	s := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(s[:])}
}

// WriteFile replaces path by a file of these bytes: the old one or the new one is
// there, whatever happens. A file that has these bytes already is left alone, so that
// what is made of it is not made again.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return replace(path, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Tidy removes from dir what a killed WriteFile left there. Nobody else may be writing
// into it.
func Tidy(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, temporary+"*"))
	if err != nil {
		return fmt.Errorf("tidying %s: %w", dir, err)
	}
	for _, file := range left {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("tidying %s: %w", dir, err)
		}
	}
	return nil
}

func replace(path string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), temporary+"*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
