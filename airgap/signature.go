package airgap

import (
	"encoding/base64"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

// cosign's names for a signature's layer and the annotation with its signature.
const (
	simpleSigning       = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	maxSignatures       = 64
)

// Signatures returns the cosign signatures that the archive has for a manifest,
// not yet verified; [trust.Policy.Admit] does that. One that can't be decoded is
// returned without its Raw part, so that it is refused and not overlooked.
func (a *Archive) Signatures(image v1.Hash) ([]trust.Signature, error) {
	if err := a.whole(); err != nil {
		return nil, err
	}
	var sigs []trust.Signature
	for _, at := range a.attached {
		if at.kind != KindSignatures || at.subject != image {
			continue
		}
		more, err := a.signatures(at.desc.Digest)
		if err != nil {
			return nil, fmt.Errorf("reading bundle %s: signatures of %s: %w", a.file, image, err)
		}
		sigs = append(sigs, more...)
	}
	return sigs, nil
}

func (a *Archive) signatures(h v1.Hash) ([]trust.Signature, error) {
	m, _, err := a.manifest(h)
	if err != nil {
		return nil, err
	}
	if len(m.Layers) > maxSignatures {
		return nil, fmt.Errorf("%w: %d signatures on one image, more than the %d that are read", ErrRefusedContent, len(m.Layers), maxSignatures)
	}
	var sigs []trust.Signature
	for _, l := range m.Layers {
		if l.MediaType != simpleSigning {
			continue
		}
		payload, err := a.readBlob(l.Digest, maxPayload)
		if err != nil {
			return nil, err
		}
		raw, err := base64.StdEncoding.DecodeString(l.Annotations[signatureAnnotation])
		if err != nil {
			raw = nil
		}
		sigs = append(sigs, trust.Signature{Payload: payload, Raw: raw})
	}
	return sigs, nil
}
