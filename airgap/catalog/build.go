package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
)

// builder makes a catalog of what files list.
type builder struct {
	c        *Catalog
	policy   trust.Policy
	whole    bool
	groups   map[string]*group
	attached map[v1.Hash][]airgap.Attachment // by subject
}

// group is what files list under one name.
type group struct {
	kind string
	name Name
	all  []found
}

func (b *builder) list(ctx context.Context, s store) error {
	all, attached, err := s.list(ctx)
	if err != nil {
		return err
	}
	for _, f := range all {
		f.in = s
		g := b.groups[f.name.String()]
		if g == nil {
			g = &group{kind: f.kind, name: f.name}
			b.groups[f.name.String()] = g
		}
		if g.kind != f.kind {
			return fmt.Errorf("reading bundle %s: %s is of kind %s there and of kind %s elsewhere", s.file(), f.name, f.kind, g.kind)
		}
		g.all = append(g.all, f)
	}
	for _, at := range attached {
		if slices.ContainsFunc(b.attached[at.Subject], func(o airgap.Attachment) bool { return o.Kind == at.Kind && o.Desc.Digest == at.Desc.Digest }) {
			continue
		}
		b.attached[at.Subject] = append(b.attached[at.Subject], at)
	}
	return nil
}

// build decides on each name, in order.
func (b *builder) build() error {
	var names []string
	for n := range b.groups {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		g := b.groups[n]
		item, err := b.item(g)
		if err != nil {
			b.refuse(g, err)
		}
		if len(item.Manifests) == 0 {
			continue
		}
		if err := b.enter(item, g); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	b.c.index.SchemaVersion, b.c.index.MediaType = 2, types.OCIImageIndex
	return nil
}

func (b *builder) refuse(g *group, err error) {
	r := Refusal{Subject: g.name.String(), Err: err}
	for _, f := range g.all {
		if !slices.Contains(r.Files, f.in.file()) {
			r.Files = append(r.Files, f.in.file())
		}
	}
	b.c.refused = append(b.c.refused, r)
}

// item makes an item of a group. What is wrong with one of several platforms takes that
// platform away and is returned beside the rest.
func (b *builder) item(g *group) (Item, error) {
	item := Item{Kind: g.kind, Name: g.name, Verified: true}
	var faults []error
	var good []found
	for _, f := range g.all {
		i := slices.IndexFunc(good, func(o found) bool { return o.desc.Digest == f.desc.Digest })
		if i >= 0 {
			if good[i].index == (v1.Hash{}) {
				good[i].index = f.index // a bundle names the manifest, the layout its index
			}
			item.Files = include(item.Files, f.in.file())
			continue
		}
		by, verified, err := b.admit(f)
		if err == nil {
			err = b.complete(f)
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if f.platform, err = b.platform(f); err != nil {
			faults = append(faults, err)
			continue
		}
		for _, o := range good {
			if same(o.platform, f.platform) {
				return Item{}, fmt.Errorf("%s and %s have different images of this name for %s, %s and %s: leave one of the files out",
					o.in.file(), f.in.file(), platformText(f.platform), o.desc.Digest, f.desc.Digest)
			}
		}
		good = append(good, f)
		item.By, item.Verified = by, item.Verified && verified
		item.Files = include(item.Files, f.in.file())
	}
	if len(good) == 0 {
		return Item{}, errors.Join(faults...)
	}
	slices.SortFunc(good, func(x, y found) int { return strings.Compare(platformText(x.platform), platformText(y.platform)) })
	for _, f := range good {
		d := f.desc
		d.Platform = f.platform
		item.Manifests = append(item.Manifests, d)
	}
	var err error
	item.Root, err = b.root(good, item.Manifests)
	return item, errors.Join(append(faults, err)...)
}

func include(files []string, f string) []string {
	if slices.Contains(files, f) {
		return files
	}
	return append(files, f)
}

func same(x, y *v1.Platform) bool { return platformText(x) == platformText(y) }

func platformText(p *v1.Platform) string {
	if p == nil {
		return "any platform"
	}
	return p.String()
}

// admit asks the policy. The signature may be on the manifest or on the index that it was
// found in.
func (b *builder) admit(f found) (by string, verified bool, err error) {
	digest := f.desc.Digest
	sigs, err := b.signatures(digest)
	if err == nil && len(sigs) == 0 && f.index != (v1.Hash{}) {
		if sigs, err = b.signatures(f.index); err == nil && len(sigs) > 0 {
			// The index must be there: who signed it signed what it lists.
			if err = b.lists(f.index, digest); err == nil {
				digest = f.index
			}
		}
	}
	if err != nil {
		return "", false, err
	}
	adm, err := b.policy.Admit(f.name.tag, digest, sigs)
	if err != nil {
		return "", false, err
	}
	return adm.By(), adm.Verified(), nil
}

// lists checks that an index names a manifest.
func (b *builder) lists(index, manifest v1.Hash) error {
	idx, _, err := b.readIndex(index)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(idx.Manifests, func(d v1.Descriptor) bool { return d.Digest == manifest }) {
		return fmt.Errorf("%w: index %s does not list the manifest %s", airgap.ErrDamaged, index, manifest)
	}
	return nil
}

func (b *builder) readIndex(h v1.Hash) (*v1.IndexManifest, v1.Descriptor, error) {
	size, err := b.c.Size(h)
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	raw, err := b.c.read(v1.Descriptor{Digest: h, Size: size}, maxManifest)
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	idx := &v1.IndexManifest{}
	if err := json.Unmarshal(raw, idx); err != nil {
		return nil, v1.Descriptor{}, fmt.Errorf("%w: index %s: %w", airgap.ErrDamaged, h, err)
	}
	d := v1.Descriptor{MediaType: idx.MediaType, Digest: h, Size: size}
	if d.MediaType == "" {
		d.MediaType = types.OCIImageIndex
	}
	return idx, d, nil
}

// manifest is what is read of a manifest.
type manifest struct {
	v1.Manifest
	ArtifactType string `json:"artifactType"`
}

func (b *builder) manifest(d v1.Descriptor) (*manifest, error) {
	raw, err := b.c.read(d, maxManifest)
	if err != nil {
		return nil, err
	}
	m := &manifest{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("%w: manifest %s: %w", airgap.ErrDamaged, d.Digest, err)
	}
	return m, nil
}

// parts are the blobs of a manifest that are passed on.
func (m *manifest) parts() []v1.Descriptor {
	var out []v1.Descriptor
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if !d.MediaType.IsDistributable() && len(d.URLs) > 0 {
			continue // its maker's licence forbids it
		}
		out = append(out, d)
	}
	return out
}

// complete checks that each blob of an image is in one of the files.
func (b *builder) complete(f found) error {
	m, err := b.manifest(f.desc)
	if err != nil {
		return err
	}
	for i, d := range m.parts() {
		what := "config"
		if i > 0 {
			what = fmt.Sprintf("layer %d of %d", i, len(m.Layers))
		}
		size, err := b.c.Size(d.Digest)
		if err != nil {
			return fmt.Errorf("its %s, blob %s, is in none of the files: %s", what, d.Digest, f.in.lacks())
		}
		if size != d.Size {
			return fmt.Errorf("%w: its %s, blob %s, has %d bytes instead of %d", airgap.ErrDamaged, what, d.Digest, size, d.Size)
		}
	}
	return nil
}

// platform is what an image runs on; nil for other artifacts.
func (b *builder) platform(f found) (*v1.Platform, error) {
	if f.platform != nil || f.kind != airgap.KindImage {
		return f.platform, nil
	}
	m, err := b.manifest(f.desc)
	if err != nil {
		return nil, err
	}
	if !m.Config.MediaType.IsConfig() {
		return nil, nil
	}
	raw, err := b.c.read(m.Config, maxManifest)
	if err != nil {
		return nil, err
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, fmt.Errorf("%w: config %s: %w", airgap.ErrDamaged, m.Config.Digest, err)
	}
	if config.OS == "" && config.Architecture == "" {
		return nil, nil
	}
	return config.Platform(), nil
}

// root is what a name stands for: the one manifest; the index that all of them were found
// in, so that its digest and signature stay; or else an index made of them.
func (b *builder) root(all []found, manifests []v1.Descriptor) (v1.Descriptor, error) {
	index := all[0].index
	for _, f := range all {
		if f.index != index {
			index = v1.Hash{}
		}
	}
	if index != (v1.Hash{}) {
		idx, d, err := b.readIndex(index)
		if err != nil {
			return d, err
		}
		// Who refuses part of an index would get a name that leads nowhere.
		if !b.whole || !slices.ContainsFunc(idx.Manifests, func(m v1.Descriptor) bool { return !has(manifests, m.Digest) }) {
			return d, nil
		}
	}
	if len(manifests) == 1 {
		return bare(manifests[0]), nil
	}
	raw, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: manifests})
	if err != nil {
		return v1.Descriptor{}, err
	}
	return b.keep(types.OCIImageIndex, raw)
}

func has(all []v1.Descriptor, h v1.Hash) bool {
	return slices.ContainsFunc(all, func(d v1.Descriptor) bool { return d.Digest == h })
}

// keep holds a manifest that no file has.
func (b *builder) keep(t types.MediaType, raw []byte) (v1.Descriptor, error) {
	h, size, err := v1.SHA256(strings.NewReader(string(raw)))
	if err != nil {
		return v1.Descriptor{}, err
	}
	b.c.memory[h] = raw
	return v1.Descriptor{MediaType: t, Digest: h, Size: size}, nil
}
