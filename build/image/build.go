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
	}
	img.Files = final(plans)
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

// final is the tree that the layers make.
func final(plans []layerPlan) []layer.File {
	at := map[string]layer.File{}
	for _, p := range plans {
		for _, f := range p.files {
			at[f.Path] = f
		}
	}
	out := make([]layer.File, 0, len(at))
	for _, f := range at {
		out = append(out, f)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out
}

// layerPlan is one entry of the history; files is nil where it has no layer.
type layerPlan struct {
	line  int
	text  string
	files []layer.File
}

// layers works out what each instruction adds to the tree, in order.
func (d *Dockerfile) layers(o Options) ([]layerPlan, error) {
	tree := known{}
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
		if err := tree.add(files); err != nil {
			return nil, d.errorf(d.from, "FROM %s: %w", d.base, err)
		}
		plans = append(plans, layerPlan{line: d.from, text: "FROM " + d.base, files: tree.withFolders(files, 0o755)})
	}
	for _, s := range d.steps {
		p := layerPlan{line: s.line, text: s.text}
		switch {
		case s.copy != nil:
			files, err := s.copy.files(o, tree)
			if err != nil {
				return nil, d.errorf(s.line, "COPY: %w", err)
			}
			p.files = tree.withFolders(files, s.copy.folderMode())
		case s.mkdir != "" && s.mkdir != "/" && !tree.isFolder(clean(s.mkdir)):
			p.files = tree.withFolders([]layer.File{{Path: clean(s.mkdir), Mode: 0o755, Dir: true}}, 0o755)
		}
		if err := tree.add(p.files); err != nil {
			return nil, d.errorf(s.line, "%w", err)
		}
		plans = append(plans, p)
	}
	return plans, nil
}

func (c *copyStep) files(o Options, tree known) ([]layer.File, error) {
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
	if tree.isFolder(dest) && !toFolder && !found[0].file.Dir {
		return nil, fmt.Errorf("%s is a folder: write %s/", c.dest, c.dest)
	}
	out := []layer.File{}
	for _, m := range found {
		if m.file.Dir {
			// A folder's contents are copied, and the folder to copy to is made.
			if dest != "" {
				out = append(out, layer.File{Path: dest, Mode: tree.folderMode(dest, c.folderMode()), Dir: true})
			}
			for _, f := range m.below {
				f.Path = clean(path.Join(dest, strings.TrimPrefix(f.Path, m.file.Path)))
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
		for i := range out {
			if !out[i].Dir || out[i].Path != dest {
				out[i].Mode = c.folderMode()
			}
		}
	}
	return out, nil
}

// folderMode is the mode of folders that have to be made to copy into: BuildKit gives
// them that of --chmod.
func (c *copyStep) folderMode() fs.FileMode {
	if c.chmod == "" {
		return 0o755
	}
	mode, _ := strconv.ParseUint(c.chmod, 8, 12) // checked when the line was read
	return fs.FileMode(mode)
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

// known is what is in an image: by path, a folder's mode, with fs.ModeDir, or 0 for
// anything else.
type known map[string]fs.FileMode

func (k known) isFolder(p string) bool { return k[p].IsDir() }

// folderMode is the mode of a folder: its own, or the given one if it is to be made.
func (k known) folderMode(p string, made fs.FileMode) fs.FileMode {
	if m := k[p]; m.IsDir() {
		return m.Perm()
	}
	return made
}

// withFolders adds the folders above files. A layer that has a folder says what its mode
// is, so one that is there already has to keep its own.
func (k known) withFolders(files []layer.File, made fs.FileMode) []layer.File {
	if files == nil {
		return nil
	}
	given := map[string]int{}
	out := []layer.File{}
	add := func(f layer.File) {
		if i, ok := given[f.Path]; ok && f.Dir && out[i].Dir {
			out[i] = f // named twice: the last one is meant
			return
		}
		given[f.Path] = len(out)
		out = append(out, f)
	}
	for _, f := range files {
		f.Path = clean(f.Path)
		add(f)
	}
	for _, f := range files {
		for up := path.Dir(clean(f.Path)); up != "." && up != "/"; up = path.Dir(up) {
			if _, ok := given[up]; !ok {
				add(layer.File{Path: up, Mode: k.folderMode(up, made), Dir: true})
			}
		}
	}
	return out
}

// add puts files into the tree. A file that is there already would be in the image twice,
// so it is a mistake in the Dockerfile.
func (k known) add(files []layer.File) error {
	for _, f := range files {
		p := clean(f.Path)
		if mode, ok := k[p]; ok && (!mode.IsDir() || !f.Dir) {
			return fmt.Errorf("/%s is in the image already", p)
		}
		k[p] = 0
		if f.Dir {
			k[p] = fs.ModeDir | f.Mode.Perm()
		}
		for up := path.Dir(p); up != "." && up != "/"; up = path.Dir(up) {
			mode, ok := k[up]
			if ok && !mode.IsDir() {
				return fmt.Errorf("/%s can't be made: /%s is no folder", p, up)
			}
			if !ok {
				k[up] = fs.ModeDir | 0o755
			}
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
