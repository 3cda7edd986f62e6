package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rancher/rke2/tests/tools"
)

// TestDropIn lays the real products out, and has sha256sum, openssl and the real cosign
// check what an operator would.
func TestDropIn(t *testing.T) {
	dist := os.Getenv("RKE2_DIST")
	if dist == "" {
		dist = filepath.Join("..", "..", "dist")
	}
	if _, err := os.Stat(dist); err != nil {
		t.Fatalf("no products to lay out: run make airgap first, or set RKE2_DIST: %v", err)
	}
	for _, v := range []string{"PLATFORMS", "SOURCE_DATE_EPOCH"} {
		t.Setenv(v, "")
	}
	out := filepath.Join(t.TempDir(), "release")
	code, stdout, stderr := invoke(t, "drop-in", "--dist", dist, "--out", out, "-o", "json")
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, stdout, stderr)
	}
	var made []struct {
		Name, SHA256 string
		Size         int64
	}
	if err := json.Unmarshal([]byte(stdout), &made); err != nil || len(made) < 10 {
		t.Fatalf("%d artifacts, %v\n%s", len(made), err, stdout)
	}
	if !strings.Contains(stderr, "laid out rke2.linux-"+runtime.GOARCH+".tar.gz\n") {
		t.Errorf("progress:\n%s", stderr)
	}
	sums := "sha256sum-" + runtime.GOARCH + ".txt"
	check := func(name string, args ...string) error {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = out
		said, err := cmd.CombinedOutput()
		t.Logf("%s\n%s", cmd, said)
		return err
	}
	if err := check("sha256sum", "--check", "--strict", "--quiet", sums); err != nil {
		t.Error(err)
	}

	checkProvenance(t, filepath.Join(out, "rke2.linux-"+runtime.GOARCH))

	sig, err := os.ReadFile(filepath.Join(out, sums+".sig"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(string(sig))
	if err != nil {
		t.Fatal(err)
	}
	der := filepath.Join(t.TempDir(), "sig")
	if err := os.WriteFile(der, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := check("openssl", "dgst", "-sha256", "-verify", "cosign.pub", "-signature", der, sums); err != nil {
		t.Errorf("openssl: %v", err)
	}

	cosign := tools.Build(t, "airgap/testdata/tools/cosign", "cosign")
	t.Setenv("HOME", t.TempDir()) // cosign keeps a trust root there
	verify := []string{"verify-blob", "--key", "cosign.pub", "--private-infrastructure=true", "--signature", sums + ".sig"}
	if err := check(cosign, append(verify, sums)...); err != nil {
		t.Errorf("cosign: %v", err)
	}
	if err := check(cosign, append(verify, "cosign.pub")...); err == nil {
		t.Error("cosign takes the signature for another file's")
	}
}

// checkProvenance: the binary's is about it, and names what it was built from.
func checkProvenance(t *testing.T, binary string) {
	t.Helper()
	data, err := os.ReadFile(binary + ".provenance.json")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Subject []struct {
			Name   string
			Digest map[string]string
		}
		Predicate struct {
			BuildDefinition struct {
				ResolvedDependencies []struct{ Name, URI string }
				InternalParameters   struct{ CCompilers []string }
			}
		}
	}
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(program)); len(s.Subject) != 1 || s.Subject[0].Name != filepath.Base(binary) || s.Subject[0].Digest["sha256"] != sum {
		t.Errorf("it is about %v, not sha256:%s", s.Subject, sum)
	}
	found := map[string]bool{}
	for _, d := range s.Predicate.BuildDefinition.ResolvedDependencies {
		uri, _, _ := strings.Cut(d.URI, "@")
		found[d.Name], found[uri] = true, true
	}
	for _, want := range []string{"go.mod", "cmd/rke2/main.go", "release.json", "pkg:golang/stdlib", "pkg:golang/github.com/k3s-io/k3s"} {
		if !found[want] {
			t.Errorf("%s is not among %d dependencies", want, len(found))
		}
	}
	if c := s.Predicate.BuildDefinition.InternalParameters.CCompilers; len(c) == 0 || !strings.HasPrefix(c[0], "GCC: ") {
		t.Errorf("C compilers: %q", c)
	}
}

func TestDropInRefuses(t *testing.T) {
	dist := t.TempDir()
	for _, c := range []struct {
		args    []string
		code    int
		message string
	}{
		{[]string{"--dist", dist}, exitFailure, "has no release.json: run make airgap"},
		{[]string{"--dist", dist, "-o", "yaml"}, exitUsage, "neither table nor json"},
		{[]string{"--dist", dist, "--platform", "plan9/amd64"}, exitUsage, "plan9"},
		{[]string{"--dist", dist, "--source-date-epoch", "yesterday"}, exitUsage, "is not a number of seconds"},
		{[]string{"release"}, exitUsage, "unknown command"},
	} {
		if code, _, stderr := invoke(t, append([]string{"drop-in"}, c.args...)...); code != c.code || !strings.Contains(stderr, c.message) {
			t.Errorf("%q: exit %d, want %d with %q:\n%s", c.args, code, c.code, c.message, stderr)
		}
	}
}
