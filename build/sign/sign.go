package sign

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore/pkg/signature/payload"
)

const (
	// signatureKey is where cosign keeps a signature: an annotation of the payload's layer.
	signatureKey = "dev.cosignproject.cosign/signature"
	payloadType  = types.MediaType("application/vnd.dev.cosign.simplesigning.v1+json")
	// developmentClaim and tagClaim are what the payload says under "optional".
	developmentClaim = "development"
	tagClaim         = "tag"
)

// Claim is what a signature states: this manifest is that repository's image of that tag.
type Claim struct {
	Repository  string // registry/repo/name, without tag
	Tag         string
	Manifest    v1.Hash
	Development bool
}

// Payload is the claim in the form that is signed: "simple signing" JSON.
func (c Claim) Payload() ([]byte, error) {
	p := payload.SimpleContainerImage{
		Critical: payload.Critical{
			Identity: payload.Identity{DockerReference: c.Repository},
			Image:    payload.Image{DockerManifestDigest: c.Manifest.String()},
			Type:     payload.CosignSignatureType,
		},
		Optional: map[string]any{tagClaim: c.Tag},
	}
	if c.Development {
		p.Optional[developmentClaim] = "true"
	}
	data, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encoding signature payload: %w", err)
	}
	return data, nil
}

// Signature is a signature manifest with its blobs, as they are to be stored.
type Signature struct {
	Manifest   []byte
	Descriptor v1.Descriptor // of Manifest
	Blobs      [][]byte      // config and payload
}

// Sign makes the signature manifest that cosign would write for the claim.
func (k *Key) Sign(ctx context.Context, c Claim) (Signature, error) {
	c.Development = k.development
	message, err := c.Payload()
	if err != nil {
		return Signature{}, err
	}
	raw, err := k.sign(ctx, message)
	if err != nil {
		return Signature{}, fmt.Errorf("signing %s@%s: %w", c.Repository, c.Manifest, err)
	}
	if err := k.verify(message, raw); err != nil {
		return Signature{}, fmt.Errorf("signing %s@%s: the signature does not verify with the key's public half: %w", c.Repository, c.Manifest, err)
	}
	sig, err := static.NewSignature(message, base64.StdEncoding.EncodeToString(raw))
	if err != nil {
		return Signature{}, fmt.Errorf("wrapping signature: %w", err)
	}
	sigs, err := mutate.AppendSignatures(empty.Signatures(), false, sig)
	if err != nil {
		return Signature{}, fmt.Errorf("wrapping signature: %w", err)
	}
	return flatten(sigs)
}

func flatten(img v1.Image) (Signature, error) {
	var s Signature
	var err error
	if s.Manifest, err = img.RawManifest(); err != nil {
		return Signature{}, fmt.Errorf("wrapping signature: %w", err)
	}
	digest, err := img.Digest()
	if err != nil {
		return Signature{}, fmt.Errorf("wrapping signature: %w", err)
	}
	s.Descriptor = v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: int64(len(s.Manifest))}
	config, err := img.RawConfigFile()
	if err != nil {
		return Signature{}, fmt.Errorf("wrapping signature: %w", err)
	}
	s.Blobs = append(s.Blobs, config)
	layers, err := img.Layers()
	if err != nil {
		return Signature{}, fmt.Errorf("wrapping signature: %w", err)
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			return Signature{}, fmt.Errorf("wrapping signature: %w", err)
		}
		data, err := io.ReadAll(rc)
		_ = rc.Close()
		if err != nil {
			return Signature{}, fmt.Errorf("wrapping signature: %w", err)
		}
		s.Blobs = append(s.Blobs, data)
	}
	return s, nil
}

// Signed tells whether the signature manifest holds a signature by this key over this
// claim. read gives blobs by digest.
func (k *Key) Signed(c Claim, manifest []byte, read func(v1.Hash) ([]byte, error)) (bool, error) {
	c.Development = k.development
	want, err := c.Payload()
	if err != nil {
		return false, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return false, fmt.Errorf("reading signature manifest: %w", err)
	}
	for _, l := range m.Layers {
		if l.MediaType != payloadType {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(l.Annotations[signatureKey])
		if err != nil {
			continue
		}
		got, err := read(l.Digest)
		if err != nil {
			return false, err
		}
		if bytes.Equal(got, want) && k.verify(got, raw) == nil {
			return true, nil
		}
	}
	return false, nil
}
