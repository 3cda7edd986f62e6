package sbom

import (
	"bytes"
	"strings"
	"testing"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/inventory/inventorytest"
	"github.com/rancher/rke2/build/layer"
)

// A program by itself is described as an application, with the modules that it names.
func TestProgram(t *testing.T) {
	program, _ := inventorytest.Program(t)
	in := Input{
		Name: "thing", Tag: "v1", Digest: digest, Platform: artifact.Platform{OS: "linux", Arch: "amd64"},
		Files: []layer.File{{Path: "thing", Source: program}}, Product: "v1.35.4+rke2r1", Epoch: time.Unix(0, 0),
	}
	raw, err := Program(in)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Program(in); err != nil || !bytes.Equal(raw, again) {
		t.Errorf("made again it differs (%v)", err)
	}
	doc, err := spdxjson.Read(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	checkSchema(t, raw)
	d := facts{doc, t}
	p := d.pkg("thing")
	if p.PrimaryPackagePurpose != "APPLICATION" {
		t.Errorf("it is described as %+v", p)
	}
	if got, want := ref(p, "purl"), "pkg:generic/thing@v1?arch=amd64&checksum="+strings.Replace(digest, ":", "%3A", 1); got != want {
		t.Errorf("purl %s, want %s", got, want)
	}
	if len(doc.Packages) < 3 || !d.related("DOCUMENT", "DESCRIBES", p.PackageSPDXIdentifier) {
		t.Errorf("%d packages, relationships %v", len(doc.Packages), doc.Relationships)
	}
	in.Files = append(in.Files, layer.File{Path: "other", Source: program})
	if _, err := Program(in); err == nil {
		t.Error("two programs are taken for one")
	}
}
