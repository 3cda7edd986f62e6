package fake

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore/pkg/signature/payload"
)

// Key signs images as `cosign sign --key` does, without this project's own
// signing code.
type Key struct{ private *ecdsa.PrivateKey }

// NewKey makes a key that nobody trusts yet.
func NewKey() (Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return Key{private}, err
}

// Public is the public half in PEM, as cosign.pub holds it.
func (k Key) Public() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// sign returns cosign's payload for an image and the signature over it.
func (k Key) sign(tag name.Tag, manifest v1.Hash) (body, signature []byte, err error) {
	body, err = payload.Cosign{Image: tag.Context().Digest(manifest.String()), ClaimedIdentity: tag.Context().Name()}.MarshalJSON()
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(body)
	signature, err = k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
	return body, signature, err
}
