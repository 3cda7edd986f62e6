package pipeline

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/build/sign"
	"github.com/rancher/rke2/images"
)

// Release says what the release consists of, and writes it to release.json, with
// overlay.json beside it that puts it into the node binary:
//
//	go build -overlay dist/overlay.json ./cmd/rke2
//
// Every declared image but those of tests must be in the layout, signed by the key.
func (p *Pipeline) Release(key *sign.Key) (images.Release, error) {
	l, err := p.open()
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
		if !i.Released() {
			continue
		}
		tag, err := p.s.Naming.Tag(i)
		if err != nil {
			return images.Release{}, err
		}
		released := images.ReleaseImage{Name: i.Name, Reference: tag.String(), Digests: map[string]string{}, Role: i.Role, Sets: i.Sets}
		if err := p.released(l, key, index, &released); err != nil {
			return images.Release{}, fmt.Errorf("release %s: %w", r.Version, err)
		}
		r.Images = append(r.Images, released)
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

// released finds an image in the index, makes sure that the key signed it, and fills in
// its digests.
func (p *Pipeline) released(l *layout.Layout, key *sign.Key, index v1.IndexManifest, r *images.ReleaseImage) error {
	for _, d := range index.Manifests {
		if d.Annotations[layout.Kind] != layout.KindImage || d.Annotations[layout.RefName] != r.Reference {
			continue
		}
		r.Index = d.Digest.String()
		platforms, err := l.Platforms(d)
		if err != nil {
			return err
		}
		for _, m := range append([]v1.Descriptor{d}, platforms...) {
			if err := signedBy(l, key, index, r.Reference, m.Digest); err != nil {
				return err
			}
			if m.Platform != nil {
				r.Digests[m.Platform.OS+"/"+m.Platform.Architecture] = m.Digest.String()
			}
		}
		for _, want := range p.s.Platforms {
			if r.Digests[want.String()] == "" {
				return fmt.Errorf("image %s is not in the layout for %s; run rke2-build image", r.Reference, want)
			}
		}
		return nil
	}
	return fmt.Errorf("image %s is not in the layout; run rke2-build image", r.Reference)
}

func signedBy(l *layout.Layout, key *sign.Key, index v1.IndexManifest, ref string, digest v1.Hash) error {
	repository, tag, err := split(ref)
	if err != nil {
		return err
	}
	for _, s := range index.Manifests {
		if s.Annotations[layout.Kind] != layout.KindSigs || s.Annotations[layout.Signs] != digest.String() {
			continue
		}
		manifest, err := l.Read(s.Digest)
		if err != nil {
			return err
		}
		if ok, err := key.Signed(sign.Claim{Repository: repository, Tag: tag, Manifest: digest}, manifest, l.Read); err != nil || ok {
			return err
		}
	}
	return fmt.Errorf("image %s (%s) is not signed by this key; run rke2-build sign", ref, digest)
}
