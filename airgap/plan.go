package airgap

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Selection says which images of a source go into a bundle.
type Selection struct {
	// Sets to take; an image in any of them is taken. None: every image.
	Sets []string
	// Platform to take.
	Platform v1.Platform
	// AllowUnsigned takes images that have no signature, which nodes refuse by default.
	AllowUnsigned bool
}

// Plan is a bundle that has been decided on: all that is left is to copy blobs.
type Plan struct {
	Images []Image
	// Size of the bundle in bytes.
	Size int64

	src   Source
	head  []headFile
	blobs []v1.Descriptor // in order, each once
}

type headFile struct {
	name    string
	content []byte
}

// NewPlan reads the manifests of the selected images and their signatures and lays
// the bundle out. It depends on nothing but those and the names and sets in the
// source's index, whatever else the source holds and in whatever order.
func NewPlan(src Source, sel Selection) (*Plan, error) {
	idx, err := src.Index()
	if err != nil {
		return nil, err
	}
	sel.Sets = splitSets(strings.Join(sel.Sets, ","))
	p := &planner{src: src, sel: sel, manifests: map[v1.Hash]*v1.Manifest{}, blobs: map[v1.Hash]v1.Descriptor{}}
	if err := p.pick(idx); err != nil {
		return nil, err
	}
	return p.plan()
}

type planner struct {
	src       Source
	sel       Selection
	chosen    []v1.Descriptor // image descriptors as they go into the index
	attached  []v1.Descriptor
	manifests map[v1.Hash]*v1.Manifest
	blobs     map[v1.Hash]v1.Descriptor
}

func (p *planner) pick(idx *v1.IndexManifest) error {
	subjects := map[v1.Hash]bool{} // false: no signature yet
	byRef := map[string]v1.Hash{}
	have := map[string]bool{}
	for _, d := range idx.Manifests {
		if d.Annotations[AnnotationKind] != KindImage {
			continue
		}
		sets := splitSets(d.Annotations[AnnotationSets])
		for _, s := range sets {
			have[s] = true
		}
		if len(p.sel.Sets) > 0 && !slices.ContainsFunc(sets, func(s string) bool { return slices.Contains(p.sel.Sets, s) }) {
			continue
		}
		out, ok, err := p.image(d, sets)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		ref := out.Annotations[AnnotationImageName]
		if other, twice := byRef[ref]; twice {
			if other != out.Digest {
				return fmt.Errorf("two images are called %s: %s and %s", ref, other, out.Digest)
			}
			continue
		}
		byRef[ref] = out.Digest
		subjects[out.Digest] = false
		p.chosen = append(p.chosen, out)
	}
	if len(p.chosen) == 0 {
		return fmt.Errorf("no image of set %s for %s: the layout has the sets %q", orAny(p.sel.Sets), p.sel.Platform, sortedKeys(have))
	}
	if err := p.attach(idx, subjects); err != nil {
		return err
	}
	if p.sel.AllowUnsigned {
		return nil
	}
	for _, d := range p.chosen {
		if !subjects[d.Digest] {
			return fmt.Errorf("image %s (%s) has no signature, and nodes would refuse it: sign the layout first", d.Annotations[AnnotationImageName], d.Digest)
		}
	}
	return nil
}

// image reads one image's manifest; ok is false if it is for another platform.
func (p *planner) image(d v1.Descriptor, sets []string) (out v1.Descriptor, ok bool, err error) {
	tag, err := ParseTag(d.Annotations[AnnotationImageName])
	if err != nil {
		return out, false, fmt.Errorf("manifest %s in the layout's index: %w", d.Digest, err)
	}
	if d.MediaType.IsIndex() {
		if d, ok, err = p.ofIndex(d); err != nil || !ok {
			return out, false, err
		}
	}
	if !d.MediaType.IsImage() {
		return out, false, fmt.Errorf("image %s is of type %s: only image manifests can be bundled", tag, d.MediaType)
	}
	m, err := p.manifest(d)
	if err != nil {
		return out, false, fmt.Errorf("image %s: %w", tag, err)
	}
	platform, err := platformOf(m, func(h v1.Hash) ([]byte, error) { return p.read(m.Config) })
	if err != nil {
		return out, false, fmt.Errorf("image %s: %w", tag, err)
	}
	if platform == nil || !platform.Satisfies(p.sel.Platform) {
		return out, false, nil
	}
	out = bare(d)
	out.Platform = platform
	out.Annotations = map[string]string{
		AnnotationKind: KindImage, AnnotationImageName: tag.String(), AnnotationRefName: tag.String(),
	}
	if len(sets) > 0 {
		out.Annotations[AnnotationSets] = strings.Join(sets, ",")
	}
	return out, true, p.take(d, m)
}

