// Package rebuild compares two OCI image layouts image by image, and explains the first
// difference of each: which layer, which file in it, which attribute or which bytes.
// Layers are streamed, from both sides at once; none is held in memory.
package rebuild

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/layout"
)

// Result says whether one image of one platform came out the same.
type Result struct {
	Reference  string      `json:"reference"`
	Platform   string      `json:"platform"`             // "" for the image index
	Built      string      `json:"built"`                // digest in the layout
	Rebuilt    string      `json:"rebuilt"`              // digest of the rebuild
	Equal      bool        `json:"equal"`                //
	Difference *Difference `json:"difference,omitempty"` // the first one
}

// Entries are a layout's images by reference.
func Entries(l *layout.Layout) (map[string]v1.Descriptor, error) {
	index, err := l.Index()
	if err != nil {
		return nil, err
	}
	out := map[string]v1.Descriptor{}
	for _, d := range index.Manifests {
		if d.Annotations[layout.Kind] == layout.KindImage {
			out[d.Annotations[layout.RefName]] = d
		}
	}
	return out, nil
}

// Platforms are those that the images are there for. An error names an image that is not
// in the layout.
func Platforms(dir string, refs []string) ([]artifact.Platform, error) {
	s, err := open(dir)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var list []string
	for _, ref := range refs {
		of, err := s.platforms(ref)
		if err != nil {
			return nil, err
		}
		for p := range of {
			list = append(list, p)
		}
	}
	return artifact.ParsePlatforms(strings.Join(list, ","))
}

// side is one of the two layouts.
type side struct {
	*layout.Layout
	dir     string
	entries map[string]v1.Descriptor
}

// open opens a layout that is there: nothing is made of a name that was mistyped.
func open(dir string) (*side, error) {
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no OCI layout in %s; make it with rke2-build image", dir)
		}
		return nil, fmt.Errorf("opening layout: %w", err)
	}
	l, err := layout.Open(dir)
	if err != nil {
		return nil, err
	}
	s := &side{Layout: l, dir: dir}
	if s.entries, err = Entries(l); err != nil {
		_ = l.Close()
		return nil, err
	}
	return s, nil
}

func (s *side) platforms(ref string) (map[string]v1.Descriptor, error) {
	d, ok := s.entries[ref]
	if !ok {
		return nil, fmt.Errorf("image %s is not in the layout %s; make it with rke2-build image", ref, s.dir)
	}
	below, err := s.Platforms(d)
	if err != nil {
		return nil, err
	}
	out := map[string]v1.Descriptor{}
	for _, m := range below {
		p := m.Platform
		if p == nil {
			return nil, fmt.Errorf("image %s in %s says of no platform which it is; make it again with rke2-build image", ref, s.dir)
		}
		out[p.OS+"/"+p.Architecture] = m
	}
	return out, nil
}

// blob opens a blob. Its place is that of the image-spec's image-layout.md.
func (s *side) blob(h v1.Hash) (*os.File, error) {
	f, err := os.Open(filepath.Join(s.dir, "blobs", h.Algorithm, h.Hex))
	if err != nil {
		return nil, fmt.Errorf("reading layout: %w", err)
	}
	return f, nil
}

// Compare compares the images that the rebuild has with those of the layout that was
// built. Each platform is a result; where the platforms of an image are the same ones
// and equal, its image index is one more.
func Compare(built, rebuilt string, refs []string, platforms []artifact.Platform) ([]Result, error) {
	a, err := open(built)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	b, err := open(rebuilt)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	c := &comparer{a: a, b: b}
	var out []Result
	for _, ref := range refs {
		results, err := c.image(ref, platforms)
		if err != nil {
			return nil, fmt.Errorf("comparing %s: %w", ref, err)
		}
		out = append(out, results...)
	}
	return out, nil
}

type comparer struct{ a, b *side }

