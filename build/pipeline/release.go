package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/build/sign"
	"github.com/rancher/rke2/images"
)

// store puts an image's blobs into the layout and gives its index entry.
func (p *Pipeline) store(l *layout.Layout, w images.Image, img image.Image) (v1.Descriptor, error) {
	tag, err := p.s.Naming.Tag(w)
	if err != nil {
		return v1.Descriptor{}, err
	}
	for _, ly := range img.Layers {
		if err := l.PutFile(ly.Descriptor(), ly.Blob); err != nil {
			return v1.Descriptor{}, fmt.Errorf("image %s: %w", w.Name, err)
		}
	}
	for _, data := range [][]byte{img.Config, img.Manifest} {
		if _, err := l.Put(data); err != nil {
			return v1.Descriptor{}, fmt.Errorf("image %s: %w", w.Name, err)
		}
	}
	d := img.Descriptor
	d.Annotations = map[string]string{
		layout.RefName:   tag.String(),
		layout.ImageName: tag.String(),
		layout.Kind:      layout.KindImage,
		layout.Sets:      strings.Join(w.Sets, ","),
	}
	return d, nil
}

func describe(w images.Image, d v1.Descriptor, img image.Image) Built {
	return Built{
		Name: w.Name, Reference: d.Annotations[layout.RefName], Digest: d.Digest.String(),
		Role: w.Role, Sets: w.Sets, Size: size(img), Layers: len(img.Layers),
	}
}

// merge commits an index of the given entries, of declared images that were there
// before, and of signatures of either.
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
	var signatures []v1.Descriptor
	for _, d := range index.Manifests {
		ref := d.Annotations[layout.RefName]
		if d.Annotations[layout.Kind] == layout.KindSigs {
			signatures = append(signatures, d)
		} else if _, ok := entries[ref]; !ok && declared[ref] {
			entries[ref] = d
		}
	}
	return l.Commit(ordered(entries, signatures))
}

// ordered gives the index: images by reference, then their signatures in the same
// order. Signatures of anything else are left out.
func ordered(entries map[string]v1.Descriptor, signatures []v1.Descriptor) []v1.Descriptor {
	refs := make([]string, 0, len(entries))
	for r := range entries {
		refs = append(refs, r)
	}
	sort.Strings(refs)
	var out, tail []v1.Descriptor
	for _, r := range refs {
		out = append(out, entries[r])
		for _, s := range signatures {
			if s.Annotations[layout.Signs] == entries[r].Digest.String() {
				tail = append(tail, s)
			}
		}
	}
	return append(out, tail...)
}

// Signed is what Sign did for one image.
type Signed struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	Kept      bool   `json:"kept"` // the signature was there before
}

