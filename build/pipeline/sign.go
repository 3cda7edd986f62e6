package pipeline

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/build/sign"
)

// Signed is what Sign did for one image.
type Signed struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"` // of the image index
	Kept      bool   `json:"kept"`   // all signatures and attestations were there before
}

// Sign signs every image of the layout: its image index, and each platform's manifest
// with its attestations. What this key made before for the same digest, name and
// statements is kept; what other keys made is dropped. The key's public half goes to
// cosign.pub beside the layout.
func (p *Pipeline) Sign(ctx context.Context, key *sign.Key) ([]Signed, error) {
	l, err := p.open()
	if err != nil {
		return nil, err
	}
	defer l.Close()
	index, err := l.Index()
	if err != nil {
		return nil, err
	}
	s := signer{p: p, l: l, key: key, index: index}
	entries := map[string]v1.Descriptor{}
	var out []Signed
	for _, d := range index.Manifests {
		if d.Annotations[layout.Kind] != layout.KindImage {
			continue
		}
		start := time.Now()
		ref := d.Annotations[layout.RefName]
		entries[ref] = d
		made := len(s.attached) - s.kept
		if err := s.image(ctx, d); err != nil {
			return nil, fmt.Errorf("signing %s: %w", ref, err)
		}
		kept := len(s.attached)-s.kept == made
		out = append(out, Signed{Reference: ref, Digest: d.Digest.String(), Kept: kept})
		p.report(Event{Step: Sign, Name: ref, Done: true, Cached: kept, Elapsed: time.Since(start)})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("signing: there is no image in %s; make them with rke2-build image", p.Layout())
	}
	if err := commit(l, entries, s.attached); err != nil {
		return nil, err
	}
	pem, err := key.PublicPEM()
	if err != nil {
		return nil, err
	}
	return out, layout.WriteFile(p.publicKey(), pem, 0o644)
}

func (p *Pipeline) publicKey() string { return filepath.Join(p.s.Out, "cosign.pub") }

// signer collects what is attached to images.
type signer struct {
	p        *Pipeline
	l        *layout.Layout
	key      *sign.Key
	index    v1.IndexManifest // before
	attached []v1.Descriptor
	kept     int // of attached: were there before
}

func (s *signer) image(ctx context.Context, d v1.Descriptor) error {
	ref := d.Annotations[layout.RefName]
	repository, tag, err := split(ref)
	if err != nil {
		return err
	}
	platforms, err := s.l.Platforms(d)
	if err != nil {
		return err
	}
	if d.MediaType.IsIndex() {
		if err := s.sign(ctx, sign.Claim{Repository: repository, Tag: tag, Manifest: d.Digest}); err != nil {
			return err
		}
	}
	for _, m := range platforms {
		if err := s.sign(ctx, sign.Claim{Repository: repository, Tag: tag, Manifest: m.Digest}); err != nil {
			return err
		}
		if err := s.attest(ctx, path.Base(repository), m); err != nil {
			return err
		}
	}
	return nil
}

func (s *signer) sign(ctx context.Context, c sign.Claim) error {
	return s.attach(layout.KindSigs, c.Manifest,
		func(manifest []byte) (bool, error) { return s.key.Signed(c, manifest, s.l.Read) },
		func() (sign.Signature, error) { return s.key.Sign(ctx, c) })
}

// attach keeps what is attached to the subject already if it is the key's, or else makes
// it.
func (s *signer) attach(kind string, subject v1.Hash, good func([]byte) (bool, error), make func() (sign.Signature, error)) error {
	for _, d := range s.index.Manifests {
		if d.Annotations[layout.Kind] != kind || d.Annotations[layout.Signs] != subject.String() {
			continue
		}
		manifest, err := s.l.Read(d.Digest)
		if err != nil {
			return err
		}
		ok, err := good(manifest)
		if err != nil {
			return err
		}
		if ok {
			s.attached = append(s.attached, d)
			s.kept++
			return nil
		}
	}
	made, err := make()
	if err != nil {
		return err
	}
	for _, b := range append(made.Blobs, made.Manifest) {
		if _, err := s.l.Put(b); err != nil {
			return err
		}
	}
	d := made.Descriptor
	d.Annotations = map[string]string{layout.Kind: kind, layout.Signs: subject.String()}
	s.attached = append(s.attached, d)
	return nil
}

// split takes a reference apart at its tag.
func split(ref string) (repository, tag string, err error) {
	i := strings.LastIndex(ref, ":")
	if i < 0 || strings.Contains(ref[i:], "/") {
		return "", "", fmt.Errorf("the layout has an image with no tag in its name %q", ref)
	}
	return ref[:i], ref[i+1:], nil
}