// ofIndex finds the manifest of the wanted platform in an image index. The bundle names
// that manifest itself, so that nothing in it points outside.
func (p *planner) ofIndex(d v1.Descriptor) (v1.Descriptor, bool, error) {
	b, err := p.read(d)
	if err != nil {
		return d, false, err
	}
	idx, err := parseIndex(b)
	if err != nil {
		return d, false, fmt.Errorf("image index %s: %w", d.Digest, err)
	}
	for _, m := range idx.Manifests {
		if m.Platform != nil && m.Platform.Satisfies(p.sel.Platform) {
			m.Annotations = d.Annotations
			return m, true, nil
		}
	}
	return d, false, nil
}

// attach takes the signatures and attestations of the chosen images.
func (p *planner) attach(idx *v1.IndexManifest, subjects map[v1.Hash]bool) error {
	seen := map[string]bool{}
	for _, d := range idx.Manifests {
		kind := d.Annotations[AnnotationKind]
		if kind != KindSignatures && kind != KindAttestations {
			continue
		}
		subject, err := v1.NewHash(d.Annotations[AnnotationSigns])
		if err != nil {
			return fmt.Errorf("manifest %s in the layout's index does not say what it signs (%s): %w", d.Digest, AnnotationSigns, err)
		}
		if _, ok := subjects[subject]; !ok {
			continue
		}
		if kind == KindSignatures {
			subjects[subject] = true
		}
		if key := kind + subject.Hex + d.Digest.Hex; seen[key] {
			continue
		} else {
			seen[key] = true
		}
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
	}
	return nil
}

// take notes all blobs of a manifest.
func (p *planner) take(d v1.Descriptor, m *v1.Manifest) error {
	for _, b := range append([]v1.Descriptor{d, m.Config}, m.Layers...) {
		if known, ok := p.blobs[b.Digest]; ok && known.Size != b.Size {
			return fmt.Errorf("blob %s is said to have %d bytes and %d bytes", b.Digest, known.Size, b.Size)
		}
		p.blobs[b.Digest] = bare(b)
	}
	return nil
}

func (p *planner) manifest(d v1.Descriptor) (*v1.Manifest, error) {
	if m, ok := p.manifests[d.Digest]; ok {
		return m, nil
	}
	b, err := p.read(d)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(b, d.Digest)
	if err == nil {
		p.manifests[d.Digest] = m
	}
	return m, err
}

// read reads and verifies a manifest or config.
func (p *planner) read(d v1.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, fmt.Errorf("%w: blob %s has %d bytes, more than the %d that are read of its kind", ErrRefusedContent, d.Digest, d.Size, maxManifest)
	}
	r, err := p.src.Blob(d.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(verify(r, d.Digest, d.Size))
}

func (p *planner) plan() (*Plan, error) {
	sort.Slice(p.chosen, func(i, j int) bool {
		return p.chosen[i].Annotations[AnnotationImageName] < p.chosen[j].Annotations[AnnotationImageName]
	})
	sort.Slice(p.attached, func(i, j int) bool {
		key := func(d v1.Descriptor) string {
			return d.Annotations[AnnotationSigns] + d.Annotations[AnnotationKind] + d.Digest.Hex
		}
		return key(p.attached[i]) < key(p.attached[j])
	})
	idx := v1.IndexManifest{SchemaVersion: 2, MediaType: "application/vnd.oci.image.index.v1+json", Manifests: append(slices.Clone(p.chosen), p.attached...)}
	index, err := sealIndex(idx, p.sel.Sets)
	if err != nil {
		return nil, err
	}
	// Read it back: what is written must be what the reader accepts.
	images, _, err := bundleImages(&idx)
	if err != nil {
		return nil, err
	}
	docker, err := dockerManifest(images, func(h v1.Hash) (*v1.Manifest, error) {
		m, ok := p.manifests[h]
		if !ok {
			return nil, errors.New("manifest was not read")
		}
		return m, nil
	})
	if err != nil {
		return nil, err
	}
	plan := &Plan{Images: images, src: p.src, head: []headFile{
		{layoutFile, []byte(layoutContent)}, {indexFile, index}, {manifestFile, docker},
	}}
	for _, d := range p.blobs {
		plan.blobs = append(plan.blobs, d)
	}
	sort.Slice(plan.blobs, func(i, j int) bool { return plan.blobs[i].Digest.Hex < plan.blobs[j].Digest.Hex })
	return plan, plan.measure()
}

func (p *Plan) measure() error {
	add := func(name string, size int64) error {
		h, err := header(name, size)
		p.Size += int64(len(h)) + size + padding(size)
		return err
	}
	for _, h := range p.head {
		if err := add(h.name, int64(len(h.content))); err != nil {
			return err
		}
	}
	for _, b := range p.blobs {
		if err := add(blobName(b.Digest), b.Size); err != nil {
			return err
		}
	}
	p.Size += trailer
	return nil
}

// References are the images' names, sorted.
func (p *Plan) References() []string {
	var out []string
	for _, i := range p.Images {
		for _, t := range i.Refs {
			out = append(out, t.String())
		}
	}
	sort.Strings(out)
	return out
}

func orAny(s []string) string {
	if len(s) == 0 {
		return "(any)"
	}
	return strings.Join(s, ",")
}

func sortedKeys(m map[string]bool) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
