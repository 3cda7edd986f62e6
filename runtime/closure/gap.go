package closure

import (
	"cmp"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

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
