package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/rancher/rke2/build/statement"
)

func TestSBOM(t *testing.T) {
	root := project(t)
	code, out, msg := invoke(t, "sbom", "tiny")
	if code != 1 || out != "" || !strings.Contains(msg, "run rke2-build image tiny --platform linux/") {
		t.Fatalf("before it was made: %d\n%s%s", code, out, msg)
	}
	if code, out, msg = invoke(t, "image", "tiny"); code != 0 {
		t.Fatalf("image: %d\n%s%s", code, out, msg)
	}
	code, out, msg = invoke(t, "sbom", "tiny")
	if code != 0 {
		t.Fatalf("sbom: %d\n%s", code, msg)
	}
	doc, err := spdxjson.Read(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range doc.Packages {
		names = append(names, p.PackageName)
	}
	if got := strings.Join(names, " "); got != "docker.io/rancher/tiny example.com/tiny golang.org/fips140 stdlib" || len(doc.Files) != 1 || doc.Files[0].FileName != "./bin/tiny" {
		t.Errorf("packages %s, files %+v", got, doc.Files)
	}
	code, out, _ = invoke(t, "sbom", "tiny", "--statement")
	if s, err := statement.Decode([]byte(out)); code != 0 || err != nil || s.PredicateType != statement.SPDX {
		t.Errorf("statement: %d, %v\n%s", code, err, out)
	}
	for want, args := range map[string][]string{
		`there is no image "none"`: {"sbom", "none"},
		"one platform":             {"sbom", "tiny", "--platform", "linux/amd64,linux/arm64"},
		"accepts 1 arg":            {"sbom"},
	} {
		if code, _, msg := invoke(t, args...); code != 2 || !strings.Contains(msg, want) {
			t.Errorf("%q: %d %s", args, code, msg)
		}
	}
	files, err := filepath.Glob(filepath.Join(root, "dist", "sbom", "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, out, msg := invoke(t, "sbom", "tiny"); code != 1 || out != "" || !strings.Contains(msg, "reading the SBOM of tiny") {
		t.Errorf("damaged: %d\n%s%s", code, out, msg)
	}
}
