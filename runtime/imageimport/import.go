// Package imageimport brings admitted images from bundles into containerd's
// store. The store itself is the record of what is there: an image whose name,
// pins and blobs are present is not read from its bundle again, and only blobs
// that are missing are. It takes trust.Admitted, so nothing that was refused
// can get in, and the bytes are verified while they stream.
package imageimport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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

func (r *Result) add(o Result) {
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
	// Holder finds the archive that has a blob which a partial bundle lacks; nil if there
	// is none. The zero Importer looks nowhere else.
	Holder func(v1.Hash) (*airgap.Archive, error)
	// Registries that imported images get an additional name in.
	Registries  []string
	Snapshotter string // empty for containerd's default
	Log         *slog.Logger
}

// ImageLister is the one call of the CRI's image service that is needed.
type ImageLister interface {
	ImageStatus(ctx context.Context, in *runtimeapi.ImageStatusRequest, opts ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error)
}

// lease keeps blobs alive until their image has a name.
const leaseExpiry = 24 * time.Hour

// Import makes every item's image present, named, pinned and unpacked, and
// returns when the container runtime can start containers of it. Items of one
// bundle are read in one pass.
func (i *Importer) Import(ctx context.Context, items ...Item) (Result, error) {
	var total Result
	service := i.Client.LeasesService()
	lease, err := service.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseExpiry))
	if err != nil {
		return total, fmt.Errorf("importing images: taking a lease: %w", err)
	}
	leased := leases.WithLease(ctx, lease.ID)
	for _, group := range byArchive(items) {
		var result Result
		result, err = i.fromArchive(leased, group)
		total.add(result)
		if err != nil {
			break
		}
	}
	// Blobs that no image names now are garbage: after a failure they go at
	// once, so that nothing of a refused image stays.
	var options []leases.DeleteOpt
	if err != nil {
		options = append(options, leases.SynchronousDelete)
	}
	if released := service.Delete(context.WithoutCancel(ctx), lease, options...); released != nil && err == nil {
		i.Log.Warn("a lease on imported blobs stays until it expires", "lease", lease.ID, "error", released)
	}
	return total, err
}

func byArchive(items []Item) [][]Item {
	var groups [][]Item
	index := map[*airgap.Archive]int{}
	for _, item := range items {
		at, ok := index[item.Archive]
		if !ok {
			at = len(groups)
			index[item.Archive] = at
			groups = append(groups, nil)
		}
		groups[at] = append(groups[at], item)
	}
	return groups
}

func (i *Importer) fromArchive(ctx context.Context, items []Item) (Result, error) {
	var result Result
	missing := needed{content: map[v1.Hash]blob{}, manifests: map[v1.Hash]blob{}}
	var todo []Item
	for _, item := range items {
		if !item.Admitted.Valid() || item.Admitted.Digest() != item.Image.Desc.Digest {
			return result, fmt.Errorf("importing %v: the image was not verified", item.Image.Names())
		}
		present, err := i.present(ctx, item)
		if err != nil {
			return result, fmt.Errorf("importing %s: %w", item.Admitted.Name(), err)
		}
		if present {
			result.Present++
			continue
		}
		todo = append(todo, item)
		if err := i.missing(ctx, item, missing); err != nil {
			return result, fmt.Errorf("importing %s: %w", item.Admitted.Name(), err)
		}
	}
	// Manifests last: whoever finds one in the store finds what it lists.
	for _, blobs := range []map[v1.Hash]blob{missing.content, missing.manifests} {
		sources, err := i.spread(items[0].Archive, blobs)
		if err != nil {
			return result, err
		}
		for _, source := range sources {
			if err := i.read(ctx, source.archive, source.blobs, &result); err != nil {
				return result, err
			}
		}
	}
	for _, item := range todo {
		changed, err := i.name(ctx, item)
		if err != nil {
			return result, fmt.Errorf("importing %s: %w", item.Admitted.Name(), err)
		}
		result.Images += changed
	}
	return result, nil
}

// read copies blobs from an archive into containerd, in one pass.
func (i *Importer) read(ctx context.Context, archive *airgap.Archive, blobs map[v1.Hash]blob, result *Result) error {
	if len(blobs) == 0 {
		return nil
	}
	want := func(h v1.Hash) bool { _, ok := blobs[h]; return ok }
	err := archive.Walk(ctx, want, func(desc v1.Descriptor, r io.Reader) error {
		b := blobs[desc.Digest]
		if err := i.write(ctx, b, r); err != nil {
			return fmt.Errorf("importing %s: %w", b.of.Name(), err)
		}
		result.Blobs++
		result.Bytes += b.desc.Size
		delete(blobs, desc.Digest)
		return nil
	})
	if err != nil {
		return err
	}
	for h, b := range blobs {
		return fmt.Errorf("importing %s: its blob %s is not in %s", b.of.Name(), h, archive.Path())
	}
	return nil
}

// needed are the blobs that containerd does not have yet.
type needed struct {
	content, manifests map[v1.Hash]blob
}

// blob is one that containerd does not have yet.
type blob struct {
	desc ocispec.Descriptor
	of   trust.Admitted
}

