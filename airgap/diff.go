package airgap

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

// DiffOptions say how closely to compare two archives.
type DiffOptions struct {
	// Policy's keys decide which SBOMs count as verified; the others are compared too,
	// and the comparison says so.
	Policy trust.Policy
	// Image, if set, compares only images with this reference, or in this repository.
	Image string
	// Files unpacks the layers of images that changed and compares their files.
	Files bool
	// Progress is told the bytes of layers read.
	Progress func(done, total int64)
}

// Change is what became of something between two archives.
type Change string

// The changes.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
)

// Difference is the outcome of Diff, as `rke2 bundle diff -o json` prints it: what was
// done to A to get B.
type Difference struct {
	A         DiffSide         `json:"a"`
	B         DiffSide         `json:"b"`
	Same      bool             `json:"same"`
	Images    []ImageChange    `json:"images,omitempty"`
	Artifacts []ArtifactChange `json:"artifacts,omitempty"`
	Packages  []PackageChange  `json:"packages,omitempty"`
	// Delta is what has to be carried to whoever has A. Nil if Image was set.
	Delta *DeltaSize `json:"delta,omitempty"`
	// Notes say what could not be compared, or is not verified.
	Notes []string `json:"notes,omitempty"`
}

// DiffSide is one of two archives.
type DiffSide struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	Images int    `json:"images"`
}

// ImageChange is an image that is not the same in both archives.
type ImageChange struct {
	Change   Change `json:"change"`
	Name     string `json:"name"` // the repository, if From and To have it in common
	Platform string `json:"platform,omitempty"`
	From     string `json:"from,omitempty"` // reference
	To       string `json:"to,omitempty"`
	// Digests of the manifests; of the configs in legacy docker-archives.
	FromDigest string `json:"fromDigest,omitempty"`
	ToDigest   string `json:"toDigest,omitempty"`
	// Attached is set if the image is the same and its signatures or attestations are others.
	Attached bool        `json:"attached,omitempty"`
	Layers   LayerChange `json:"layers"`
	// Files are listed if that was asked for and the image is in both.
	Files []FileChange `json:"files,omitempty"`
}

// LayerChange compares the layers of an image.
type LayerChange struct {
	Same    int         `json:"same"`
	Added   []LayerInfo `json:"added,omitempty"`
	Removed []LayerInfo `json:"removed,omitempty"`
}

// ArtifactChange is a chart or a set of files that is not the same in both.
type ArtifactChange struct {
	Change     Change `json:"change"`
	Kind       string `json:"kind"` // chart or files
	Ref        string `json:"ref"`
	FromDigest string `json:"fromDigest,omitempty"`
	ToDigest   string `json:"toDigest,omitempty"`
}

// DeltaSize is what B has and A lacks.
type DeltaSize struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"` // of these blobs
	Of    int64 `json:"of"`    // bytes of all of B's blobs
	// File is the size of the file that rke2 bundle delta would write, to the byte; 0
	// if B is not a bundle that a delta can be made of.
	File int64 `json:"file,omitempty"`
}

// Diff compares what two archives hold: images, layers, packages by their SBOMs, charts
// and files, and with Files the files in images. How they are packed does not count.
func Diff(ctx context.Context, a, b *Archive, opt DiffOptions) (Difference, error) {
	d := &differ{ctx: ctx, a: a, b: b, opt: opt}
	if err := d.diff(); err != nil {
		return Difference{}, fmt.Errorf("comparing %s with %s: %w", a.file, b.file, err)
	}
	return d.out, nil
}

type differ struct {
	ctx  context.Context
	a, b *Archive
	opt  DiffOptions
	out  Difference
}

func (d *differ) diff() error {
	for _, side := range []*Archive{d.a, d.b} {
		if err := side.read(d.ctx, nil); err != nil {
			return err
		}
	}
	as, bs := d.chosen(d.a.images), d.chosen(d.b.images)
	if d.opt.Image != "" && len(as)+len(bs) == 0 {
		return fmt.Errorf("neither has %s", d.opt.Image)
	}
	d.out.A, d.out.B = DiffSide{d.a.file, d.a.size, len(as)}, DiffSide{d.b.file, d.b.size, len(bs)}
	pairs := match(as, bs)
	for _, p := range pairs {
		c, err := d.image(p)
		if err != nil {
			return err
		}
		if c != nil {
			d.out.Images = append(d.out.Images, *c)
		}
	}
	if d.opt.Files {
		if err := d.files(pairs); err != nil {
			return err
		}
	}
	if err := d.packages(as, bs); err != nil {
		return err
	}
	if d.opt.Image == "" {
		d.artifacts()
		if err := d.delta(); err != nil {
			return err
		}
	}
	d.out.Same = len(d.out.Images)+len(d.out.Artifacts) == 0
	return nil
}

