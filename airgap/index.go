package airgap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// unmarshal decodes one JSON value with nothing after it.
func unmarshal(b []byte, v any, what string) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, what, err)
	}
	return nil
}

// parseIndex decodes an OCI image index or docker manifest list.
func parseIndex(b []byte) (*v1.IndexManifest, error) {
	idx := &v1.IndexManifest{}
	if err := unmarshal(b, idx, indexFile); err != nil {
		return nil, err
	}
	if idx.SchemaVersion != 2 {
		return nil, fmt.Errorf("%w: %s: schema version %d, not 2", ErrDamaged, indexFile, idx.SchemaVersion)
	}
	for _, d := range idx.Manifests {
		if d.Size < 0 || d.Digest.Hex == "" {
			return nil, fmt.Errorf("%w: %s: a descriptor without digest or size", ErrDamaged, indexFile)
		}
	}
	return idx, nil
}

// parseManifest decodes an image manifest and refuses what lacks its parts.
func parseManifest(b []byte, h v1.Hash) (*v1.Manifest, error) {
	m := &v1.Manifest{}
	if err := unmarshal(b, m, "manifest "+h.String()); err != nil {
		return nil, err
	}
	if m.SchemaVersion != 2 || m.Config.Digest.Hex == "" {
		return nil, fmt.Errorf("%w: manifest %s is not an image manifest", ErrDamaged, h)
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if d.Size < 0 || d.Digest.Hex == "" {
			return nil, fmt.Errorf("%w: manifest %s has a descriptor without digest or size", ErrDamaged, h)
		}
	}
	return m, nil
}

// Manifest returns an image manifest and its bytes, which have the digest h.
func (a *Archive) Manifest(h v1.Hash) (*v1.Manifest, []byte, error) {
	if err := a.whole(); err != nil {
		return nil, nil, err
	}
	m, b, err := a.manifest(h)
	if err != nil {
		return nil, nil, fmt.Errorf("reading bundle %s: %w", a.file, err)
	}
	return m, b, nil
}

func (a *Archive) manifest(h v1.Hash) (*v1.Manifest, []byte, error) {
	b, err := a.readBlob(h, maxManifest)
	if err != nil {
		return nil, nil, err
	}
	m, err := parseManifest(b, h)
	return m, b, err
}

// contents is what the index of a bundle of ours lists.
type contents struct {
	images    []Image
	artifacts []Artifact
	attached  []attachment
}

// bundleContents reads the index of a bundle of ours, which has only what [Write]
// puts there, in its order: images, artifacts, what is attached to either.
func bundleContents(idx *v1.IndexManifest) (contents, error) {
	p := indexParser{known: map[[2]v1.Hash]int{}, subjects: map[v1.Hash]bool{}}
	for _, d := range idx.Manifests {
		if err := p.add(d); err != nil {
			return contents{}, fmt.Errorf("%w: %s: %s: %w", ErrDamaged, indexFile, d.Digest, err)
		}
	}
	return p.contents, nil
}

type indexParser struct {
	contents
	known    map[[2]v1.Hash]int // of images: the manifest and the index that it is out of
	subjects map[v1.Hash]bool   // what may be signed
	last     string             // name of the one before, of its kind
}

func (p *indexParser) add(d v1.Descriptor) error {
	switch kind := d.Annotations[AnnotationKind]; {
	case kind == KindImage:
		return p.image(d)
	case isArtifact(kind):
		return p.artifact(d)
	case kind == KindSignatures, kind == KindAttestations, kind == KindReferrer:
		subject, err := v1.NewHash(d.Annotations[AnnotationSigns])
		if err != nil {
			return errors.New("it does not say what it signs")
		}
		if !p.subjects[subject] {
			return errors.New("it signs " + subject.String() + ", which is not in the bundle")
		}
		p.attached = append(p.attached, attachment{kind, subject, bare(d)})
		return nil
	}
	return errors.New("it is of no known kind")
}

func (p *indexParser) image(d v1.Descriptor) error {
	img, ref, err := bundleImage(d)
	switch {
	case err != nil:
		return err
	case len(p.artifacts)+len(p.attached) > 0 || ref <= p.last:
		return errors.New("it is out of order")
	}
	p.last = ref
	p.subjects[d.Digest] = true
	if img.Index != (v1.Hash{}) {
		p.subjects[img.Index] = true
	}
	i, ok := p.known[[2]v1.Hash{d.Digest, img.Index}]
	if !ok {
		p.known[[2]v1.Hash{d.Digest, img.Index}] = len(p.images)
		p.images = append(p.images, img)
		return nil
	}
	one := &p.images[i]
	one.Refs = append(one.Refs, img.Refs...)
	one.Digests = append(one.Digests, img.Digests...)
	one.Sets = splitSets(strings.Join(append(one.Sets, img.Sets...), ","))
	return nil
}

