package airgap

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/rancher/rke2/airgap/layer"
)

// image compares one image; nil: it is the same.
func (d *differ) image(p pair) (*ImageChange, error) {
	c := &ImageChange{Change: Changed, Name: p.name()}
	var before, after []LayerInfo
	for _, side := range []struct {
		a      *Archive
		img    *Image
		ref    *string
		digest *string
		layers *[]LayerInfo
		lone   Change
	}{{d.a, p.a, &c.From, &c.FromDigest, &before, Removed}, {d.b, p.b, &c.To, &c.ToDigest, &after, Added}} {
		if side.img == nil {
			continue
		}
		layers, err := side.a.layerInfos(*side.img)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", side.img.label(), err)
		}
		*side.layers, *side.ref, *side.digest = layers, side.img.label(), side.img.identity().String()
		c.Platform = side.img.platform()
		if p.a == nil || p.b == nil {
			c.Change = side.lone
		}
	}
	c.Attached = p.a != nil && p.b != nil && c.FromDigest == c.ToDigest && d.a.evidence(*p.a) != d.b.evidence(*p.b)
	if c.FromDigest == c.ToDigest && c.From == c.To && !c.Attached {
		return nil, nil
	}
	c.Layers = compareLayers(before, after)
	return c, nil
}

// evidence names everything that is attached to an image.
func (a *Archive) evidence(img Image) string {
	var out []string
	for _, at := range a.attached {
		if at.subject == img.Desc.Digest || at.subject == img.Index {
			out = append(out, at.kind+at.desc.Digest.String())
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ")
}

// layerInfos describes an image's layers.
func (a *Archive) layerInfos(img Image) ([]LayerInfo, error) {
	layers, err := a.stored(img)
	if err != nil {
		return nil, err
	}
	cfg, err := a.config(img)
	if err != nil {
		return nil, err
	}
	out := make([]LayerInfo, len(layers))
	for i, l := range layers {
		out[i] = LayerInfo{Size: l.size, Absent: l.absent}
		if img.legacy == nil {
			out[i].Digest = l.digest.String()
		}
	}
	if img.legacy == nil {
		m, _, err := a.manifest(img.Desc.Digest)
		if err != nil {
			return nil, err
		}
		for i, l := range m.Layers {
			out[i].MediaType, out[i].Size = string(l.MediaType), l.Size
		}
	}
	describeLayers(out, cfg)
	return out, nil
}

// compareLayers tells layers apart by what they unpack to, so that one which was only
// compressed again is the same.
func compareLayers(before, after []LayerInfo) LayerChange {
	id := func(l LayerInfo) string { return cmp.Or(l.DiffID, l.Digest) }
	count := map[string]int{}
	for _, l := range before {
		count[id(l)]++
	}
	var out LayerChange
	for _, l := range after {
		if count[id(l)] > 0 {
			count[id(l)]--
			out.Same++
			continue
		}
		out.Added = append(out.Added, l)
	}
	for _, l := range slices.Backward(before) {
		if count[id(l)] > 0 {
			count[id(l)]--
			out.Removed = append(out.Removed, l)
		}
	}
	slices.Reverse(out.Removed)
	return out
}

// FileChange is a file of an image's root file system that is not the same.
type FileChange struct {
	Change Change `json:"change"`
	Path   string `json:"path"`
	// What of a changed file differs: type, content, target, device, mode, owner or
	// attributes. Times are not compared.
	What []string `json:"what,omitempty"`
	Type string   `json:"type"` // file, folder, link, device or pipe; of what it became
	From int64    `json:"fromSize,omitempty"`
	To   int64    `json:"toSize,omitempty"`
}

// files compares the files of the images that changed, an image at a time.
func (d *differ) files(pairs []pair) error {
	told := &tally{tell: d.opt.Progress}
	var changed []pair
	for _, p := range pairs {
		if p.a == nil || p.b == nil || p.a.identity() == p.b.identity() {
			continue
		}
		changed = append(changed, p)
		for _, side := range []struct {
			a   *Archive
			img *Image
		}{{d.a, p.a}, {d.b, p.b}} {
			layers, err := side.a.stored(*side.img)
			if err != nil {
				return err
			}
			for _, l := range layers {
				told.total += l.size
			}
		}
	}
	for _, p := range changed {
		from, err := d.tree(d.a, *p.a, told)
		if err != nil {
			return err
		}
		to, err := d.tree(d.b, *p.b, told)
		if err != nil {
			return err
		}
		for i := range d.out.Images {
			if c := &d.out.Images[i]; c.Change == Changed && c.From == p.a.label() && c.To == p.b.label() && c.Platform == p.b.platform() {
				c.Files = compareFiles(from, to)
			}
		}
	}
	return nil
}

func (d *differ) tree(a *Archive, img Image, told *tally) (*layer.Tree, error) {
	layers, err := a.stored(img)
	if err != nil {
		return nil, err
	}
	found, err := a.listLayers(d.ctx, layers, true, told.add)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.label(), err)
	}
	t, err := found.tree(layers)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.label(), err)
	}
	return t, nil
}

func compareFiles(from, to *layer.Tree) []FileChange {
	var out []FileChange
	for name, two := range from.Against(to) {
		c := FileChange{Change: Changed, Path: "/" + name}
		was, is := two[0], two[1]
		if was != nil {
			c.Change, c.Type, c.From = Removed, typeName(was.Type), was.Size
		}
		if is != nil {
			c.Change, c.Type, c.To = Added, typeName(is.Type), is.Size
		}
		if was != nil && is != nil {
			c.Change = Changed
			if c.What = is.Differs(*was.Entry); len(c.What) == 0 {
				continue
			}
		}
		out = append(out, c)
	}
	return out
}

func typeName(t layer.Type) string {
	switch t {
	case layer.Dir:
		return "folder"
	case layer.Symlink:
		return "link"
	case layer.Char, layer.Block:
		return "device"
	case layer.Fifo:
		return "pipe"
	}
	return "file"
}
