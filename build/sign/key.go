// Package sign signs image manifests by digest, as cosign does (cosign's signature
// specification: a "simple signing" payload, its signature in a layer annotation), and
// handles the keys for it.
package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	cosignkey "github.com/sigstore/cosign/v2/pkg/signature"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/rancher/rke2/build/layout"
)

// Key signs, with a key file or through a key management service.
type Key struct {
	signer signature.SignerVerifier
	public crypto.PublicKey
	// file is the private key where it is an ECDSA key in a file.
	file        *ecdsa.PrivateKey
	development bool
}

// Password gives the passphrase of a key file. It is asked at most once, and only for
// key files.
type Password func() ([]byte, error)

// Load opens a key: a file in cosign's encrypted format, or a URI that cosign knows
// (awskms://, gcpkms://, azurekms://, hashivault:// and any other KMS through its
// sigstore-kms-NAME plug-in, pkcs11:, k8s://, gitlab://).
func Load(ctx context.Context, ref string, password Password) (*Key, error) {
	if strings.Contains(ref, "://") || strings.HasPrefix(ref, "pkcs11:") {
		sv, err := cosignkey.SignerVerifierFromKeyRef(ctx, ref, func(bool) ([]byte, error) { return password() }, nil)
		if err != nil {
			return nil, fmt.Errorf("opening signing key %s: %w (built in are %s; another service needs its sigstore-kms-NAME plug-in in PATH)", ref, err, strings.Join(builtIn(), " "))
		}
		pub, err := sv.PublicKey(options.WithContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("asking for the public half of signing key %s: %w", ref, err)
		}
		return &Key{signer: sv, public: pub}, nil
	}
	data, err := os.ReadFile(ref)
	if err != nil {
		return nil, fmt.Errorf("opening signing key: %w (make one with rke2-build keygen)", err)
	}
	if !bytes.Contains(data, []byte("-----BEGIN ENCRYPTED ")) {
		return nil, fmt.Errorf("signing key %s is not in cosign's encrypted format; convert it with cosign import-key-pair", ref)
	}
	priv, err := cryptoutils.UnmarshalPEMToPrivateKey(data, func(bool) ([]byte, error) {
		pass, err := password()
		if pass == nil {
			pass = []byte{} // nil would mean: don't decrypt
		}
		return pass, err
	})
	if err != nil {
		return nil, fmt.Errorf("opening signing key %s (is COSIGN_PASSWORD its passphrase?): %w", ref, err)
	}
	sv, err := signature.LoadSignerVerifier(priv, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("opening signing key %s: %w", ref, err)
	}
	k := &Key{signer: sv}
	k.file, _ = priv.(*ecdsa.PrivateKey)
	if k.public, err = sv.PublicKey(); err != nil {
		return nil, fmt.Errorf("opening signing key %s: %w", ref, err)
	}
	return k, nil
}

// Generate makes an ECDSA P-256 key pair: private, in cosign's encrypted format, and
// public. Existing files are not touched.
func Generate(private, public string, passphrase []byte) error {
	for _, p := range []string{private, public} {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("making a key pair: %s is there already", p)
		}
	}
	pair, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return passphrase, nil })
	if err != nil {
		return fmt.Errorf("making a key pair: %w", err)
	}
	if err := layout.WriteFile(private, pair.PrivateBytes, 0o600); err != nil {
		return err
	}
	return layout.WriteFile(public, pair.PublicBytes, 0o644)
}

// LoadDevelopment opens the development key at path, making it where there is none.
// It has no passphrase, and what it signs says that it is a development build.
func LoadDevelopment(ctx context.Context, private string) (*Key, error) {
	if _, err := os.Lstat(private); errors.Is(err, fs.ErrNotExist) {
		pair, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return nil, nil })
		if err != nil {
			return nil, fmt.Errorf("making a development key: %w", err)
		}
		if err := layout.WriteFile(private, pair.PrivateBytes, 0o600); err != nil {
			return nil, err
		}
	}
	k, err := Load(ctx, private, func() ([]byte, error) { return nil, nil })
	if err != nil {
		return nil, err
	}
	k.development = true
	return k, nil
}

// Development tells whether this is a development key.
func (k *Key) Development() bool { return k.development }

// PublicPEM is the public half, PKIX in PEM.
func (k *Key) PublicPEM() ([]byte, error) {
	pem, err := cryptoutils.MarshalPublicKeyToPEM(k.public)
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	return pem, nil
}

// ID is the SHA-256 of the public key's PKIX form, hex.
func (k *Key) ID() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil {
		return "", fmt.Errorf("encoding public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// sign signs message with SHA-256. With an ECDSA key in a file the nonce follows
// RFC 6979, so the same message gives the same signature.
func (k *Key) sign(ctx context.Context, message []byte) ([]byte, error) {
	if k.file != nil {
		digest := sha256.Sum256(message)
		return k.file.Sign(nil, digest[:], crypto.SHA256)
	}
	return k.signer.SignMessage(bytes.NewReader(message), options.WithContext(ctx))
}

func (k *Key) verify(message, sig []byte) error {
	v, err := signature.LoadVerifier(k.public, crypto.SHA256)
	if err != nil {
		return err
	}
	return v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message))
}
