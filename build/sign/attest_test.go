package sign

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/signature/kms/fake"

	buildlayout "github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/build/statement"
)

// statements are an SBOM and provenance, in form, about a manifest.
func statements(t *testing.T, digest v1.Hash) [][]byte {
	t.Helper()
	var out [][]byte
	for _, kind := range []string{statement.SPDX, statement.Provenance} {
		data, err := statement.Encode(kind, "docker.io/rancher/rke2-runtime", digest.String(), []byte(`{"a":"<b>"}`))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, data)
	}
	return out
}

func someDigest(b string) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(b, 32)}
}

// What we attest, cosign verifies: the image and our attestation manifest in one layout.
func TestCosignVerifiesAttestations(t *testing.T) {
	img, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	k := newKey(t)
	att, err := k.Attest(ctx, statements(t, digest))
	if err != nil {
		t.Fatal(err)
	}
	other, err := k.Attest(ctx, statements(t, someDigest("ab")))
	if err != nil {
		t.Fatal(err)
	}
	verify := func(k *Key, att Signature) error {
		check := offline(t, k)
		check.ClaimVerifier = cosign.IntotoSubjectClaimVerifier
		got, _, err := cosign.VerifyLocalImageAttestations(ctx, layoutWith(t, img, att, "dev.cosignproject.cosign/atts"), check)
		if err == nil && len(got) != 2 {
			return fmt.Errorf("%d attestations", len(got))
		}
		return err
	}
	if err := verify(k, att); err != nil {
		t.Errorf("cosign refuses our attestations: %v", err)
	}
	if err := verify(newKey(t), att); err == nil {
		t.Error("cosign accepts our attestations for another key")
	}
	if err := verify(k, other); err == nil {
		t.Error("cosign accepts our attestations of another image")
	}
}

func TestAttestIsDeterministic(t *testing.T) {
	k := newKey(t)
	s := statements(t, someDigest("ab"))
	a, err := k.Attest(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Attest(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Manifest, b.Manifest) || a.Descriptor.Digest != b.Descriptor.Digest || len(a.Blobs) != 3 {
		t.Errorf("two attestations:\n%s\n%s", a.Manifest, b.Manifest)
	}
	other, err := newKey(t).Attest(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a.Manifest, other.Manifest) {
		t.Error("another key, the same attestation: this test can't fail")
	}
}

func TestEnvelope(t *testing.T) {
	k := newKey(t)
	s := statements(t, someDigest("ab"))
	att, err := k.Attest(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(att.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Layers) != 2 {
		t.Fatalf("manifest %s", att.Manifest)
	}
	for i, kind := range []string{"https://spdx.dev/Document", "https://slsa.dev/provenance/v1"} {
		l := m.Layers[i]
		sig, signed := l.Annotations[signatureKey]
		if l.MediaType != "application/vnd.dsse.envelope.v1+json" || l.Annotations["predicateType"] != kind || !signed || sig != "" {
			t.Errorf("layer %d: %+v", i, l)
		}
		var env dsse.Envelope
		if err := json.Unmarshal(att.Blobs[i+1], &env); err != nil {
			t.Fatal(err)
		}
		if env.PayloadType != "application/vnd.in-toto+json" || len(env.Signatures) != 1 || !strings.HasPrefix(env.Signatures[0].KeyID, "SHA256:") {
			t.Errorf("envelope %+v", env)
		}
		if payload, err := env.DecodeB64Payload(); err != nil || !bytes.Equal(payload, s[i]) {
			t.Errorf("payload %s, %v", payload, err)
		}
	}
}

func TestAttested(t *testing.T) {
	k := newKey(t)
	s := statements(t, someDigest("ab"))
	l, err := buildlayout.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	attest := func(k *Key, s [][]byte) []byte {
		att, err := k.Attest(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		put(t, l, att.Blobs...)
		return att.Manifest
	}
	sig, err := k.Sign(ctx, claimOf(someDigest("ab")))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		manifest []byte
		want     bool
	}{
		{"the same", attest(k, s), true},
		{"another key's", attest(newKey(t), s), false},
		{"one of two", attest(k, s[:1]), false},
		{"one too many", attest(k, append(s, s[0])), false},
		{"in another order", attest(k, [][]byte{s[1], s[0]}), false},
		{"of another image", attest(k, statements(t, someDigest("cd"))), false},
		{"signatures", sig.Manifest, false},
	} {
		if got, err := k.Attested(s, tc.manifest, l.Read); err != nil || got != tc.want {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
	}
	missing := func(v1.Hash) ([]byte, error) { return nil, fmt.Errorf("gone") }
	if _, err := k.Attested(s, attest(k, s), missing); err == nil {
		t.Error("a blob that can't be read is no error")
	}
}

func TestAttestRefuses(t *testing.T) {
	k := newKey(t)
	for want, s := range map[string][][]byte{
		"nothing to state":   nil,
		"reading an in-toto": {[]byte("{")},
		"its type is":        {[]byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`)},
		"lacks a subject":    {[]byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{}}`)},
	} {
		if _, err := k.Attest(ctx, s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

// A key that never leaves its service attests too, and knows what it attested: its
// signatures are other bytes each time.
func TestKeyServiceAttests(t *testing.T) {
	private, err := cosign.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	kms := context.WithValue(ctx, fake.KmsCtxKey{}, private)
	k, err := Load(kms, fake.ReferenceScheme+"key", nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := buildlayout.Open(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := statements(t, someDigest("ab"))
	att, err := k.Attest(kms, s)
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, att.Blobs...)
	if ok, err := k.Attested(s, att.Manifest, l.Read); err != nil || !ok {
		t.Errorf("its own attestations: %v, %v", ok, err)
	}
}
