package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/runtime/stage"
	"github.com/rancher/rke2/runtime/timeline"
)

// fromBundle stages the runtime image of a bundle. A file that was changed while it was
// read is opened and read again, once.
func (b *bootstrap) fromBundle(ctx context.Context, found scan.Found) (stage.Root, error) {
	root, err := b.fromArchive(ctx, found)
	if err == nil || ctx.Err() != nil || errors.Is(err, stage.ErrTarget) || !changed(found.File) {
		return root, err
	}
	b.log.Warn("a bundle was replaced or changed while it was read, and is read again", "file", found.File.Path, "error", err)
	again := scan.OpenFile(found.File.Path)
	if again.Err != nil {
		return stage.Root{}, fmt.Errorf("%s was changed while it was read, and cannot be read any more: %w", found.File.Path, again.Err)
	}
	// The folder has it open from now on, also for the import.
	if err := b.folder.Put(again); err != nil {
		return stage.Root{}, err
	}
	alone := scan.Folder{Dir: b.folder.Dir, Exists: true, Files: []scan.File{again}}
	now, err := alone.Find(b.wanted...)
	if err != nil {
		return stage.Root{}, fmt.Errorf("%s was replaced while it was read: %w", found.File.Path, err)
	}
	if root, err = b.fromArchive(ctx, now); err != nil {
		return root, fmt.Errorf("%w (the file was changed while it was read; copy bundles under another name and rename them)", err)
	}
	return root, nil
}

// changed tells whether a file is not the one any more that was opened, by what a copy over
// it or a rename in its place changes.
func changed(file scan.File) bool {
	now, err := os.Stat(file.Path)
	if err != nil || file.Info == nil {
		return err != nil
	}
	return !os.SameFile(now, file.Info) || now.Size() != file.Info.Size() || !now.ModTime().Equal(file.Info.ModTime())
}

func (b *bootstrap) fromArchive(ctx context.Context, found scan.Found) (stage.Root, error) {
	archive := found.File.Archive
	refuse := func(err error) error {
		if errors.Is(err, stage.ErrTarget) {
			return err
		}
		return fmt.Errorf("the runtime image in %s is refused: %w", found.File.Path, err)
	}
	if archive.Format() == airgap.FormatDockerArchive {
		root, err := b.fromDockerArchive(ctx, found)
		if err != nil {
			return root, refuse(err)
		}
		return root, nil
	}
	image, manifest, err := b.admitFrom(found)
	if err != nil {
		return stage.Root{}, refuse(err)
	}
	timeline.Of(ctx).Mark(timeline.Verify)
	image.Layers = b.layers(archive, manifest)
	if archive.Compression() != "none" {
		clear, err := b.unpackLayers(ctx, archive, manifest, image.Layers)
		defer clear()
		if err != nil {
			return stage.Root{}, refuse(err)
		}
	}
	root, err := b.stage(ctx, image, found.File.Path)
	var absent *absentError
	switch {
	case errors.As(err, &absent):
		return root, fmt.Errorf("the runtime image in %s is not complete: %w", found.File.Path, absent)
	case err != nil:
		return root, refuse(err)
	}
	return root, nil
}

// admitFrom asks the policy about the image of a bundle under the name that was looked for,
// and reads its manifest.
func (b *bootstrap) admitFrom(found scan.Found) (stage.Image, *v1.Manifest, error) {
	archive := found.File.Archive
	image := stage.Image{Release: b.config.Release.Version}
	var err error
	if image.Proof.Signatures, err = archive.Signatures(found.Image.Desc.Digest); err != nil {
		return image, nil, err
	}
	if image.Proof.Index, err = archive.IndexOf(found.Image); err != nil {
		return image, nil, err
	}
	if image.Admitted, err = admitAs(b.policy, found.Ref, found.Image.Desc.Digest, image.Proof); err != nil {
		return image, nil, err
	}
	manifest, _, err := archive.Manifest(found.Image.Desc.Digest)
	if err != nil {
		return image, nil, err
	}
	// Read the configuration too: its digest is part of what was signed.
	return image, manifest, drain(archive.Blob(manifest.Config.Digest))
}

