package imageimport

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// view is what containerd has, taken in two calls: asking blob by blob would take longer
// than anything else of a restart.
type view struct {
	images map[string]images.Image
	blobs  map[string]content.Info // by digest
	dir    string                  // of blobs, or empty
}

func (i *Importer) look(ctx context.Context) (view, error) {
	v := view{images: map[string]images.Image{}, blobs: map[string]content.Info{}, dir: i.Blobs}
	all, err := i.Client.ImageService().List(ctx)
	if err != nil {
		return v, fmt.Errorf("listing containerd's images: %w", err)
	}
	for _, image := range all {
		v.images[image.Name] = image
	}
	err = i.Client.ContentStore().Walk(ctx, func(info content.Info) error {
		v.blobs[info.Digest.String()] = info
		return nil
	})
	if err != nil {
		return v, fmt.Errorf("listing containerd's blobs: %w", err)
	}
	return v, nil
}

// blob tells whether containerd has a blob whole.
func (v view) blob(desc v1.Descriptor) bool {
	info, ok := v.blobs[desc.Digest.String()]
	return ok && info.Size == desc.Size && v.file(desc.Digest, desc.Size)
}

// file tells whether a blob's file has its size. Containerd answers for what it recorded
// when the blob was written, whatever happened to the disk since.
func (v view) file(h v1.Hash, size int64) bool {
	if v.dir == "" {
		return true
	}
	info, err := os.Stat(filepath.Join(v.dir, h.Hex))
	return err == nil && info.Size() == size
}

func hashOf(d digest.Digest) (v1.Hash, bool) {
	h, err := v1.NewHash(d.String())
	return h, err == nil
}

// present tells whether nothing is left to do for an item.
func (r *run) present(ctx context.Context, w wanted) (bool, error) {
	for _, name := range r.Names(w.Item) {
		image, ok := r.have.images[name]
		if !ok || image.Target.Digest.String() != w.manifest.Digest.String() || !pinned(image) {
			return false, nil
		}
	}
	for _, desc := range w.blobs() {
		if !r.have.blob(desc) || len(r.sources(w.Item, r.have.blobs[desc.Digest.String()].Labels)) > 0 {
			return false, nil
		}
	}
	return r.unpacked(ctx, w)
}

// unpacked tells whether the image's files are ready to be run.
func (r *run) unpacked(ctx context.Context, w wanted) (bool, error) {
	config := r.have.blobs[w.rest[0].Digest.String()]
	snapshot := config.Labels["containerd.io/gc.ref.snapshot."+r.snapshotter()]
	if snapshot == "" {
		return false, nil
	}
	_, err := r.Client.SnapshotService(r.snapshotter()).Stat(ctx, snapshot)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (i *Importer) snapshotter() string {
	if i.Snapshotter == "" {
		return defaults.DefaultSnapshotter
	}
	return i.Snapshotter
}

// hold puts what containerd has of the items under the lease, so that no collection of
// garbage takes it before the images have their names, and forgets blobs that are damaged.
func (r *run) hold(ctx context.Context, lease leases.Lease, todo []wanted) error {
	service, store := r.Client.LeasesService(), r.Client.ContentStore()
	damaged := false
	for _, w := range todo {
		for _, desc := range w.blobs() {
			key := desc.Digest.String()
			if _, ok := r.have.blobs[key]; !ok {
				continue
			}
			if !r.have.blob(desc) {
				r.Log.Warn("a blob of containerd is damaged and is read again", "image", w.Admitted.Name(), "blob", key, "folder", r.Blobs)
				if err := store.Delete(ctx, digest.Digest(key)); err != nil && !errdefs.IsNotFound(err) {
					return fmt.Errorf("removing the damaged blob %s: %w", key, err)
				}
				delete(r.have.blobs, key)
				damaged = true
				continue
			}
			if err := service.AddResource(ctx, lease, leases.Resource{ID: key, Type: "content"}); err != nil {
				return fmt.Errorf("holding blob %s: %w", key, err)
			}
			if _, err := store.Info(ctx, digest.Digest(key)); errdefs.IsNotFound(err) {
				delete(r.have.blobs, key) // it was collected just before
			} else if err != nil {
				return fmt.Errorf("holding blob %s: %w", key, err)
			}
		}
	}
	if !damaged {
		return nil
	}
	return r.collect(ctx)
}

// collect has containerd remove the files of blobs that it has forgotten: it would take
// them for whole ones when the blobs are written again.
func (r *run) collect(ctx context.Context) error {
	service := r.Client.LeasesService()
	lease, err := service.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseExpiry))
	if err == nil {
		err = service.Delete(ctx, lease, leases.SynchronousDelete)
	}
	if err != nil {
		return fmt.Errorf("removing damaged blobs: %w", err)
	}
	return nil
}
