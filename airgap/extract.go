package airgap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/layer"
)

// ExtractOptions say which files to take out of an archive, and where to.
type ExtractOptions struct {
	// Dir is the folder to write to. Without Paths it must be empty or not exist.
	Dir string
	// Ref is a reference or digest of an image, a chart or a set of files. It may be
	// empty if the archive has only one of them.
	Ref string
	// Platform ("linux/arm64") tells images of one reference apart.
	Platform string
	// Paths are files and folders to take, each written into Dir under its last part.
	// None: everything.
	Paths []string
	// Owners keeps owners and groups, and setuid, setgid and sticky bits.
	Owners bool
	// Progress is told the bytes of layers read.
	Progress func(done, total int64)
}

// Extraction is what Extract wrote.
type Extraction struct {
	Name    string `json:"name"` // of the image, chart or set of files
	Dir     string `json:"dir"`
	Files   int    `json:"files"`
	Folders int    `json:"folders"`
	Links   int    `json:"links"` // symbolic
	Bytes   int64  `json:"bytes"`
	// LeftOut lists devices and named pipes, which are not made.
	LeftOut []string `json:"leftOut,omitempty"`
}

// Extract writes files of an image's root file system (its layers put together), of a
// chart, or of a set of files. Every layer is verified before anything of it appears:
// the files are written into a hidden folder, which becomes Dir, or what was asked for
// in it, when all is right. Nothing that an archive says can lead out of that folder.
func Extract(ctx context.Context, a *Archive, opt ExtractOptions) (Extraction, error) {
	x, err := a.extractor(ctx, opt.Ref, opt.Platform, 2, opt.Progress)
	if err != nil {
		return Extraction{}, fmt.Errorf("extracting from %s: %w", a.file, err)
	}
	out, err := x.extract(ctx, opt)
	if err != nil {
		return Extraction{}, fmt.Errorf("extracting %s from %s: %w", x.name, a.file, err)
	}
	return out, nil
}

