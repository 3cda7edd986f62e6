package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func rewrite(t *testing.T, path, old, replacement string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		t.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), old, replacement, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// From build to proof; and what it says when the declarations are no longer those that
// the layout was built from.
func TestVerifyRebuild(t *testing.T) {
	root := project(t)
	before, set := os.LookupEnv("GOCACHE")
	t.Cleanup(func() {
		if after, still := os.LookupEnv("GOCACHE"); after != before || still != set {
			t.Errorf("GOCACHE is %q afterwards: what goes on here would fill a folder that was removed", after)
		}
	})
	if code, _, msg := invoke(t, "verify-rebuild", "tiny"); code != exitFailure || !strings.Contains(msg, "there is no OCI layout in "+filepath.Join(root, "dist", "oci")) {
		t.Fatalf("without a layout: %d %s", code, msg)
	}
	if code, _, msg := invoke(t, "image"); code != 0 {
		t.Fatal(msg)
	}
	code, out, msg := invoke(t, "verify-rebuild", "tiny")
	if code != 0 || !strings.Contains(out, "4 compared, 0 different") || !strings.Contains(msg, "making tiny") {
		t.Fatalf("%d\n%s%s", code, out, msg)
	}

	// Another program.
	source := filepath.Join(root, "images", "tiny", "main.go")
	rewrite(t, source, `println("tiny")`, `println("Tiny")`)
	code, out, msg = invoke(t, "verify-rebuild", "-o", "json")
	var report rebuildReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != exitFailure {
		t.Fatalf("%d, %v\n%s%s", code, err, out, msg)
	}
	d := report.Results[0].Difference
	if report.Results[0].Equal || d == nil || d.Part != "layer" || d.Layer != 1 || !strings.Contains(d.Instruction, "COPY --from=tiny") || d.File != "/bin/tiny" || d.What != "content" ||
		d.Bytes == nil || d.Bytes.Offset == 0 || !strings.Contains(d.Hint, "ELF section") {
		t.Errorf("%+v", d)
	}
	rewrite(t, source, `println("Tiny")`, `println("tiny")`)

	// Another Dockerfile.
	rewrite(t, filepath.Join(root, "images", "tiny", "Dockerfile"), "FROM scratch\n", "FROM scratch\nLABEL new=yes\n")
	code, out, msg = invoke(t, "verify-rebuild", "--keep", "--work", filepath.Join(root, "rebuild"))
	if code != exitFailure || !strings.Contains(out, "config: .config.Labels") || !strings.Contains(msg, "came out different") || !strings.Contains(msg, "stays in "+filepath.Join(root, "rebuild")) {
		t.Errorf("%d\n%s%s", code, out, msg)
	}
	if _, err := os.Stat(filepath.Join(root, "rebuild", "dist", "oci", "index.json")); err != nil {
		t.Error(err)
	}
	// The same comparison, with what another build left.
	code, out, msg = invoke(t, "verify-rebuild", "--with", filepath.Join(root, "rebuild", "dist"))
	if code != exitFailure || !strings.Contains(out, "config: .config.Labels") || !strings.Contains(out, "with "+filepath.Join(root, "rebuild", "dist")) {
		t.Errorf("%d\n%s%s", code, out, msg)
	}
	theirs := filepath.Join(root, "theirs")
	if err := os.CopyFS(theirs, os.DirFS(filepath.Join(root, "dist"))); err != nil {
		t.Fatal(err)
	}
	if code, out, msg = invoke(t, "verify-rebuild", "--with", theirs); code != 0 || !strings.Contains(out, "4 compared, 0 different") {
		t.Errorf("%d\n%s%s", code, out, msg)
	}
	if code, _, msg = invoke(t, "verify-rebuild", "--with", filepath.Join(root, "none")); code != exitFailure || !strings.Contains(msg, "there is no OCI layout in") {
		t.Errorf("%d\n%s", code, msg)
	}
	if code, _, msg = invoke(t, "verify-rebuild", "--with", filepath.Join(root, "dist")); code != exitUsage || !strings.Contains(msg, "the products themselves") {
		t.Errorf("%d\n%s", code, msg)
	}
	if code, _, msg = invoke(t, "verify-rebuild", "--with", "x", "--keep"); code != exitUsage {
		t.Errorf("%d\n%s", code, msg)
	}
	if code, _, msg = invoke(t, "verify-rebuild", "--work", filepath.Join(root, "rebuild")); code != exitFailure || !strings.Contains(msg, "is not empty") {
		t.Errorf("%d\n%s", code, msg)
	}
	if code, _, msg = invoke(t, "verify-rebuild", "tinny"); code != exitUsage || !strings.Contains(msg, "known are: tiny") {
		t.Errorf("%d\n%s", code, msg)
	}
}
