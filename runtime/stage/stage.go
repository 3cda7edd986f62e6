// Package stage puts the contents of a runtime image where the node runs them:
// <data-dir>/data/<tag>-<digest12>/{bin,charts}. A root appears whole or not at
// all; every file of it is checked again at each start, and what has changed is
// restored file by file. <data-dir>/bin is switched to a root last of all.
package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/durable"
)

// maxUnpacked bounds what a runtime image may unpack to. Layers are
// compressed, so their size says nothing.
const maxUnpacked = 8 << 30

// Layer is one verified layer of the runtime image.
type Layer interface {
	// Open gives the layer's uncompressed tar stream. The bytes are verified
	// while they are read: a digest that does not match is an error of Read.
	Open(ctx context.Context) (io.ReadCloser, error)
}

// Image is a runtime image that was admitted, and where its bytes are.
type Image struct {
	trust.Admitted
	Layers  []Layer // in the image's order
	Release string  // the rke2 that it is of, for people; may be ""
	Proof   Proof   // recorded with the root, see Staged
}

// Proof is what a policy needs to admit an image again when its bundle is gone.
// It is evidence like any other: nothing is taken on its word.
type Proof struct {
	Signatures []trust.Signature `json:"signatures,omitempty"`
	Index      trust.Index       `json:"index,omitzero"`
}

// Root is a staged runtime image whose files were checked.
type Root struct {
	Dir string // absolute
	// Staged is true when this call wrote the root, false when it was there.
	Staged bool
	// Repaired are the files that had drifted and were put right.
	Repaired []Drift
}

// Bin is the folder of the node's executables.
func (r Root) Bin() string { return filepath.Join(r.Dir, "bin") }

// Charts is the folder of the charts' manifests.
func (r Root) Charts() string { return filepath.Join(r.Dir, "charts") }

// Key is the folder name of a runtime image: changed bytes under one tag get a
// folder of their own. An image that is named by digest has no tag.
func Key(image trust.Admitted) string {
	tag := image.Digest().Algorithm
	if image.Ref() != (name.Tag{}) {
		tag = image.Ref().TagStr()
	}
	return tag + "-" + image.Digest().Hex[:12]
}

// Existing opens the root of an image that was staged before, without the
// image. It fails with fs.ErrNotExist if there is none, and with a *DriftError
// if files of it changed since.
func Existing(dataDir string, image trust.Admitted) (Root, error) {
	if !image.Valid() {
		return Root{}, errors.New("staging: the image was not verified")
	}
	root := Root{Dir: filepath.Join(dataDir, "data", Key(image))}
	recorded, err := readList(root.Dir)
	if err != nil {
		return Root{}, err
	}
	if recorded.Image != image.Digest().String() {
		return Root{}, &DriftError{Dir: root.Dir, Files: []Drift{{Path: listName, What: "is of another image", fix: fixList}}}
	}
	drifted, err := recorded.check(root.Dir)
	if err != nil {
		return Root{}, err
	}
	if len(drifted) > 0 {
		return Root{}, &DriftError{Dir: root.Dir, Files: drifted}
	}
	return root, nil
}

// Runtime makes sure that the image's /bin and /charts are staged below
// dataDir. What is there and unchanged is not read again; of a root that has
// drifted only the files that did are restored. Whatever fails, a root that was
// there before is left as it was. What runs is changed by Activate alone.
func Runtime(ctx context.Context, dataDir string, image Image) (Root, error) {
	root, err := Existing(dataDir, image.Admitted)
	if err == nil {
		remember(root.Dir, image)
		return root, nil
	}
	if !image.Valid() {
		return Root{}, err
	}
	root = Root{Dir: filepath.Join(dataDir, "data", Key(image.Admitted))}
	var drift *DriftError
	switch {
	case errors.As(err, &drift) && drift.isFolder():
		if root.Repaired, err = repair(ctx, root.Dir, image, drift.Files); err != nil {
			return Root{}, fmt.Errorf("restoring %s from %s: %w", root.Dir, image.Name(), err)
		}
		return root, nil
	case drift != nil, errors.Is(err, fs.ErrNotExist):
	default:
		return Root{}, err
	}
	root.Staged = true
	if err := write(ctx, root.Dir, image); err != nil {
		return Root{}, fmt.Errorf("staging %s in %s: %w", image.Name(), root.Dir, err)
	}
	return root, nil
}

