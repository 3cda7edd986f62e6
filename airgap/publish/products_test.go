package publish

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/distribution"
	"github.com/rancher/rke2/tests/tools"
)

// TestProducts pushes the real images, the product of `make airgap`, and reads them back
// with tools that others wrote: crane compares bytes, cosign verifies signatures, SBOMs
// and provenance.
func TestProducts(t *testing.T) {
	dist := os.Getenv("RKE2_DIST")
	if dist == "" {
		dist = filepath.Join("..", "..", "dist")
	}
	layout, key := filepath.Join(dist, "oci"), filepath.Join(dist, "cosign.pub")
	for _, p := range []string{filepath.Join(layout, "index.json"), key} {
		if _, err := os.Stat(p); err != nil {
			tools.Absent(t, "no images to push: run make airgap (%v)", err)
		}
	}
	s := distribution.Start(t, distribution.Options{})
	crane := tools.Build(t, "airgap/testdata/tools/crane", "crane")
	cosign := tools.Build(t, "airgap/testdata/tools/cosign", "cosign")
	res, err := Publish(t.Context(), Options{Layout: layout, To: to(t, s.Addr), Client: client(t, s)})
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "HOME="+t.TempDir(), "SSL_CERT_FILE="+s.CAFile, "DOCKER_CONFIG="+distribution.DockerConfig(t, s.Addr))
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	for _, i := range res.Images {
		t.Run(filepath.Base(i.Source), func(t *testing.T) {
			if got := strings.TrimSpace(run(crane, "digest", i.Reference)); got != i.Digest {
				t.Errorf("crane finds %s, not %s", got, i.Digest)
			}
			to := filepath.Join(t.TempDir(), "pulled")
			run(crane, "pull", "--format", "oci", i.Reference, to)
			sameBlobs(t, layout, to)
			run(cosign, "verify", "--key", key, "--private-infrastructure=true", i.Reference)
			repo := i.Reference[:strings.LastIndex(i.Reference, ":")]
			for _, m := range manifests(t, layout, i.Source) {
				run(cosign, "verify", "--key", key, "--private-infrastructure=true", repo+"@"+m)
				for _, kind := range []string{"spdxjson", "slsaprovenance1"} {
					out := run(cosign, "verify-attestation", "--key", key, "--private-infrastructure=true", "--type", kind, repo+"@"+m)
					if !strings.Contains(out, "payload") {
						t.Errorf("%s: cosign shows no attestation: %s", kind, out)
					}
				}
			}
		})
	}
}

// sameBlobs: every blob that was pulled has the bytes of the layout's.
func sameBlobs(t *testing.T, layout, pulled string) {
	t.Helper()
	blobs, err := os.ReadDir(filepath.Join(pulled, "blobs", "sha256"))
	if err != nil || len(blobs) < 3 {
		t.Fatalf("%d blobs were pulled: %v", len(blobs), err)
	}
	for _, b := range blobs {
		got, err := os.ReadFile(filepath.Join(pulled, "blobs", "sha256", b.Name()))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", b.Name()))
		if err != nil || string(got) != string(want) {
			t.Errorf("blob %s is another (%v)", b.Name(), err)
		}
	}
	if _, err := airgap.Layout(pulled).Index(); err != nil {
		t.Error(err)
	}
}
