// Package imageimport brings admitted images from bundles into containerd's
// store. The store itself is the record of what is there: an image whose names,
// pins and blobs are present is not read from its bundle again, and only blobs
// that are missing are. It takes trust.Admitted, so nothing that was refused
// can get in, and the bytes are verified while they stream.
package imageimport

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
)

// Item is one image of a bundle, admitted.
type Item struct {
	Archive  *airgap.Archive
	Image    airgap.Image
	Admitted trust.Admitted
}

// Result counts what an import did.
type Result struct {
	Images  int   // names that were created or changed
	Present int   // images of which nothing had to be done
	Blobs   int   // blobs read from bundles
	Bytes   int64 // bytes read from bundles
}

// Add adds up what several imports did.
func (r *Result) Add(o Result) {
	r.Images += o.Images
	r.Present += o.Present
	r.Blobs += o.Blobs
	r.Bytes += o.Bytes
}

// Importer imports into one containerd. Its context must carry containerd's
// namespace (k8s.io for Kubernetes).
type Importer struct {
	Client *containerd.Client
	CRI    ImageLister
	// Blobs is the folder where that containerd keeps blobs by digest. With it, blobs whose
	// file is gone or cut short are found and read again, and a disk that is too small is
	// noticed before it is full. Empty: containerd's word is taken.
	Blobs string
	// Holder finds the archive that has a blob which a partial bundle lacks; nil if there
	// is none. The zero Importer looks nowhere else.
	Holder func(v1.Hash) (*airgap.Archive, error)
	// Registries that imported images get an additional name in.
	Registries  []string
	Snapshotter string // empty for containerd's default
	// Progress, if set, is told often how far an import is.
	Progress func(Progress)
	Log      *slog.Logger
}

// ImageLister is the one call of the CRI's image service that is needed.
type ImageLister interface {
	ImageStatus(ctx context.Context, in *runtimeapi.ImageStatusRequest, opts ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error)
}

// lease keeps blobs alive until their image has a name.
const leaseExpiry = 24 * time.Hour

// Import makes every item's image present, named, pinned and unpacked, and
// returns when the container runtime can start containers of it.
//
// An image that cannot be imported does not keep others from it: the error is then
// [Failures]. A disk with too little room ends the import with a [*SpaceError]; what is
// done by then stays, and another call goes on from there.
func (i *Importer) Import(ctx context.Context, items ...Item) (Result, error) {
	r := run{Importer: i}
	service := i.Client.LeasesService()
	lease, err := service.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseExpiry))
	if err != nil {
		return r.result, i.explain(fmt.Errorf("importing images: taking a lease: %w", err))
	}
	err = i.explain(r.all(leases.WithLease(ctx, lease.ID), lease, items))
	// Blobs that no image names now are garbage: after a failure they go at
	// once, so that nothing of a refused image stays.
	var options []leases.DeleteOpt
	if err != nil {
		options = append(options, leases.SynchronousDelete)
	}
	if released := service.Delete(context.WithoutCancel(ctx), lease, options...); released != nil && err == nil {
		i.Log.Warn("a lease on imported blobs stays until it expires", "lease", lease.ID, "error", released)
	}
	return r.result, err
}

// run is one import.
type run struct {
	*Importer
	have     view
	result   Result
	failures Failures
	progress tracker
}

func (r *run) all(ctx context.Context, lease leases.Lease, items []Item) error {
	for _, item := range items {
		if !item.Admitted.Valid() || item.Admitted.Digest() != item.Image.Desc.Digest {
			return fmt.Errorf("importing %v: the image was not verified", item.Image.Names())
		}
	}
	var err error
	if r.have, err = r.look(ctx); err != nil {
		return err
	}
	todo, err := r.todo(ctx, items)
	if err != nil {
		return err
	}
	if len(todo) > 0 {
		if err := r.hold(ctx, lease, todo); err != nil {
			return err
		}
		r.progress = r.track(todo)
	}
	for _, unit := range units(todo) {
		if err := r.unit(ctx, unit); err != nil {
			return err
		}
	}
	if len(r.failures) > 0 {
		return r.failures
	}
	return nil
}

// wanted is an item with the blobs that it is made of.
type wanted struct {
	Item
	manifest v1.Descriptor
	rest     []v1.Descriptor // configuration and layers
}

func (w wanted) blobs() []v1.Descriptor { return append([]v1.Descriptor{w.manifest}, w.rest...) }

// todo are the items of which something is left to do.
func (r *run) todo(ctx context.Context, items []Item) ([]wanted, error) {
	var todo []wanted
	for _, item := range items {
		manifest, _, err := item.Archive.Manifest(item.Image.Desc.Digest)
		if err != nil {
			r.fail(item, err)
			continue
		}
		w := wanted{item, item.Image.Desc, append([]v1.Descriptor{manifest.Config}, manifest.Layers...)}
		present, err := r.present(ctx, w)
		if err != nil {
			return nil, fmt.Errorf("importing %s: %w", item.Admitted.Name(), err)
		}
		if present {
			r.result.Present++
			continue
		}
		todo = append(todo, w)
	}
	return todo, nil
}

// units are the items that are read in one pass: those of a compressed bundle together,
// because a pass reads it to its end; others one by one, so that each can be used as soon
// as it is there.
func units(todo []wanted) [][]wanted {
	var out [][]wanted
	index := map[*airgap.Archive]int{}
	for _, w := range todo {
		if at, ok := index[w.Archive]; ok {
			out[at] = append(out[at], w)
			continue
		}
		if w.Archive.Compression() != "none" {
			index[w.Archive] = len(out)
		}
		out = append(out, []wanted{w})
	}
	return out
}

// unit imports some items. Only what concerns all others too is an error.
func (r *run) unit(ctx context.Context, unit []wanted) error {
	if err := r.fetch(ctx, unit); err != nil {
		if general(ctx, err) {
			return err
		}
		if len(unit) > 1 { // one of them is at fault
			for _, w := range unit {
				if err := r.unit(ctx, []wanted{w}); err != nil {
					return err
				}
			}
			return nil
		}
		r.fail(unit[0].Item, err)
		return nil
	}
	for _, w := range unit {
		changed, err := r.name(ctx, w)
		r.result.Images += changed
		if err != nil {
			err = fmt.Errorf("importing %s: %w", w.Admitted.Name(), err)
			if general(ctx, err) {
				return err
			}
			r.fail(w.Item, err)
		}
	}
	return nil
}

// fetch reads what is missing of some items. Manifests come last: whoever finds one in
// the store finds what it lists.
func (r *run) fetch(ctx context.Context, unit []wanted) error {
	content, manifests := map[v1.Hash]blob{}, map[v1.Hash]blob{}
	for _, w := range unit {
		for _, desc := range w.rest {
			if !r.have.blob(desc) {
				content[desc.Digest] = blob{descriptor(desc), w.Admitted}
			}
		}
		if !r.have.blob(w.manifest) {
			manifests[w.manifest.Digest] = blob{descriptor(w.manifest), w.Admitted}
		}
	}
	if err := r.room(content); err != nil {
		return err
	}
	for _, blobs := range []map[v1.Hash]blob{content, manifests} {
		sources, err := r.spread(unit[0].Archive, blobs)
		if err != nil {
			return err
		}
		for _, source := range sources {
			if err := r.read(ctx, source.archive, source.blobs); err != nil {
				return err
			}
		}
	}
	return nil
}
