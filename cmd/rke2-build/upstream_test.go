package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rancher/rke2/tests/distribution"
)

// A vendor's image goes from its registry, through the lock, to ours: copied under our
// name with its digests, and as what another image is made from.
func TestUpstreamImage(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	vendor := filepath.Join(t.TempDir(), "oci")
	key := distribution.WriteLayout(t, vendor, distribution.Image{
		Ref: "docker.io/vendor/tool:v2.0.1", Platforms: []string{"amd64", "arm64"}, Tars: [][]byte{tarOf(t, "bin/tool", "#!")},
	})
	root := project(t)
	t.Setenv("SSL_CERT_FILE", s.CAFile)
	pub, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"images/vendor-tool/image.yaml": "description: a vendor's tool\nupstream:\n  image: " + s.Addr + "/vendor/tool:v2.0.1\n  key: vendor.pub\n" +
			"crypto-reason: the vendor's build\nimage:\n  name: mirrored-tool\n  role: tool\n  sets: [core]\n",
		"images/vendor-tool/vendor.pub": string(pub),
		"images/tiny/Dockerfile":        "FROM scratch\nCOPY --from=vendor-tool / /\nCOPY --from=tiny / /bin/\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	do := func(code int, args ...string) (string, string) {
		t.Helper()
		cmd, out, errs := rke2Build(t, []string{s.Addr}, args...)
		_ = cmd.Run() // its exit code is looked at
		if got := cmd.ProcessState.ExitCode(); got != code {
			t.Fatalf("%v: exit %d, want %d\n%s%s", args, got, code, out, errs)
		}
		return out.String(), errs.String()
	}
	do(0, "publish", s.Addr, "--layout", vendor)
	if _, msg := do(exitFailure, "image"); !strings.Contains(msg, "rke2-build lock vendor-tool") {
		t.Errorf("without a lock: %s", msg)
	}
	do(0, "lock", "vendor-tool")
	do(0, "all")
	out, _ := do(0, "image", "-o", "json")
	var built []struct {
		Name      string
		Platforms []struct{ Platform, Digest string }
	}
	if err := json.Unmarshal([]byte(out), &built); err != nil {
		t.Fatal(err)
	}
	want := vendorDigest(t, s, "linux/"+runtime.GOARCH)
	if len(built) != 2 || built[0].Name != "mirrored-tool" || built[0].Platforms[0].Digest != want {
		t.Errorf("built %+v, want %s", built, want)
	}
	out, _ = do(0, "publish", s.Addr+"/ours", "-o", "json")
	var res published
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	if len(res.Images) != 2 || res.Images[0].Signatures == 0 {
		t.Errorf("%+v", res.Images)
	}
	s.Whole(t, "ours/rancher/mirrored-tool", strings.TrimPrefix(res.Images[0].Reference, s.Addr+"/ours/rancher/mirrored-tool:"), true)
	if _, status := s.Read(t, "HEAD", s.URL("ours/rancher/mirrored-tool/manifests/%s", want)); status != 200 {
		t.Errorf("the vendor's manifest is not there: %d", status)
	}
}

func tarOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func vendorDigest(t *testing.T, s *distribution.Server, platform string) string {
	t.Helper()
	data, status := s.Read(t, "GET", s.URL("vendor/tool/manifests/v2.0.1"))
	var idx struct {
		Manifests []struct {
			Digest   string
			Platform struct{ OS, Architecture string }
		}
	}
	if err := json.Unmarshal(data, &idx); err != nil || status != 200 {
		t.Fatalf("%d %v", status, err)
	}
	for _, m := range idx.Manifests {
		if m.Platform.OS+"/"+m.Platform.Architecture == platform {
			return m.Digest
		}
	}
	t.Fatalf("no manifest for %s", platform)
	return ""
}
