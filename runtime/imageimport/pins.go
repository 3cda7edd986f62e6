package imageimport

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
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

// Unpin takes back the pins of images that none of the items names any more,
// so that images of bundles which an operator removed can be collected.
func (i *Importer) Unpin(ctx context.Context, items []Item) (int, error) {
	keep := map[string]bool{}
	for _, item := range items {
		for _, name := range i.names(item) {
			keep[name] = true
		}
	}
	service := i.Client.ImageService()
	ours, err := service.List(ctx, fmt.Sprintf("labels.%q==%s", ownPinned, pinValue))
	if err != nil {
		return 0, fmt.Errorf("listing pinned images: %w", err)
	}
	taken := 0
	for _, image := range ours {
		if keep[image.Name] || image.Labels[sourceLabel] != "" {
			continue
		}
		delete(image.Labels, ownPinned)
		delete(image.Labels, criPinned)
		if _, err := service.Update(ctx, image, "labels"); err != nil {
			return taken, fmt.Errorf("unpinning %s: %w", image.Name, err)
		}
		taken++
	}
	return taken, nil
}
