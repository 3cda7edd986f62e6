package imageimport

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
)

// Held is an image of containerd that an import of bundles pinned, or that somebody
// else brought.
type Held struct {
	Name   string
	Digest digest.Digest
	Pinned bool
	Whole  bool // every blob is there
}

// Held lists containerd's images by name.
func (i *Importer) Held(ctx context.Context) (map[string]Held, error) {
	have, err := i.look(ctx)
	if err != nil {
		return nil, err
	}
	return have.held(ctx, i.Client.ContentStore())
}

func (v view) held(ctx context.Context, store content.Provider) (map[string]Held, error) {
	out := map[string]Held{}
	wholes := map[digest.Digest]bool{}
	for name, image := range v.images {
		target := image.Target
		whole, known := wholes[target.Digest]
		if !known {
			_, required, _, missing, err := images.Check(ctx, store, target, platforms.Default())
			whole = err == nil && len(missing) == 0 && len(required) > 0
			for _, desc := range append(required, target) {
				h, ok := hashOf(desc.Digest)
				whole = whole && ok && v.file(h, desc.Size)
			}
			wholes[target.Digest] = whole
		}
		out[name] = Held{Name: name, Digest: target.Digest, Pinned: image.Labels[criPinned] == pinValue, Whole: whole}
	}
	return out, nil
}
