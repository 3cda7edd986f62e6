package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore/pkg/signature/payload"
)

const (
	repo    = "docker.io/rancher/rke2-runtime"
	tag     = "v1.35.4-rke2r1"
	runtime = repo + ":" + tag
)

var (
	good  = digest("a")
	other = digest("b")
)

func digest(c string) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(c, 64)} }

// signer makes a key pair; its PEM is the public half.
type signer struct {
	priv crypto.Signer
	pem  []byte
}

func newSigner(t *testing.T, priv crypto.Signer, err error) signer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(priv.Public())
	if err != nil {
		t.Fatal(err)
	}
	return signer{priv, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}
}

func ecdsaSigner(t *testing.T) signer {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return newSigner(t, k, err)
}

func (s signer) key(t *testing.T, source string) Key {
	t.Helper()
	k, err := ParseKey(s.pem, source)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// body is a payload for an identity and a digest, with optional claims.
func body(identity string, h v1.Hash, claims map[string]any) []byte {
	p := payload.SimpleContainerImage{Optional: claims}
	p.Critical.Type = payload.CosignSignatureType
	p.Critical.Identity.DockerReference = identity
	p.Critical.Image.DockerManifestDigest = h.String()
	b, _ := json.Marshal(p)
	return b
}

func (s signer) sign(t *testing.T, b []byte) Signature {
	t.Helper()
	var raw []byte
	var err error
	if _, ok := s.priv.(ed25519.PrivateKey); ok {
		raw, err = s.priv.Sign(nil, b, crypto.Hash(0))
	} else {
		sum := sha256.Sum256(b)
		raw, err = s.priv.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
	if err != nil {
		t.Fatal(err)
	}
	return Signature{Payload: b, Raw: raw}
}

func TestAdmit(t *testing.T) {
	release, ops, stranger := ecdsaSigner(t), ecdsaSigner(t), ecdsaSigner(t)
	releaseKey, opsKey := release.key(t, ReleaseSource), ops.key(t, "/trust/ops.pub")
	tagged := map[string]any{ClaimTag: tag}
	signed := release.sign(t, body(repo, good, tagged))
	pins := map[string][]v1.Hash{runtime: {good}, "docker.io/rancher/hardened-etcd:v3": {other}}
	system := Policy{Mode: ModeSystem, ReleaseKeys: []Key{releaseKey}, Pins: pins}
	with := func(p Policy, change func(*Policy)) Policy { change(&p); return p }
	all := with(system, func(p *Policy) { p.Mode, p.Pins = ModeAll, nil })
	flipped := func(s Signature) Signature {
		s.Payload = []byte(strings.Replace(string(s.Payload), tag, "v1.35.5-rke2r1", 1))
		return s
	}

	for _, c := range []struct {
		what   string
		policy Policy
		ref    string
		digest v1.Hash
		sigs   []Signature
		reason Reason // empty: admitted
		by     string // prefix
	}{
		{"signed by the release", system, runtime, good, []Signature{signed}, "", "release key "},
		{"the same from a mirror", system, "mirror.example:5000/rancher/rke2-runtime:" + tag, good, []Signature{signed}, "", "release key "},
		{"signed without a tag claim", all, runtime, good, []Signature{release.sign(t, body(repo, good, nil))}, "", "release key "},
		{"signed with the tag in the identity", all, runtime, good, []Signature{release.sign(t, body(runtime, good, nil))}, "", "release key "},
		{"one good signature among bad ones", system, runtime, good, []Signature{{}, stranger.sign(t, body(repo, good, nil)), signed}, "", "release key "},
		{"signed by the operator", with(all, func(p *Policy) { p.OperatorKeys = []Key{opsKey} }), runtime, good,
			[]Signature{ops.sign(t, body(repo, good, tagged))}, "", "key " + opsKey.ID()[:12] + " (/trust/ops.pub)"},
		{"an unsigned image of the operator's", system, "docker.io/library/busybox:latest", other, nil, "", "not required"},
		{"an operator's image that a stranger signed", system, "docker.io/library/busybox:latest", other,
			[]Signature{stranger.sign(t, body("docker.io/library/busybox", other, nil))}, "", "not required"},
		{"verification off", Policy{Mode: ModeOff}, runtime, good, nil, "", "verification off"},

		{"the zero policy", Policy{}, runtime, good, []Signature{signed}, ReasonNoKeys, ""},
		{"the zero policy, unsigned", Policy{}, "docker.io/library/busybox:latest", good, nil, ReasonUnsigned, ""},
		{"the zero mode is all", with(system, func(p *Policy) { p.Mode = "" }), "docker.io/library/busybox:latest", good, nil, ReasonUnsigned, ""},
		{"system with nothing pinned is all", Policy{Mode: ModeSystem, ReleaseKeys: []Key{releaseKey}}, "docker.io/library/busybox:latest", good, nil, ReasonUnsigned, ""},
		{"a mode that is not known", with(system, func(p *Policy) { p.Mode = "none" }), "docker.io/library/busybox:latest", good, nil, ReasonPolicy, ""},
		{"a zero key", Policy{ReleaseKeys: []Key{{}}}, runtime, good, []Signature{signed}, ReasonNoKeys, ""},
		{"unsigned", system, runtime, good, nil, ReasonUnsigned, ""},
		{"unsigned, from a mirror", system, "mirror.example/rancher/rke2-runtime:" + tag, good, nil, ReasonUnsigned, ""},
		{"unsigned, of a system repository but another tag", system, repo + ":v9", good, nil, ReasonUnsigned, ""},
		{"unsigned, named as a system image", with(system, func(p *Policy) { p.System = []string{"rancher/chart-image:v2"} }),
			"docker.io/rancher/chart-image:v2", good, nil, ReasonUnsigned, ""},
		{"unsigned, mode all", all, "docker.io/library/busybox:latest", good, nil, ReasonUnsigned, ""},
		{"another key", system, runtime, good, []Signature{stranger.sign(t, body(repo, good, tagged))}, ReasonWrongKey, ""},
		{"no keys at all", with(system, func(p *Policy) { p.ReleaseKeys = nil }), runtime, good, []Signature{signed}, ReasonNoKeys, ""},
		{"a changed payload", system, runtime, good, []Signature{flipped(signed)}, ReasonWrongKey, ""},
		{"a changed signature", system, runtime, good, []Signature{{Payload: signed.Payload, Raw: append([]byte{0}, signed.Raw...)}}, ReasonWrongKey, ""},
		{"an empty signature", system, runtime, good, []Signature{{Payload: signed.Payload}}, ReasonMalformed, ""},
		{"a payload of another type", system, runtime, good, []Signature{release.sign(t, []byte(`{"critical":{"type":"x"}}`))}, ReasonMalformed, ""},
		{"a payload that is no JSON", system, runtime, good, []Signature{release.sign(t, []byte(`hello`))}, ReasonMalformed, ""},
		{"a payload of null", system, runtime, good, []Signature{release.sign(t, []byte(`null`))}, ReasonWrongDigest, ""},
		{"the signature of another image", all, runtime, other, []Signature{signed}, ReasonWrongDigest, ""},
		{"signed under another repository", all, "docker.io/rancher/hardened-etcd:" + tag, good, []Signature{signed}, ReasonWrongRepo, ""},
		{"signed under a longer repository", all, "docker.io/x/rancher/rke2-runtime:" + tag, good, []Signature{signed}, ReasonWrongRepo, ""},
		{"signed for another tag", all, repo + ":v1.36.0-rke2r1", good, []Signature{signed}, ReasonWrongTag, ""},
		{"signed for another tag in the identity", all, repo + ":v1.36.0-rke2r1", good, []Signature{release.sign(t, body(runtime, good, nil))}, ReasonWrongTag, ""},
		{"a tag claim that is no string", all, runtime, good, []Signature{release.sign(t, body(repo, good, map[string]any{ClaimTag: 7}))}, ReasonWrongTag, ""},
		{"another signed image under a pinned name", system, runtime, other, []Signature{release.sign(t, body(repo, other, tagged))}, ReasonPinned, ""},
		{"the same from a mirror", system, "mirror.example/rancher/rke2-runtime:" + tag, other, []Signature{release.sign(t, body(repo, other, tagged))}, ReasonPinned, ""},
		{"the same, signed by the operator", with(system, func(p *Policy) { p.OperatorKeys = []Key{opsKey} }), runtime, other,
			[]Signature{ops.sign(t, body(repo, other, tagged))}, ReasonPinned, ""},
		{"pins that contradict", with(system, func(p *Policy) {
			p.Pins = map[string][]v1.Hash{"a.example/rancher/x:v1": {good}, "b.example/rancher/x:v1": {other}}
		}), "docker.io/rancher/x:v1", good, []Signature{signed}, ReasonPolicy, ""},
		{"a pin that is no reference", with(system, func(p *Policy) { p.Pins = map[string][]v1.Hash{"???": {good}} }),
			runtime, good, []Signature{signed}, ReasonPolicy, ""},
		{"a pin without a digest", with(system, func(p *Policy) { p.Pins = map[string][]v1.Hash{runtime: {{}}} }),
			runtime, good, []Signature{signed}, ReasonPolicy, ""},
		{"no digest", system, runtime, v1.Hash{}, []Signature{signed}, ReasonPolicy, ""},
		{"no digest, verification off", Policy{Mode: ModeOff}, runtime, v1.Hash{}, nil, ReasonPolicy, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			ref, err := name.NewTag(c.ref)
			if err != nil {
				t.Fatal(err)
			}
			adm, err := c.policy.Admit(ref, c.digest, c.sigs)
			if c.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				if !adm.Valid() || adm.Ref().String() != c.ref || adm.Digest() != c.digest || !strings.HasPrefix(adm.By(), c.by) {
					t.Errorf("admitted %+v", adm)
				}
				if adm.Verified() != strings.Contains(c.by, "key ") {
					t.Errorf("verified is %v", adm.Verified())
				}
				return
			}
			var refused *RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a refusal", err)
			}
			if adm.Valid() {
				t.Error("a refused image is valid")
			}
			if refused.Reason != c.reason {
				t.Errorf("reason %q, want %q (%v)", refused.Reason, c.reason, err)
			}
			if !strings.Contains(err.Error(), c.ref) || !strings.Contains(err.Error(), c.digest.String()) {
				t.Errorf("the message does not name the image: %v", err)
			}
		})
	}
}

