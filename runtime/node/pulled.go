package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
)

// AskPeers says that the other nodes are asked for images that no bundle here has, also
// offline: that no registry is asked is then the engine's affair. To be called before Import.
func (c *Content) AskPeers() { c.config.Offline = false }

// Registries are those that the bundles' images are named after, and docker.io.
func (c *Content) Registries() []string {
	hosts := map[string]bool{"docker.io": true}
	for _, file := range c.folder.Files {
		if file.Archive == nil {
			continue
		}
		for _, image := range file.Archive.Images() {
			for _, name := range image.Names() {
				if host, _, named := strings.Cut(name, "/"); named {
					hosts[host] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(hosts))
}

// AdmitPull decides about an image that containerd is about to pull, from a registry or
// from another node, under a reference that has resolved to a digest: it says on what
// grounds it is let in, or fails. No signature can be had from there, so what must be
// verified is let in only by a digest that the release names.
func AdmitPull(c config.Config, reference, digest string) (grounds string, err error) {
	policy, err := newPolicy(c)
	if err != nil {
		return "", err
	}
	h, err := v1.NewHash(digest)
	if err != nil {
		return "", fmt.Errorf("%s: %w", reference, err)
	}
	ref, err := name.ParseReference(reference)
	if err != nil {
		return "", fmt.Errorf("%s: %w", reference, err)
	}
	if released(c, ref.Context(), digest) {
		return "the release names its digest", nil
	}
	var admitted trust.Admitted
	switch ref := ref.(type) {
	case name.Tag:
		admitted, err = policy.Admit(ref, h, nil)
	case name.Digest:
		admitted, err = policy.AdmitDigest(ref, h, nil, trust.Index{})
	}
	if err != nil {
		return "", fmt.Errorf("%w: what is pulled carries no signature that is read: bring the image to this node in a bundle", err)
	}
	return admitted.By(), nil
}

// released tells whether a digest is one that the release gives an image of a repository,
// whichever registry it comes from.
func released(c config.Config, repository name.Repository, digest string) bool {
	for _, image := range c.Release.Images {
		ref, err := name.ParseReference(image.Reference)
		if err == nil && ref.Context().RepositoryStr() == repository.RepositoryStr() &&
			digest != "" && (image.Digest() == digest || image.Index == digest) {
			return true
		}
	}
	return false
}
