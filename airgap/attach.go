package airgap

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// attach takes what is attached to the chosen images and artifacts. What is attached to
// the image index that a manifest was found in comes along, index and all, where the
// source says so by [AnnotationIndex]; else only where the manifest itself has no
// signature: the index's then is the one there is.
func (p *planner) attach(idx *v1.IndexManifest) error {
	bySubject := map[v1.Hash][]v1.Descriptor{}
	for _, d := range idx.Manifests {
		if !isAttachment(d.Annotations[AnnotationKind]) {
			continue
		}
		subject, err := v1.NewHash(d.Annotations[AnnotationSigns])
		if err != nil {
			return fmt.Errorf("manifest %s in the layout's index does not say what it signs (%s): %w", d.Digest, AnnotationSigns, err)
		}
		bySubject[subject] = append(bySubject[subject], d)
	}
	if err := p.settleIndexes(bySubject); err != nil {
		return err
	}
	subjects := map[v1.Hash]bool{}
	for _, c := range p.chosen {
		subjects[c.desc.Digest] = true
		if c.keep {
			subjects[c.index.Digest] = true
			p.blobs[c.index.Digest] = bare(c.index)
		}
	}
	for _, a := range p.artifacts {
		subjects[a.Desc.Digest] = true
	}
	seen := map[string]bool{}
	for subject := range subjects {
		for _, d := range bySubject[subject] {
			kind := d.Annotations[AnnotationKind]
			if key := kind + subject.Hex + d.Digest.Hex; seen[key] {
				continue
			} else {
				seen[key] = true
			}
			if err := p.attachOne(d, kind, subject); err != nil {
				return err
			}
		}
	}
	return nil
}

func isAttachment(kind string) bool {
	return kind == KindSignatures || kind == KindAttestations || kind == KindReferrer
}

func hasSignature(attached []v1.Descriptor) bool {
	return slices.ContainsFunc(attached, func(d v1.Descriptor) bool { return d.Annotations[AnnotationKind] == KindSignatures })
}

func (p *planner) attachOne(d v1.Descriptor, kind string, subject v1.Hash) error {
	m, err := p.manifest(d)
	if err != nil {
		return fmt.Errorf("signatures of %s: %w", subject, err)
	}
	if err := p.take(d, m); err != nil {
		return fmt.Errorf("signatures of %s: %w", subject, err)
	}
	out := bare(d)
	out.Platform = nil
	out.Annotations = map[string]string{AnnotationKind: kind, AnnotationSigns: subject.String()}
	p.attached = append(p.attached, out)
	return nil
}

// settleIndexes decides which image indexes go into the bundle: one at most for each
// manifest, whatever names it has.
func (p *planner) settleIndexes(bySubject map[v1.Hash][]v1.Descriptor) error {
	one := map[v1.Hash]*chosen{} // by manifest: the name whose index it is
	for _, c := range p.chosen {
		if c.index.Digest.Hex == "" {
			continue
		}
		signed := bySubject[c.index.Digest]
		if !c.said {
			c.keep = hasSignature(signed) && !hasSignature(bySubject[c.desc.Digest])
		} else {
			c.keep = c.keep || len(signed) > 0
		}
		if !c.keep {
			continue
		}
		other, ok := one[c.desc.Digest]
		switch {
		case !ok:
			one[c.desc.Digest] = c
		case other.index.Digest == c.index.Digest:
		case other.fixed() && c.fixed():
			return fmt.Errorf("%s and %s are the same manifest in different image indexes, each named by its digest: bundle them apart", other.ref, c.ref)
		case c.fixed() || !other.fixed() && c.index.Digest.Hex < other.index.Digest.Hex:
			one[c.desc.Digest] = c
		}
	}
	for _, c := range p.chosen {
		if settled, ok := one[c.desc.Digest]; ok {
			c.index, c.keep = settled.index, true
		}
	}
	return nil
}

// fixed tells whether the image is named by its index's digest.
func (c *chosen) fixed() bool {
	_, dig, err := parseName(c.ref)
	return err == nil && dig != nil && dig.DigestStr() == c.index.Digest.String()
}

// unsigned finds the images without a signature on their manifest or on the index that
// they were in.
func (p *planner) unsigned() error {
	signed := map[string]bool{}
	for _, d := range p.attached {
		if d.Annotations[AnnotationKind] == KindSignatures {
			signed[d.Annotations[AnnotationSigns]] = true
		}
	}
	for _, c := range p.chosen {
		if signed[c.desc.Digest.String()] || c.keep && signed[c.index.Digest.String()] {
			continue
		}
		p.bare = append(p.bare, c.ref)
		if !p.sel.AllowUnsigned || p.sel.SignedOnly[c.ref] {
			return fmt.Errorf("image %s (%s) has no signature, and nodes would refuse it: sign the layout first", c.ref, c.desc.Digest)
		}
	}
	return nil
}

// descriptor is how the bundle's index lists the image.
func (c *chosen) descriptor() v1.Descriptor {
	d := c.desc
	d.Platform = c.platform
	d.Annotations = map[string]string{AnnotationKind: KindImage, AnnotationImageName: c.ref, AnnotationRefName: c.ref}
	if len(c.sets) > 0 {
		d.Annotations[AnnotationSets] = strings.Join(c.sets, ",")
	}
	if c.keep {
		d.Annotations[AnnotationIndex] = c.index.Digest.String()
	}
	return d
}

// descriptor is how the bundle's index lists the artifact.
func (a Artifact) descriptor() v1.Descriptor {
	d := bare(a.Desc)
	d.Platform = nil
	d.Annotations = map[string]string{AnnotationKind: a.Kind, AnnotationRefName: a.Ref}
	if len(a.Sets) > 0 {
		d.Annotations[AnnotationSets] = strings.Join(a.Sets, ",")
	}
	return d
}
