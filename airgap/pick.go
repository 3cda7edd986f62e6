package airgap

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// planner chooses what goes into a bundle, and reads the manifests of it.
type planner struct {
	src       Source
	sel       Selection
	chosen    []*chosen            // images, one for each name
	artifacts map[string]*Artifact // by kind and reference
	attached  []v1.Descriptor
	manifests map[v1.Hash]*v1.Manifest
	blobs     map[v1.Hash]v1.Descriptor
	sets      map[string]bool // that the source has
	bare      []string        // names of images without a signature
}

// chosen is an image under one of its names.
type chosen struct {
	ref      string
	desc     v1.Descriptor // of the manifest
	platform *v1.Platform
	sets     []string
	index    v1.Descriptor // that the manifest was found in; may be zero
	// said is true where the source itself wants what is attached to the index.
	said bool
	// keep is true where the index goes into the bundle.
	keep bool
}

func (p *planner) pick(idx *v1.IndexManifest) error {
	byRef := map[string]*chosen{}
	p.sets, p.artifacts = map[string]bool{}, map[string]*Artifact{}
	for _, d := range idx.Manifests {
		kind := d.Annotations[AnnotationKind]
		if kind != KindImage && !isArtifact(kind) || !p.wants(d) {
			continue
		}
		if kind != KindImage {
			if err := p.artifact(d); err != nil {
				return err
			}
			continue
		}
		c, err := p.image(d)
		if err != nil {
			return err
		}
		if c == nil {
			continue
		}
		if other, twice := byRef[c.ref]; !twice {
			byRef[c.ref] = c
			p.chosen = append(p.chosen, c)
		} else if err := other.merge(c); err != nil {
			return err
		}
	}
	if len(p.chosen)+len(p.artifacts) == 0 {
		return fmt.Errorf("no image of set %s for %s: the layout has the sets %q", orAny(p.sel.Sets), p.sel.Platform, sortedKeys(p.sets))
	}
	if err := p.attach(idx); err != nil {
		return err
	}
	return p.unsigned()
}

// wants tells whether a descriptor is of a wanted set.
func (p *planner) wants(d v1.Descriptor) bool {
	sets := SetsOf(d)
	for _, s := range sets {
		p.sets[s] = true
	}
	return len(p.sel.Sets) == 0 || InSets(p.sel.Sets, sets)
}

// merge takes what another descriptor says of the same name.
func (c *chosen) merge(o *chosen) error {
	if c.desc.Digest != o.desc.Digest {
		return fmt.Errorf("two images are called %s: %s and %s", c.ref, c.desc.Digest, o.desc.Digest)
	}
	c.sets = splitSets(strings.Join(append(c.sets, o.sets...), ","))
	// The smaller of two, so that it does not depend on their order.
	if o.said && !c.said || o.said == c.said && o.index.Digest.Hex != "" && (c.index.Digest.Hex == "" || o.index.Digest.Hex < c.index.Digest.Hex) {
		c.index, c.said = o.index, o.said
	}
	return nil
}

// image reads one image's manifest; it is nil if it is for another platform.
func (p *planner) image(d v1.Descriptor) (*chosen, error) {
	tag, dig, err := parseName(d.Annotations[AnnotationImageName])
	if err != nil {
		return nil, fmt.Errorf("manifest %s in the layout's index: %w", d.Digest, err)
	}
	c := &chosen{desc: d, sets: SetsOf(d)}
	if tag != nil {
		c.ref = tag.String()
	} else {
		c.ref = dig.String()
	}
	switch {
	case d.MediaType.IsIndex():
		c.index = bare(d)
		c.desc, err = p.ofIndex(d)
	case d.Annotations[AnnotationIndex] != "":
		c.said = true
		c.index, err = p.inIndex(d)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", c.ref, err)
	}
	if !c.desc.MediaType.IsImage() {
		return nil, fmt.Errorf("image %s is of type %s: only image manifests can be bundled", c.ref, c.desc.MediaType)
	}
	m, err := p.manifest(c.desc)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", c.ref, err)
	}
	c.platform, err = platformOf(m, func(h v1.Hash) ([]byte, error) { return p.read(m.Config) })
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", c.ref, err)
	}
	if c.platform == nil || !c.platform.Satisfies(p.sel.Platform) {
		return nil, nil
	}
	if dig != nil {
		if err := c.namedBy(*dig); err != nil {
			return nil, err
		}
	}
	c.desc = bare(c.desc)
	c.desc.Platform = nil
	return c, p.take(c.desc, m)
}

