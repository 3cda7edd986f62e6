package imageimport

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/rancher/rke2/airgap"
)

// AbsentError says that a blob of an image is in no bundle and not in containerd.
type AbsentError struct {
	Image string
	Part  string // of the image, as "layer 2 of 5"
	Blob  v1.Hash
	Size  int64
}

func (e *AbsentError) Error() string {
	return fmt.Sprintf("%s of %s (%s, %d bytes) is in no bundle and not in containerd", e.Part, e.Image, e.Blob, e.Size)
}

// Check tells whether all that an item's image needs can be had: from the bundle that it
// is in, from another, or from containerd, which may have it from an earlier image. If not,
// it is an [*AbsentError]. It reads no layer.
func (i *Importer) Check(ctx context.Context, item Item) error {
	return Lacking(item, func(layer v1.Descriptor) (bool, error) {
		_, err := i.Client.ContentStore().Info(ctx, digest.Digest(layer.Digest.String()))
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	}, i.elsewhere)
}

// Lacking is an [*AbsentError] for the first layer that an item's bundle says that it lacks,
// and that is neither stored by containerd nor held by another bundle.
func Lacking(item Item, stored func(v1.Descriptor) (bool, error), holder func(v1.Hash) (*airgap.Archive, error)) error {
	absent, err := item.Archive.Absent()
	if err != nil || len(absent) == 0 {
		return err
	}
	manifest, _, err := item.Archive.Manifest(item.Image.Desc.Digest)
	if err != nil {
		return err
	}
	for n, layer := range manifest.Layers {
		if _, lacks := absent[layer.Digest]; !lacks {
			continue
		}
		there, err := stored(layer)
		if err != nil {
			return err
		}
		if there {
			continue
		}
		if archive, unreadable := holder(layer.Digest); archive == nil {
			return errors.Join(&AbsentError{
				Image: item.Admitted.Name(), Part: fmt.Sprintf("layer %d of %d", n+1, len(manifest.Layers)),
				Blob: layer.Digest, Size: layer.Size,
			}, unreadable)
		}
	}
	return nil
}

func (i *Importer) elsewhere(h v1.Hash) (*airgap.Archive, error) {
	if i.Holder == nil {
		return nil, nil
	}
	return i.Holder(h)
}

// from is what is read of one archive.
type from struct {
	archive *airgap.Archive
	blobs   map[v1.Hash]blob
}

// spread decides which archive each blob is read from: the image's own, if it has it.
func (i *Importer) spread(own *airgap.Archive, blobs map[v1.Hash]blob) ([]from, error) {
	out := []from{{own, map[v1.Hash]blob{}}}
	index := map[*airgap.Archive]int{own: 0}
	for h, b := range blobs {
		archive := own
		if has, err := own.Has(h); err != nil {
			return nil, fmt.Errorf("importing %s: %w", b.of.Name(), err)
		} else if !has {
			var unreadable error
			if archive, unreadable = i.elsewhere(h); archive == nil {
				absent := &AbsentError{Image: b.of.Name(), Part: "a part", Blob: h, Size: b.desc.Size}
				return nil, fmt.Errorf("importing %s: %w", b.of.Name(), errors.Join(absent, unreadable))
			}
		}
		at, ok := index[archive]
		if !ok {
			at = len(out)
			index[archive] = at
			out = append(out, from{archive, map[v1.Hash]blob{}})
		}
		out[at].blobs[h] = b
	}
	return out, nil
}
