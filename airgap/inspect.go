package airgap

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

// Inspection describes an archive, as `rke2 bundle inspect -o json` prints it.
// Sizes are bytes as stored.
type Inspection struct {
	File        string      `json:"file"`
	Size        int64       `json:"size"`
	Format      Format      `json:"format"`
	Bundle      bool        `json:"bundle"` // written by rke2 bundle
	Compression string      `json:"compression"`
	Images      []ImageInfo `json:"images"`
}

// ImageInfo describes one image.
type ImageInfo struct {
	Names        []string          `json:"names"`
	Digest       string            `json:"digest,omitempty"` // none in a legacy docker-archive
	MediaType    string            `json:"mediaType,omitempty"`
	Platform     string            `json:"platform,omitempty"`
	Sets         []string          `json:"sets,omitempty"`
	Size         int64             `json:"size,omitempty"` // manifest, config and layers
	Layers       []LayerInfo       `json:"layers,omitempty"`
	Signature    SigInfo           `json:"signature"`
	Attestations []AttestationInfo `json:"attestations,omitempty"`
}

// LayerInfo describes one layer.
type LayerInfo struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
}

// SigState sums up an image's signatures.
type SigState string

const (
	// SigVerified: a trusted key signed exactly this image under this name.
	SigVerified SigState = "verified"
	// SigUntrusted: there are signatures, none that this host trusts.
	SigUntrusted SigState = "untrusted"
	// SigNone: there is no signature.
	SigNone SigState = "unsigned"
	// SigUnverifiable: a legacy docker-archive has no digests that could be signed.
	SigUnverifiable SigState = "unverifiable"
)

// SigInfo is the state of an image's signatures under a policy.
type SigInfo struct {
	State SigState `json:"state"`
	Key   string   `json:"key,omitempty"`   // that verified it
	KeyID string   `json:"keyID,omitempty"` // hex SHA-256 of the SubjectPublicKeyInfo
	// Development: the signer says that it is a development key. Not proven unless verified.
	Development bool   `json:"development,omitempty"`
	Reason      string `json:"reason,omitempty"` // why it is not verified
}

// Inspect describes an open archive. It reads manifests, signatures and attestations,
// but no layers. The policy's keys and pins decide what counts as verified; its mode is
// not looked at.
func (a *Archive) Inspect(policy trust.Policy) (Inspection, error) {
	if err := a.whole(); err != nil {
		return Inspection{}, err
	}
	policy.Mode = trust.ModeAll
	out := Inspection{File: a.file, Size: a.size, Format: a.format, Bundle: a.ours, Compression: string(a.comp)}
	attestations, err := a.attestations(context.Background(), a.images, policy)
	if err != nil {
		return Inspection{}, fmt.Errorf("reading bundle %s: %w", a.file, err)
	}
	for i, img := range a.images {
		info, err := a.inspectImage(img, policy)
		if err != nil {
			return Inspection{}, err
		}
		info.Attestations = attestations[i]
		out.Images = append(out.Images, info)
	}
	return out, nil
}

func (a *Archive) inspectImage(img Image, policy trust.Policy) (ImageInfo, error) {
	info := ImageInfo{Names: img.Names(), Sets: img.Sets}
	if img.Platform != nil {
		info.Platform = img.Platform.String()
	}
	if img.Desc.Digest == (v1.Hash{}) {
		info.Signature = SigInfo{State: SigUnverifiable, Reason: "a legacy docker-archive carries no manifest digests"}
		return info, nil
	}
	m, b, err := a.Manifest(img.Desc.Digest)
	if err != nil {
		return ImageInfo{}, err
	}
	info.Digest, info.MediaType = img.Desc.Digest.String(), string(img.Desc.MediaType)
	info.Size = int64(len(b)) + m.Config.Size
	for _, l := range m.Layers {
		info.Size += l.Size
		info.Layers = append(info.Layers, LayerInfo{l.Digest.String(), string(l.MediaType), l.Size})
	}
	info.Signature, err = a.sigInfo(img, policy)
	return info, err
}

// sigInfo judges an image by the worst of its names.
func (a *Archive) sigInfo(img Image, policy trust.Policy) (SigInfo, error) {
	digest, sigs, err := a.signed(img)
	if err != nil {
		return SigInfo{}, err
	}
	if len(img.Refs) == 0 {
		return SigInfo{State: SigUntrusted, Reason: "the image has no name with a tag, so no signature can be for it"}, nil
	}
	var info SigInfo
	for _, ref := range img.Refs {
		adm, err := policy.Admit(ref, digest, sigs)
		var refused *trust.RefusedError
		switch {
		case err == nil:
			info = SigInfo{State: SigVerified, Key: adm.By(), KeyID: adm.Key().ID(), Development: adm.Development()}
			continue
		case !errors.As(err, &refused):
			return SigInfo{}, err
		}
		info = SigInfo{State: SigUntrusted, Reason: fmt.Sprintf("%s: %s", refused.Reason, refused.Detail)}
		if len(sigs) == 0 {
			info.State = SigNone
		}
		for _, s := range sigs {
			c, err := s.UnverifiedClaims()
			info.Development = info.Development || err == nil && c.Development
		}
		break
	}
	return info, nil
}

// signed returns the signatures for an image and the digest that they are about:
// its manifest's, or that of the image index it came from if only that is signed.
func (a *Archive) signed(img Image) (v1.Hash, []trust.Signature, error) {
	sigs, err := a.Signatures(img.Desc.Digest)
	if err != nil || len(sigs) > 0 || img.Index == (v1.Hash{}) {
		return img.Desc.Digest, sigs, err
	}
	if sigs, err = a.Signatures(img.Index); err != nil || len(sigs) == 0 {
		return img.Desc.Digest, nil, err
	}
	return img.Index, sigs, nil
}

// Names are all of an image's names as text; its digest if it has none.
func (i Image) Names() []string {
	var out []string
	for _, t := range i.Refs {
		out = append(out, t.String())
	}
	for _, d := range i.Digests {
		out = append(out, d.String())
	}
	if len(out) == 0 && i.Desc.Digest != (v1.Hash{}) {
		out = append(out, i.Desc.Digest.String())
	}
	return out
}
