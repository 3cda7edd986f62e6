package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// ReleaseSource is the Source of the keys that came with the program.
const ReleaseSource = "release"

// maxKeyFile bounds a public key file; an RSA 8192 key in PEM is about 1.5 KiB.
const maxKeyFile = 64 << 10

// Key is a public key that signatures are checked with. The zero Key verifies
// nothing.
type Key struct {
	id       string
	source   string
	verifier signature.Verifier
}

// ID is the hex SHA-256 of the key's SubjectPublicKeyInfo (RFC 5280) in DER.
func (k Key) ID() string { return k.id }

// Source says where the key came from: [ReleaseSource], or the path of its file.
func (k Key) Source() string { return k.source }

// String names the key for a person: the start of its ID and its source.
func (k Key) String() string {
	if k.verifier == nil {
		return "no key"
	}
	if k.source == ReleaseSource {
		return "release key " + k.id[:12]
	}
	return fmt.Sprintf("key %s (%s)", k.id[:12], k.source)
}

// ParseKey reads the one public key in a PEM file: "PUBLIC KEY" (PKIX) or
// "RSA PUBLIC KEY" (PKCS #1), as `cosign public-key` and openssl write it.
// ECDSA on the NIST curves, Ed25519 and RSA of 2048 bits or more are accepted.
func ParseKey(pemBytes []byte, source string) (Key, error) {
	fail := func(err error) (Key, error) { return Key{}, fmt.Errorf("reading public key %s: %w", source, err) }
	block, rest := pem.Decode(pemBytes)
	switch {
	case block == nil:
		return fail(errors.New("no PEM block found; a file that begins with -----BEGIN PUBLIC KEY----- is needed"))
	case strings.Contains(block.Type, "PRIVATE KEY"):
		return fail(fmt.Errorf("it holds a private key (%s): keep that off this host and put the public half here", block.Type))
	case len(strings.TrimSpace(string(rest))) > 0:
		return fail(errors.New("more follows the first key; put each key into a file of its own"))
	}
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(block))
	if err != nil {
		return fail(err)
	}
	if err := strong(pub); err != nil {
		return fail(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return fail(err)
	}
	// cosign hashes with SHA-256 whatever the curve.
	v, err := signature.LoadVerifier(pub, crypto.SHA256)
	if err != nil {
		return fail(err)
	}
	sum := sha256.Sum256(der)
	return Key{id: hex.EncodeToString(sum[:]), source: source, verifier: v}, nil
}

// strong refuses keys below 112 bits of security, and kinds that nobody signs with.
func strong(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if bits := k.Curve.Params().BitSize; bits < 256 {
			return fmt.Errorf("a curve of %d bits is too weak: use P-256 or larger", bits)
		}
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 {
			return fmt.Errorf("RSA with %d bits is too weak: use 2048 or more", bits)
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("keys of type %T are not known: use ECDSA, Ed25519 or RSA", pub)
	}
	return nil
}

// LoadKeys reads every *.pub file of a folder, in name order. A folder that does
// not exist has no keys; a file that is not one public key is an error that names
// it, because an operator who put it there expects it to count.
func LoadKeys(dir string) ([]Key, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading trusted keys: %w", err)
	}
	var keys []Key
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".pub") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		k, err := LoadKey(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// LoadKey reads the public key in one PEM file.
func LoadKey(path string) (Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading public key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return Key{}, fmt.Errorf("reading public key %s: not a regular file of at most %d bytes", path, maxKeyFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading public key: %w", err)
	}
	return ParseKey(b, path)
}