// chosen are the images that are to be compared.
func (d *differ) chosen(images []Image) []Image {
	if d.opt.Image == "" {
		return images
	}
	var out []Image
	for _, img := range images {
		inRepository := slices.ContainsFunc(img.repositories(), func(r string) bool {
			return r == d.opt.Image || strings.HasSuffix(r, "/"+d.opt.Image)
		})
		if inRepository || img.called(d.opt.Image) {
			out = append(out, img)
		}
	}
	return out
}

// repositories are the image's names without tags and digests.
func (i Image) repositories() []string {
	var out []string
	for _, t := range i.Refs {
		out = append(out, strings.TrimSuffix(t.String(), ":"+t.TagStr()))
	}
	for _, g := range i.Digests {
		out = append(out, strings.TrimSuffix(g.String(), "@"+g.DigestStr()))
	}
	return out
}

// identity is the image's digest, or that of its config where it has none.
func (i Image) identity() v1.Hash {
	if i.legacy != nil {
		return i.legacy.id
	}
	return i.Desc.Digest
}

// pair is an image before and after; one of them may be nil.
type pair struct{ a, b *Image }

// match finds out which images are the same thing: by a name, then by repository. Both
// in the order of the archives.
func match(as, bs []Image) []pair {
	var out []pair
	usedA, usedB := map[int]bool{}, map[int]bool{}
	join := func(same func(x, y Image) bool) {
		for i := range as {
			for j := range bs {
				if !usedA[i] && !usedB[j] && as[i].platform() == bs[j].platform() && same(as[i], bs[j]) {
					usedA[i], usedB[j] = true, true
					out = append(out, pair{&as[i], &bs[j]})
				}
			}
		}
	}
	common := func(x, y []string) bool {
		return slices.ContainsFunc(x, func(s string) bool { return slices.Contains(y, s) })
	}
	join(func(x, y Image) bool { return common(x.Names(), y.Names()) })
	join(func(x, y Image) bool { return x.identity() == y.identity() })
	join(func(x, y Image) bool { return common(x.repositories(), y.repositories()) })
	for i := range as {
		if !usedA[i] {
			out = append(out, pair{a: &as[i]})
		}
	}
	for j := range bs {
		if !usedB[j] {
			out = append(out, pair{b: &bs[j]})
		}
	}
	slices.SortStableFunc(out, func(x, y pair) int { return strings.Compare(x.name(), y.name()) })
	return out
}

// name is what both sides of a pair have in common.
func (p pair) name() string {
	var names []string
	for _, img := range []*Image{p.a, p.b} {
		if img == nil {
			continue
		}
		r := append(img.repositories(), img.label())
		if names == nil {
			names = r
			continue
		}
		if i := slices.IndexFunc(names, func(s string) bool { return slices.Contains(r, s) }); i >= 0 {
			return names[i]
		}
	}
	return names[0]
}

// artifacts compares charts and sets of files by their references.
func (d *differ) artifacts() {
	before, after := map[string]Artifact{}, map[string]Artifact{}
	var keys []string
	for i, side := range []*Archive{d.a, d.b} {
		for _, art := range side.artifacts {
			[]map[string]Artifact{before, after}[i][art.key()] = art
			keys = append(keys, art.key())
		}
	}
	slices.Sort(keys)
	for _, k := range slices.Compact(keys) {
		from, was := before[k]
		to, is := after[k]
		if was && is && from.Desc.Digest == to.Desc.Digest {
			continue
		}
		c := ArtifactChange{Change: Changed, Kind: "chart", Ref: to.Ref}
		if to.Kind == KindFiles || from.Kind == KindFiles {
			c.Kind = "files"
		}
		if was {
			c.FromDigest = from.Desc.Digest.String()
		} else {
			c.Change = Added
		}
		if is {
			c.ToDigest = to.Desc.Digest.String()
		} else {
			c.Change, c.Ref = Removed, from.Ref
		}
		d.out.Artifacts = append(d.out.Artifacts, c)
	}
}

// delta adds up the blobs that A lacks, and lays out the delta that could be written.
func (d *differ) delta() error {
	if d.a.format == FormatDockerArchive || d.b.format == FormatDockerArchive {
		d.out.Notes = append(d.out.Notes, "a legacy docker-archive has no blobs that a delta could leave out")
		return nil
	}
	out := &DeltaSize{}
	for h, e := range d.b.blobs {
		out.Of += e.size
		if _, ok := d.a.blobs[h]; !ok {
			out.Blobs++
			out.Bytes += e.size
		}
	}
	d.out.Delta = out
	if _, part := d.b.Partial(); part || !d.b.ours {
		return nil
	}
	plan, err := d.b.wholePlan()
	if err != nil {
		return err
	}
	var would Delta
	keep, err := would.leaveOut(plan, []*Archive{d.a})
	if err != nil {
		return err
	}
	// Only the lengths of these count.
	whole := Whole{Name: plainName(d.b.file), Index: hashOf(plan.index()), Size: plan.Size, SHA256: strings.Repeat("0", 64)}
	if p, err := plan.partial(Partial{Whole: whole, Bases: would.Bases}, keep); err == nil {
		out.File = p.Size // else the files' names or kinds are none that a delta can refer to
	}
	return nil
}
