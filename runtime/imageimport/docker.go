package imageimport

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/rancher/wharfie/pkg/tarfile"

	"github.com/rancher/rke2/airgap"
)

// sourceLabel records which file an image of a legacy docker-archive came
// from: base name, size and modification time. Such an archive names no
// digests, so the file is all there is to compare.
const sourceLabel = "io.rancher.rke2.source"

// ImportDockerArchive imports a legacy docker-archive (`docker save` before
// Docker 25), whose images cannot be verified: the caller must have made sure
// that the policy admits each of them unverified.
func (i *Importer) ImportDockerArchive(ctx context.Context, archive *airgap.Archive) (result Result, err error) {
	path := archive.Path()
	info, err := os.Stat(path)
	if err != nil {
		return result, fmt.Errorf("importing %s: %w", path, err)
	}
	source := fmt.Sprintf("%s_%d_%d", filepath.Base(path), info.Size(), info.ModTime().UnixNano())
	present, err := i.dockerPresent(ctx, archive, source)
	if err != nil {
		return result, fmt.Errorf("importing %s: %w", path, err)
	}
	if present {
		result.Present = len(archive.Images())
		return result, nil
	}
	open, err := tarfile.GetOpener(path)
	if err != nil {
		return result, fmt.Errorf("importing %s: %w", path, err)
	}
	stream, err := open()
	if err != nil {
		return result, fmt.Errorf("importing %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	imported, err := i.Client.Import(ctx, stream, containerd.WithAllPlatforms(true))
	if err != nil {
		return result, fmt.Errorf("importing %s: %w", path, err)
	}
	for _, image := range imported {
		if image.Labels == nil {
			image.Labels = map[string]string{}
		}
		for k, v := range pins() {
			image.Labels[k] = v
		}
		image.Labels[sourceLabel] = source
		if _, err := i.Client.ImageService().Update(ctx, image, "labels"); err != nil {
			return result, fmt.Errorf("pinning %s: %w", image.Name, err)
		}
		result.Images++
	}
	result.Bytes = info.Size()
	return result, nil
}

func (i *Importer) dockerPresent(ctx context.Context, archive *airgap.Archive, source string) (bool, error) {
	for _, want := range archive.Images() {
		for _, ref := range want.Refs {
			image, err := i.Client.ImageService().Get(ctx, ref.String())
			if errdefs.IsNotFound(err) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			if image.Labels[sourceLabel] != source || !pinned(image) {
				return false, nil
			}
			available, _, _, missing, err := images.Check(ctx, i.Client.ContentStore(), image.Target, platforms.All)
			if err != nil {
				return false, err
			}
			if !available || len(missing) > 0 {
				return false, nil
			}
		}
	}
	return true, nil
}
