package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
)

const (
	sbomImage  = "docker.io/rancher/hardened-etcd:v1"
	sbomAbsent = "docker.io/rancher/mirrored-pause:v1"
	sbomText   = `{"spdxVersion":"SPDX-2.3","packages":[{"name":"go.etcd.io/etcd","versionInfo":"v3","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:golang/go.etcd.io/etcd@v3"}]},{"name":"std\u001blib"}],"files":[{}]}`
)

// sbomBundle makes a bundle of images of which the first has an SBOM, signed by another
// key than the image if forged. It gives the bundle and the key's file.
func sbomBundle(t *testing.T, forged bool, refs ...string) (bundle, key string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	signer, err := fake.NewKey()
	must(err)
	attester := signer
	if forged {
		attester, err = fake.NewKey()
		must(err)
	}
	var store fake.Store
	for i, ref := range refs {
		img, err := random.Image(1000, 1)
		must(err)
		img = mutate.MediaType(mutate.ConfigMediaType(img, types.OCIConfigJSON), types.OCIManifestSchema1)
		cfg, err := img.ConfigFile()
		must(err)
		cfg = cfg.DeepCopy()
		cfg.OS, cfg.Architecture = "linux", "amd64"
		img, err = mutate.ConfigFile(img, cfg)
		must(err)
		h, err := store.Add(img, ref)
		must(err)
		must(store.Sign(signer, ref, h))
		if i == 0 {
			att, err := attester.Attest(airgap.PredicateSPDX, sbomText, h)
			must(err)
			must(store.Attest(h, att))
		}
	}
	dir := t.TempDir()
	pub, err := signer.Public()
	must(err)
	key = filepath.Join(dir, "signer.pub")
	must(os.WriteFile(key, pub, 0o600))
	bundle = filepath.Join(dir, "x.tar")
	must(store.WriteBundle(t.Context(), bundle, "amd64"))
	return bundle, key
}

func TestInspectSBOM(t *testing.T) {
	one, key := sbomBundle(t, false, sbomImage)
	if got, err := run("bundle", "inspect", "--sbom", "--key", key, one); err != nil || got != sbomText+"\n" {
		t.Errorf("one image: %v\n%s", err, got)
	}
	two, key := sbomBundle(t, false, sbomImage, sbomAbsent)
	forged, forgedKey := sbomBundle(t, true, sbomImage)
	noKeys := t.TempDir()
	for _, c := range []struct {
		what string
		args []string
		says []string
		err  string
	}{
		{"a table", []string{"--sbom", "--key", key, two}, []string{sbomImage + "   linux/amd64  2         1", "no SBOM", "--image REFERENCE"}, ""},
		{"one of two", []string{"--sbom", "--key", key, "--image", "rancher/hardened-etcd:v1", two}, []string{sbomText}, ""},
		{"one that has none", []string{"--sbom", "--key", key, "--image", sbomAbsent, two}, nil, sbomAbsent + " has no SBOM"},
		{"packages", []string{"--packages", "--key", key, two}, []string{"go.etcd.io/etcd  v3       " + sbomImage + "  pkg:golang/go.etcd.io/etcd@v3", `"std\x1blib"`, "WARNING: " + sbomAbsent + " has no SBOM"}, ""},
		{"packages as JSON", []string{"--packages", "--key", key, "-o", "json", one, "--image", sbomImage, "--insecure-unverified"}, []string{`"purl": "pkg:golang/go.etcd.io/etcd@v3"`, `"image": "` + sbomImage}, ""},
		{"without keys", []string{"--sbom", "--trust-dir", noKeys, two}, nil, "image " + sbomImage + " is not verified: no trusted keys"},
		{"without keys, insecure", []string{"--sbom", "--trust-dir", noKeys, "--insecure-unverified", two}, []string{"WARNING: NOT VERIFIED: " + sbomImage, "NOT VERIFIED"}, ""},
		{"forged", []string{"--sbom", "--key", forgedKey, forged}, nil, "the SBOM of " + sbomImage + " is not verified: signed by a key that is not trusted"},
		{"forged, insecure", []string{"--sbom", "--key", forgedKey, "--insecure-unverified", forged}, []string{"WARNING: NOT VERIFIED: " + sbomImage + ": its SBOM: signed by a key", sbomText}, ""},
		{"forged, in the table of images", []string{"--key", forgedKey, forged}, []string{"sbom (untrusted)", "its attestation https://spdx.dev/Document: signed by a key that is not trusted"}, ""},
		{"images", []string{"--key", key, two}, []string{"ATTESTATIONS", "sbom"}, ""},
		{"both", []string{"--sbom", "--packages", two}, nil, "one at a time"},
		{"layers too", []string{"--sbom", "--layers", two}, nil, "--layers is not for"},
		{"image alone", []string{"--image", sbomImage, two}, nil, "are for --sbom"},
		{"image of two files", []string{"--sbom", "--image", sbomImage, two, one}, nil, "exactly one FILE"},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, err := run(append([]string{"bundle", "inspect"}, c.args...)...)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error %v\n%s", err, got)
			}
			for _, s := range c.says {
				if !strings.Contains(got, s) {
					t.Errorf("no %q in:\n%s", s, got)
				}
			}
			if c.err != "" && strings.Contains(got, "spdxVersion") {
				t.Errorf("the refused document is printed:\n%s", got)
			}
		})
	}

	t.Run("all as JSON", func(t *testing.T) {
		got, err := run("bundle", "inspect", "--sbom", "-o", "json", "--key", key, two)
		if err != nil {
			t.Fatal(err)
		}
		_, got, _ = strings.Cut(got, "\n") // the warning, which goes to standard error
		var all []airgap.SBOM
		if err := json.Unmarshal([]byte(got), &all); err != nil {
			t.Fatalf("%v in %s", err, got)
		}
		if len(all) != 2 || all[0].Key == "" || !strings.Contains(string(all[0].Document), "go.etcd.io/etcd") || string(all[1].Document) != "null" {
			t.Errorf("%+v", all)
		}
	})
	t.Run("verify", func(t *testing.T) {
		got, err := run("bundle", "verify", "--key", key, two)
		if err != nil || !strings.Contains(got, "2 images, 1 attestation, ") {
			t.Errorf("%v\n%s", err, got)
		}
		got, err = run("bundle", "verify", "--key", forgedKey, forged)
		if err == nil || !strings.Contains(got, "FAULT  "+sbomImage+": its attestation https://spdx.dev/Document: signed by a key that is not trusted") {
			t.Errorf("%v\n%s", err, got)
		}
	})
}
