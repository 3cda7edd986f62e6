package imageimport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// BlobsDir is the folder of blobs by digest below a containerd's root.
func BlobsDir(root string) string {
	return filepath.Join(root, "io.containerd.content.v1.content", "blobs", "sha256")
}

// HeldOffline lists what a containerd that does not run has, from the files below its
// root, and changes nothing. It fails with fs.ErrNotExist if none ever ran there.
func HeldOffline(ctx context.Context, root string) (_ map[string]Held, err error) {
	file := filepath.Join(root, "io.containerd.metadata.v1.bolt", "meta.db")
	if _, err := os.Stat(file); err != nil {
		return nil, err
	}
	// The lock is what a running containerd has.
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, Timeout: 200 * time.Millisecond})
	if err != nil {
		return nil, fmt.Errorf("reading containerd's %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	all, err := metadata.NewImageStore(metadata.NewDB(db, nil, nil)).List(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading containerd's %s: %w", file, err)
	}
	v := view{images: map[string]images.Image{}, dir: BlobsDir(root)}
	for _, image := range all {
		v.images[image.Name] = image
	}
	return v.held(ctx, folder(v.dir))
}

// folder reads blobs where containerd keeps them.
type folder string

func (f folder) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	file, err := os.Open(filepath.Join(string(f), desc.Digest.Encoded()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return blobFile{file, info.Size()}, nil
}

type blobFile struct {
	*os.File
	size int64
}

func (b blobFile) Size() int64 { return b.size }
