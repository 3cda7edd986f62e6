package sign

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	ocilayout "github.com/sigstore/cosign/v2/pkg/oci/layout"
	"github.com/sigstore/cosign/v2/pkg/oci/signed"
	cosignkey "github.com/sigstore/cosign/v2/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/fake"

	buildlayout "github.com/rancher/rke2/build/layout"
)

var ctx = context.Background()

func pass(p string) Password { return func() ([]byte, error) { return []byte(p), nil } }

func newKey(t *testing.T) *Key {
	t.Helper()
	dir := t.TempDir()
	if err := Generate(filepath.Join(dir, "k.key"), filepath.Join(dir, "k.pub"), []byte("secret")); err != nil {
		t.Fatal(err)
	}
	k, err := Load(ctx, filepath.Join(dir, "k.key"), pass("secret"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func claimOf(digest v1.Hash) Claim {
	return Claim{Repository: "docker.io/rancher/rke2-runtime", Tag: "v1-rke2r1", Manifest: digest}
}

// put puts blobs into a layout.
func put(t *testing.T, l *buildlayout.Layout, blobs ...[]byte) {
	t.Helper()
	for _, b := range blobs {
		if _, err := l.Put(b); err != nil {
			t.Fatal(err)
		}
	}
}

// layoutWith makes a layout of an image and what is said about it.
func layoutWith(t *testing.T, img v1.Image, said Signature, kind string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := ocilayout.WriteSignedImage(dir, signed.Image(img)); err != nil {
		t.Fatal(err)
	}
	l, err := buildlayout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, append(said.Blobs, said.Manifest)...)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	d := said.Descriptor
	d.Annotations = map[string]string{buildlayout.Kind: kind}
	if err := layout.Path(dir).AppendDescriptor(d); err != nil {
		t.Fatal(err)
	}
	return dir
}

// offline is what cosign is to check with a key and no network.
func offline(t *testing.T, k *Key) *cosign.CheckOpts {
	t.Helper()
	pem, err := k.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	v, err := cosignkey.LoadPublicKeyRaw(pem, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return &cosign.CheckOpts{SigVerifier: v, IgnoreTlog: true, IgnoreSCT: true, Offline: true}
}

// What we sign, cosign verifies: the image and our signature manifest in one layout.
func TestCosignVerifies(t *testing.T) {
	img, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	k := newKey(t)
	sig, err := k.Sign(ctx, claimOf(digest))
	if err != nil {
		t.Fatal(err)
	}
	dir := layoutWith(t, img, sig, buildlayout.KindSigs)
	verify := func(k *Key) error {
		check := offline(t, k)
		check.ClaimVerifier = cosign.SimpleClaimVerifier
		got, _, err := cosign.VerifyLocalImageSignatures(ctx, dir, check)
		if err == nil && len(got) != 1 {
			return fmt.Errorf("%d signatures", len(got))
		}
		return err
	}
	if err := verify(k); err != nil {
		t.Errorf("cosign refuses our signature: %v", err)
	}
	if err := verify(newKey(t)); err == nil {
		t.Error("cosign accepts our signature for another key")
	}
}

func TestDeterministic(t *testing.T) {
	k := newKey(t)
	c := claimOf(v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)})
	a, err := k.Sign(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Sign(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Manifest, b.Manifest) || a.Descriptor.Digest != b.Descriptor.Digest {
		t.Errorf("two signatures:\n%s\n%s", a.Manifest, b.Manifest)
	}
	other, err := newKey(t).Sign(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a.Manifest, other.Manifest) {
		t.Error("another key, the same signature: this test can't fail")
	}
}

func TestPayload(t *testing.T) {
	k, err := LoadDevelopment(ctx, filepath.Join(t.TempDir(), "development.key"))
	if err != nil {
		t.Fatal(err)
	}
	c := claimOf(v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)})
	sig, err := k.Sign(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"critical":{"identity":{"docker-reference":"docker.io/rancher/rke2-runtime"},` +
		`"image":{"docker-manifest-digest":"sha256:` + strings.Repeat("ab", 32) + `"},"type":"cosign container image signature"},` +
		`"optional":{"development":"true","tag":"v1-rke2r1"}}`
	if got := string(sig.Blobs[1]); got != want {
		t.Errorf("payload\n%s\nwant\n%s", got, want)
	}
	var m v1.Manifest
	if err := json.Unmarshal(sig.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != payloadType || m.Layers[0].Annotations[signatureKey] == "" {
		t.Errorf("manifest %s", sig.Manifest)
	}
	release, err := newKey(t).Sign(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(release.Blobs[1]), developmentClaim) {
		t.Errorf("a release key says %s", release.Blobs[1])
	}
}

func TestSigned(t *testing.T) {
	k := newKey(t)
	c := claimOf(v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)})
	sig, err := k.Sign(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, err := buildlayout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	put(t, l, sig.Blobs...)
	otherTag, otherRepo, otherDigest := c, c, c
	otherTag.Tag = "v2"
	otherRepo.Repository = "docker.io/rancher/hardened-etcd"
	otherDigest.Manifest.Hex = strings.Repeat("cd", 32)
	forged := bytes.Replace(sig.Manifest, []byte(`cosign/signature":"`), []byte(`cosign/signature":"AAAA`), 1)
	if bytes.Equal(forged, sig.Manifest) {
		t.Fatalf("no signature in %s", sig.Manifest)
	}
	none, err := empty.Signatures().RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		key      *Key
		claim    Claim
		manifest []byte
		want     bool
	}{
		{"the same", k, c, sig.Manifest, true},
		{"another key", newKey(t), c, sig.Manifest, false},
		{"another tag", k, otherTag, sig.Manifest, false},
		{"another repository", k, otherRepo, sig.Manifest, false},
		{"another digest", k, otherDigest, sig.Manifest, false},
		{"another signature", k, c, forged, false},
		{"no signature", k, c, none, false},
	} {
		if got, err := tc.key.Signed(tc.claim, tc.manifest, l.Read); err != nil || got != tc.want {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(n string) string { return filepath.Join(dir, n) }
	if err := Generate(file("k.key"), file("k.pub"), []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file("k.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v, %v", st.Mode(), err)
	}
	before, err := os.ReadFile(file("k.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Generate(file("k.key"), file("other.pub"), nil); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("overwriting: %v", err)
	}
	if after, _ := os.ReadFile(file("k.key")); !bytes.Equal(before, after) {
		t.Error("the private key was overwritten")
	}
	if err := os.WriteFile(file("plain.key"), []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("broken.key"), before[:len(before)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, ref, pass, want string }{
		{"wrong passphrase", file("k.key"), "wrong", "is COSIGN_PASSWORD its passphrase?"},
		{"no passphrase", file("k.key"), "", "is COSIGN_PASSWORD its passphrase?"},
		{"a public key", file("k.pub"), "secret", "not in cosign's encrypted format"},
		{"not encrypted", file("plain.key"), "", "not in cosign's encrypted format"},
		{"half a file", file("broken.key"), "secret", "opening signing key"},
		{"no file", file("none.key"), "", "rke2-build keygen"},
		{"unknown service", "nosuchkms://key", "", "sigstore-kms-NAME plug-in"},
	} {
		if _, err := Load(ctx, c.ref, pass(c.pass)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.name, err, c.want)
		}
	}
}

func TestDevelopmentKeyIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "development.key")
	a, err := LoadDevelopment(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := LoadDevelopment(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	idA, _ := a.ID()
	idB, _ := b.ID()
	if idA == "" || idA != idB || !a.Development() || !b.Development() {
		t.Errorf("keys %s and %s", idA, idB)
	}
}

// A key that never leaves its service: sigstore's stand-in for one.
func TestKeyService(t *testing.T) {
	private, err := cosign.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	kms := context.WithValue(ctx, fake.KmsCtxKey{}, private)
	k, err := Load(kms, fake.ReferenceScheme+"key", func() ([]byte, error) {
		t.Error("asked for a passphrase")
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c := claimOf(v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)})
	sig, err := k.Sign(kms, c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := buildlayout.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	put(t, l, sig.Blobs...)
	if ok, err := k.Signed(c, sig.Manifest, l.Read); err != nil || !ok {
		t.Errorf("its own signature: %v, %v", ok, err)
	}
	if k.Development() {
		t.Error("it is no development key")
	}
}