// layers are an image's, wherever they are; archive is the bundle that has its manifest,
// nil if none does.
func (b *bootstrap) layers(archive *airgap.Archive, manifest *v1.Manifest) []stage.Layer {
	var layers []stage.Layer
	shelf := shelf{folder: b.folder, archive: archive, store: contentStore(b.config.DataDir)}
	for n, desc := range manifest.Layers {
		what := fmt.Sprintf("layer %d of %d", n+1, len(manifest.Layers))
		layers = append(layers, blobLayer{desc: desc, open: func() (io.ReadCloser, error) { return shelf.open(desc, what) }})
	}
	return layers
}

// unpackLayers takes the layers that a compressed bundle has out of it, in one pass: each
// by itself would have everything before it decompressed again. They replace what layers
// has, until clear is called.
func (b *bootstrap) unpackLayers(ctx context.Context, archive *airgap.Archive, manifest *v1.Manifest, layers []stage.Layer) (clear func(), err error) {
	dir, err := b.temporary()
	if err != nil {
		return func() {}, err
	}
	clear = func() {
		_ = os.RemoveAll(dir)            // else the next start does it
		_ = os.Remove(filepath.Dir(dir)) // only if nothing was ever staged
	}
	there := map[v1.Hash]bool{}
	for _, desc := range manifest.Layers {
		if there[desc.Digest], err = archive.Has(desc.Digest); err != nil {
			return clear, err
		}
	}
	err = archive.Walk(ctx, func(h v1.Hash) bool { return there[h] }, func(d v1.Descriptor, r io.Reader) error {
		return save(filepath.Join(dir, d.Digest.Hex), r)
	})
	for i, layer := range filesOf(dir, manifest) {
		if there[manifest.Layers[i].Digest] {
			layers[i] = layer
		}
	}
	return clear, err
}

// unpackedPrefix names folders of what is taken out of archives that cannot be read from
// where they are.
const unpackedPrefix = ".unpacked-"

// temporary makes such a folder.
func (b *bootstrap) temporary() (string, error) {
	data := filepath.Join(b.config.DataDir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return "", fmt.Errorf("%w: %w", stage.ErrTarget, err)
	}
	removeAll(filepath.Join(data, unpackedPrefix+"*")) // of a run that was killed
	dir, err := os.MkdirTemp(data, unpackedPrefix)
	if err != nil {
		return "", fmt.Errorf("%w: %w", stage.ErrTarget, err)
	}
	return dir, nil
}

// fromDockerArchive stages an image of what `docker save` wrote, which has no manifest that
// could be signed: only a policy that asks for no signature takes it. Its manifest is made
// of its config and layers, which are unpacked beside what is staged for that.
func (b *bootstrap) fromDockerArchive(ctx context.Context, found scan.Found) (_ stage.Root, err error) {
	tag, ok := found.Ref.(name.Tag)
	if !ok || b.policy.Required(tag) {
		return stage.Root{}, errors.New("a legacy docker-archive has no digests or signatures: save it as an OCI archive")
	}
	dir, err := b.temporary()
	if err != nil {
		return stage.Root{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	desc, err := found.File.Archive.Modernise(ctx, found.Image, func(d v1.Descriptor, r io.Reader) error {
		return save(filepath.Join(dir, d.Digest.Hex), r)
	})
	if err != nil {
		return stage.Root{}, err
	}
	admitted, err := b.policy.Admit(tag, desc.Digest, nil)
	if err != nil {
		return stage.Root{}, err
	}
	manifest, err := readManifest(dir, desc.Digest)
	if err != nil {
		return stage.Root{}, err
	}
	image := stage.Image{Admitted: admitted, Release: b.config.Release.Version, Layers: filesOf(dir, manifest)}
	return b.stage(ctx, image, found.File.Path)
}

func save(path string, r io.Reader) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: the disk is full: make room there: %w", stage.ErrTarget, err)
	}
	return err
}

// filesOf are the layers of an image whose blobs are files of dir, verified while read.
func filesOf(dir string, manifest *v1.Manifest) []stage.Layer {
	var layers []stage.Layer
	s := shelf{store: dir}
	for _, desc := range manifest.Layers {
		layers = append(layers, blobLayer{desc: desc, open: func() (io.ReadCloser, error) {
			r, err := s.stored(desc)
			if r == nil && err == nil {
				err = fmt.Errorf("reading %s: it is gone", filepath.Join(dir, desc.Digest.Hex))
			}
			return r, err
		}})
	}
	return layers
}

func removeAll(pattern string) {
	left, _ := filepath.Glob(pattern)
	for _, path := range left {
		_ = os.RemoveAll(path) // it is only in the way of disk space
	}
}