func TestExactPinWins(t *testing.T) {
	s := ecdsaSigner(t)
	p := Policy{Mode: ModeSystem, ReleaseKeys: []Key{s.key(t, ReleaseSource)}, Pins: map[string][]v1.Hash{
		runtime: {good}, "a.example/rancher/rke2-runtime:" + tag: {other}, "b.example/rancher/rke2-runtime:" + tag: {other},
	}}
	ref, _ := name.NewTag(runtime)
	for range 20 { // whatever the map's order
		if _, err := p.Admit(ref, good, []Signature{s.sign(t, body(repo, good, nil))}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPinned(t *testing.T) {
	pins := map[string][]v1.Hash{runtime: {good}}
	twice := map[string][]v1.Hash{"a.example/rancher/x:v1": {good}, "b.example/rancher/x:v1": {other}}
	for _, c := range []struct {
		what   string
		policy Policy
		ref    string
		pinned bool
	}{
		{"pinned", Policy{Pins: pins}, runtime, true},
		{"pinned, from a mirror", Policy{Pins: pins}, "mirror.example/rancher/rke2-runtime:" + tag, true},
		{"another tag", Policy{Pins: pins}, repo + ":v9", false},
		{"another repository", Policy{Pins: pins}, "docker.io/x/rke2-runtime:" + tag, false},
		{"the zero policy", Policy{}, runtime, false},
		{"pins that contradict", Policy{Pins: twice}, "docker.io/rancher/x:v1", false},
		{"a system image without a pin", Policy{System: []string{runtime}}, runtime, false},
	} {
		ref, err := name.NewTag(c.ref)
		if err != nil {
			t.Fatal(err)
		}
		adm, ok := c.policy.Pinned(ref)
		if ok != c.pinned || adm.Valid() != c.pinned || adm.Verified() || c.pinned && adm.Digest() != good {
			t.Errorf("%s: %v %+v", c.what, ok, adm)
		}
	}
}

// TestRequired: what Admit refuses without a signature, and nothing else, requires one.
func TestRequired(t *testing.T) {
	pins := map[string][]v1.Hash{runtime: {good}}
	for _, p := range []Policy{{}, {Mode: ModeAll}, {Mode: ModeOff}, {Mode: "none"}, {Mode: ModeSystem}, {Mode: ModeSystem, Pins: pins},
		{Mode: ModeSystem, Pins: pins, System: []string{"rancher/x"}}, {Mode: ModeSystem, Pins: map[string][]v1.Hash{"???": {good}}}} {
		for _, r := range []string{runtime, "docker.io/library/busybox:latest", "mirror.example/rancher/x:v1"} {
			ref, err := name.NewTag(r)
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Admit(ref, good, nil)
			if got := p.Required(ref); got != (err != nil) {
				t.Errorf("%+v: %s: required is %v, and Admit says %v", p, r, got, err)
			}
		}
	}
}

func TestDevelopmentClaim(t *testing.T) {
	s := ecdsaSigner(t)
	p := Policy{ReleaseKeys: []Key{s.key(t, ReleaseSource)}}
	ref, _ := name.NewTag(runtime)
	for _, c := range []struct {
		claims map[string]any
		want   bool
	}{{nil, false}, {map[string]any{ClaimDevelopment: "true"}, true}, {map[string]any{ClaimDevelopment: true}, true}, {map[string]any{ClaimDevelopment: "false"}, false}} {
		adm, err := p.Admit(ref, good, []Signature{s.sign(t, body(repo, good, c.claims))})
		if err != nil || adm.Development() != c.want {
			t.Errorf("%v: %v %v", c.claims, adm.Development(), err)
		}
	}
}

func TestZeroAdmittedIsNotValid(t *testing.T) {
	if (Admitted{}).Valid() {
		t.Error("valid")
	}
}

func TestKeys(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p384Signer := newSigner(t, p384, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	edSigner := newSigner(t, ed, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	rsaSigner := newSigner(t, rsaKey, err)
	ref, _ := name.NewTag(runtime)
	for what, s := range map[string]signer{"P-256": ecdsaSigner(t), "P-384": p384Signer, "Ed25519": edSigner, "RSA": rsaSigner} {
		p := Policy{OperatorKeys: []Key{s.key(t, "x.pub")}}
		if _, err := p.Admit(ref, good, []Signature{s.sign(t, body(repo, good, nil))}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}

	weak := newSigner(t, mustECDSA(t, elliptic.P224()), nil)
	ok := ecdsaSigner(t)
	private, err := x509.MarshalPKCS8PrivateKey(ok.priv)
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		"empty":         nil,
		"text":          []byte("hello"),
		"a private key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"two keys":      append(append([]byte{}, ok.pem...), ok.pem...),
		"a certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
		"broken DER":    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1, 2, 3}}),
		"a weak curve":  weak.pem,
	} {
		_, err := ParseKey(b, "/trust/bad.pub")
		if err == nil || !strings.Contains(err.Error(), "/trust/bad.pub") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func mustECDSA(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestLoadKeys(t *testing.T) {
	dir := t.TempDir()
	if keys, err := LoadKeys(filepath.Join(dir, "absent")); err != nil || len(keys) != 0 {
		t.Errorf("absent folder: %v %v", keys, err)
	}
	a, b := ecdsaSigner(t), ecdsaSigner(t)
	for n, c := range map[string][]byte{"b.pub": b.pem, "a.pub": a.pem, "note.txt": []byte("not a key"), ".hidden.pub": []byte("x")} {
		if err := os.WriteFile(filepath.Join(dir, n), c, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := LoadKeys(dir)
	if err != nil || len(keys) != 2 || keys[0].ID() != a.key(t, "").ID() || keys[1].Source() != filepath.Join(dir, "b.pub") {
		t.Fatalf("%v %v", keys, err)
	}
	broken := filepath.Join(dir, "c.pub")
	if err := os.WriteFile(broken, []byte("oops"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeys(dir); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("a broken key file: %v", err)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(broken, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeys(dir); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("a folder as key: %v", err)
	}
}
