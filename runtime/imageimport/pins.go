package imageimport

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// Labels that keep the kubelet's image garbage collection away: CRI's own, and
// one that says the pin is ours, so that it can be taken back.
const (
	criPinned = "io.cri-containerd.pinned"
	ownPinned = "io.cattle.rke2.pinned"
	pinValue  = "pinned"
)

func pins() map[string]string {
	return map[string]string{criPinned: pinValue, ownPinned: pinValue}
}

func pinned(image images.Image) bool {
	return image.Labels[criPinned] == pinValue && image.Labels[ownPinned] == pinValue
}

// Keep is what stays pinned.
type Keep struct {
	Items   []Item
	Names   []string // images that have one of these names, under all their names
	Sources []string // of legacy docker-archives, see [Source]
}

// Unpin takes back the pins of images that are not to be kept any more, so that
// images of bundles which an operator removed can be collected. It returns their names.
func (i *Importer) Unpin(ctx context.Context, keep Keep) ([]string, error) {
	names, sources := map[string]bool{}, map[string]bool{}
	for _, item := range keep.Items {
		for _, name := range i.Names(item) {
			names[name] = true
		}
	}
	for _, source := range keep.Sources {
		sources[source] = true
	}
	service := i.Client.ImageService()
	ours, err := service.List(ctx, fmt.Sprintf("labels.%q==%s", ownPinned, pinValue))
	if err != nil {
		return nil, fmt.Errorf("listing pinned images: %w", err)
	}
	digests := map[digest.Digest]bool{}
	for _, image := range ours {
		if slices.Contains(keep.Names, image.Name) {
			digests[image.Target.Digest] = true
		}
	}
	var taken []string
	for _, image := range ours {
		if names[image.Name] || digests[image.Target.Digest] || sources[image.Labels[sourceLabel]] {
			continue
		}
		delete(image.Labels, ownPinned)
		delete(image.Labels, criPinned)
		delete(image.Labels, sourceLabel)
		if _, err := service.Update(ctx, image, "labels"); err != nil {
			return taken, fmt.Errorf("unpinning %s: %w", image.Name, err)
		}
		taken = append(taken, image.Name)
	}
	slices.Sort(taken)
	return taken, nil
}

// Pin pins an image that containerd has under one name as what another name means, and
// gives it the names and labels of one of a bundle. The caller's policy must have let its
// digest in.
func (i *Importer) Pin(ctx context.Context, ref, as name.Reference) error {
	image, err := i.Client.ImageService().Get(ctx, as.String())
	if err != nil {
		return fmt.Errorf("pinning %s: %w", ref, err)
	}
	registry, _, _ := strings.Cut(ref.String(), "/")
	if err := i.labelAll(ctx, image.Target, registry, ref.Context().RepositoryStr()); err != nil {
		return fmt.Errorf("pinning %s: labelling its blobs: %w", ref, err)
	}
	for _, name := range i.Called(ref, image.Target.Digest.String()) {
		if _, err := i.put(ctx, images.Image{Name: name, Target: image.Target, Labels: pins()}); err != nil {
			return fmt.Errorf("pinning %s: %w", name, err)
		}
	}
	return nil
}

// Called are all the names that an image gets which is called ref and has a manifest.
func (i *Importer) Called(ref name.Reference, manifest string) []string {
	full := ref.String()
	suffix := ":" + ref.Identifier()
	if _, byDigest := ref.(name.Digest); byDigest {
		suffix = "@" + ref.Identifier()
	}
	path := ref.Context().RepositoryStr()
	return append([]string{full}, i.alsoCalled(strings.TrimSuffix(full, suffix), path, suffix, manifest)...)
}