// ExtractFile writes one regular file's content to w. Symbolic links are followed as in a
// container. If the error is not nil, w may have got a part of the file.
func ExtractFile(ctx context.Context, a *Archive, ref, platform, name string, w io.Writer) error {
	x, err := a.extractor(ctx, ref, platform, 2, nil)
	if err != nil {
		return fmt.Errorf("extracting from %s: %w", a.file, err)
	}
	n, at, err := x.tree.Follow(name)
	if err == nil && n.Type != layer.File {
		err = fmt.Errorf("%s is no regular file", at)
	}
	if err == nil {
		err = x.contents(ctx, map[fileID]bool{x.id(n): true}, func(_ fileID, r io.Reader) error {
			_, err := io.Copy(w, r)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("extracting %s of %s from %s: %w", name, x.name, a.file, err)
	}
	return nil
}

// fileID is a file's place: the number of its layer, and of its entry in that.
type fileID struct{ layer, index int32 }

// extractor is a tree of files, and how to come by their content.
type extractor struct {
	a      *Archive
	name   string
	tree   *layer.Tree
	layers []stored
	packed bool // layers are tars; else each is one file
	told   *tally
}

// extractor reads what is named and puts its files together. passes is how often the
// layers will be read, for the progress.
func (a *Archive) extractor(ctx context.Context, ref, platform string, passes int64, progress func(done, total int64)) (*extractor, error) {
	if err := a.read(ctx, nil); err != nil {
		return nil, err
	}
	img, art, err := a.choose(ref, platform)
	if err != nil {
		return nil, err
	}
	x := &extractor{a: a, packed: true}
	switch {
	case art != nil && art.Kind == KindFiles:
		x.name = art.Ref
		return x, x.files(*art)
	case art != nil:
		x.name = art.Ref
		x.layers, err = a.chartLayer(*art)
	default:
		x.name = img.label()
		x.layers, err = a.stored(*img)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", x.name, err)
	}
	total := int64(0)
	for _, l := range x.layers {
		total += l.size
	}
	x.told = &tally{total: passes * total, tell: progress}
	found, err := a.listLayers(ctx, x.layers, false, x.told.add)
	if _, part := a.Partial(); part && errors.Is(err, ErrNotFound) {
		if incomplete, more := Missing([]*Archive{a}, nil); more == nil && incomplete != nil {
			err = fmt.Errorf("%w: %w", err, incomplete)
		}
	}
	if err == nil {
		x.tree, err = found.tree(x.layers)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", x.name, err)
	}
	return x, nil
}

// files makes a tree of a set of files, whose layers are the files.
func (x *extractor) files(art Artifact) error {
	m, _, err := x.a.manifest(art.Desc.Digest)
	if err != nil {
		return err
	}
	x.packed, x.tree, x.told = false, layer.NewTree(), &tally{}
	for _, l := range m.Layers {
		e, ok := x.a.blobs[l.Digest]
		if !ok {
			return fmt.Errorf("%s: file %s: %w", art.Ref, printable(l.Annotations[AnnotationTitle]), ErrNotFound)
		}
		x.layers = append(x.layers, stored{entry: e, digest: l.Digest})
		if err := x.tree.Apply([]layer.Entry{{Name: l.Annotations[AnnotationTitle], Type: layer.File, Mode: 0o644, Size: l.Size}}); err != nil {
			return err
		}
	}
	return nil
}

// chartLayer finds the one layer of a chart that has its files.
func (a *Archive) chartLayer(art Artifact) ([]stored, error) {
	m, _, err := a.manifest(art.Desc.Digest)
	if err != nil {
		return nil, err
	}
	for _, l := range m.Layers {
		if e, ok := a.blobs[l.Digest]; ok && l.MediaType == TypeChartContent {
			return []stored{{entry: e, digest: l.Digest}}, nil
		}
	}
	return nil, fmt.Errorf("its archive: %w", ErrNotFound)
}

// id is where a file's content is. Of layers that are the same blob, it is the first.
func (x *extractor) id(n *layer.Node) fileID {
	name := x.layers[n.Layer].name
	return fileID{int32(slices.IndexFunc(x.layers, func(s stored) bool { return s.name == name })), n.Index}
}

// contents calls fn with the content of each wanted file, once, one at a time. Only when
// it returns without an error are all of them known to be right.
func (x *extractor) contents(ctx context.Context, want map[fileID]bool, fn func(fileID, io.Reader) error) error {
	number := map[string]int32{}
	var needed []stored
	for id := range want {
		l := x.layers[id.layer]
		if _, ok := number[l.name]; !ok {
			number[l.name] = id.layer
			needed = append(needed, l)
		}
	}
	slices.SortFunc(needed, func(a, b stored) int { return cmp.Compare(a.off, b.off) })
	var mu sync.Mutex
	var decoders layer.Decoders
	defer decoders.Close()
	return x.a.visitStored(ctx, needed, func(ctx context.Context, l stored, content io.Reader) error {
		give := func(index int32, r io.Reader) error {
			id := fileID{number[l.name], index}
			if !want[id] {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			return fn(id, r)
		}
		content = telling(cancelable{ctx, content}, x.told.add)
		if !x.packed {
			return give(0, content)
		}
		index := int32(0)
		_, err := layer.Read(ctx, content, layer.Options{Size: l.size, Decoders: &decoders}, func(_ layer.Entry, r io.Reader) error {
			index++
			return give(index-1, r)
		})
		return layerFault(err)
	})
}

// choose finds an image or an artifact by its name.
func (a *Archive) choose(ref, platform string) (*Image, *Artifact, error) {
	var images []Image
	for _, img := range a.images {
		if img.called(ref) && (platform == "" || img.Platform != nil && img.Platform.String() == platform) {
			images = append(images, img)
		}
	}
	var artifacts []Artifact
	for _, art := range a.artifacts {
		if art.called(ref) && platform == "" {
			artifacts = append(artifacts, art)
		}
	}
	switch {
	case len(images) == 1 && len(artifacts) == 0:
		return &images[0], nil, nil
	case len(images) == 0 && len(artifacts) == 1:
		return nil, &artifacts[0], nil
	case ref != "" && len(images) > 1:
		var have []string
		for _, i := range images {
			have = append(have, i.platform())
		}
		return nil, nil, fmt.Errorf("%s is there for several platforms: say which of %q", ref, have)
	}
	var have []string
	for _, img := range a.images {
		have = append(have, img.Names()[0])
	}
	for _, art := range a.artifacts {
		have = append(have, art.Ref)
	}
	if ref == "" {
		return nil, nil, fmt.Errorf("say which of these:\n  %s", strings.Join(have, "\n  "))
	}
	return nil, nil, fmt.Errorf("%s is not in it; it has:\n  %s", ref, strings.Join(have, "\n  "))
}

// called tells whether a person who writes ref means the image.
func (i Image) called(ref string) bool {
	if ref == "" || slices.Contains(i.Names(), ref) {
		return true
	}
	for _, h := range []v1.Hash{i.Desc.Digest, i.Index, i.id()} {
		if h != (v1.Hash{}) && h.String() == ref {
			return true
		}
	}
	tag, err := ParseTag(ref)
	return err == nil && i.Has(tag)
}

// called tells whether a person who writes ref means the artifact.
func (a Artifact) called(ref string) bool {
	return ref == "" || ref == a.Ref || ref == "oci://"+a.Ref || ref == a.Desc.Digest.String() || ref == path.Base(a.Ref)
}

// id is the digest of a legacy image's config.
func (i Image) id() v1.Hash {
	if i.legacy == nil {
		return v1.Hash{}
	}
	return i.legacy.id
}

func (i Image) platform() string {
	if i.Platform == nil {
		return ""
	}
	return i.Platform.String()
}

// tally adds up what several cores have done.
type tally struct {
	mu          sync.Mutex
	done, total int64
	tell        func(done, total int64)
}

func (t *tally) add(n int) {
	if t.tell == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += int64(n)
	t.tell(t.done, t.total)
}
