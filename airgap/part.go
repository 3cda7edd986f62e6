package airgap

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Partial says which whole a partial bundle is made of, and what else is needed to
// make that again. A partial bundle lists all of the whole's images and has all of
// its manifests, configs and signatures, so it is verified on its own; of the layers it
// has some. It is a part of a split bundle (Part and Of), or a delta (Bases).
type Partial struct {
	Whole Whole `json:"whole"`
	// Part of Of, from 1, in a split bundle.
	Part int `json:"part,omitempty"`
	Of   int `json:"of,omitempty"`
	// Bases have the layers that a delta leaves out.
	Bases []Base `json:"bases,omitempty"`
}

// Whole identifies the bundle that a partial bundle is made of.
type Whole struct {
	Name   string  `json:"name"`  // its file's base name
	Index  v1.Hash `json:"index"` // digest of its index.json, which commits to every byte
	Size   int64   `json:"size"`  // of the plain tar, in bytes
	SHA256 string  `json:"sha256"`
}

// Base is a bundle that a delta was made from.
type Base struct {
	Name  string  `json:"name"`
	Index v1.Hash `json:"index"`
}

func (b Base) String() string { return b.Name + " (its index.json is " + b.Index.String() + ")" }

// IsDelta tells a delta from a part of a split bundle.
func (p Partial) IsDelta() bool { return len(p.Bases) > 0 }

// String says what a partial bundle is, as in "part 1 of 3 of NAME".
func (p Partial) String() string {
	if p.IsDelta() {
		return "the delta for " + p.Whole.Name
	}
	return fmt.Sprintf("part %d of %d of %s", p.Part, p.Of, p.Whole.Name)
}

const (
	annotationPartial = markerPrefix + "partial"
	// annotationBlobs is the digest of the list of a partial bundle's blobs, which its
	// index does not imply.
	annotationBlobs = markerPrefix + "blobs"
	// partialFormat keeps readers away that know whole bundles only.
	partialFormat = "1-part"
	maxParts      = 9999
	maxBlob       = 1 << 50 // bytes of a layer that is not there; real ones are far below
)

// PartName is the file name of a part of a bundle that is called base (NAME.tar).
func PartName(base string, part, of int) string {
	digits := len(fmt.Sprint(of))
	return fmt.Sprintf("%s.part%0*dof%d.tar", strings.TrimSuffix(base, ".tar"), digits, part, of)
}

// DeltaName is the usual file name of the delta for a bundle that is called base.
func DeltaName(base string) string { return strings.TrimSuffix(base, ".tar") + ".delta.tar" }

// Partial says what the archive is a part of; ok is false for an archive that stands
// for itself.
func (a *Archive) Partial() (p Partial, ok bool) {
	if a.head.partial == nil {
		return Partial{}, false
	}
	p = *a.head.partial
	p.Bases = slices.Clone(p.Bases)
	return p, true
}

// Absent describes the blobs that the whole has and a partial bundle has not. It is
// empty for any other archive.
func (a *Archive) Absent() (map[v1.Hash]v1.Descriptor, error) {
	if err := a.whole(); err != nil {
		return nil, err
	}
	return maps.Clone(a.absent), nil
}

// Has tells whether a blob is in the archive. A compressed one is read whole for it, once.
func (a *Archive) Has(h v1.Hash) (bool, error) {
	if err := a.whole(); err != nil {
		return false, err
	}
	_, ok := a.blobs[h]
	return ok, nil
}

// partialMarker is what the index of a partial bundle says beside what the whole's does.
func partialMarker(p Partial, blobs []v1.Hash) (map[string]string, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		annotationFormat: partialFormat, annotationPartial: string(b), annotationBlobs: listDigest(blobs).String(),
	}, nil
}

// listDigest is the digest of blobs' digests in hex, a line each, in their order.
func listDigest(blobs []v1.Hash) v1.Hash {
	var b bytes.Buffer
	for _, h := range blobs {
		b.WriteString(h.Hex)
		b.WriteByte('\n')
	}
	return hashOf(b.Bytes())
}

// wholeIndex returns the bytes of the index.json that a partial bundle's was made of.
func wholeIndex(idx v1.IndexManifest) ([]byte, error) {
	about := maps.Clone(idx.Annotations)
	for _, k := range []string{annotationDigest, annotationPartial, annotationBlobs} {
		delete(about, k)
	}
	about[annotationFormat] = bundleFormat
	return sealWith(idx, about)
}

