package airgap_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/fake"
)

const (
	etcd    = "docker.io/rancher/hardened-etcd:v1"
	runtime = "docker.io/rancher/rke2-runtime:v1"
	spdx    = `{"spdxVersion":"SPDX-2.3","packages":[{"name":"b","versionInfo":"1","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:golang/b@1"}]},{"name":"a"}],"files":[{},{},{}]}`
)

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// attested is a store with two signed images, and a policy that trusts their signer.
type attested struct {
	t       testing.TB
	store   fake.Store
	key     fake.Key
	policy  trust.Policy
	digests map[string]v1.Hash
}

func newAttested(t testing.TB) *attested {
	t.Helper()
	a := &attested{t: t, digests: map[string]v1.Hash{}}
	var err error
	a.key, err = fake.NewKey()
	noError(t, err)
	pub, err := a.key.Public()
	noError(t, err)
	key, err := trust.ParseKey(pub, trust.ReleaseSource)
	noError(t, err)
	a.policy.ReleaseKeys = []trust.Key{key}
	for _, ref := range []string{etcd, runtime} {
		img, err := random.Image(2000, 1)
		noError(t, err)
		img = mutate.MediaType(mutate.ConfigMediaType(img, types.OCIConfigJSON), types.OCIManifestSchema1)
		cfg, err := img.ConfigFile()
		noError(t, err)
		cfg = cfg.DeepCopy()
		cfg.OS, cfg.Architecture = "linux", "amd64"
		img, err = mutate.ConfigFile(img, cfg)
		noError(t, err)
		a.digests[ref], err = a.store.Add(img, ref)
		noError(t, err)
		noError(t, a.store.Sign(a.key, ref, a.digests[ref]))
	}
	return a
}

// say makes a true attestation.
func (a *attested) say(predicateType, predicate, ref string) fake.Attestation {
	a.t.Helper()
	att, err := a.key.Attest(predicateType, predicate, a.digests[ref])
	noError(a.t, err)
	return att
}

func (a *attested) attach(ref string, all ...fake.Attestation) {
	a.t.Helper()
	noError(a.t, a.store.Attest(a.digests[ref], all...))
}

// bundle writes the store as a plain bundle and as a compressed one.
func (a *attested) bundles() map[string]string {
	a.t.Helper()
	dir := a.t.TempDir()
	plain := filepath.Join(dir, "x.tar")
	noError(a.t, a.store.WriteBundle(a.t.Context(), plain, "amd64"))
	b, err := os.ReadFile(plain)
	noError(a.t, err)
	z, err := zstd.NewWriter(nil)
	noError(a.t, err)
	noError(a.t, os.WriteFile(plain+".zst", z.EncodeAll(b, nil), 0o600))
	return map[string]string{"plain": plain, "compressed": plain + ".zst"}
}

func open(t testing.TB, file string) *airgap.Archive {
	t.Helper()
	a, err := airgap.Open(file)
	noError(t, err)
	t.Cleanup(func() { noError(t, a.Close()) })
	return a
}

func TestAttestationsVerify(t *testing.T) {
	a := newAttested(t)
	a.attach(etcd, a.say(airgap.PredicateSPDX, spdx, etcd), a.say(airgap.PredicateProvenance, "{}", etcd))
	for how, file := range a.bundles() {
		t.Run(how, func(t *testing.T) {
			v, err := airgap.Verify(t.Context(), file, airgap.VerifyOptions{Policy: a.policy})
			noError(t, err)
			if !v.OK || len(v.Images[0].Attestations) != 2 || len(v.Images[1].Attestations) != 0 {
				t.Fatalf("%+v", v)
			}
			for i, kind := range []string{airgap.PredicateSPDX, airgap.PredicateProvenance} {
				got := v.Images[0].Attestations[i]
				if got.PredicateType != kind || !got.Verified || got.KeyID != a.policy.ReleaseKeys[0].ID() || got.Key == "" || got.Reason != "" || got.Size < 100 {
					t.Errorf("%+v", got)
				}
			}
			v, err = airgap.Verify(t.Context(), file, airgap.VerifyOptions{})
			noError(t, err)
			if v.OK || len(v.Faults) != 4 || !strings.Contains(v.Faults[1].String(), etcd+": its attestation https://spdx.dev/Document: no trusted keys") {
				t.Errorf("without keys: %+v", v.Faults)
			}
		})
	}
}

