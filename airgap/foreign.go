package airgap

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func refs(t ...name.Tag) []name.Tag { return t }

// foreign collects the images of an OCI layout that somebody else wrote.
type foreign struct {
	a        *Archive
	images   []Image
	byDigest map[v1.Hash]int
	pending  []attachment // whose subject is not known yet
	visited  int          // descriptors followed so far: indexes may list the same ones again and again
}

// resolveLayout reads the index of an OCI layout, and compares it with the
// docker-archive's manifest.json if there is one.
func (a *Archive) resolveLayout(h head) error {
	var layout struct {
		ImageLayoutVersion string `json:"imageLayoutVersion"`
	}
	if err := unmarshal(h.layout, &layout, layoutFile); err != nil {
		return err
	}
	if layout.ImageLayoutVersion != "1.0.0" {
		return fmt.Errorf("%w: %s: version %q is not known", ErrDamaged, layoutFile, layout.ImageLayoutVersion)
	}
	idx, err := parseIndex(h.index)
	if err != nil {
		return err
	}
	a.artifacts = nil
	f := &foreign{a: a, byDigest: map[v1.Hash]int{}}
	for _, d := range idx.Manifests {
		if err := f.add(d); err != nil {
			return err
		}
	}
	if err := f.attach(); err != nil {
		return err
	}
	if h.manifest != nil {
		if err := f.compare(h.manifest); err != nil {
			return err
		}
	}
	if len(f.images)+len(a.artifacts) == 0 {
		return fmt.Errorf("%w: %w", ErrNotArchive, errNoImages)
	}
	for i := range f.images {
		f.images[i].sortRefs()
	}
	sortImages(f.images)
	a.images = f.images
	return nil
}

func (i *Image) sortRefs() {
	slices.SortFunc(i.Refs, func(x, y name.Tag) int { return strings.Compare(x.String(), y.String()) })
	i.Refs = slices.CompactFunc(i.Refs, func(x, y name.Tag) bool { return x.String() == y.String() })
}

// signatureTag is cosign's tag convention for what is attached to an image.
var signatureTag = regexp.MustCompile(`(?:^|:)sha256-([0-9a-f]{64})\.(sig|att)$`)

// add takes one descriptor of index.json.
func (f *foreign) add(d v1.Descriptor) error {
	named := d.Annotations[AnnotationImageName]
	if named == "" {
		named = d.Annotations[AnnotationRefName]
	}
	kind := d.Annotations[AnnotationKind]
	if isAttachment(kind) {
		// Without a subject (cosign save) it is about the layout's one image.
		subject, _ := v1.NewHash(d.Annotations[AnnotationSigns])
		f.pending = append(f.pending, attachment{kind, subject, bare(d)})
		return nil
	}
	if isArtifact(kind) {
		return f.artifact(d)
	}
	if m := signatureTag.FindStringSubmatch(named); m != nil {
		kind = map[string]string{"sig": KindSignatures, "att": KindAttestations}[m[2]]
		f.pending = append(f.pending, attachment{kind, v1.Hash{Algorithm: "sha256", Hex: m[1]}, bare(d)})
		return nil
	}
	img := Image{Desc: bare(d), Platform: d.Platform, Sets: SetsOf(d)}
	// A bare word in ref.name is a tag without a repository: no name to find it by.
	if d.Annotations[AnnotationImageName] != "" || strings.ContainsAny(named, "/:@") {
		tag, dig, err := parseName(named)
		switch {
		case err != nil:
			return fmt.Errorf("%w: %s: %w", ErrDamaged, indexFile, err)
		case tag != nil:
			img.Refs = refs(*tag)
		default:
			img.Digests = []name.Digest{*dig}
		}
	}
	return f.descend(img, 0)
}

// descend adds an image, or each image of an image index that is present.
func (f *foreign) descend(img Image, depth int) error {
	switch {
	case isIndex(img.Desc.MediaType):
		return f.children(img, depth)
	case img.Desc.MediaType.IsImage(), img.Desc.MediaType == "":
		return f.image(img)
	}
	return nil // not a container image
}

func (f *foreign) children(img Image, depth int) error {
	what := "image index " + img.label()
	if depth >= maxNesting {
		return fmt.Errorf("%w: %s: more than %d indexes within each other", ErrRefusedContent, what, maxNesting)
	}
	if err := f.a.present(img.Desc, what, "index"); err != nil {
		return err
	}
	b, err := f.a.readBlob(img.Desc.Digest, maxManifest)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	idx, err := parseIndex(b)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	found := 0
	for _, d := range idx.Manifests {
		if f.visited++; f.visited > maxEntries {
			return fmt.Errorf("%w: its indexes lead to more than %d manifests", ErrRefusedContent, maxEntries)
		}
		if _, ok := f.a.blobs[d.Digest]; !ok {
			continue // archives often hold one platform of many
		}
		found++
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue // BuildKit's attestations
		}
		child := img
		child.Desc, child.Platform, child.Index = bare(d), d.Platform, img.Desc.Digest
		if err := f.descend(child, depth+1); err != nil {
			return err
		}
	}
	if found == 0 {
		return fmt.Errorf("%w: %s: none of its %d manifests is in the archive", ErrDamaged, what, len(idx.Manifests))
	}
	return nil
}

