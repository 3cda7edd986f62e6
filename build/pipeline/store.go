package pipeline

import (
	"encoding/json"
	"fmt"
	"path"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/images"
)

// store puts an image of all platforms into the layout, writes down what it is and what
// it was made from, and gives its index entry: an OCI image index.
func (p *Pipeline) store(l *layout.Layout, w images.Image, pieces []*piece) (v1.Descriptor, Built, error) {
	tag, err := p.s.Naming.Tag(w)
	if err != nil {
		return v1.Descriptor{}, Built{}, err
	}
	built := Built{Name: w.Name, Reference: tag.String(), Role: w.Role, Sets: w.Sets}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, x := range pieces {
		for _, ly := range x.made.Layers {
			if err := l.PutFile(ly.Descriptor(), ly.Blob); err != nil {
				return v1.Descriptor{}, built, err
			}
		}
		for _, data := range [][]byte{x.made.Config, x.made.Manifest} {
			if _, err := l.Put(data); err != nil {
				return v1.Descriptor{}, built, err
			}
		}
		d := x.made.Descriptor
		d.Platform = &v1.Platform{OS: x.platform.OS, Architecture: x.platform.Arch}
		index.Manifests = append(index.Manifests, d)
		built.Platforms = append(built.Platforms, BuiltPlatform{
			Platform: x.platform.String(), Digest: d.Digest.String(), Size: size(x.made), Layers: len(x.made.Layers),
		})
		if err := p.describe(x, tag); err != nil {
			return v1.Descriptor{}, built, err
		}
	}
	data, err := json.Marshal(index)
	if err != nil {
		return v1.Descriptor{}, built, fmt.Errorf("encoding image index: %w", err)
	}
	digest, err := l.Put(data)
	if err != nil {
		return v1.Descriptor{}, built, err
	}
	built.Digest = digest.String()
	return v1.Descriptor{
		MediaType: types.OCIImageIndex,
		Digest:    digest,
		Size:      int64(len(data)),
		Annotations: map[string]string{
			layout.RefName:   tag.String(),
			layout.ImageName: tag.String(),
			layout.Kind:      layout.KindImage,
			layout.Sets:      strings.Join(w.Sets, ","),
		},
	}, built, nil
}

// merge commits an index of the given entries, of declared images that were there
// before, and of what is attached to either.
func (p *Pipeline) merge(l *layout.Layout, entries map[string]v1.Descriptor) error {
	index, err := l.Index()
	if err != nil {
		return err
	}
	declared := map[string]bool{}
	for _, i := range p.s.Tree.Images {
		tag, err := p.s.Naming.Tag(i)
		if err != nil {
			return err
		}
		declared[tag.String()] = true
	}
	var attached []v1.Descriptor
	for _, d := range index.Manifests {
		ref := d.Annotations[layout.RefName]
		if d.Annotations[layout.Kind] != layout.KindImage {
			attached = append(attached, d)
		} else if _, ok := entries[ref]; !ok && declared[ref] {
			entries[ref] = d
		}
	}
	platforms := map[string][]v1.Descriptor{}
	for ref, d := range entries {
		repository, _, err := split(ref)
		if err != nil {
			return err
		}
		if platforms[path.Base(repository)], err = l.Platforms(d); err != nil {
			return err
		}
	}
	if err := commit(l, entries, attached); err != nil {
		return err
	}
	return p.tidy(platforms)
}

// commit writes the layout's index: images by reference, then what is attached to them
// in the same order, signatures before attestations. What is attached to anything else
// is left out.
func commit(l *layout.Layout, entries map[string]v1.Descriptor, attached []v1.Descriptor) error {
	refs := make([]string, 0, len(entries))
	for r := range entries {
		refs = append(refs, r)
	}
	sort.Strings(refs)
	var out, tail []v1.Descriptor
	for _, r := range refs {
		out = append(out, entries[r])
		subjects, err := l.Platforms(entries[r])
		if err != nil {
			return err
		}
		if entries[r].MediaType.IsIndex() {
			subjects = append([]v1.Descriptor{entries[r]}, subjects...)
		}
		for _, kind := range []string{layout.KindSigs, layout.KindAtts} {
			for _, s := range subjects {
				for _, a := range attached {
					if a.Annotations[layout.Kind] == kind && a.Annotations[layout.Signs] == s.Digest.String() {
						tail = append(tail, a)
					}
				}
			}
		}
	}
	return l.Commit(append(out, tail...))
}
