package closure

import (
	"cmp"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/runtime/scan"
)

// shelf is what the bundles hold.
type shelf struct {
	files      []scan.File
	platform   v1.Platform
	registries []string // in which a node names every image of a bundle too
	images     []stored
	byRef      map[string]int // tag in full form, to its place in images
	used       map[int]bool
}

// stored is an image in a bundle.
type stored struct {
	archive *airgap.Archive
	image   airgap.Image
	names   []reference.Named
	other   bool // of another platform
}

func (st *stored) name(s string) {
	if named, err := reference.ParseDockerRef(s); err == nil {
		st.names = append(st.names, named)
	}
}

func newShelf(in Input) *shelf {
	s := &shelf{files: in.Bundles, platform: in.Platform, byRef: map[string]int{}, used: map[int]bool{}}
	s.registries = slices.Clone(in.Settings.AirgapExtraRegistries)
	if r := in.Settings.SystemDefaultRegistry; r != "" {
		s.registries = append(s.registries, r)
	}
	for _, f := range in.Bundles {
		if f.Archive == nil {
			continue
		}
		for _, image := range f.Archive.Images() {
			s.add(f.Archive, image)
		}
	}
	return s
}

func (s *shelf) add(a *airgap.Archive, image airgap.Image) {
	st := stored{archive: a, image: image}
	if p := image.Platform; p != nil && (p.OS != s.platform.OS || p.Architecture != s.platform.Architecture) {
		st.other = true
	}
	for _, t := range image.Refs {
		st.name(t.String())
	}
	for _, d := range image.Digests {
		st.name(d.String())
	}
	s.images = append(s.images, st)
	if st.other {
		return
	}
	at := len(s.images) - 1
	for _, n := range st.names {
		keys := []string{n.String()}
		for _, r := range s.registries {
			keys = append(keys, strings.TrimSuffix(r, "/")+"/"+reference.Path(n)+strings.TrimPrefix(n.String(), n.Name()))
		}
		for _, k := range keys {
			if _, ok := s.byRef[k]; !ok {
				s.byRef[k] = at // the first bundle in order, as a node takes it
			}
		}
	}
}

// find says in which bundle an image is, or why in none. used counts it as needed.
func (s *shelf) find(image *Image, used bool) {
	if image.Gap != nil {
		return
	}
	named, err := reference.ParseDockerRef(image.Reference)
	if err != nil {
		image.Gap = &Gap{Reason: "it is not an image reference"}
		return
	}
	at, ok := s.byRef[named.String()]
	if digested, is := named.(reference.Digested); is && !ok {
		at, ok = s.byDigest(named, digested.Digest().String())
	}
	if !ok {
		image.Gap = s.gap(named)
		return
	}
	found := s.images[at]
	if lacking := s.lacking(found); lacking != "" {
		image.Gap = &Gap{Reason: lacking, Near: []Near{s.near(found, image.Reference)}}
		return
	}
	if used {
		s.used[at] = true
	}
	image.Bundle = found.archive.Path()
	if d := found.image.Desc.Digest; d.Hex != "" {
		image.Digest = d.String()
	}
}

// byDigest finds an image of the repository whose manifest has the digest: a node names
// it by that too.
func (s *shelf) byDigest(wanted reference.Named, digest string) (int, bool) {
	for i, st := range s.images {
		if !st.other && st.image.Desc.Digest.String() == digest && s.sameRepository(st, wanted) {
			return i, true
		}
	}
	return 0, false
}

func (s *shelf) sameRepository(st stored, wanted reference.Named) bool {
	for _, n := range st.names {
		if n.Name() == wanted.Name() {
			return true
		}
		if reference.Path(n) == reference.Path(wanted) && slices.Contains(s.registries, reference.Domain(wanted)) {
			return true
		}
	}
	return false
}

// lacking names a part of an image that is in no bundle: partial bundles do not hold
// every layer of the images that they list.
func (s *shelf) lacking(st stored) string {
	if _, partial := st.archive.Partial(); !partial {
		return ""
	}
	m, _, err := st.archive.Manifest(st.image.Desc.Digest)
	if err != nil {
		return err.Error()
	}
	for i, l := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if s.has(l.Digest) {
			continue
		}
		return fmt.Sprintf("%s lists it, but layer %d of %d is in none of the bundles: the other parts, or the bundle that it is a delta to, are needed too", filepath.Base(st.archive.Path()), i, len(m.Layers))
	}
	return ""
}

func (s *shelf) has(h v1.Hash) bool {
	for _, f := range s.files {
		if f.Archive == nil {
			continue
		}
		if ok, err := f.Archive.Has(h); err == nil && ok {
			return true
		}
	}
	return false
}

// open reads a blob from the bundle that lists it, or, where that is a partial one, from
// whichever has it.
func (s *shelf) open(h v1.Hash, from *airgap.Archive) (io.ReadCloser, error) {
	if _, partial := from.Partial(); !partial {
		return from.Blob(h)
	}
	for _, f := range s.files {
		if f.Archive == nil {
			continue
		}
		if ok, err := f.Archive.Has(h); err == nil && ok {
			return f.Archive.Blob(h)
		}
	}
	return nil, fmt.Errorf("blob %s is in no bundle", h)
}