func (f *foreign) image(img Image) error {
	if err := f.a.reach(img.Desc, "image "+img.label()); err != nil {
		return err
	}
	if img.Platform == nil {
		m, _, err := f.a.manifest(img.Desc.Digest)
		if err != nil {
			return err
		}
		if m.Config.MediaType == TypeChartConfig && len(img.Refs) > 0 {
			chart := img.Desc
			chart.Annotations = map[string]string{AnnotationKind: KindChart, AnnotationRefName: img.Refs[0].String()}
			return f.artifact(chart)
		}
		if m.Config.MediaType != "" && !m.Config.MediaType.IsConfig() {
			return nil // an artifact, not a container image
		}
		img.Platform, err = platformOf(m, func(h v1.Hash) ([]byte, error) { return f.a.readBlob(h, maxManifest) })
		if err != nil {
			return fmt.Errorf("image %s: %w", img.label(), err)
		}
	}
	if i, ok := f.byDigest[img.Desc.Digest]; ok {
		f.images[i].Refs = append(f.images[i].Refs, img.Refs...)
		f.images[i].Digests = append(f.images[i].Digests, img.Digests...)
		return nil
	}
	f.byDigest[img.Desc.Digest] = len(f.images)
	f.images = append(f.images, img)
	return nil
}

// artifact takes a chart or a set of files.
func (f *foreign) artifact(d v1.Descriptor) error {
	art, err := parseArtifact(d)
	if err != nil {
		return fmt.Errorf("%w: %s: %s: %w", ErrDamaged, indexFile, d.Digest, err)
	}
	if slices.ContainsFunc(f.a.artifacts, func(o Artifact) bool { return o.key() == art.key() }) {
		return fmt.Errorf("%w: %s: %s is in it twice", ErrDamaged, indexFile, art.Ref)
	}
	if err := f.a.reachArtifact(art); err != nil {
		return err
	}
	f.a.artifacts = append(f.a.artifacts, art)
	slices.SortFunc(f.a.artifacts, func(x, y Artifact) int { return strings.Compare(x.key(), y.key()) })
	return nil
}

// label names an image in messages.
func (i Image) label() string {
	switch {
	case len(i.Refs) > 0:
		return i.Refs[0].String()
	case len(i.Digests) > 0:
		return i.Digests[0].String()
	}
	return i.identity().String()
}

// attach finds the subjects of signatures and keeps those that are here.
func (f *foreign) attach() error {
	for _, at := range f.pending {
		if at.subject == (v1.Hash{}) {
			if len(f.images) != 1 {
				continue // it may be about any of them
			}
			at.subject = f.images[0].Desc.Digest
			if f.images[0].Index != (v1.Hash{}) {
				at.subject = f.images[0].Index
			}
		}
		if err := f.a.reach(at.desc, "signatures of "+at.subject.String()); err != nil {
			return err
		}
		f.a.attached = append(f.a.attached, at)
	}
	return nil
}

// compare holds manifest.json against the index: tools that read one must find
// what tools that read the other find.
func (f *foreign) compare(raw []byte) error {
	var docker []dockerImage
	if err := unmarshal(raw, &docker, manifestFile); err != nil {
		return err
	}
	byConfig := map[v1.Hash][]int{}
	byRef := map[string][]int{}
	for i, img := range f.images {
		m, _, err := f.a.manifest(img.Desc.Digest)
		if err != nil {
			return err
		}
		byConfig[m.Config.Digest] = append(byConfig[m.Config.Digest], i)
		for _, t := range img.Refs {
			byRef[t.Name()] = append(byRef[t.Name()], i)
		}
	}
	for _, d := range docker {
		same := byConfig[configDigest(d.Config)]
		for _, s := range d.RepoTags {
			tag, err := ParseTag(s)
			if err != nil {
				return fmt.Errorf("%w: %s: %w", ErrDamaged, manifestFile, err)
			}
			named := byRef[tag.Name()]
			switch {
			case len(named) > 0 && !intersect(named, same):
				return fmt.Errorf("%w: %s and %s mean different images by %s", ErrDamaged, indexFile, manifestFile, tag)
			case len(named) == 0 && len(same) == 0:
				return fmt.Errorf("%w: %s names %s, whose image is not in %s", ErrDamaged, manifestFile, tag, indexFile)
			case len(named) == 0:
				f.images[same[0]].Refs = append(f.images[same[0]].Refs, tag)
			}
		}
	}
	return nil
}

func intersect(a, b []int) bool {
	return slices.ContainsFunc(a, func(x int) bool { return slices.Contains(b, x) })
}

// configDigest reads the digest from a config's name in manifest.json.
func configDigest(s string) v1.Hash {
	h, err := v1.NewHash("sha256:" + strings.TrimSuffix(path.Base(s), ".json"))
	if err != nil {
		return v1.Hash{}
	}
	return h
}
