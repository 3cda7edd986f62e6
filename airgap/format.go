package airgap

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations on the descriptors of a layout's or bundle's index.json.
const (
	// AnnotationImageName is the full reference, as containerd and docker write it.
	AnnotationImageName = "io.containerd.image.name"
	// AnnotationRefName is OCI's; skopeo looks images up by it.
	AnnotationRefName = "org.opencontainers.image.ref.name"
	// AnnotationKind tells images from what is attached to them, in cosign's terms.
	AnnotationKind = "kind"
	// AnnotationSets lists the sets that an image belongs to, comma separated; see [InSets].
	AnnotationSets = "io.rancher.rke2.sets"
	// AnnotationSigns is the digest of the manifest, or image index, that a signature
	// manifest is about.
	AnnotationSigns = "io.rancher.rke2.signs"
	// AnnotationIndex on an image is the digest of the image index that it was taken out
	// of, if something in the bundle is about that: cosign signs what a tag names.
	AnnotationIndex = "io.rancher.rke2.index"

	// annotationFormat and annotationDigest mark a bundle that this package wrote.
	// Either alone claims it, so that damage to one can't turn strict reading off.
	annotationFormat = markerPrefix + "format"
	annotationDigest = markerPrefix + "digest"
	annotationSets   = markerPrefix + "sets"
	markerPrefix     = "io.rancher.rke2.bundle."
	bundleFormat     = "1"
)

// Values of AnnotationKind (cosign's layout convention, and ours).
const (
	KindImage        = "dev.cosignproject.cosign/image"
	KindSignatures   = "dev.cosignproject.cosign/sigs"
	KindAttestations = "dev.cosignproject.cosign/atts"
	// KindReferrer is whatever else refers to an image or artifact
	// (https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers).
	// It is carried along and trusted in nothing.
	KindReferrer = "io.rancher.rke2/referrer"
)

// Names of the head's entries, in the order of a bundle.
const (
	layoutFile   = "oci-layout"
	indexFile    = "index.json"
	manifestFile = "manifest.json"
	blobPrefix   = "blobs/sha256/"
)

const layoutContent = `{"imageLayoutVersion":"1.0.0"}`

// Limits on what is read into memory or followed. Real bundles are far below.
const (
	maxIndex    = 16 << 20 // index.json, manifest.json
	maxManifest = 4 << 20  // one manifest or config: the OCI distribution specification's limit
	maxPayload  = 1 << 20  // one signature payload
	maxEntries  = 200_000
	maxGap      = 2 << 20 // headers of one entry, pax records included
	maxNesting  = 4       // indexes within indexes
)

// Faults that callers tell apart; the errors that wrap them say what and where.
var (
	// ErrTruncated: the file ends early.
	ErrTruncated = errors.New("truncated")
	// ErrDamaged: bytes differ from what was written or signed for.
	ErrDamaged = errors.New("damaged")
	// ErrNotArchive: the file is no image archive at all.
	ErrNotArchive = errors.New("not an image archive")
	// ErrRefusedContent: the archive holds what no image archive needs, such as
	// paths that lead outside, links, duplicate names or oversized parts.
	ErrRefusedContent = errors.New("refused")
	// ErrNotFound: the archive has no such blob.
	ErrNotFound = errors.New("not in the archive")
)

// HasArchiveName reports whether a file's name says that it is an image archive:
// .tar, .tar.zst, .tzst, .tar.gz, .tgz, .tar.lz4, .tar.bz2, .tbz, .tar.xz or .txz, in any case.
func HasArchiveName(file string) bool {
	l := strings.ToLower(file)
	for _, ext := range [...]string{".tar", ".tar.zst", ".tzst", ".tar.gz", ".tgz", ".tar.lz4", ".tar.bz2", ".tbz", ".tar.xz", ".txz"} {
		if strings.HasSuffix(l, ext) {
			return true
		}
	}
	return false
}

func blobName(h v1.Hash) string { return blobPrefix + h.Hex }

// parseBlobName is the inverse of blobName.
func parseBlobName(s string) (v1.Hash, bool) {
	hex, ok := strings.CutPrefix(s, blobPrefix)
	if !ok || len(hex) != 2*sha256.Size {
		return v1.Hash{}, false
	}
	for _, c := range hex {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return v1.Hash{}, false
		}
	}
	return v1.Hash{Algorithm: "sha256", Hex: hex}, true
}

func hashOf(b []byte) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(b))}
}

// epoch is the time of every entry: fixed, and late enough that GNU tar does not
// call it implausible.
func epoch() time.Time { return time.Unix(315532800, 0).UTC() } // 1980-01-01

// header is the tar header of one entry, in bytes.
func header(entry string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: entry, Size: size, Mode: 0o644, ModTime: epoch(),
	})
	return b.Bytes(), err
}