// bundleImage reads the descriptor of an image in a bundle's index, and its one name.
func bundleImage(d v1.Descriptor) (Image, string, error) {
	img := Image{Desc: bare(d), Platform: d.Platform, Sets: SetsOf(d)}
	if s := d.Annotations[AnnotationIndex]; s != "" {
		h, err := v1.NewHash(s)
		if err != nil || h == d.Digest {
			return img, "", errors.New("it does not say which image index it is of")
		}
		img.Index = h
	}
	ref := d.Annotations[AnnotationImageName]
	tag, dig, err := parseName(ref)
	switch {
	case err != nil || d.Annotations[AnnotationRefName] != ref:
		return img, "", errors.New("its names are not one full reference")
	case tag != nil && tag.String() == ref:
		img.Refs = refs(*tag)
	case dig != nil && dig.String() == ref:
		if is := dig.DigestStr(); is != d.Digest.String() && (img.Index == v1.Hash{} || is != img.Index.String()) {
			return img, "", errors.New("it is named by the digest of something else")
		}
		img.Digests = []name.Digest{*dig}
	default:
		return img, "", errors.New("its names are not one full reference")
	}
	if d.Platform == nil {
		return img, "", errors.New("it has no platform")
	}
	if strings.Join(img.Sets, ",") != d.Annotations[AnnotationSets] {
		return img, "", errors.New("its sets are not in order")
	}
	return img, ref, nil
}

func (p *indexParser) artifact(d v1.Descriptor) error {
	a, err := parseArtifact(d)
	if err != nil {
		return err
	}
	if n := len(p.artifacts); len(p.attached) > 0 || n > 0 && a.key() <= p.artifacts[n-1].key() {
		return errors.New("it is out of order")
	}
	if p.subjects[d.Digest] {
		return errors.New("it is listed twice")
	}
	p.subjects[d.Digest] = true
	p.artifacts = append(p.artifacts, a)
	return nil
}

// bare is the descriptor without what index.json says about it beside its bytes.
func bare(d v1.Descriptor) v1.Descriptor {
	return v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest, Platform: d.Platform}
}

// resolve makes images, attachments and the table of blobs of what a whole scan found.
func (a *Archive) resolve(s *scanner) error {
	a.descs, a.absent = map[v1.Hash]v1.Descriptor{}, map[v1.Hash]v1.Descriptor{}
	if s.ours {
		return a.resolveBundle(s.head)
	}
	hasIndex := s.head.index != nil && s.head.layout != nil
	if !hasIndex && s.head.manifest != nil {
		a.format = FormatDockerArchive
		return a.resolveDocker(s)
	}
	if !hasIndex {
		return fmt.Errorf("%w: a tar without %s and %s, and without %s", ErrNotArchive, layoutFile, indexFile, manifestFile)
	}
	if len(s.links) > 0 {
		return fmt.Errorf("%w: %s is a link", ErrRefusedContent, s.links[0].name)
	}
	a.format = FormatOCI
	return a.resolveLayout(s.head)
}

// resolveBundle checks that a bundle of ours is exactly what its index implies.
func (a *Archive) resolveBundle(h head) error {
	c, err := bundleContents(h.idx)
	if err != nil {
		return err
	}
	for _, img := range c.images {
		if err := a.reach(img.Desc, "image "+img.label()); err != nil {
			return err
		}
		if err := a.reachIndex(img); err != nil {
			return err
		}
	}
	for _, art := range c.artifacts {
		if err := a.reachArtifact(art); err != nil {
			return err
		}
	}
	for _, at := range c.attached {
		mayLack := h.partial != nil && h.partial.IsDelta() && at.kind != KindSignatures
		if err := a.reachParts(at.desc, "signatures of "+at.subject.String(), mayLack); err != nil {
			return err
		}
	}
	for _, b := range a.order {
		if _, ok := a.descs[b]; !ok {
			return fmt.Errorf("%w: blob %s belongs to no image", ErrDamaged, b)
		}
	}
	want, err := dockerManifest(c.images, func(d v1.Hash) (*v1.Manifest, error) {
		m, _, err := a.manifest(d)
		return m, err
	})
	if err != nil {
		return err
	}
	if !bytes.Equal(want, h.manifest) {
		return fmt.Errorf("%w: %s is not what %s implies", ErrDamaged, manifestFile, indexFile)
	}
	if h.partial != nil {
		if err := a.checkPartial(); err != nil {
			return err
		}
	}
	// After a scan of the head only, images are in use already.
	if !a.listed {
		a.list(c)
	}
	a.attached = c.attached
	return nil
}

// list takes over what the index of a bundle of ours lists.
func (a *Archive) list(c contents) {
	a.images, a.artifacts, a.attached = c.images, c.artifacts, c.attached
	a.format, a.listed = FormatOCI, true
}