func TestAttestationsRefused(t *testing.T) {
	other, err := fake.NewKey()
	noError(t, err)
	for name, c := range map[string]struct {
		attach func(a *attested)
		want   string
	}{
		"another key": {func(a *attested) {
			att, err := other.Attest(airgap.PredicateSPDX, spdx, a.digests[etcd])
			noError(t, err)
			a.attach(etcd, att)
		}, "not trusted"},
		"of another image": {func(a *attested) { a.attach(etcd, a.say(airgap.PredicateSPDX, spdx, runtime)) }, "signature is for another image"},
		"of another payload type": {func(a *attested) {
			env, err := a.key.Envelope("text/plain", fake.Statement(airgap.PredicateSPDX, spdx, a.digests[etcd]))
			noError(t, err)
			a.attach(etcd, fake.Attestation{MediaType: fake.EnvelopeType, PredicateType: airgap.PredicateSPDX, Envelope: env})
		}, `payload is of type "text/plain"`},
		"labelled as another": {func(a *attested) {
			att := a.say(airgap.PredicateProvenance, "{}", etcd)
			att.PredicateType = airgap.PredicateSPDX
			a.attach(etcd, att)
		}, "labelled https://spdx.dev/Document, and release key"},
		"of another media type": {func(a *attested) {
			att := a.say(airgap.PredicateSPDX, spdx, etcd)
			att.MediaType = "text/plain"
			a.attach(etcd, att)
		}, "it is of type text/plain"},
		"huge": {func(a *attested) {
			att := a.say(airgap.PredicateSPDX, spdx, etcd)
			att.Envelope = append(att.Envelope, bytes.Repeat([]byte(" "), 32<<20)...)
			a.attach(etcd, att)
		}, "more than the 33554432 that are read"},
		"no envelope": {func(a *attested) {
			a.attach(etcd, fake.Attestation{MediaType: fake.EnvelopeType, PredicateType: airgap.PredicateSPDX, Envelope: []byte("x")})
		}, "no DSSE envelope"},
		"a good one beside a bad one": {func(a *attested) {
			a.attach(etcd, a.say(airgap.PredicateSPDX, spdx, etcd))
			a.attach(etcd, a.say(airgap.PredicateProvenance, "{}", runtime))
		}, "signature is for another image"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAttested(t)
			c.attach(a)
			for how, file := range a.bundles() {
				v, err := airgap.Verify(t.Context(), file, airgap.VerifyOptions{Policy: a.policy})
				noError(t, err)
				if v.OK || len(v.Faults) != 1 || v.Faults[0].Subject != etcd || !strings.Contains(v.Faults[0].Problem, c.want) {
					t.Errorf("%s: %+v, want %q", how, v.Faults, c.want)
				}
				if name == "a good one beside a bad one" {
					continue
				}
				if s, err := open(t, file).SBOMs(t.Context(), airgap.SBOMOptions{Policy: a.policy}); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: SBOMs %+v, %v", how, s, err)
				}
			}
		})
	}
}

func TestHostileLabel(t *testing.T) {
	a := newAttested(t)
	att := a.say(airgap.PredicateSPDX, spdx, etcd)
	att.PredicateType = "\x1b[2J" + strings.Repeat("x", 1000)
	a.attach(etcd, att)
	v, err := airgap.Verify(t.Context(), a.bundles()["plain"], airgap.VerifyOptions{Policy: a.policy})
	noError(t, err)
	if v.OK || !strings.Contains(v.Faults[0].String(), `its attestation "\x1b[2Jxxx`) || strings.Contains(v.Faults[0].String(), "\x1b") || len(v.Faults[0].Problem) > 500 {
		t.Errorf("%q", v.Faults)
	}
}

func TestTooManyAttestations(t *testing.T) {
	a := newAttested(t)
	var all []fake.Attestation
	for i := range 65 {
		all = append(all, a.say("https://example.com/x", fmt.Sprintf(`{"n":%d}`, i), etcd))
	}
	a.attach(etcd, all...)
	file := a.bundles()["plain"]
	v, err := airgap.Verify(t.Context(), file, airgap.VerifyOptions{Policy: a.policy})
	noError(t, err)
	if v.OK || !strings.Contains(v.Faults[0].Problem, "more than the 64 that are read") {
		t.Errorf("%+v", v.Faults)
	}
	if _, err := open(t, file).Inspect(a.policy); !errors.Is(err, airgap.ErrRefusedContent) {
		t.Errorf("inspecting: %v", err)
	}
}

// A damaged envelope is the fault of its image, and of the file.
func TestDamagedAttestation(t *testing.T) {
	a := newAttested(t)
	att := a.say(airgap.PredicateSPDX, spdx, etcd)
	a.attach(etcd, att, a.say(airgap.PredicateProvenance, "{}", etcd))
	file := a.bundles()["plain"]
	b, err := os.ReadFile(file)
	noError(t, err)
	at := bytes.Index(b, att.Envelope)
	if at < 0 {
		t.Fatal("the envelope is not in the bundle")
	}
	b[at+100] ^= 1
	noError(t, os.WriteFile(file, b, 0o600))
	v, err := airgap.Verify(t.Context(), file, airgap.VerifyOptions{Policy: a.policy})
	noError(t, err)
	if len(v.Faults) != 2 || !strings.HasPrefix(v.Faults[0].Subject, "an attestation") || v.Faults[1].Subject != etcd {
		t.Errorf("%+v", v.Faults)
	}
}

