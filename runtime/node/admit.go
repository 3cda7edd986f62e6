package node

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/imageimport"
	"github.com/rancher/rke2/runtime/scan"
)

// offered is one name of an image in one bundle.
type offered struct {
	archive *airgap.Archive
	name    string
}

// verdict is what the policy said of it.
type verdict struct {
	admitted trust.Admitted
	err      error
}

// admit asks the policy about every image of every bundle. Refused ones are
// logged, once, and left out.
func (c *Content) admit() (items []imageimport.Item, refused map[string]error) {
	refused = map[string]error{}
	seen := map[string]bool{}
	for _, file := range c.folder.Files {
		if file.Archive == nil || file.Archive.Format() == airgap.FormatDockerArchive {
			continue
		}
		for _, image := range file.Archive.Images() {
			if p := image.Platform; p != nil && (p.OS != "linux" || p.Architecture != goarch) {
				continue
			}
			for _, named := range alone(image) {
				name := named.Names()[0]
				if seen[name] {
					continue // the first bundle that has it
				}
				v := c.judge(file, named)
				if v.err != nil {
					refused[name] = v.err
					continue
				}
				seen[name] = true
				items = append(items, imageimport.Item{Archive: file.Archive, Image: named, Admitted: v.admitted})
			}
		}
	}
	for name := range refused {
		if seen[name] {
			delete(refused, name) // another bundle has a good one
		}
	}
	return items, refused
}

// judge asks the policy about an image with one name, and remembers what it said: as long
// as a bundle is open, it is the same.
func (c *Content) judge(file scan.File, image airgap.Image) verdict {
	key := offered{file.Archive, image.Names()[0]}
	if v, known := c.verdicts[key]; known {
		return v
	}
	var v verdict
	v.admitted, v.err = admit(c.policy, file.Archive, image)
	if v.err != nil {
		c.log.Error("an image is refused and not imported", "image", key.name, "file", file.Path, "error", v.err)
	}
	if c.verdicts == nil {
		c.verdicts = map[offered]verdict{}
	}
	c.verdicts[key] = v
	return v
}

// forget drops what is remembered of bundles that are closed.
func (c *Content) forget() {
	open := map[*airgap.Archive]bool{}
	for _, file := range c.folder.Files {
		open[file.Archive] = true
	}
	for key := range c.verdicts {
		if !open[key.archive] {
			delete(c.verdicts, key)
		}
	}
	// What failed may have failed for what has changed.
	c.broken = nil
}

// alone is an image under each of its names, tags and digests.
func alone(image airgap.Image) []airgap.Image {
	var out []airgap.Image
	tags, digests := image.Refs, image.Digests
	for _, tag := range tags {
		image.Refs, image.Digests = []name.Tag{tag}, nil
		out = append(out, image)
	}
	for _, digest := range digests {
		image.Refs, image.Digests = nil, []name.Digest{digest}
		out = append(out, image)
	}
	return out
}

// admit asks a policy about an image of a bundle under the first of its names: with the
// signatures of its manifest, and of the image index that it was taken out of.
func admit(policy trust.Policy, archive *airgap.Archive, image airgap.Image) (trust.Admitted, error) {
	signatures, err := archive.Signatures(image.Desc.Digest)
	if err != nil {
		return trust.Admitted{}, err
	}
	of, err := archive.IndexOf(image)
	if err != nil {
		return trust.Admitted{}, err
	}
	if len(image.Refs) > 0 {
		return policy.AdmitOf(image.Refs[0], image.Desc.Digest, signatures, of)
	}
	return policy.AdmitDigest(image.Digests[0], image.Desc.Digest, signatures, of)
}

// available leaves out images of which a layer is nowhere, because a part or a base is
// missing: nothing of them is imported. They are logged and added to the refused.
func (c *Content) available(ctx context.Context, importer *imageimport.Importer, items []imageimport.Item, refused map[string]error) []imageimport.Item {
	var out []imageimport.Item
	for _, item := range items {
		err := importer.Check(ctx, item)
		if err == nil {
			out = append(out, item)
			continue
		}
		if missing := c.folder.Missing(item.Archive); missing != nil {
			err = fmt.Errorf("%w: %w: copy what is missing into %s", err, missing, c.folder.Dir)
		}
		ref := item.Admitted.Name()
		refused[ref] = err
		if key := (offered{item.Archive, ref}); c.broken[key] == nil {
			c.log.Error("an image is not complete and not imported", "image", ref, "file", item.Archive.Path(), "error", err)
			c.fails(key, err)
		}
	}
	return out
}

// fails remembers that an image of a bundle cannot be imported as things are.
func (c *Content) fails(key offered, err error) {
	if c.broken == nil {
		c.broken = map[offered]error{}
	}
	c.broken[key] = err
}

// unverifiable tells whether the policy lets images in that cannot carry a
// signature: every one of them must be admitted without.
func (c *Content) unverifiable(file scan.File) error {
	for _, image := range file.Archive.Images() {
		for _, ref := range image.Refs {
			if c.policy.Required(ref) {
				return fmt.Errorf("%s must carry a trusted signature, which a legacy docker-archive cannot: save it as an OCI archive, with its signature", ref)
			}
		}
	}
	return nil
}