// namedBy checks a name by digest: it is the manifest's, or its index's, which then
// belongs into the bundle.
func (c *chosen) namedBy(dig name.Digest) error {
	switch dig.DigestStr() {
	case c.desc.Digest.String():
		return nil
	case c.index.Digest.String():
		c.said, c.keep = true, true
		return nil
	}
	return fmt.Errorf("image %s is named by a digest, and has another: %s", c.ref, c.desc.Digest)
}

// ofIndex finds the manifest of the wanted platform in an image index. The bundle names
// that manifest itself, so that nothing in it points outside.
func (p *planner) ofIndex(d v1.Descriptor) (v1.Descriptor, error) {
	idx, err := p.index(d)
	if err != nil {
		return d, err
	}
	m, err := ForPlatform(idx, p.sel.Platform)
	if err != nil {
		return d, err
	}
	return m, nil
}

// inIndex finds the index that an image says it was taken out of.
func (p *planner) inIndex(d v1.Descriptor) (v1.Descriptor, error) {
	h, err := v1.NewHash(d.Annotations[AnnotationIndex])
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("its image index: %w", err)
	}
	b, err := p.readWhole(h)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("its image index: %w", err)
	}
	idx, err := parseIndex(b)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("image index %s: %w", h, err)
	}
	if !slices.ContainsFunc(idx.Manifests, func(m v1.Descriptor) bool { return m.Digest == d.Digest && m.Size == d.Size }) {
		return v1.Descriptor{}, fmt.Errorf("%w: image index %s does not list manifest %s", ErrDamaged, h, d.Digest)
	}
	return v1.Descriptor{MediaType: idx.MediaType, Size: int64(len(b)), Digest: h}, nil
}

func (p *planner) index(d v1.Descriptor) (*v1.IndexManifest, error) {
	b, err := p.read(d)
	if err != nil {
		return nil, err
	}
	idx, err := parseIndex(b)
	if err != nil {
		return nil, fmt.Errorf("image index %s: %w", d.Digest, err)
	}
	return idx, nil
}

// ForPlatform finds the manifest for a platform in an image index: the first that has all
// that the platform says. If there is none the error names the platforms that there are.
func ForPlatform(idx *v1.IndexManifest, want v1.Platform) (v1.Descriptor, error) {
	var have []string
	for _, m := range idx.Manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" {
			continue // BuildKit's attestations, for one
		}
		if m.Platform.Satisfies(want) {
			return m, nil
		}
		have = append(have, m.Platform.String())
	}
	sort.Strings(have)
	return v1.Descriptor{}, fmt.Errorf("it is not made for %s; it has %s", want, orNone(slices.Compact(have)))
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "no platforms"
	}
	return strings.Join(s, ", ")
}

// artifact takes a chart or a set of files.
func (p *planner) artifact(d v1.Descriptor) error {
	a, err := parseArtifact(d)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", printable(d.Annotations[AnnotationRefName]), err)
	}
	m, err := p.manifest(d)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", a.Ref, err)
	}
	raw, err := p.read(d)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", a.Ref, err)
	}
	if err := CheckArtifact(a.Kind, m, raw); err != nil {
		return fmt.Errorf("artifact %s: %w", a.Ref, err)
	}
	if other, ok := p.artifacts[a.key()]; ok {
		if other.Desc.Digest != a.Desc.Digest {
			return fmt.Errorf("two artifacts are called %s: %s and %s", a.Ref, other.Desc.Digest, a.Desc.Digest)
		}
		other.Sets = splitSets(strings.Join(append(other.Sets, a.Sets...), ","))
		return nil
	}
	p.artifacts[a.key()] = &a
	return p.take(d, m)
}
