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
	// Sets to take; an image in any of them is taken, as [InSets] has it. None: every image.
	Sets []string
	// Platform to take.
	Platform v1.Platform
	// AllowUnsigned takes images that have no signature, which nodes refuse by default.
	AllowUnsigned bool
	// SignedOnly names images that must have one all the same.
	SignedOnly map[string]bool
}

// Plan is a bundle that has been decided on: all that is left is to copy blobs.
type Plan struct {
	Images    []Image
	Artifacts []Artifact
	// Unsigned are the names of images without a signature, sorted.
	Unsigned []string
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

// take notes all blobs of a manifest.
func (p *planner) take(d v1.Descriptor, m *v1.Manifest) error {
	for _, b := range append([]v1.Descriptor{d, m.Config}, m.Layers...) {
		if !b.MediaType.IsDistributable() && len(b.URLs) > 0 {
			continue // never shipped, by its maker's licence
		}
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

// readWhole reads a manifest whose size is not known.
func (p *planner) readWhole(h v1.Hash) ([]byte, error) {
	r, err := p.src.Blob(h)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxManifest {
		return nil, fmt.Errorf("%w: blob %s has more than the %d bytes that are read of its kind", ErrRefusedContent, h, maxManifest)
	}
	if hashOf(b) != h {
		return nil, fmt.Errorf("%w: blob %s has the digest %s: copy the file again", ErrDamaged, h, hashOf(b))
	}
	return b, nil
}

func (p *planner) plan() (*Plan, error) {
	var images, artifacts []v1.Descriptor
	for _, c := range p.chosen {
		images = append(images, c.descriptor())
	}
	for _, a := range p.artifacts {
		artifacts = append(artifacts, a.descriptor())
	}
	sortBy(images, func(d v1.Descriptor) string { return d.Annotations[AnnotationImageName] })
	sortBy(artifacts, func(d v1.Descriptor) string {
		return d.Annotations[AnnotationKind] + " " + d.Annotations[AnnotationRefName]
	})
	sortBy(p.attached, func(d v1.Descriptor) string {
		return d.Annotations[AnnotationSigns] + d.Annotations[AnnotationKind] + d.Digest.Hex
	})
	idx := v1.IndexManifest{SchemaVersion: 2, MediaType: "application/vnd.oci.image.index.v1+json", Manifests: slices.Concat(images, artifacts, p.attached)}
	named := p.sel.Sets
	if slices.Contains(named, AllSets) {
		named = nil
	}
	index, err := sealIndex(idx, named)
	if err != nil {
		return nil, err
	}
	// Read it back: what is written must be what the reader accepts.
	c, err := bundleContents(&idx)
	if err != nil {
		return nil, err
	}
	docker, err := dockerManifest(c.images, func(h v1.Hash) (*v1.Manifest, error) {
		m, ok := p.manifests[h]
		if !ok {
			return nil, errors.New("manifest was not read")
		}
		return m, nil
	})
	if err != nil {
		return nil, err
	}
	sort.Strings(p.bare)
	plan := &Plan{Images: c.images, Artifacts: c.artifacts, Unsigned: p.bare, src: p.src, head: []headFile{
		{layoutFile, []byte(layoutContent)}, {indexFile, index}, {manifestFile, docker},
	}}
	for _, d := range p.blobs {
		plan.blobs = append(plan.blobs, d)
	}
	sort.Slice(plan.blobs, func(i, j int) bool { return plan.blobs[i].Digest.Hex < plan.blobs[j].Digest.Hex })
	return plan, plan.measure()
}

func sortBy(all []v1.Descriptor, key func(v1.Descriptor) string) {
	sort.Slice(all, func(i, j int) bool { return key(all[i]) < key(all[j]) })
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

// Blobs describes the bundle's blobs, each once, in its order.
func (p *Plan) Blobs() []v1.Descriptor { return slices.Clone(p.blobs) }

// References are the images' names, sorted.
func (p *Plan) References() []string {
	var out []string
	for _, i := range p.Images {
		for _, t := range i.Refs {
			out = append(out, t.String())
		}
		for _, d := range i.Digests {
			out = append(out, d.String())
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