// present tells whether nothing is left to do for an item.
func (i *Importer) present(ctx context.Context, item Item) (bool, error) {
	for _, name := range i.names(item) {
		image, err := i.Client.ImageService().Get(ctx, name)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if image.Target.Digest.String() != item.Image.Desc.Digest.String() || !pinned(image) {
			return false, nil
		}
	}
	available, _, _, missing, err := images.Check(ctx, i.Client.ContentStore(), descriptor(item.Image.Desc), platforms.All)
	if err != nil {
		return false, err
	}
	return available && len(missing) == 0, nil
}

// missing adds the blobs of an item that containerd lacks.
func (i *Importer) missing(ctx context.Context, item Item, into needed) error {
	manifest, _, err := item.Archive.Manifest(item.Image.Desc.Digest)
	if err != nil {
		return err
	}
	descs := append([]v1.Descriptor{item.Image.Desc, manifest.Config}, manifest.Layers...)
	for _, desc := range descs {
		_, err := i.Client.ContentStore().Info(ctx, digest.Digest(desc.Digest.String()))
		if err == nil {
			continue
		}
		if !errdefs.IsNotFound(err) {
			return err
		}
		kind := into.content
		if desc.Digest == item.Image.Desc.Digest {
			kind = into.manifests
		}
		kind[desc.Digest] = blob{desc: descriptor(desc), of: item.Admitted}
	}
	return nil
}

// write streams one blob into the content store, which checks size and digest.
// An ingest that a killed run left is resumed from its offset; one that failed
// is thrown away.
func (i *Importer) write(ctx context.Context, b blob, r io.Reader) error {
	store := i.Client.ContentStore()
	repository := b.of.Repository()
	registry, _, _ := strings.Cut(b.of.Name(), "/")
	labels := map[string]string{
		// who serves this blob, for the embedded registry mirror
		"containerd.io/distribution.source." + registry: repository.RepositoryStr(),
	}
	ref := "rke2-import-" + b.desc.Digest.String()
	if err := content.WriteBlob(ctx, store, ref, r, b.desc, content.WithLabels(labels)); err != nil {
		// What was written may be what is wrong: it must not be resumed.
		if aborted := store.Abort(context.WithoutCancel(ctx), ref); aborted != nil && !errdefs.IsNotFound(aborted) {
			err = errors.Join(err, aborted)
		}
		return fmt.Errorf("writing blob %s: %w", b.desc.Digest, err)
	}
	return nil
}

// name protects the blobs from garbage collection, unpacks the layers, and
// creates the image's names, pinned.
func (i *Importer) name(ctx context.Context, item Item) (int, error) {
	store := i.Client.ContentStore()
	target := descriptor(item.Image.Desc)
	handler := images.SetChildrenLabels(store, images.ChildrenHandler(store))
	if err := images.WalkNotEmpty(ctx, handler, target); err != nil {
		return 0, fmt.Errorf("labelling its blobs: %w", err)
	}
	changed := 0
	for n, name := range i.names(item) {
		image := images.Image{Name: name, Target: target, Labels: pins()}
		created, err := i.put(ctx, image)
		if err != nil {
			return changed, fmt.Errorf("naming it %s: %w", name, err)
		}
		if created {
			changed++
		}
		if n == 0 {
			unpack := containerd.NewImage(i.Client, image)
			if err := unpack.Unpack(ctx, i.Snapshotter); err != nil {
				return changed, fmt.Errorf("unpacking it: %w", err)
			}
		}
	}
	return changed, i.awaitCRI(ctx, item)
}

// put creates or corrects an image record.
func (i *Importer) put(ctx context.Context, image images.Image) (bool, error) {
	service := i.Client.ImageService()
	have, err := service.Get(ctx, image.Name)
	if err == nil {
		if have.Target.Digest == image.Target.Digest && pinned(have) {
			return false, nil
		}
		for k, v := range have.Labels {
			if _, ours := image.Labels[k]; !ours {
				image.Labels[k] = v
			}
		}
		_, err = service.Update(ctx, image)
		return true, err
	}
	if !errdefs.IsNotFound(err) {
		return false, err
	}
	_, err = service.Create(ctx, image)
	return true, err
}

// awaitCRI returns when the CRI plugin knows the image. It learns of new
// images from events; until then the kubelet would try to pull.
func (i *Importer) awaitCRI(ctx context.Context, item Item) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		status, err := i.CRI.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{
			Image: &runtimeapi.ImageSpec{Image: item.Admitted.Name()},
		})
		if err == nil && status.Image != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the container runtime does not list it 30 s after it was imported"), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// names are all names that the item's image gets, its bundle's own name first.
func (i *Importer) names(item Item) []string {
	var out []string
	add := func(s string) {
		for _, have := range out {
			if have == s {
				return
			}
		}
		out = append(out, s)
	}
	ref, own := item.Admitted.Ref(), item.Admitted.Name()
	manifest := "@" + item.Image.Desc.Digest.String()
	add(own)
	for _, other := range item.Image.Names() {
		add(other)
	}
	// What comes after the repository in the names: the tag, and digests.
	repository := strings.TrimSuffix(own, ":"+ref.TagStr())
	if ref.TagStr() == "" {
		repository, _, _ = strings.Cut(own, "@")
	}
	add(repository + manifest)
	for _, registry := range i.Registries {
		moved := registry + "/" + item.Admitted.Repository().RepositoryStr()
		add(moved + strings.TrimPrefix(own, repository))
		add(moved + manifest)
	}
	return out
}

func descriptor(d v1.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: string(d.MediaType),
		Digest:    digest.Digest(d.Digest.String()),
		Size:      d.Size,
	}
}
