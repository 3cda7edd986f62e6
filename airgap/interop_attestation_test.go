package airgap

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/tools"
)

// TestCosignAttestations has the real cosign verify the attestations of the real bundle's
// images, with no network, from what Unpack wrote.
func TestCosignAttestations(t *testing.T) {
	a := product(t)
	cosign := tools.Build(t, "airgap/testdata/tools/cosign", "cosign")
	key := filepath.Join(dist(), "cosign.pub")
	if _, err := os.Stat(key); err != nil {
		tools.Absent(t, "no public key beside the bundle: %v", err)
	}
	t.Setenv("HOME", t.TempDir()) // cosign keeps a trust root there
	// Nothing answers there: what cosign verifies, it verifies without any network.
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:9")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:9")
	other := file(t, "other.pub", newFixture(t).pub)
	verify := func(dir, key, kind string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), cosign, "verify-attestation", "--key", key, "--private-infrastructure=true", "--local-image", "--type", kind, dir)
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Logf("%v: %s", cmd.Args[1:], errs.String())
		}
		return out, err
	}
	for _, img := range a.Images() {
		ref := img.Refs[0]
		t.Run(ref.String(), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "one")
			noError(t, Unpack(t.Context(), a.Path(), UnpackOptions{Dir: dir, Image: ref.String()}))
			for kind, predicate := range map[string]string{"spdxjson": PredicateSPDX, "slsaprovenance1": PredicateProvenance} {
				out, err := verify(dir, key, kind)
				if err != nil {
					t.Errorf("%s: cosign refuses it: %v", kind, err)
					continue
				}
				var env struct {
					Payload string `json:"payload"`
				}
				noError(t, json.Unmarshal(out, &env))
				payload, err := base64.StdEncoding.DecodeString(env.Payload)
				noError(t, err)
				if !strings.Contains(string(payload), img.Desc.Digest.Hex) || !strings.Contains(string(payload), predicate) {
					t.Errorf("%s: cosign verified something else: %.300s", kind, payload)
				}
				if out, err := verify(dir, other, kind); err == nil {
					t.Errorf("%s: cosign accepts another key: %s", kind, out)
				}
			}
			if out, err := verify(dir, key, "cyclonedx"); err == nil {
				t.Errorf("cosign finds an attestation that is not there: %s", out)
			}
		})
	}
}

// TestProductSBOMs reads the SBOMs of the real bundle, as rke2 bundle inspect --sbom does.
func TestProductSBOMs(t *testing.T) {
	a := product(t)
	key, err := trust.LoadKey(filepath.Join(dist(), "cosign.pub"))
	if err != nil {
		tools.Absent(t, "no public key beside the bundle: %v", err)
	}
	all, err := a.SBOMs(t.Context(), SBOMOptions{Policy: trust.Policy{OperatorKeys: []trust.Key{key}}})
	noError(t, err)
	for _, s := range all {
		if s.Document == nil || s.Files == 0 || s.Unverified != "" {
			t.Errorf("%s: %d files, %q", s.Names[0], s.Files, s.Unverified)
			continue
		}
		purls := map[string]bool{}
		for _, p := range s.Packages {
			kind, _, _ := strings.Cut(p.PURL, "/")
			purls[kind] = true
		}
		if !purls["pkg:oci"] || !purls["pkg:golang"] && !purls["pkg:deb"] {
			t.Errorf("%s is made of %v", s.Names[0], purls)
		}
	}
}
