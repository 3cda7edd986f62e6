package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/build/layer"
)

// Image is a finished image: its manifest and config as they are to be stored, and the
// layers that the manifest names.
type Image struct {
	Manifest   []byte
	Config     []byte
	Descriptor v1.Descriptor // of Manifest, with the platform
	Layers     []layer.Layer
	Files      []layer.File // all that is in it, sorted by path
}

// Options are what an image depends on besides its Dockerfile.
type Options struct {
	Contexts map[string]Context
	Local    Context // what COPY without --from copies from
	Platform v1.Platform
	Epoch    time.Time // date of the image: SOURCE_DATE_EPOCH
	Layers   *layer.Builder
}

// Build makes the image.
func (d *Dockerfile) Build(o Options) (Image, error) {
	plans, err := d.layers(o)
	if err != nil {
		return Image{}, err
	}
	made := make([]layer.Layer, len(plans))
	var g errgroup.Group
	for i, p := range plans {
		if p.files == nil {
			continue
		}
		g.Go(func() error {
			l, err := o.Layers.Build(p.files)
			if err != nil {
				return d.errorf(p.line, "%w", err)
			}
			made[i] = l
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return Image{}, err
	}
	created := v1.Time{Time: o.Epoch.UTC().Truncate(time.Second)}
	config := v1.ConfigFile{
		Architecture: o.Platform.Architecture,
		OS:           o.Platform.OS,
		Variant:      o.Platform.Variant,
		Created:      created,
		Config:       d.Config(),
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}},
	}
	manifest := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{}}
	img := Image{}
	for i, p := range plans {
		config.History = append(config.History, v1.History{Created: created, CreatedBy: p.text, EmptyLayer: p.files == nil})
		if p.files == nil {
			continue
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, made[i].DiffID)
		manifest.Layers = append(manifest.Layers, made[i].Descriptor())
		img.Layers = append(img.Layers, made[i])
		img.Files = append(img.Files, p.files...)
	}
	sort.Slice(img.Files, func(i, j int) bool { return img.Files[i].Path < img.Files[j].Path })
	if img.Config, err = encode(config); err != nil {
		return Image{}, err
	}
	manifest.Config = describe(types.OCIConfigJSON, img.Config)
	if img.Manifest, err = encode(manifest); err != nil {
		return Image{}, err
	}
	img.Descriptor = describe(types.OCIManifestSchema1, img.Manifest)
	platform := o.Platform
	img.Descriptor.Platform = &platform
	return img, nil
}

// layerPlan is one entry of the history; files is nil where it has no layer.
type layerPlan struct {
	line  int
	text  string
	files []layer.File
}

// layers works out what each instruction adds to the tree, in order.
func (d *Dockerfile) layers(o Options) ([]layerPlan, error) {
	tree := map[string]bool{} // path in the image -> is a folder
	var plans []layerPlan
	if d.base != Scratch {
		ctx, ok := o.Contexts[d.base]
		if !ok {
			return nil, d.errorf(d.from, "FROM %s: %w", d.base, unknownContext(o.Contexts))
		}
		files, err := ctx.List("")
		if err != nil {
			return nil, d.errorf(d.from, "FROM %s: %w", d.base, err)
		}
		if err := extend(tree, files); err != nil {
			return nil, d.errorf(d.from, "FROM %s: %w", d.base, err)
		}
		plans = append(plans, layerPlan{line: d.from, text: "FROM " + d.base, files: files})
	}
	for _, s := range d.steps {
		p := layerPlan{line: s.line, text: s.text}
		switch {
		case s.copy != nil:
			files, err := s.copy.files(o, tree)
			if err != nil {
				return nil, d.errorf(s.line, "COPY: %w", err)
			}
			p.files = files
		case s.mkdir != "" && s.mkdir != "/" && !tree[clean(s.mkdir)]:
			p.files = []layer.File{{Path: clean(s.mkdir), Mode: 0o755, Dir: true}}
		}
		if err := extend(tree, p.files); err != nil {
			return nil, d.errorf(s.line, "%w", err)
		}
		plans = append(plans, p)
	}
	return plans, nil
}

