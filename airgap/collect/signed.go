package collect

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
)

// signatureAnnotation is where cosign keeps a signature.
const signatureAnnotation = "dev.cosignproject.cosign/signature"

// requireSigned holds every image of a plan, under each of its names, to the policy. All
// that are refused are named at once.
func (g *gatherer) requireSigned(ctx context.Context, plan *airgap.Plan, src *source) error {
	var refused []error
	for _, img := range plan.Images {
		for _, ref := range names(img) {
			err := g.signed(ctx, src, img, ref)
			var r *trust.RefusedError
			if errors.As(err, &r) {
				refused = append(refused, err)
			} else if err != nil {
				return err
			}
		}
	}
	if len(refused) > 0 {
		return fmt.Errorf("signatures are required:\n%w", errors.Join(refused...))
	}
	return nil
}

// names are an image's names as signatures know them. One by digest alone has no tag: a
// signature then speaks of its repository and digest.
func names(img airgap.Image) []name.Tag {
	out := img.Refs
	for _, d := range img.Digests {
		out = append(out, d.Tag(strings.Replace(d.DigestStr(), ":", "-", 1)))
	}
	return out
}

// signed admits an image by a signature on its manifest, or on the index that it is of.
func (g *gatherer) signed(ctx context.Context, src *source, img airgap.Image, ref name.Tag) error {
	sigs, err := signatures(ctx, src, img.Desc.Digest)
	if err != nil {
		return err
	}
	_, refusal := g.Trust.Admit(ref, img.Desc.Digest, sigs)
	if refusal == nil || img.Index == (v1.Hash{}) {
		return refusal
	}
	if sigs, err = signatures(ctx, src, img.Index); err != nil {
		return err
	}
	if len(sigs) == 0 {
		return refusal
	}
	_, refusal = g.Trust.Admit(ref, img.Index, sigs)
	return refusal
}

// signatures reads the cosign signatures of a manifest.
func signatures(ctx context.Context, src *source, of v1.Hash) ([]trust.Signature, error) {
	var out []trust.Signature
	for _, d := range src.entries {
		if d.Annotations[airgap.AnnotationKind] != airgap.KindSignatures || d.Annotations[airgap.AnnotationSigns] != of.String() {
			continue
		}
		b, err := src.pool.small(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("signatures of %s: %w", of, err)
		}
		m, err := v1.ParseManifest(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("signatures of %s: %w", of, err)
		}
		for _, l := range m.Layers {
			if l.MediaType != "application/vnd.dev.cosign.simplesigning.v1+json" {
				continue
			}
			payload, err := src.pool.small(ctx, l)
			if err != nil {
				return nil, fmt.Errorf("signatures of %s: %w", of, err)
			}
			raw, err := base64.StdEncoding.DecodeString(l.Annotations[signatureAnnotation])
			if err != nil {
				raw = nil // refused, and not overlooked
			}
			out = append(out, trust.Signature{Payload: payload, Raw: raw})
		}
	}
	return out, nil
}