// padding is the number of zero bytes between an entry's content and the next header.
func padding(size int64) int64 { return -size & (blockSize - 1) }

const blockSize = 512

// trailer ends a tar: two zero blocks.
const trailer = 2 * blockSize

// sealIndex returns the canonical bytes of a bundle's index. Its marker holds the
// digest of the same index without that digest: integrity against accidents;
// authenticity is the signatures' business.
func sealIndex(idx v1.IndexManifest, sets []string) ([]byte, error) {
	about := map[string]string{annotationFormat: bundleFormat}
	if len(sets) > 0 {
		about[annotationSets] = strings.Join(sets, ",")
	}
	return sealWith(idx, about)
}

func sealWith(idx v1.IndexManifest, about map[string]string) ([]byte, error) {
	idx.Annotations = map[string]string{}
	maps.Copy(idx.Annotations, about)
	b, err := json.Marshal(idx)
	if err != nil {
		return nil, err
	}
	idx.Annotations[annotationDigest] = hashOf(b).String()
	return json.Marshal(idx)
}

// claimsBundle reports whether an index.json says that this package wrote it. It
// looks at the raw bytes: a damaged index must not pass for somebody else's.
func claimsBundle(raw []byte) bool { return bytes.Contains(raw, []byte(markerPrefix)) }

// checkSeal verifies that raw is exactly what sealIndex makes of its content, and
// returns the sets that the bundle was made of, and what a partial one is a part of.
func checkSeal(raw []byte, idx *v1.IndexManifest) ([]string, *Partial, error) {
	about := maps.Clone(idx.Annotations)
	delete(about, annotationDigest)
	if want, err := sealWith(*idx, about); err != nil || !bytes.Equal(raw, want) {
		return nil, nil, fmt.Errorf("%w: index.json is not as it was written: copy the file again", ErrDamaged)
	}
	sets := splitSets(about[annotationSets])
	switch f := about[annotationFormat]; {
	case f == partialFormat:
		p, err := parsePartial(idx)
		return sets, p, err
	case f != bundleFormat:
		return nil, nil, fmt.Errorf("bundle format %q is not known to this version, which reads %s and %s: use the rke2 that the bundle belongs to", f, bundleFormat, partialFormat)
	case about[annotationPartial] != "" || about[annotationBlobs] != "":
		return nil, nil, fmt.Errorf("%w: index.json says that it is of a whole bundle and of a part", ErrDamaged)
	}
	return sets, nil, nil
}

// dockerImage is one element of manifest.json (the docker-archive format).
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerManifest is the manifest.json that follows from a bundle's images.
func dockerManifest(images []Image, manifest func(v1.Hash) (*v1.Manifest, error)) ([]byte, error) {
	byDigest := map[v1.Hash]int{}
	out := []dockerImage{}
	for _, img := range images {
		var tags []string
		for _, t := range img.Refs {
			tags = append(tags, t.String())
		}
		if i, ok := byDigest[img.Desc.Digest]; ok {
			out[i].RepoTags = append(out[i].RepoTags, tags...)
			continue
		}
		m, err := manifest(img.Desc.Digest)
		if err != nil {
			return nil, err
		}
		d := dockerImage{Config: blobName(m.Config.Digest), RepoTags: tags, Layers: []string{}}
		for _, l := range m.Layers {
			d.Layers = append(d.Layers, blobName(l.Digest))
		}
		byDigest[img.Desc.Digest] = len(out)
		out = append(out, d)
	}
	return json.Marshal(out)
}

// Image is one image of an archive. Several names for the same manifest are one
// Image.
type Image struct {
	// Refs are its tags in docker's full form (docker.io/rancher/x:v1), sorted.
	Refs []name.Tag
	// Digests are its names by digest, if it has such.
	Digests []name.Digest
	// Desc describes its manifest. Its Digest is zero in a legacy docker-archive.
	Desc v1.Descriptor
	// Index is the digest of the image index that the manifest was found in, or taken
	// out of; zero if there is none.
	Index v1.Hash
	// Platform is nil where the archive does not say.
	Platform *v1.Platform
	// Sets are the sets of images it belongs to, in archives of ours.
	Sets []string

	legacy *legacyImage // of a legacy docker-archive
}

// Has reports whether the image carries that reference; a registry of docker.io
// counts as equal in each of its spellings.
func (i Image) Has(ref name.Tag) bool {
	for _, t := range i.Refs {
		if t.Name() == ref.Name() {
			return true
		}
	}
	return false
}

func sortImages(images []Image) {
	key := func(i Image) string {
		if len(i.Refs)+len(i.Digests) == 0 {
			return "~" + i.label()
		}
		return i.label()
	}
	sort.SliceStable(images, func(a, b int) bool { return key(images[a]) < key(images[b]) })
}

func isIndex(t types.MediaType) bool {
	return t == types.OCIImageIndex || t == types.DockerManifestList
}