// Sign signs every image of the layout. A signature that this key made before for the
// same digest and name is kept; other keys' signatures are dropped. The key's public
// half goes to cosign.pub beside the layout.
func (p *Pipeline) Sign(ctx context.Context, key *sign.Key) ([]Signed, error) {
	l, err := layout.Open(p.Layout())
	if err != nil {
		return nil, err
	}
	defer l.Close()
	index, err := l.Index()
	if err != nil {
		return nil, err
	}
	entries := map[string]v1.Descriptor{}
	var refs []string
	for _, d := range index.Manifests {
		if d.Annotations[layout.Kind] == layout.KindImage {
			ref := d.Annotations[layout.RefName]
			entries[ref] = d
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		return nil, fmt.Errorf("signing: there is no image in %s; make them with rke2-build image", p.Layout())
	}
	var out []Signed
	var signatures []v1.Descriptor
	for _, ref := range refs {
		start := time.Now()
		d, kept, err := signOne(ctx, l, key, index, entries[ref])
		if err != nil {
			return nil, fmt.Errorf("signing %s: %w", ref, err)
		}
		signatures = append(signatures, d)
		out = append(out, Signed{Reference: ref, Digest: entries[ref].Digest.String(), Kept: kept})
		p.report(Event{Step: Sign, Name: ref, Done: true, Cached: kept, Elapsed: time.Since(start), Size: d.Size})
	}
	if err := l.Commit(ordered(entries, signatures)); err != nil {
		return nil, err
	}
	pem, err := key.PublicPEM()
	if err != nil {
		return nil, err
	}
	return out, layout.WriteFile(p.publicKey(), pem, 0o644)
}

func (p *Pipeline) publicKey() string { return filepath.Join(p.s.Out, "cosign.pub") }

func claim(d v1.Descriptor) (sign.Claim, error) {
	ref := d.Annotations[layout.RefName]
	i := strings.LastIndex(ref, ":")
	if i < 0 || strings.Contains(ref[i:], "/") {
		return sign.Claim{}, fmt.Errorf("index entry %s has no tag in its name %q", d.Digest, ref)
	}
	return sign.Claim{Repository: ref[:i], Tag: ref[i+1:], Manifest: d.Digest}, nil
}

func signOne(ctx context.Context, l *layout.Layout, key *sign.Key, index v1.IndexManifest, img v1.Descriptor) (v1.Descriptor, bool, error) {
	c, err := claim(img)
	if err != nil {
		return v1.Descriptor{}, false, err
	}
	for _, s := range index.Manifests {
		if s.Annotations[layout.Signs] != img.Digest.String() {
			continue
		}
		manifest, err := l.Read(s.Digest)
		if err != nil {
			return v1.Descriptor{}, false, err
		}
		ok, err := key.Signed(c, manifest, l.Read)
		if err != nil {
			return v1.Descriptor{}, false, err
		}
		if ok {
			return s, true, nil
		}
	}
	sig, err := key.Sign(ctx, c)
	if err != nil {
		return v1.Descriptor{}, false, err
	}
	for _, b := range append(sig.Blobs, sig.Manifest) {
		if _, err := l.Put(b); err != nil {
			return v1.Descriptor{}, false, err
		}
	}
	d := sig.Descriptor
	d.Annotations = map[string]string{layout.Kind: layout.KindSigs, layout.Signs: img.Digest.String()}
	return d, false, nil
}

// Release says what the release consists of, and writes it to release.json, with
// overlay.json beside it that puts it into the node binary:
//
//	go build -overlay dist/overlay.json ./cmd/rke2
//
// Every declared image must be in the layout, signed by the key.
func (p *Pipeline) Release(key *sign.Key) (images.Release, error) {
	l, err := layout.Open(p.Layout())
	if err != nil {
		return images.Release{}, err
	}
	defer l.Close()
	index, err := l.Index()
	if err != nil {
		return images.Release{}, err
	}
	pem, err := key.PublicPEM()
	if err != nil {
		return images.Release{}, err
	}
	r := images.Release{
		Version:     p.s.Tree.Product.Version,
		Kubernetes:  p.s.Tree.Product.Kubernetes,
		Registry:    p.s.Naming.Registry,
		Repo:        p.s.Naming.Repo,
		Development: key.Development(),
		PublicKeys:  []string{string(pem)},
	}
	for _, i := range p.s.Tree.Images {
		tag, err := p.s.Naming.Tag(i)
		if err != nil {
			return images.Release{}, err
		}
		d, err := signedBy(l, key, index, tag.String())
		if err != nil {
			return images.Release{}, fmt.Errorf("release %s: %w", r.Version, err)
		}
		r.Images = append(r.Images, images.ReleaseImage{
			Name: i.Name, Reference: tag.String(), Digest: d.Digest.String(), Role: i.Role, Sets: i.Sets,
		})
	}
	return r, p.writeRelease(r, pem)
}

func (p *Pipeline) writeRelease(r images.Release, pem []byte) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding release: %w", err)
	}
	file := filepath.Join(p.s.Out, "release.json")
	overlay, err := json.MarshalIndent(map[string]map[string]string{
		"Replace": {filepath.Join(p.s.Tree.Dir, "release.json"): file},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding overlay: %w", err)
	}
	for path, content := range map[string][]byte{
		file:                                   append(data, '\n'),
		filepath.Join(p.s.Out, "overlay.json"): append(overlay, '\n'),
		p.publicKey():                          pem,
	} {
		if err := layout.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// signedBy finds an image in the index and makes sure that the key signed it.
func signedBy(l *layout.Layout, key *sign.Key, index v1.IndexManifest, ref string) (v1.Descriptor, error) {
	for _, d := range index.Manifests {
		if d.Annotations[layout.RefName] != ref {
			continue
		}
		c, err := claim(d)
		if err != nil {
			return d, err
		}
		for _, s := range index.Manifests {
			if s.Annotations[layout.Signs] != d.Digest.String() {
				continue
			}
			manifest, err := l.Read(s.Digest)
			if err != nil {
				return d, err
			}
			if ok, err := key.Signed(c, manifest, l.Read); err != nil || ok {
				return d, err
			}
		}
		return d, fmt.Errorf("image %s is not signed by this key; run rke2-build sign", ref)
	}
	return v1.Descriptor{}, fmt.Errorf("image %s is not in the layout; run rke2-build image", ref)
}
