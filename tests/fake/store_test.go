package fake

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
)

// TestOperatorsBundleIsAdmitted: what this package makes is what the product
// takes, so a refusal in another test is for the reason that test means.
func TestOperatorsBundleIsAdmitted(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	image, err := Program("probe", program, "amd64", "serve")
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	const reference = "registry.example/tools/probe:v1"
	var s Store
	digest, err := s.Add(image, reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sign(key, reference, digest); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(t.TempDir(), "bundle.tar")
	if err := s.WriteBundle(t.Context(), bundle, "amd64"); err != nil {
		t.Fatal(err)
	}
	a, err := airgap.Open(bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	images := a.Images()
	if len(images) != 1 || images[0].Desc.Digest != digest {
		t.Fatalf("bundle has %+v", images)
	}
	sigs, err := a.Signatures(digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key   Key
		admit bool
	}{{key, true}, {stranger, false}} {
		pem, err := c.key.Public()
		if err != nil {
			t.Fatal(err)
		}
		k, err := trust.ParseKey(pem, "operator.pub")
		if err != nil {
			t.Fatal(err)
		}
		_, err = trust.Policy{Mode: trust.ModeAll, OperatorKeys: []trust.Key{k}}.Admit(images[0].Refs[0], digest, sigs)
		if (err == nil) != c.admit {
			t.Errorf("admit with %s: %v", k, err)
		}
	}
	if ref, d, found, err := Find(&s, "tools/probe"); err != nil || ref != reference || d.Digest != digest || len(found) != 1 {
		t.Errorf("Find: %s %s %d %v", ref, d.Digest, len(found), err)
	}
}
