package imageimport

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/watch"
)

// sourceLabel records which file an image of a legacy docker-archive came
// from. Such an archive names no digests, so the file is all there is to compare.
const sourceLabel = "io.rancher.rke2.source"

// Source is what tells a legacy docker-archive from every other file: base name, size
// and times.
func Source(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	id := watch.Of(info)
	return fmt.Sprintf("%s_%d_%d_%d", filepath.Base(path), id.Size, id.Modified, id.Changed), nil
}

// ImportDockerArchive imports a legacy docker-archive (`docker save` before
// Docker 25), whose images cannot be verified: the caller must have made sure
// that the policy admits each of them unverified.
func (i *Importer) ImportDockerArchive(ctx context.Context, archive *airgap.Archive) (Result, error) {
	result, err := i.dockerArchive(ctx, archive)
	if err != nil {
		err = fmt.Errorf("importing %s: %w", archive.Path(), err)
	}
	return result, i.explain(err)
}

func (i *Importer) dockerArchive(ctx context.Context, archive *airgap.Archive) (result Result, err error) {
	source, err := Source(archive.Path())
	if err != nil {
		return result, err
	}
	present, err := i.dockerPresent(ctx, archive, source)
	if err != nil {
		return result, err
	}
	if present {
		result.Present = len(archive.Images())
		return result, nil
	}
	if err := i.roomFor(archive.Size()); err != nil {
		return result, err
	}
	stream, err := archive.Tar()
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	ctx, done, err := i.Client.WithLease(ctx)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	imported, err := i.Client.Import(ctx, stream, containerd.WithAllPlatforms(true))
	if err != nil {
		return result, err
	}
	for _, image := range imported {
		changed, err := i.adopt(ctx, image, source)
		result.Images += changed
		if err != nil {
			return result, fmt.Errorf("%s: %w", image.Name, err)
		}
	}
	result.Bytes = archive.Size()
	return result, nil
}

// adopt gives an image that containerd imported by itself what one of a bundle gets.
func (i *Importer) adopt(ctx context.Context, image images.Image, source string) (int, error) {
	if err := containerd.NewImage(i.Client, image).Unpack(ctx, i.snapshotter()); err != nil {
		return 0, fmt.Errorf("unpacking it: %w", err)
	}
	names := []string{image.Name}
	if tag, err := airgap.ParseTag(image.Name); err == nil {
		registry, _, _ := strings.Cut(image.Name, "/")
		path := tag.RepositoryStr()
		if err := i.labelAll(ctx, image.Target, registry, path); err != nil {
			return 0, fmt.Errorf("labelling its blobs: %w", err)
		}
		suffix := ":" + tag.TagStr()
		names = append(names, i.alsoCalled(strings.TrimSuffix(image.Name, suffix), path, suffix, image.Target.Digest.String())...)
	}
	labels := pins()
	labels[sourceLabel] = source
	for _, name := range names {
		// Each record gets labels of its own: put adds to them.
		own := map[string]string{}
		for k, v := range labels {
			own[k] = v
		}
		if _, err := i.put(ctx, images.Image{Name: name, Target: image.Target, Labels: own}); err != nil {
			return 0, fmt.Errorf("naming it %s: %w", name, err)
		}
	}
	return len(names), i.awaitCRI(ctx, names)
}

// labelAll says of every blob of an image for whom it can be served.
func (i *Importer) labelAll(ctx context.Context, target ocispec.Descriptor, registry, repository string) error {
	store := i.Client.ContentStore()
	return images.Walk(ctx, images.Handlers(images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		info, err := store.Info(ctx, desc.Digest)
		if errdefs.IsNotFound(err) {
			return nil, images.ErrSkipDesc // of another platform
		}
		if err != nil {
			return nil, err
		}
		_, err = i.addLabels(ctx, info, i.sourcesOf(registry, repository, info.Labels))
		return nil, err
	}), images.ChildrenHandler(store)), target)
}

func (i *Importer) dockerPresent(ctx context.Context, archive *airgap.Archive, source string) (bool, error) {
	have, err := i.look(ctx)
	if err != nil {
		return false, err
	}
	for _, want := range archive.Images() {
		for _, ref := range want.Refs {
			image, ok := have.images[ref.String()]
			if !ok || image.Labels[sourceLabel] != source || !pinned(image) {
				return false, nil
			}
			suffix := ":" + ref.TagStr()
			for _, name := range i.alsoCalled(strings.TrimSuffix(ref.String(), suffix), ref.RepositoryStr(), suffix, image.Target.Digest.String()) {
				if other, ok := have.images[name]; !ok || !pinned(other) {
					return false, nil
				}
			}
			whole, err := i.whole(ctx, have, image.Target)
			if err != nil || !whole {
				return false, err
			}
		}
	}
	return true, nil
}

// whole tells whether every blob of an image is there.
func (i *Importer) whole(ctx context.Context, have view, target ocispec.Descriptor) (bool, error) {
	_, required, _, missing, err := images.Check(ctx, i.Client.ContentStore(), target, platforms.All)
	if err != nil {
		return false, err
	}
	for _, desc := range append(required, target) {
		h, ok := hashOf(desc.Digest)
		if !ok || !have.file(h, desc.Size) {
			return false, nil
		}
	}
	return len(missing) == 0, nil
}
