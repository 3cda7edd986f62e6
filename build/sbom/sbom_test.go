package sbom

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdxlib"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/inventory/inventorytest"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/statement"
)

var digest = "sha256:" + strings.Repeat("ab", 32)

const (
	iptables = "pkg:deb/debian/iptables@1.8.9-2?arch=amd64&distro=bookworm"
	socat    = "pkg:deb/debian/socat@1.7.4.4-2?arch=source&distro=bookworm"
	library  = "pkg:deb/debian/libseccomp-dev@2.5.4-1%2Bdeb12u1?arch=amd64&distro=bookworm"
	orig     = "pkg:generic/socat_1.7.4.4.orig.tar.gz?checksum=sha256:0f8f4b9d5c60b8c53d17b60d79ababc4a0f51b3bb6d2bd3ae8a6a4b9d68f195e"
	template = "pkg:golang/k8s.io/ingress-nginx@v0.0.1"
)

func file(t testing.TB, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// example has a file of every origin that an image can have.
func example(t testing.TB) (Input, inventorytest.Sync) {
	program, sync := inventorytest.Program(t)
	return Input{
		Name: "docker.io/rancher/hardened-thing", Tag: "v1-rke2r1", Digest: digest,
		Platform: artifact.Platform{OS: "linux", Arch: "amd64"}, Product: "v1.35.4+rke2r1", Epoch: time.Unix(0, 0),
		Files: []layer.File{
			{Path: "bin", Dir: true},
			{Path: "bin/thing", Source: program},
			{Path: "bin-thing", Source: file(t, "#!/bin/sh\n")},
			{Path: "usr/sbin/iptables", Link: "xtables-nft-multi"},
			{Path: "usr/sbin/xtables-nft-multi", Source: file(t, "\x7fELF from Debian"), Package: iptables},
			{Path: "usr/bin/socat", Source: file(t, "\x7fELF built here"), Package: socat},
			{Path: "etc/nginx/a <&> b.tmpl", Source: file(t, "template"), Package: template},
		},
		Materials: []artifact.Material{
			{PURL: iptables, Name: "iptables", Version: "1.8.9-2", Arch: "amd64", Source: "iptables 1.8.9-2", SHA256: strings.Repeat("1", 64),
				URI: "http://deb.debian.org/debian/pool/main/i/iptables/iptables_1.8.9-2_amd64.deb", License: "GPL-2.0-or-later"},
			{PURL: socat, Name: "socat", Version: "1.7.4.4-2", Arch: "source", SHA256: strings.Repeat("2", 64)},
			{PURL: orig, Name: "socat_1.7.4.4.orig.tar.gz", Version: "1.7.4.4-2", Source: "socat 1.7.4.4-2"},
			{PURL: library, Name: "libseccomp-dev", Version: "2.5.4-1+deb12u1", Arch: "amd64", Source: "libseccomp 1:2.5.4-1+deb12u1"},
			{PURL: template, Name: "k8s.io/ingress-nginx", Version: "v0.0.1", H1: "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
			{PURL: "pkg:golang/example.com/unused@v1.0.0", Name: "example.com/unused", Version: "v1.0.0"},
		},
	}, sync
}

// made writes an SBOM and reads it with the SPDX project's own library.
func made(t testing.TB, in Input) (raw []byte, doc *spdx.Document) {
	t.Helper()
	data, err := Statement(in)
	if err != nil {
		t.Fatal(err)
	}
	s, err := statement.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if s.PredicateType != "https://spdx.dev/Document" || s.Subject[0].Name != in.Name || "sha256:"+s.Subject[0].Digest["sha256"] != in.Digest {
		t.Errorf("statement of %s about %+v", s.PredicateType, s.Subject)
	}
	if doc, err = spdxjson.Read(bytes.NewReader(s.Predicate)); err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	return s.Predicate, doc
}

// facts are what a test asks a document.
type facts struct {
	*spdx.Document
	t testing.TB
}

func (d facts) pkg(name string) *spdx.Package {
	d.t.Helper()
	for _, p := range d.Packages {
		if p.PackageName == name {
			return p
		}
	}
	d.t.Fatalf("there is no package %s", name)
	return nil
}

func (d facts) file(name string) *spdx.File {
	d.t.Helper()
	for _, f := range d.Files {
		if f.FileName == name {
			return f
		}
	}
	d.t.Fatalf("there is no file %s", name)
	return nil
}

func (d facts) related(a common.ElementID, how string, b common.ElementID) bool {
	return slices.ContainsFunc(d.Relationships, func(r *spdx.Relationship) bool {
		return r.RefA.ElementRefID == a && r.Relationship == how && r.RefB.ElementRefID == b
	})
}

func ref(p *spdx.Package, kind string) string {
	for _, r := range p.PackageExternalReferences {
		if r.RefType == kind {
			return r.Locator
		}
	}
	return ""
}

func TestDocument(t *testing.T) {
	in, sync := example(t)
	raw, doc := made(t, in)
	checkSchema(t, raw)
	d := facts{doc, t}
	if doc.CreationInfo.Created != "1970-01-01T00:00:00Z" || doc.DocumentNamespace != "https://github.com/rancher/rke2/spdx/v1.35.4+rke2r1/docker.io/rancher/hardened-thing/sha256-"+digest[7:] {
		t.Errorf("created %s, namespace %s", doc.CreationInfo.Created, doc.DocumentNamespace)
	}

	img := d.pkg(in.Name)
	if img.PackageVersion != in.Tag || ref(img, "purl") != "pkg:oci/hardened-thing@sha256%3A"+digest[7:]+"?arch=amd64&repository_url=docker.io%2Francher%2Fhardened-thing&tag=v1-rke2r1" {
		t.Errorf("image %s, %s", img.PackageVersion, ref(img, "purl"))
	}
	if !img.FilesAnalyzed || img.PackageVerificationCode == nil || !d.related("DOCUMENT", "DESCRIBES", img.PackageSPDXIdentifier) {
		t.Errorf("image %+v", img)
	}
	if len(d.Files) != 5 {
		t.Errorf("%d files", len(d.Files))
	}
	for _, f := range d.Files {
		if !d.related(img.PackageSPDXIdentifier, "CONTAINS", f.FileSPDXIdentifier) {
			t.Errorf("the image does not contain %s", f.FileName)
		}
	}

	// The Go program, its modules, as they were built.
	thing := d.file("./bin/thing").FileSPDXIdentifier
	if main := d.pkg("example.com/Main"); !d.related(thing, "GENERATED_FROM", main.PackageSPDXIdentifier) || main.PrimaryPackagePurpose != "APPLICATION" {
		t.Errorf("main module %+v", main)
	}
	for _, c := range []struct{ name, version, purl, sum, location, note string }{
		{sync.Path, sync.Version, "pkg:golang/golang.org/x/sync@" + sync.Version, sync.Sum,
			"https://proxy.golang.org/golang.org/x/sync/@v/" + sync.Version + ".zip",
			"Built in the place of golang.org/x/sync@v0.0.7, which go.mod replaces."},
		{"example.com/dep", "", "", "", "NOASSERTION", "The folder ./dep beside go.mod, built in the place of example.com/dep@v0.0.9."},
		{"golang.org/fips140", "v1.0.0-c2097c7c", "pkg:golang/golang.org/fips140@v1.0.0-c2097c7c", "", "NOASSERTION", ""},
	} {
		p := d.pkg(c.name)
		if p.PackageVersion != c.version || ref(p, "purl") != c.purl || ref(p, goSum) != c.sum || p.PackageDownloadLocation != c.location || p.PackageSourceInfo != c.note {
			t.Errorf("%s: version %q, purl %q, sum %q, location %q, note %q", c.name, p.PackageVersion, ref(p, "purl"), ref(p, goSum), p.PackageDownloadLocation, p.PackageSourceInfo)
		}
		if !d.related(thing, "DEPENDS_ON", p.PackageSPDXIdentifier) {
			t.Errorf("the program does not depend on %s", c.name)
		}
	}
	if p := d.pkg("stdlib"); !strings.HasPrefix(ref(p, "purl"), "pkg:golang/stdlib@1.") || !d.related(thing, "DEPENDS_ON", p.PackageSPDXIdentifier) {
		t.Errorf("standard library %+v", p)
	}

	// What is not Go's.
	ipt := d.pkg("iptables")
	if !d.related(d.file("./usr/sbin/xtables-nft-multi").FileSPDXIdentifier, "GENERATED_FROM", ipt.PackageSPDXIdentifier) {
		t.Error("nothing says that xtables-nft-multi is iptables'")
	}
	if ref(ipt, "purl") != iptables || ipt.PackageChecksums[0].Value != strings.Repeat("1", 64) || ipt.PackageSupplier.Supplier != "Debian" ||
		ipt.PackageLicenseDeclared != "GPL-2.0-or-later" || ipt.PackageLicenseConcluded != "NOASSERTION" || !strings.HasSuffix(ipt.PackageDownloadLocation, ".deb") {
		t.Errorf("iptables %+v", ipt)
	}
	var sources []string
	for _, p := range d.Packages {
		if p.PrimaryPackagePurpose == "SOURCE" {
			sources = append(sources, ref(p, "purl"))
		}
	}
	slices.Sort(sources)
	want := []string{"pkg:deb/debian/iptables@1.8.9-2?arch=source&distro=bookworm", "pkg:deb/debian/libseccomp@1:2.5.4-1%2Bdeb12u1?arch=source&distro=bookworm", socat, template}
	if !slices.Equal(sources, want) {
		t.Errorf("sources\n%s\nwant\n%s", strings.Join(sources, "\n"), strings.Join(want, "\n"))
	}
	if !d.related(d.file("./usr/bin/socat").FileSPDXIdentifier, "GENERATED_FROM", d.pkg("socat").PackageSPDXIdentifier) {
		t.Error("nothing says that socat was built from its source")
	}
	archive := d.pkg("socat_1.7.4.4.orig.tar.gz").PackageSPDXIdentifier
	if !d.related(d.pkg("socat").PackageSPDXIdentifier, "CONTAINS", archive) || d.related(img.PackageSPDXIdentifier, "GENERATED_FROM", archive) {
		t.Error("nothing says that an archive is socat's source")
	}
	if !d.related(img.PackageSPDXIdentifier, "GENERATED_FROM", d.pkg("libseccomp-dev").PackageSPDXIdentifier) {
		t.Error("nothing says that a static library went in")
	}
	if !d.related(d.file("./etc/nginx/a <&> b.tmpl").FileSPDXIdentifier, "GENERATED_FROM", d.pkg("k8s.io/ingress-nginx").PackageSPDXIdentifier) {
		t.Error("nothing says where the template is from")
	}
	for _, p := range d.Packages {
		if p.PackageName == "example.com/unused" {
			t.Error("a module that left nothing is listed")
		}
	}
}

func TestDeterministic(t *testing.T) {
	in, _ := example(t)
	a, err := Statement(in)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(in.Files)
	slices.Reverse(in.Materials)
	for range 3 { // map order is another every time
		b, err := Statement(in)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Fatalf("written again, it differs:\n%s\n%s", a, b)
		}
	}
	in.Digest = "sha256:" + strings.Repeat("cd", 32)
	if b, err := Statement(in); err != nil || bytes.Equal(a, b) {
		t.Errorf("another image, the same statement: this test can't fail (%v)", err)
	}
}

func TestRefuses(t *testing.T) {
	whole, _ := example(t)
	for name, c := range map[string]struct {
		change func(*Input)
		want   string
	}{
		"no digest":           {func(in *Input) { in.Digest = "latest" }, "its digest"},
		"unknown material":    {func(in *Input) { in.Materials = in.Materials[1:] }, "none of the image's materials"},
		"unexplained program": {func(in *Input) { in.Files[5].Package = "" }, "/usr/bin/socat is a program that neither"},
		"no package URL":      {func(in *Input) { in.Materials[0].PURL = "iptables" }, "package URL"},
		"half a source":       {func(in *Input) { in.Materials[0].Source = "iptables" }, "a name and a version are needed"},
	} {
		in := whole
		in.Files, in.Materials = slices.Clone(whole.Files), slices.Clone(whole.Materials)
		c.change(&in)
		if _, err := Statement(in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

// The verification code of the SPDX specification, 7.9.
func TestVerificationCode(t *testing.T) {
	in := Input{Name: "docker.io/rancher/hardened-thing", Tag: "v1", Digest: digest, Product: "v1"}
	in.Files = []layer.File{{Path: "b", Source: file(t, "b")}, {Path: "a", Source: file(t, "a")}}
	_, doc := made(t, in)
	// printf %s "$(printf a | sha1sum | cut -c1-40)$(printf b | sha1sum | cut -c1-40)" | sha1sum,
	// with the sums in order: 86f7… of a before e9d7… of b.
	if got := doc.Packages[0].PackageVerificationCode.Value; got != "5463504435e4dbf2b93a3a8a00ca78e36ea40e24" {
		t.Errorf("code %s", got)
	}
}
