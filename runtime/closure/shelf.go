package closure

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
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

func (s *shelf) bundles() []Bundle {
	out := []Bundle{}
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