// parsePartial reads a partial bundle's marker, which must be of that index.
func parsePartial(idx *v1.IndexManifest) (*Partial, error) {
	wrong := func(what string) error {
		return fmt.Errorf("%w: %s: what it says about the whole bundle: %s", ErrDamaged, indexFile, what)
	}
	raw := idx.Annotations[annotationPartial]
	p := &Partial{}
	dec := json.NewDecoder(strings.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(p); err != nil {
		return nil, wrong(err.Error())
	}
	if again, err := json.Marshal(p); err != nil || string(again) != raw {
		return nil, wrong("it is not as it was written")
	}
	if err := p.check(); err != nil {
		return nil, wrong(err.Error())
	}
	whole, err := wholeIndex(*idx)
	if err != nil {
		return nil, err
	}
	if is := hashOf(whole); is != p.Whole.Index {
		return nil, wrong("it is of another index: " + is.String())
	}
	return p, nil
}

func (p Partial) check() error {
	isSplit := p.Part >= 1 && p.Part <= p.Of && p.Of <= maxParts
	none := p.Part == 0 && p.Of == 0
	sum, err := hex.DecodeString(p.Whole.SHA256)
	switch {
	case isSplit == p.IsDelta() || !isSplit && !none:
		return errors.New("it is neither a part of a split bundle nor a delta")
	case err != nil || len(sum) != 32 || p.Whole.SHA256 != strings.ToLower(p.Whole.SHA256):
		return fmt.Errorf("%s is no SHA-256 sum", printable(p.Whole.SHA256))
	}
	for _, b := range append(slices.Clone(p.Bases), Base{p.Whole.Name, p.Whole.Index}) {
		if !baseName(b.Name) {
			return fmt.Errorf("%s is no file's name", printable(b.Name))
		}
		if b.Index == (v1.Hash{}) {
			return fmt.Errorf("%s has no digest", b.Name)
		}
	}
	return nil
}

// baseName accepts names of files that can be shown as they are, and at whole length.
func baseName(s string) bool {
	return s != "" && s != "." && s != ".." && path.Base(s) == s && !strings.HasPrefix(s, ".") &&
		printable(s) == s
}

// checkPartial holds a partial bundle's blobs to what its index says: those in its list
// are here, and with the absent ones they are the whole.
func (a *Archive) checkPartial() error {
	p := a.head.partial
	if is := listDigest(a.order).String(); is != a.head.idx.Annotations[annotationBlobs] {
		return fmt.Errorf("%w: the blobs in it are not those that were written: copy the file again", ErrDamaged)
	}
	plan, err := a.wholePlan()
	if err != nil {
		return err
	}
	if plan.Size != p.Whole.Size {
		return fmt.Errorf("%w: %s: the whole bundle has %d bytes, not %d", ErrDamaged, indexFile, plan.Size, p.Whole.Size)
	}
	return nil
}

// wholePlan lays out the bundle that the archive is, or is a part of. The plan's source
// has what the archive has.
func (a *Archive) wholePlan() (*Plan, error) {
	index := a.head.index
	if a.head.partial != nil {
		var err error
		if index, err = wholeIndex(*a.head.idx); err != nil {
			return nil, err
		}
	}
	plan := &Plan{Images: a.images, src: archiveBlobs{a}, head: []headFile{
		{layoutFile, a.head.layout}, {indexFile, index}, {manifestFile, a.head.manifest},
	}}
	for _, descs := range []map[v1.Hash]v1.Descriptor{a.descs, a.absent} {
		for _, d := range descs {
			plan.blobs = append(plan.blobs, bare(d))
		}
	}
	slices.SortFunc(plan.blobs, func(x, y v1.Descriptor) int { return strings.Compare(x.Digest.Hex, y.Digest.Hex) })
	return plan, plan.measure()
}

// bulk are the blobs that a partial bundle may lack: a split bundle's part some of the
// layers, a delta also what its bases have of attestations and other referrers.
type bulk struct{ layers, evidence map[v1.Hash]bool }

// sortOut finds out of a bundle's manifests which of its blobs are bulk. A blob that is a
// manifest or a config too is not.
func sortOut(c contents, manifest func(v1.Hash) (*v1.Manifest, error)) (bulk, error) {
	out := bulk{map[v1.Hash]bool{}, map[v1.Hash]bool{}}
	kept := map[v1.Hash]bool{}
	note := func(h v1.Hash, layers map[v1.Hash]bool) error {
		m, err := manifest(h)
		if err != nil {
			return err
		}
		kept[h], kept[m.Config.Digest] = true, true
		for _, l := range m.Layers {
			if !neverShipped(l) {
				layers[l.Digest] = true
			}
		}
		return nil
	}
	for _, i := range c.images {
		kept[i.Index] = true
		if err := note(i.Desc.Digest, out.layers); err != nil {
			return out, err
		}
	}
	for _, a := range c.artifacts {
		if err := note(a.Desc.Digest, out.layers); err != nil {
			return out, err
		}
	}
	for _, at := range c.attached {
		into := out.evidence
		if at.kind == KindSignatures {
			into = kept
		}
		if err := note(at.desc.Digest, into); err != nil {
			return out, err
		}
	}
	for h := range kept {
		delete(out.layers, h)
		delete(out.evidence, h)
	}
	return out, nil
}
