package airgap

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

// Inspection describes an archive, as `rke2 bundle inspect -o json` prints it.
// Sizes are bytes as stored.
type Inspection struct {
	File        string         `json:"file"`
	Size        int64          `json:"size"`
	Format      Format         `json:"format"`
	Bundle      bool           `json:"bundle"` // written by rke2 bundle
	Compression string         `json:"compression"`
	Partial     *Partial       `json:"partial,omitempty"` // what it is a part of
	Images      []ImageInfo    `json:"images"`
	Artifacts   []ArtifactInfo `json:"artifacts,omitempty"`
	Layers      LayerTotals    `json:"layers"`
}

// LayerTotals sums up the layers of an archive's images.
type LayerTotals struct {
	Count  int   `json:"count"`  // as the images list them
	Unique int   `json:"unique"` // as they are stored
	Bytes  int64 `json:"bytes"`  // of the unique ones
	Shared int   `json:"shared"` // unique ones that several images have
	Saved  int64 `json:"saved"`  // bytes that sharing saves
	// Absent ones are in other parts, or in what a delta was made from.
	Absent      int   `json:"absent,omitempty"`
	AbsentBytes int64 `json:"absentBytes,omitempty"`
}

// ImageInfo describes one image.
type ImageInfo struct {
	Names        []string          `json:"names"`
	Digest       string            `json:"digest,omitempty"` // none in a legacy docker-archive
	Index        string            `json:"index,omitempty"`  // of the image index it is from
	ID           string            `json:"id,omitempty"`     // digest of its config
	MediaType    string            `json:"mediaType,omitempty"`
	Platform     string            `json:"platform,omitempty"`
	Sets         []string          `json:"sets,omitempty"`
	Size         int64             `json:"size,omitempty"`   // manifest, config and layers
	Shared       int64             `json:"shared,omitempty"` // bytes of layers that other images have too
	Layers       []LayerInfo       `json:"layers,omitempty"`
	Signature    SigInfo           `json:"signature"`
	Attestations []AttestationInfo `json:"attestations,omitempty"`
}

// LayerInfo describes one layer.
type LayerInfo struct {
	Digest    string `json:"digest,omitempty"` // none in a legacy docker-archive
	DiffID    string `json:"diffID,omitempty"` // of the uncompressed layer
	MediaType string `json:"mediaType,omitempty"`
	Size      int64  `json:"size"`
	CreatedBy string `json:"createdBy,omitempty"` // as the image's history says
	Images    int    `json:"images,omitempty"`    // of this archive that have it
	Absent    bool   `json:"absent,omitempty"`    // it is in another part, or in a delta's base
}

// key tells layers apart.
func (l LayerInfo) key() string { return cmp.Or(l.Digest, l.DiffID) }

// ArtifactInfo describes a chart or a set of files.
type ArtifactInfo struct {
	Kind      string     `json:"kind"` // chart or files
	Ref       string     `json:"ref"`
	Digest    string     `json:"digest"`
	Sets      []string   `json:"sets,omitempty"`
	Size      int64      `json:"size"`
	Files     []FileInfo `json:"files,omitempty"`
	Signature SigInfo    `json:"signature"`
}