func (c *copyStep) files(o Options, tree map[string]bool) ([]layer.File, error) {
	ctx, where := o.Local, "the Dockerfile's folder"
	if c.from != "" {
		var ok bool
		if ctx, ok = o.Contexts[c.from]; !ok {
			return nil, fmt.Errorf("--from=%s: %w", c.from, unknownContext(o.Contexts))
		}
		where = "context " + c.from
	}
	var found []match
	for _, src := range c.sources {
		m, err := find(ctx, clean(src))
		if err != nil {
			return nil, err
		}
		if len(m) == 0 {
			return nil, fmt.Errorf("%s has no %s", where, src)
		}
		found = append(found, m...)
	}
	toFolder := strings.HasSuffix(c.dest, "/") || c.dest == "/"
	if len(found) > 1 && !toFolder {
		return nil, fmt.Errorf("%d sources need a folder to go to: write %s/", len(found), c.dest)
	}
	dest := clean(c.dest)
	if tree[dest] && !toFolder && !found[0].file.Dir {
		return nil, fmt.Errorf("%s is a folder: write %s/", c.dest, c.dest)
	}
	out := []layer.File{}
	for _, m := range found {
		if m.file.Dir {
			// A folder's contents are copied, and the folder to copy to is made.
			if dest != "" {
				out = append(out, layer.File{Path: dest, Mode: 0o755, Dir: true})
			}
			for _, f := range m.below {
				f.Path = path.Join(dest, strings.TrimPrefix(f.Path, m.file.Path))
				out = append(out, f)
			}
			continue
		}
		if m.file.Link != "" {
			// BuildKit copies what such a link points to, but keeps links below a folder.
			return nil, fmt.Errorf("%s is a symbolic link: name what it points to, or the folder that it is in", m.file.Path)
		}
		f := m.file
		f.Path = dest
		if toFolder {
			f.Path = path.Join(dest, path.Base(m.file.Path))
		}
		out = append(out, f)
	}
	if c.chmod != "" {
		mode, err := strconv.ParseUint(c.chmod, 8, 12)
		if err != nil {
			return nil, fmt.Errorf("--chmod=%s: %w", c.chmod, err)
		}
		for i := range out {
			if !out[i].Dir || out[i].Path != dest {
				out[i].Mode = fs.FileMode(mode)
			}
		}
	}
	return out, nil
}

// match is a source: a file, or a folder with what is below it.
type match struct {
	file  layer.File
	below []layer.File
}

func find(ctx Context, pattern string) ([]match, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("pattern %s: %w", pattern, err)
	}
	// The part before the first wildcard is all that has to be listed.
	prefix := pattern
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		prefix = clean(path.Dir(pattern[:i] + "x"))
	}
	all, err := ctx.List(prefix)
	if err != nil {
		return nil, err
	}
	if pattern == "" {
		return []match{{file: layer.File{Dir: true}, below: all}}, nil
	}
	var out []match
	for _, f := range all {
		if ok, _ := path.Match(pattern, f.Path); !ok {
			continue
		}
		m := match{file: f}
		if f.Dir {
			for _, g := range all {
				if g.Path != f.Path && below(g.Path, f.Path) {
					m.below = append(m.below, g)
				}
			}
		}
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].file.Path < out[j].file.Path })
	return out, nil
}

// extend adds files to the tree. A file that is there already would be in the image
// twice, so it is a mistake in the Dockerfile.
func extend(tree map[string]bool, files []layer.File) error {
	for _, f := range files {
		p := clean(f.Path)
		if isDir, ok := tree[p]; ok && (!isDir || !f.Dir) {
			return fmt.Errorf("/%s is in the image already", p)
		}
		tree[p] = f.Dir
		for up := path.Dir(p); up != "." && up != "/"; up = path.Dir(up) {
			if isDir, ok := tree[up]; ok && !isDir {
				return fmt.Errorf("/%s can't be made: /%s is no folder", p, up)
			}
			tree[up] = true
		}
	}
	return nil
}

func unknownContext(contexts map[string]Context) error {
	names := make([]string, 0, len(contexts))
	for n := range contexts {
		names = append(names, n)
	}
	sort.Strings(names)
	return fmt.Errorf("there is no such context; known are: %s", strings.Join(names, ", "))
}

// encode gives the one JSON form that is stored and hashed.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding image: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func describe(mt types.MediaType, data []byte) v1.Descriptor {
	sum := sha256.Sum256(data)
	return v1.Descriptor{
		MediaType: mt,
		Size:      int64(len(data)),
		Digest:    v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])},
	}
}
