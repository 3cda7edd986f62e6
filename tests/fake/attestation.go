package fake

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/rancher/rke2/airgap"
)

// What a true attestation is labelled.
const (
	EnvelopeType = types.MediaType("application/vnd.dsse.envelope.v1+json") // of its layer
	PayloadType  = "application/vnd.in-toto+json"                           // of its envelope
)

// Attestation is a layer of an attestation manifest. Tests lie in any of its fields.
type Attestation struct {
	MediaType     types.MediaType
	PredicateType string // as labelled; none: no label
	Envelope      []byte
}

// Statement is an in-toto statement of a type about a manifest.
func Statement(predicateType, predicate string, manifest v1.Hash) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":%q}}],"predicateType":%q,"predicate":%s}`,
		manifest.Hex, predicateType, predicate)
}

// Envelope signs a payload as the DSSE protocol's own library does.
func (k Key) Envelope(payloadType string, payload []byte) ([]byte, error) {
	signer, err := dsse.NewEnvelopeSigner(k)
	if err != nil {
		return nil, err
	}
	env, err := signer.SignPayload(context.Background(), payloadType, payload)
	if err != nil {
		return nil, err
	}
	return json.Marshal(env)
}

// Attest is a true attestation by the key about a manifest.
func (k Key) Attest(predicateType, predicate string, manifest v1.Hash) (Attestation, error) {
	env, err := k.Envelope(PayloadType, Statement(predicateType, predicate, manifest))
	return Attestation{EnvelopeType, predicateType, env}, err
}

var _ dsse.Signer = Key{}

// Sign signs a message with SHA-256.
func (k Key) Sign(_ context.Context, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// KeyID is the key's name in envelopes.
func (k Key) KeyID() (string, error) { return dsse.SHA256KeyID(k.private.Public()) }

// Attest adds a manifest of attestations of an image, as cosign attaches them.
func (s *Store) Attest(image v1.Hash, all ...Attestation) error {
	m := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	for _, a := range all {
		add := mutate.Addendum{Layer: static.NewLayer(a.Envelope, a.MediaType), Annotations: map[string]string{"dev.cosignproject.cosign/signature": ""}}
		if a.PredicateType != "" {
			add.Annotations["predicateType"] = a.PredicateType
		}
		var err error
		if m, err = mutate.Append(m, add); err != nil {
			return fmt.Errorf("attesting %s: %w", image, err)
		}
	}
	d, err := s.put(m)
	if err != nil {
		return fmt.Errorf("attesting %s: %w", image, err)
	}
	d.Annotations = map[string]string{airgap.AnnotationKind: airgap.KindAttestations, airgap.AnnotationSigns: image.String()}
	s.index = append(s.index, d)
	return nil
}