// reachIndex checks that the image index which an image was taken out of, if the bundle
// names it, is there and lists that image.
func (a *Archive) reachIndex(img Image) error {
	if img.Index == (v1.Hash{}) {
		return nil
	}
	what := "image index " + img.Index.String() + " of " + img.label()
	e, ok := a.blobs[img.Index]
	if !ok {
		return fmt.Errorf("%w: %s is missing", ErrDamaged, what)
	}
	b, err := a.readBlob(img.Index, maxManifest)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	idx, err := parseIndex(b)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !slices.ContainsFunc(idx.Manifests, func(d v1.Descriptor) bool {
		return d.Digest == img.Desc.Digest && d.Size == img.Desc.Size
	}) {
		return fmt.Errorf("%w: %s does not list it", ErrDamaged, what)
	}
	a.descs[img.Index] = v1.Descriptor{MediaType: indexType(idx), Size: e.size, Digest: img.Index}
	return nil
}

func indexType(idx *v1.IndexManifest) types.MediaType {
	if idx.MediaType != "" {
		return idx.MediaType
	}
	return types.OCIImageIndex
}

// reachArtifact is reach for a chart or files, whose manifests have a form of their own.
func (a *Archive) reachArtifact(art Artifact) error {
	if err := a.reach(art.Desc, art.Ref); err != nil {
		return err
	}
	m, raw, err := a.manifest(art.Desc.Digest)
	if err == nil {
		err = CheckArtifact(art.Kind, m, raw)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", art.Ref, err)
	}
	return nil
}

// reach checks that a manifest and all it needs are in the archive with the sizes
// that it says, and notes their descriptors. A partial bundle may lack its layers.
func (a *Archive) reach(d v1.Descriptor, what string) error {
	return a.reachParts(d, what, a.head.partial != nil)
}

func (a *Archive) reachParts(d v1.Descriptor, what string, mayLack bool) error {
	if err := a.present(d, what, "manifest"); err != nil {
		return err
	}
	m, _, err := a.manifest(d.Digest)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := a.present(m.Config, what, "config"); err != nil {
		return err
	}
	for i, l := range m.Layers {
		part := fmt.Sprintf("layer %d of %d", i+1, len(m.Layers))
		_, here := a.blobs[l.Digest]
		switch {
		case !here && neverShipped(l):
			continue
		case !here && mayLack:
			err = a.lack(l, what, part)
		default:
			err = a.present(l, what, part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// neverShipped is true for a layer that its maker's licence keeps out of archives.
func neverShipped(l v1.Descriptor) bool { return !l.MediaType.IsDistributable() && len(l.URLs) > 0 }

// lack notes a layer that a partial bundle leaves out.
func (a *Archive) lack(d v1.Descriptor, what, part string) error {
	if d.Size > maxBlob {
		return fmt.Errorf("%w: %s: its %s, blob %s, claims %d bytes", ErrRefusedContent, what, part, d.Digest, d.Size)
	}
	if known, ok := a.absent[d.Digest]; ok && known.Size != d.Size {
		return fmt.Errorf("%w: %s: its %s, blob %s, is said to have %d bytes and %d bytes", ErrDamaged, what, part, d.Digest, known.Size, d.Size)
	} else if !ok {
		a.absent[d.Digest] = bare(d)
	}
	return nil
}

func (a *Archive) present(d v1.Descriptor, what, part string) error {
	e, ok := a.blobs[d.Digest]
	if !ok {
		return fmt.Errorf("%w: %s: its %s, blob %s, is missing", ErrDamaged, what, part, d.Digest)
	}
	if e.size != d.Size {
		return fmt.Errorf("%w: %s: its %s, blob %s, has %d bytes instead of %d", ErrDamaged, what, part, d.Digest, e.size, d.Size)
	}
	if _, ok := a.descs[d.Digest]; !ok {
		a.descs[d.Digest] = bare(d)
	}
	return nil
}

// platformOf reads an image's platform from its config; nil if it does not say.
func platformOf(m *v1.Manifest, blob func(v1.Hash) ([]byte, error)) (*v1.Platform, error) {
	switch m.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON, "":
	default:
		return nil, nil
	}
	b, err := blob(m.Config.Digest)
	if err != nil {
		return nil, err
	}
	cfg, err := v1.ParseConfigFile(io.LimitReader(bytes.NewReader(b), maxManifest))
	if err != nil {
		return nil, fmt.Errorf("%w: config %s: %w", ErrDamaged, m.Config.Digest, err)
	}
	if cfg.OS == "" && cfg.Architecture == "" {
		return nil, nil
	}
	return cfg.Platform(), nil
}

// errNoImages is for archives that are sound and hold none.
var errNoImages = errors.New("it holds no images")
