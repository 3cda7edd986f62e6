package catalog

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
)

// cosign's names, and limits on what is read.
const (
	signatureType       = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	maxPayload          = 1 << 20
	maxSignatures       = 64
)

// Suffix is the end of cosign's tag for a kind of attachment: sha256-<hex>.<suffix>
// (cosign's signature specification, "tag-based discovery"); "" if it has no tag.
func Suffix(kind string) string {
	switch kind {
	case airgap.KindSignatures:
		return "sig"
	case airgap.KindAttestations:
		return "att"
	}
	return ""
}

// AttachedTag is cosign's tag for what is attached to a manifest.
func AttachedTag(subject v1.Hash, kind string) string {
	return strings.Replace(subject.String(), ":", "-", 1) + "." + Suffix(kind)
}

// signatures are those on a manifest, not yet verified. One that can't be decoded has no
// Raw part, so that it is refused and not overlooked.
func (b *builder) signatures(subject v1.Hash) ([]trust.Signature, error) {
	var out []trust.Signature
	for _, at := range b.attached[subject] {
		if at.Kind != airgap.KindSignatures {
			continue
		}
		m, err := b.manifest(at.Desc)
		if err != nil {
			return nil, fmt.Errorf("signatures of %s: %w", subject, err)
		}
		for _, l := range m.Layers {
			if l.MediaType != signatureType {
				continue
			}
			if len(out) == maxSignatures {
				return nil, fmt.Errorf("signatures of %s: %w: more than the %d that are read", subject, airgap.ErrRefusedContent, maxSignatures)
			}
			payload, err := b.c.read(l, maxPayload)
			if err != nil {
				return nil, fmt.Errorf("signatures of %s: %w", subject, err)
			}
			raw, err := base64.StdEncoding.DecodeString(l.Annotations[signatureAnnotation])
			if err != nil {
				raw = nil
			}
			out = append(out, trust.Signature{Payload: payload, Raw: raw})
		}
	}
	return out, nil
}

// gather is what is attached to a manifest, in one manifest a kind where cosign looks in
// one place only.
func (b *builder) gather(subject v1.Hash) ([]airgap.Attachment, error) {
	var out []airgap.Attachment
	byKind := map[string][]v1.Descriptor{}
	for _, at := range b.attached[subject] {
		if Suffix(at.Kind) == "" {
			out = append(out, at)
			continue
		}
		byKind[at.Kind] = append(byKind[at.Kind], at.Desc)
	}
	for _, kind := range []string{airgap.KindSignatures, airgap.KindAttestations} {
		all := byKind[kind]
		if len(all) == 0 {
			continue
		}
		d := all[0]
		if len(all) > 1 {
			var err error
			if d, err = b.unite(all); err != nil {
				return nil, fmt.Errorf("signatures of %s: %w", subject, err)
			}
		}
		out = append(out, airgap.Attachment{Kind: kind, Subject: subject, Desc: d})
	}
	for _, at := range out {
		m, err := b.manifest(at.Desc)
		if err != nil {
			return nil, fmt.Errorf("signatures of %s: %w", subject, err)
		}
		for _, p := range m.parts() {
			if _, err := b.c.Size(p.Digest); err != nil {
				return nil, fmt.Errorf("signatures of %s: %w", subject, err)
			}
		}
	}
	return out, nil
}

// unite makes one manifest of several, in the order of their digests.
func (b *builder) unite(all []v1.Descriptor) (v1.Descriptor, error) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(x, y v1.Descriptor) int { return strings.Compare(x.Digest.Hex, y.Digest.Hex) })
	var layers []v1.Descriptor
	for _, d := range all {
		m, err := b.manifest(d)
		if err != nil {
			return v1.Descriptor{}, err
		}
		layers = AddStatements(layers, m.Layers)
	}
	raw, config, err := WrapStatements(layers)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if _, err := b.keep(types.OCIConfigJSON, config); err != nil {
		return v1.Descriptor{}, err
	}
	return b.keep(types.OCIManifestSchema1, raw)
}

// AddStatements appends the layers of a manifest of signatures or attestations that are
// not there yet.
func AddStatements(to, layers []v1.Descriptor) []v1.Descriptor {
	for _, l := range layers {
		there := slices.ContainsFunc(to, func(o v1.Descriptor) bool {
			return o.Digest == l.Digest && o.Annotations[signatureAnnotation] == l.Annotations[signatureAnnotation]
		})
		if !there {
			to = append(to, l)
		}
	}
	return to
}

// WrapStatements makes the manifest of layers that are signatures or attestations, and
// its config, as cosign would.
func WrapStatements(layers []v1.Descriptor) (manifest, config []byte, err error) {
	c := v1.ConfigFile{RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.Digest)
		c.History = append(c.History, v1.History{})
	}
	if config, err = json.Marshal(c); err != nil {
		return nil, nil, err
	}
	digest, size, err := v1.SHA256(strings.NewReader(string(config)))
	if err != nil {
		return nil, nil, err
	}
	manifest, err = json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON, Size: size, Digest: digest},
		Layers:        layers,
	})
	return manifest, config, err
}
