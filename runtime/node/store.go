package node

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/stage"
)

// fromStore puts right what has drifted of a staged image with the blobs that containerd
// has of it, and those that bundles happen to have. It is fs.ErrNotExist if containerd does
// not even have its manifest.
func (b *bootstrap) fromStore(ctx context.Context, image stage.Image) (stage.Root, error) {
	store := contentStore(b.config.DataDir)
	manifest, err := readManifest(store, image.Digest())
	if err != nil {
		return stage.Root{}, err
	}
	image.Layers = b.layers(nil, manifest)
	root, err := b.stage(ctx, image, "containerd's store")
	if err != nil {
		return root, fmt.Errorf("the staged runtime could not be restored from what containerd has: %w", err)
	}
	return root, nil
}

// maxManifest bounds what is read of a manifest: the OCI distribution-spec's limit.
const maxManifest = 4 << 20

// readManifest reads a manifest of a folder of blobs, and holds it to its digest.
func readManifest(dir string, digest v1.Hash) (*v1.Manifest, error) {
	f, err := os.Open(filepath.Join(dir, digest.Hex))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxManifest || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading the manifest %s: it is no manifest: %w", f.Name(), fs.ErrInvalid)
	}
	m, err := v1.ParseManifest(storedBlob{io.LimitReader(airgap.Verified(f, digest, info.Size()), maxManifest), f.Name()})
	if err != nil {
		return nil, fmt.Errorf("reading the manifest %s: %w", f.Name(), err)
	}
	return m, nil
}