// gap says why no bundle has an image, with what is near it.
func (s *shelf) gap(wanted reference.Named) *Gap {
	g := &Gap{}
	_, byDigest := wanted.(reference.Digested)
	var platforms, unnamed, registries, digests, tags []Near
	for _, st := range s.images {
		for _, n := range st.names {
			if reference.Path(n) != reference.Path(wanted) {
				continue
			}
			near := s.near(st, n.String())
			switch {
			case st.other && n.String() == wanted.String():
				platforms = append(platforms, near)
			case byDigest && st.image.Index.String() == digestOf(wanted):
				unnamed = append(unnamed, near)
			case n.Name() == wanted.Name() && byDigest:
				digests = append(digests, near)
			case n.Name() != wanted.Name() && sameTag(n, wanted):
				registries = append(registries, near)
			default:
				tags = append(tags, near)
			}
		}
	}
	switch {
	case len(s.files) == 0:
		g.Reason = "there are no bundles"
	case len(platforms) > 0:
		g.Reason, g.Near = "it is there for another platform only", platforms
	case len(unnamed) > 0:
		g.Reason, g.Near = "it is asked for by the digest of its image index, and the bundle does not name it so: make the bundle with the reference by digest", unnamed
	case len(registries) > 0:
		g.Reason, g.Near = "it is there under the name of another registry: name the image so, or set system-default-registry", registries
	case len(digests) > 0:
		g.Reason, g.Near = "it is asked for by digest, and the repository's images in bundles have others (a bundle has the manifest of one platform, not the index over several)", digests
	case len(tags) > 0:
		g.Reason, g.Near = "other tags of the repository are there", tags
	default:
		g.Reason = "no bundle has an image of that repository"
	}
	slices.SortFunc(g.Near, func(a, b Near) int {
		return cmp.Or(strings.Compare(a.Reference, b.Reference), strings.Compare(a.Bundle, b.Bundle))
	})
	const most = 8
	g.Near = slices.Compact(g.Near)
	if len(g.Near) > most {
		g.Near = g.Near[:most]
	}
	return g
}

func digestOf(n reference.Named) string {
	if d, ok := n.(reference.Digested); ok {
		return d.Digest().String()
	}
	return ""
}

func sameTag(a, b reference.Named) bool {
	ta, ok := a.(reference.Tagged)
	tb, ok2 := b.(reference.Tagged)
	return ok && ok2 && ta.Tag() == tb.Tag()
}

func (s *shelf) near(st stored, ref string) Near {
	n := Near{Reference: ref, Bundle: st.archive.Path()}
	if st.image.Desc.Digest.Hex != "" {
		n.Digest = st.image.Desc.Digest.String()
	}
	if st.image.Platform != nil {
		n.Platform = st.image.Platform.OS + "/" + st.image.Platform.Architecture
	}
	return n
}

// chart finds a chart that was packed into a bundle: nil if none has it.
func (s *shelf) chart(ref charts.Ref) (*charts.Chart, error) {
	for _, named := range callings(ref) {
		for _, f := range s.files {
			if f.Archive == nil {
				continue
			}
			for _, a := range f.Archive.Artifacts() {
				i := strings.LastIndex(a.Ref, ":")
				if a.Kind != airgap.KindChart || i < 0 || !named(a.Ref[:i], a.Ref[i+1:]) {
					continue
				}
				c, err := s.load(f.Archive, a)
				if err != nil {
					return nil, fmt.Errorf("chart %s in %s: %w", a.Ref, f.Path, err)
				}
				if ref.Version == "" || c.Matches(ref.Version) {
					return c, nil
				}
			}
		}
	}
	return nil, nil
}

// callings are the names that a bundle may have a chart under, the surest first. Each
// is asked for a repository (REGISTRY/PATH/NAME) and a tag.
func callings(ref charts.Ref) []func(repository, tag string) bool {
	base := func(repository string) string { return repository[strings.LastIndex(repository, "/")+1:] }
	exactly := func(wanted string) func(string, string) bool {
		return func(repository, tag string) bool { return repository == wanted || repository+":"+tag == wanted }
	}
	at, oci := strings.CutPrefix(first(ref.Repo, ref.Chart), "oci://")
	switch {
	case oci && ref.Repo != "":
		return []func(string, string) bool{exactly(strings.TrimSuffix(at, "/") + "/" + ref.Chart)}
	case oci:
		return []func(string, string) bool{exactly(at)}
	case ref.Repo != "":
		_, host, _ := strings.Cut(ref.Repo, "://")
		return []func(string, string) bool{
			exactly(strings.TrimSuffix(host, "/") + "/" + ref.Chart),
			func(repository, _ string) bool { return base(repository) == ref.Chart },
		}
	}
	file := strings.TrimSuffix(ref.Chart[strings.LastIndex(ref.Chart, "/")+1:], ".tgz") // of https://…/name-version.tgz
	return []func(string, string) bool{func(repository, tag string) bool {
		return file == base(repository)+"-"+tag || file == base(repository)+"-"+strings.ReplaceAll(tag, "_", "+")
	}}
}

func (s *shelf) load(a *airgap.Archive, art airgap.Artifact) (*charts.Chart, error) {
	m, _, err := a.Manifest(art.Desc.Digest)
	if err != nil {
		return nil, err
	}
	for _, l := range m.Layers {
		if l.MediaType != charts.ContentMediaType {
			continue
		}
		r, err := s.open(l.Digest, a)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return charts.Read(r, a.Path()+": "+art.Ref)
	}
	return nil, charts.ErrNotChart
}

func (s *shelf) bundles() []Bundle {
	var out []Bundle
	for _, f := range s.files {
		b := Bundle{File: f.Path}
		if f.Err != nil {
			b.Error = f.Err.Error()
		}
		for i, st := range s.images {
			if st.archive == f.Archive && f.Archive != nil {
				b.Images++
				if s.used[i] {
					b.Used++
				}
			}
		}
		out = append(out, b)
	}
	return out
}