func TestSBOMs(t *testing.T) {
	a := newAttested(t)
	a.attach(etcd, a.say(airgap.PredicateProvenance, "{}", etcd), a.say(airgap.PredicateSPDX, spdx, etcd))
	a.attach(etcd, a.say("https://example.com/scan", "{}", etcd))
	for how, file := range a.bundles() {
		t.Run(how, func(t *testing.T) {
			bundle := open(t, file)
			all, err := bundle.SBOMs(t.Context(), airgap.SBOMOptions{Policy: a.policy})
			noError(t, err)
			if len(all) != 2 || all[0].Names[0] != etcd || all[1].Names[0] != runtime || all[1].Document != nil || all[1].Key != "" {
				t.Fatalf("%+v", all)
			}
			s := all[0]
			if string(s.Document) != spdx || s.Files != 3 || s.Key == "" || s.Unverified != "" || s.Digest != a.digests[etcd].String() || s.Platform != "linux/amd64" {
				t.Errorf("%+v", s)
			}
			if len(s.Packages) != 2 || s.Packages[0].Name != "a" || s.Packages[1] != (airgap.SBOMPackage{Name: "b", Version: "1", PURL: "pkg:golang/b@1"}) {
				t.Errorf("packages %+v", s.Packages)
			}
			one, err := bundle.SBOMs(t.Context(), airgap.SBOMOptions{Policy: a.policy, Image: "rancher/hardened-etcd:v1"})
			if err != nil || len(one) != 1 || one[0].Digest != s.Digest {
				t.Errorf("one image: %+v, %v", one, err)
			}
			if _, err := bundle.SBOMs(t.Context(), airgap.SBOMOptions{Policy: a.policy, Image: "rancher/nope:v1"}); err == nil || !strings.Contains(err.Error(), "is not in it") {
				t.Errorf("an image that is not there: %v", err)
			}
			// An image that is not verified itself has no SBOM to trust, whoever signed that.
			if _, err := bundle.SBOMs(t.Context(), airgap.SBOMOptions{}); err == nil || !strings.Contains(err.Error(), "is not verified: no trusted keys") {
				t.Errorf("without keys: %v", err)
			}
			loud, err := bundle.SBOMs(t.Context(), airgap.SBOMOptions{Unverified: true})
			if err != nil || string(loud[0].Document) != spdx || loud[0].Key != "" || !strings.Contains(loud[0].Unverified, "no trusted keys") {
				t.Errorf("unverified: %+v, %v", loud, err)
			}
		})
	}
}

func TestSBOMsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		attach func(a *attested)
		want   string
	}{
		"two different ones": {func(a *attested) {
			a.attach(etcd, a.say(airgap.PredicateSPDX, spdx, etcd))
			a.attach(etcd, a.say(airgap.PredicateSPDX, strings.Replace(spdx, `"1"`, `"2"`, 1), etcd))
		}, "two different SPDX documents"},
		"SPDX 3": {func(a *attested) {
			a.attach(etcd, a.say(airgap.PredicateSPDX, `{"@context":"https://spdx.org/rdf/3.0.1/spdx-context.jsonld"}`, etcd))
		}, "only SPDX 2 is read"},
		"no document": {func(a *attested) {
			a.attach(etcd, a.say(airgap.PredicateSPDX, `{"spdxVersion":3}`, etcd))
		}, "no SPDX document"},
	} {
		a := newAttested(t)
		c.attach(a)
		for how, file := range a.bundles() {
			if s, err := open(t, file).SBOMs(t.Context(), airgap.SBOMOptions{Policy: a.policy}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), etcd) {
				t.Errorf("%s, %s: %+v, %v, want %q", name, how, s, err, c.want)
			}
		}
	}
	// The same one twice is one.
	a := newAttested(t)
	att := a.say(airgap.PredicateSPDX, spdx, etcd)
	a.attach(etcd, att, att)
	a.attach(etcd, att)
	for how, file := range a.bundles() {
		bundle := open(t, file)
		if s, err := bundle.SBOMs(t.Context(), airgap.SBOMOptions{Policy: a.policy, Image: etcd}); err != nil || string(s[0].Document) != spdx {
			t.Errorf("%s: %+v, %v", how, s, err)
		}
		if ins, err := bundle.Inspect(a.policy); err != nil || len(ins.Images[0].Attestations) != 1 {
			t.Errorf("%s: counted %+v, %v", how, ins.Images, err)
		}
	}
}

// What a bundle was unpacked to is read with its attestations again.
func TestUnpackKeepsAttestations(t *testing.T) {
	a := newAttested(t)
	a.attach(etcd, a.say(airgap.PredicateSPDX, spdx, etcd))
	for _, image := range []string{"", etcd} {
		dir := filepath.Join(t.TempDir(), "layout")
		noError(t, airgap.Unpack(t.Context(), a.bundles()["plain"], airgap.UnpackOptions{Dir: dir, Image: image}))
		var b bytes.Buffer
		noError(t, airgap.Write(t.Context(), &b, airgap.Layout(dir), airgap.Selection{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}}))
		again := filepath.Join(t.TempDir(), "again.tar")
		noError(t, os.WriteFile(again, b.Bytes(), 0o600))
		if s, err := open(t, again).SBOMs(t.Context(), airgap.SBOMOptions{Policy: a.policy, Image: etcd}); err != nil || string(s[0].Document) != spdx {
			t.Errorf("%q: %+v, %v", image, s, err)
		}
	}
}