// FileInfo describes one file of a set.
type FileInfo struct {
	Path   string `json:"path"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
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
	if p, ok := a.Partial(); ok {
		out.Partial = &p
	}
	attestations, err := a.attestations(context.Background(), a.images, policy)
	if err != nil {
		return Inspection{}, fmt.Errorf("reading bundle %s: %w", a.file, err)
	}
	for i, img := range a.images {
		info, err := a.inspectImage(img, policy)
		if err != nil {
			return Inspection{}, fmt.Errorf("reading bundle %s: image %s: %w", a.file, img.label(), err)
		}
		info.Attestations = attestations[i]
		out.Images = append(out.Images, info)
	}
	for _, art := range a.artifacts {
		info, err := a.inspectArtifact(art, policy)
		if err != nil {
			return Inspection{}, fmt.Errorf("reading bundle %s: %s: %w", a.file, art.Ref, err)
		}
		out.Artifacts = append(out.Artifacts, info)
	}
	out.Layers = share(out.Images)
	return out, nil
}

func (a *Archive) inspectImage(img Image, policy trust.Policy) (ImageInfo, error) {
	info := ImageInfo{Names: img.Names(), Sets: img.Sets, Platform: img.platform()}
	cfg, err := a.config(img)
	if err != nil {
		return info, err
	}
	if img.legacy != nil {
		info.ID = img.legacy.id.String()
		info.Signature = SigInfo{State: SigUnverifiable, Reason: "a legacy docker-archive carries no manifest digests"}
		for _, l := range img.legacy.layers {
			info.Size += l.size
			info.Layers = append(info.Layers, LayerInfo{Size: l.size})
		}
		describeLayers(info.Layers, cfg)
		return info, nil
	}
	m, b, err := a.manifest(img.Desc.Digest)
	if err != nil {
		return info, err
	}
	info.Digest, info.MediaType, info.ID = img.Desc.Digest.String(), string(img.Desc.MediaType), m.Config.Digest.String()
	if img.Index != (v1.Hash{}) {
		info.Index = img.Index.String()
	}
	info.Size = int64(len(b)) + m.Config.Size
	for _, l := range m.Layers {
		_, absent := a.absent[l.Digest]
		info.Size += l.Size
		info.Layers = append(info.Layers, LayerInfo{Digest: l.Digest.String(), MediaType: string(l.MediaType), Size: l.Size, Absent: absent})
	}
	describeLayers(info.Layers, cfg)
	info.Signature, err = a.sigInfo(img, policy)
	return info, err
}

// describeLayers adds what an image's config says of its layers, if it speaks of as many.
func describeLayers(layers []LayerInfo, cfg *v1.ConfigFile) {
	if len(cfg.RootFS.DiffIDs) == len(layers) {
		for i, d := range cfg.RootFS.DiffIDs {
			layers[i].DiffID = d.String()
		}
	}
	var made []string
	for _, h := range cfg.History {
		if !h.EmptyLayer {
			made = append(made, h.CreatedBy)
		}
	}
	if len(made) == len(layers) {
		for i := range made {
			layers[i].CreatedBy = made[i]
		}
	}
}

// share counts which images have which layers.
func share(images []ImageInfo) LayerTotals {
	var out LayerTotals
	have := map[string]int{}
	for _, img := range images {
		seen := map[string]bool{}
		for _, l := range img.Layers {
			if !seen[l.key()] {
				seen[l.key()] = true
				have[l.key()]++
			}
		}
	}
	stored := map[string]bool{}
	for i := range images {
		for j := range images[i].Layers {
			l := &images[i].Layers[j]
			l.Images = have[l.key()]
			if l.Images > 1 {
				images[i].Shared += l.Size
			}
			out.Count++
			if stored[l.key()] {
				out.Saved += l.Size
				continue
			}
			stored[l.key()] = true
			out.Unique++
			out.Bytes += l.Size
			if l.Images > 1 {
				out.Shared++
			}
			if l.Absent {
				out.Absent++
				out.AbsentBytes += l.Size
			}
		}
	}
	return out
}

func (a *Archive) inspectArtifact(art Artifact, policy trust.Policy) (ArtifactInfo, error) {
	info := ArtifactInfo{Kind: "chart", Ref: art.Ref, Digest: art.Desc.Digest.String(), Sets: art.Sets}
	m, b, err := a.manifest(art.Desc.Digest)
	if err != nil {
		return info, err
	}
	info.Size = int64(len(b)) + m.Config.Size
	for _, l := range m.Layers {
		info.Size += l.Size
	}
	if art.Kind == KindFiles {
		info.Kind = "files"
		for _, l := range m.Layers {
			info.Files = append(info.Files, FileInfo{l.Annotations[AnnotationTitle], l.Digest.String(), l.Size})
		}
	}
	tag, err := ParseTag(art.Ref)
	if err != nil {
		return info, err
	}
	info.Signature, err = a.sigInfo(Image{Refs: refs(tag), Desc: art.Desc}, policy)
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

// Names are all of an image's names as text; its digest if it has none, or that of its
// config in a legacy docker-archive.
func (i Image) Names() []string {
	var out []string
	for _, t := range i.Refs {
		out = append(out, t.String())
	}
	for _, d := range i.Digests {
		out = append(out, d.String())
	}
	if len(out) == 0 {
		out = append(out, i.identity().String())
	}
	return out
}