// remember keeps under which name and for what release a root was admitted last.
func remember(dir string, image Image) {
	recorded, err := readList(dir)
	if err != nil || recorded.Name == image.Name() && recorded.Release == image.Release {
		return
	}
	recorded.Name, recorded.Release, recorded.Proof = image.Name(), image.Release, image.Proof
	_ = writeList(dir, recorded) // what is staged is good without, and the disk may be full
}

// write unpacks the layers to a temporary sibling of dir and renames it.
func write(ctx context.Context, dir string, image Image) error {
	return inTemporary(filepath.Dir(dir), func(temporary string) error {
		record, err := unpack(ctx, temporary, image)
		if err != nil {
			return err
		}
		if err := writeList(temporary, record); err != nil {
			return target(err)
		}
		for _, sub := range append([]string{"."}, folders[:]...) {
			if err := durable.SyncDir(filepath.Join(temporary, sub)); err != nil {
				return target(err)
			}
		}
		if err := replace(temporary, dir); err != nil {
			return target(err)
		}
		return target(durable.SyncDir(filepath.Dir(dir)))
	})
}

// unpack writes all of an image's files below root, which is an empty folder.
func unpack(ctx context.Context, root string, image Image) (list, error) {
	record := list{Image: image.Digest().String(), Name: image.Name(), Release: image.Release, Proof: image.Proof, Files: map[string]fileRecord{}}
	x := extractor{root: root, left: maxUnpacked, files: record.Files}
	if err := x.makeFolders(); err != nil {
		return record, err
	}
	for n := range image.Layers {
		if err := x.layer(ctx, n, image.Layers[n]); err != nil {
			return record, err
		}
	}
	if !slices.ContainsFunc(keys(record.Files), func(p string) bool { return strings.HasPrefix(p, "bin/") }) {
		return record, errors.New("the image has no files in /bin: it is not a runtime image")
	}
	return record, nil
}

const unfinishedPrefix = ".staging-"

// inTemporary does f in a new folder below parent, which is gone afterwards if
// f did not rename it.
func inTemporary(parent string, f func(temporary string) error) (err error) {
	made, err := mkdirAll(parent)
	if err != nil {
		return target(err)
	}
	removeUnfinished(parent)
	temporary, err := os.MkdirTemp(parent, unfinishedPrefix)
	if err != nil {
		return target(err)
	}
	defer func() {
		if removed := os.RemoveAll(temporary); err == nil {
			err = removed
		}
		if err != nil && made {
			_ = os.Remove(parent) // only if nothing else was ever staged
		}
	}()
	if err := os.Chmod(temporary, 0o755); err != nil {
		return target(err)
	}
	return f(temporary)
}

// mkdirAll tells whether the folder was not there before.
func mkdirAll(dir string) (made bool, err error) {
	if _, err := os.Stat(dir); err == nil {
		return false, nil
	}
	return true, os.MkdirAll(dir, 0o755)
}

// removeUnfinished clears what a killed run left behind. Only one rke2 runs in
// a data folder at a time, so nobody is writing there.
func removeUnfinished(parent string) {
	left, _ := filepath.Glob(filepath.Join(parent, unfinishedPrefix+"*"))
	for _, dir := range left {
		_ = os.RemoveAll(dir) // it is only in the way of disk space
	}
}

// replace renames the folder src to dst. A dst that is no folder, such as a
// symbolic link, is moved aside first.
func replace(src, dst string) error {
	if info, err := os.Lstat(dst); err == nil && !info.IsDir() {
		if err := os.Rename(dst, filepath.Join(src, asideName)); err != nil {
			return err
		}
		defer func() { _ = os.Remove(filepath.Join(dst, asideName)) }() // else the next start reports it
	}
	return os.Rename(src, dst)
}

const asideName = ".aside"