func (c *comparer) image(ref string, platforms []artifact.Platform) ([]Result, error) {
	pa, err := c.a.platforms(ref)
	if err != nil {
		return nil, err
	}
	pb, err := c.b.platforms(ref)
	if err != nil {
		return nil, err
	}
	var out []Result
	equal := len(pa) == len(pb)
	for _, p := range platforms {
		da, okA := pa[p.String()]
		db, okB := pb[p.String()]
		if !okA && !okB {
			continue
		}
		r := Result{Reference: ref, Platform: p.String(), Built: da.Digest.String(), Rebuilt: db.Digest.String()}
		switch {
		case !okA || !okB:
			r.Built, r.Rebuilt = known(okA, r.Built), known(okB, r.Rebuilt)
			r.Difference = &Difference{Part: "index", What: "platform " + p.String(), Built: there(okA), Rebuilt: there(okB)}
		case da.Digest == db.Digest:
			r.Difference, err = c.a.intact(da)
		default:
			r.Difference, err = c.manifest(da, db)
		}
		if err != nil {
			return nil, err
		}
		r.Equal = r.Difference == nil
		equal = equal && r.Equal
		out = append(out, r)
	}
	if !equal || !c.a.entries[ref].MediaType.IsIndex() {
		return out, nil
	}
	// Everything below the index is the same: is the index, and what the layout says of it?
	ia, ib := c.a.entries[ref], c.b.entries[ref]
	r := Result{Reference: ref, Built: ia.Digest.String(), Rebuilt: ib.Digest.String()}
	if r.Difference, err = c.document("index", ia, ib); err != nil {
		return nil, err
	}
	if r.Difference == nil {
		r.Difference, err = differentJSON("entry in the layout's index.json", ia, ib)
	}
	r.Equal = r.Difference == nil
	return append(out, r), err
}

func known(ok bool, digest string) string {
	if ok {
		return digest
	}
	return ""
}

func there(ok bool) string {
	if ok {
		return "there"
	}
	return "missing"
}

// intact hashes the blobs of a manifest: equal digests say nothing of damaged files.
func (s *side) intact(d v1.Descriptor) (*Difference, error) {
	m, err := s.parse(d)
	if err != nil {
		return nil, err
	}
	for i, b := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		got, size, err := s.hash(b.Digest)
		if err != nil {
			return nil, err
		}
		if got != b.Digest.Hex || size != b.Size {
			return &Difference{
				Part: "blob", Layer: i, What: "content (the manifests are equal; the layout's file is damaged: remove it and build again)",
				Built:   fmt.Sprintf("sha256:%s, %d bytes", got, size),
				Rebuilt: fmt.Sprintf("%s, %d bytes", b.Digest, b.Size),
			}, nil
		}
	}
	return nil, nil
}

func (s *side) hash(h v1.Hash) (string, int64, error) {
	f, err := s.blob(h)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return "", 0, fmt.Errorf("reading layout: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), n, nil
}

func (s *side) parse(d v1.Descriptor) (v1.Manifest, error) {
	var m v1.Manifest
	data, err := s.Read(d.Digest)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("reading manifest %s: %w", d.Digest, err)
	}
	return m, nil
}

// manifest explains two manifests that are not the same: by their layers first, since a
// layer that differs changes the configuration and the manifest too.
func (c *comparer) manifest(da, db v1.Descriptor) (*Difference, error) {
	ma, err := c.a.parse(da)
	if err != nil {
		return nil, err
	}
	mb, err := c.b.parse(db)
	if err != nil {
		return nil, err
	}
	for i := range min(len(ma.Layers), len(mb.Layers)) {
		la, lb := ma.Layers[i], mb.Layers[i]
		if la.Digest == lb.Digest {
			continue
		}
		d, err := c.layer(la, lb)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		d.Layer = i + 1
		d.Instruction = c.a.instruction(ma, i)
		return d, nil
	}
	if len(ma.Layers) != len(mb.Layers) {
		return &Difference{Part: "manifest", What: "number of layers", Built: fmt.Sprint(len(ma.Layers)), Rebuilt: fmt.Sprint(len(mb.Layers))}, nil
	}
	if ma.Config.Digest != mb.Config.Digest {
		return c.document("config", ma.Config, mb.Config)
	}
	return c.document("manifest", da, db)
}

// instruction is the line of the Dockerfile that made a layer, as the image's history
// has it; "" if that can't be told.
func (s *side) instruction(m v1.Manifest, layer int) string {
	data, err := s.Read(m.Config.Digest)
	if err != nil {
		return ""
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(data, &config); err != nil {
		return ""
	}
	n := 0
	for _, h := range config.History {
		if h.EmptyLayer {
			continue
		}
		if n == layer {
			return h.CreatedBy
		}
		n++
	}
	return ""
}

// document explains two JSON documents: by the first value that differs, else by bytes.
func (c *comparer) document(part string, da, db v1.Descriptor) (*Difference, error) {
	if da.Digest == db.Digest {
		return nil, nil
	}
	a, err := c.a.Read(da.Digest)
	if err != nil {
		return nil, err
	}
	b, err := c.b.Read(db.Digest)
	if err != nil {
		return nil, err
	}
	d, err := differentJSON(part, json.RawMessage(a), json.RawMessage(b))
	if d != nil || err != nil {
		return d, err
	}
	w, err := firstBytes(strings.NewReader(string(a)), strings.NewReader(string(b)))
	return &Difference{Part: part, What: "encoding (the values are equal)", Bytes: w}, err
}
