package sign

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	"github.com/sigstore/cosign/v2/pkg/oci/static"

	"github.com/rancher/rke2/build/statement"
)

const (
	// intotoType is the payload type of an envelope with an in-toto statement.
	intotoType = "application/vnd.in-toto+json"
	// envelopeType is the media type of an envelope as a layer.
	envelopeType = types.MediaType("application/vnd.dsse.envelope.v1+json")
	// predicateTypeKey is the layer annotation in which cosign repeats the predicate type.
	predicateTypeKey = "predicateType"
)

// Attest signs in-toto statements (see package statement) and gives the attestation
// manifest that cosign would write for them: a DSSE envelope
// (https://github.com/secure-systems-lab/dsse) a layer, in the given order. With an ECDSA
// key in a file the same statements give the same bytes.
func (k *Key) Attest(ctx context.Context, statements [][]byte) (Signature, error) {
	if len(statements) == 0 {
		return Signature{}, errors.New("attesting: there is nothing to state")
	}
	atts := empty.Signatures()
	for _, data := range statements {
		att, err := k.attestation(ctx, data)
		if err != nil {
			return Signature{}, fmt.Errorf("attesting: %w", err)
		}
		if atts, err = mutate.AppendSignatures(atts, false, att); err != nil {
			return Signature{}, fmt.Errorf("wrapping attestation: %w", err)
		}
	}
	return flatten(atts)
}

func (k *Key) attestation(ctx context.Context, data []byte) (oci.Signature, error) {
	s, err := statement.Decode(data)
	if err != nil {
		return nil, err
	}
	signer, err := dsse.NewEnvelopeSigner(envelopeSigner{k})
	if err != nil {
		return nil, err
	}
	env, err := signer.SignPayload(ctx, intotoType, data)
	if err != nil {
		return nil, fmt.Errorf("signing the %s of %s: %w", s.PredicateType, s.Subject[0].Name, err)
	}
	if !k.made(env) {
		return nil, fmt.Errorf("signing the %s of %s: the signature does not verify with the key's public half", s.PredicateType, s.Subject[0].Name)
	}
	raw, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("encoding an envelope: %w", err)
	}
	return static.NewAttestation(raw, static.WithLayerMediaType(envelopeType),
		static.WithAnnotations(map[string]string{predicateTypeKey: s.PredicateType}))
}

// Attested tells whether the attestation manifest holds exactly these statements, in this
// order, each signed by this key. read gives blobs by digest.
func (k *Key) Attested(statements [][]byte, manifest []byte, read func(v1.Hash) ([]byte, error)) (bool, error) {
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return false, fmt.Errorf("reading attestation manifest: %w", err)
	}
	if len(m.Layers) != len(statements) {
		return false, nil
	}
	for i, l := range m.Layers {
		if l.MediaType != envelopeType {
			return false, nil
		}
		raw, err := read(l.Digest)
		if err != nil {
			return false, err
		}
		var env dsse.Envelope
		if err := json.Unmarshal(raw, &env); err != nil {
			return false, nil // not what we would write
		}
		if env.Payload != base64.StdEncoding.EncodeToString(statements[i]) || env.PayloadType != intotoType || !k.made(&env) {
			return false, nil
		}
	}
	return true, nil
}

// made tells whether this key made the envelope's one signature.
func (k *Key) made(env *dsse.Envelope) bool {
	if len(env.Signatures) != 1 {
		return false
	}
	payload, err := env.DecodeB64Payload()
	if err != nil {
		return false
	}
	sig, err := base64.StdEncoding.DecodeString(env.Signatures[0].Sig)
	return err == nil && k.verify(dsse.PAE(env.PayloadType, payload), sig) == nil
}

// envelopeSigner is a key for the DSSE library.
type envelopeSigner struct{ k *Key }

var _ dsse.Signer = envelopeSigner{}

func (s envelopeSigner) Sign(ctx context.Context, data []byte) ([]byte, error) {
	return s.k.sign(ctx, data)
}

// KeyID is the key's fingerprint as OpenSSH writes it, "SHA256:…": verifiers of the
// library, cosign's among them, pass over signatures with another. It is only a hint.
func (s envelopeSigner) KeyID() (string, error) { return dsse.SHA256KeyID(s.k.public) }
