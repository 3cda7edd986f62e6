package provenance

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/inventory/inventorytest"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/images"
)

var digest = "sha256:" + strings.Repeat("ab", 32)

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func example(t testing.TB) (Input, inventorytest.Sync) {
	program, sync := inventorytest.Program(t)
	root := t.TempDir()
	for _, f := range []string{"images/product.yaml", "images/thing/go.mod", "images/thing/go.sum", "images/thing/image.yaml", "images/thing/.cache/x", "images/thing/Dockerfile", "README.md"} {
		write(t, filepath.Join(root, f), f)
	}
	sources, err := Sources(root, filepath.Join(root, "images/thing"), filepath.Join(root, "images/product.yaml"), filepath.Join(root, "images/thing/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	return Input{
		Name: "docker.io/rancher/hardened-thing", Tag: "v1-rke2r1", Digest: digest,
		Platform: artifact.Platform{OS: "linux", Arch: "amd64"}, Product: "v1.35.4+rke2r1", Epoch: time.Unix(1700000000, 0),
		Go: "go1.26.8", FIPS140: "v1.0.0",
		Components: []images.Component{
			{Name: "tools", Kind: images.KindDebian, Version: "bookworm", Debian: &images.Debian{Packages: []string{"iptables"}, Without: []string{"usr/share/**"}}},
			{Name: "socat", Kind: images.KindSource, Source: &images.Source{Package: "socat", Build: [][]string{{"./configure", "--disable-openssl"}, {"make"}}}},
			{Name: "main", Kind: images.KindGo, Version: "v1", Crypto: images.FIPS140, Binaries: []images.Binary{
				{Name: "thing", Package: "example.com/Main", Tags: []string{"selinux"}, LDFlags: []string{"-X=a.b=<c>"}}}},
		},
		Sources: sources,
		Files:   []layer.File{{Path: "bin/thing", Source: program}},
		Materials: []artifact.Material{
			{PURL: "pkg:deb/debian/iptables@1.8.9-2?arch=amd64", Name: "iptables", Version: "1.8.9-2", SHA256: strings.Repeat("1", 64), URI: "http://deb.debian.org/debian/iptables.deb"},
			{PURL: "pkg:golang/golang.org/x/sync@" + sync.Version, Name: sync.Path, Version: sync.Version},
		},
	}, sync
}

// made writes a statement and reads it.
func made(t testing.TB, in Input) ([]byte, *slsa.Provenance) {
	t.Helper()
	data, err := Statement(in)
	if err != nil {
		t.Fatal(err)
	}
	return data, parsed(t, in, data)
}

// parsed reads a statement with in-toto's own library, which validates it.
func parsed(t testing.TB, in Input, data []byte) *slsa.Provenance {
	t.Helper()
	var s intoto.Statement
	if err := protojson.Unmarshal(data, &s); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if s.PredicateType != "https://slsa.dev/provenance/v1" || s.Subject[0].Name != in.Name || "sha256:"+s.Subject[0].Digest["sha256"] != in.Digest {
		t.Errorf("statement of %s about %v", s.PredicateType, s.Subject)
	}
	raw, err := protojson.Marshal(s.Predicate)
	if err != nil {
		t.Fatal(err)
	}
	var p slsa.Provenance
	if err := protojson.Unmarshal(raw, &p); err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	return &p
}

func TestStatement(t *testing.T) {
	in, sync := example(t)
	data, p := made(t, in)
	ext := p.BuildDefinition.ExternalParameters.AsMap()
	for k, want := range map[string]any{
		"image": "hardened-thing", "repository": "docker.io/rancher", "tag": "v1-rke2r1", "platform": "linux/amd64", "version": "v1.35.4+rke2r1", "sourceDateEpoch": 1700000000.0,
	} {
		if ext[k] != want {
			t.Errorf("%s is %v, not %v", k, ext[k], want)
		}
	}
	for _, want := range []string{
		`"programs":{"/bin/thing":{"-buildmode":"exe"`, `"GOFIPS140":"v1.0.0-c2097c7c"`, `"packages":["iptables"],"without":["usr/share/**"]`,
		`"build":[["./configure","--disable-openssl"],["make"]]`, `"ldflags":["-X=a.b=<c>"]`, `"go":"go1.26.8"`,
	} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("no %s in %s", want, data)
		}
	}
	found := map[string]*intoto.ResourceDescriptor{}
	var names []string
	for _, d := range p.BuildDefinition.ResolvedDependencies {
		found[d.Uri+d.Name] = d
		names = append(names, d.Name)
	}
	for _, f := range []string{"images/product.yaml", "images/thing/go.mod", "images/thing/go.sum", "images/thing/image.yaml", "images/thing/Dockerfile"} {
		if d := found[f]; d == nil || len(d.Digest["sha256"]) != 64 {
			t.Errorf("source %s: %v", f, d)
		}
	}
	if slices.Contains(names, "README.md") || slices.Contains(names, "images/thing/.cache/x") {
		t.Errorf("sources %q", names)
	}
	if d := found["pkg:deb/debian/iptables@1.8.9-2?arch=amd64"]; d == nil || d.Digest["sha256"] != strings.Repeat("1", 64) || d.DownloadLocation == "" {
		t.Errorf("iptables: %v", d)
	}
	// The material names it without a sum, the program with one.
	if d := found["pkg:golang/golang.org/x/sync@"+sync.Version]; d == nil || len(d.Digest["dirHash"]) != 64 {
		t.Errorf("%s: %v", sync.Path, d)
	}
	if p.RunDetails.Builder.Id != Builder || p.RunDetails.Metadata.GetStartedOn() != nil {
		t.Errorf("run details %v", p.RunDetails)
	}
}

func TestDeterministic(t *testing.T) {
	in, _ := example(t)
	a, _ := made(t, in)
	slices.Reverse(in.Components)
	slices.Reverse(in.Materials)
	for range 3 { // map order is another every time
		if b, _ := made(t, in); !bytes.Equal(a, b) {
			t.Fatalf("written again, it differs:\n%s\n%s", a, b)
		}
	}
	in.Materials[0].SHA256 = strings.Repeat("2", 64)
	if b, _ := made(t, in); bytes.Equal(a, b) {
		t.Error("another material, the same statement: this test can't fail")
	}
}

func TestRefuses(t *testing.T) {
	if _, err := Sources(t.TempDir(), "/no/such/file"); err == nil {
		t.Error("a source that isn't there is no error")
	}
	in := Input{Name: "a/b/c", Digest: digest, Materials: []artifact.Material{{PURL: "pkg:golang/x@v1", H1: "sha1:x"}}}
	if _, err := Statement(in); err == nil || !strings.Contains(err.Error(), "go.sum hash") {
		t.Errorf("a sum of no known kind: %v", err)
	}
	if _, err := Statement(Input{Name: "a/b/c", Digest: "latest"}); err == nil || !strings.Contains(err.Error(), "sha256 digest") {
		t.Errorf("no digest: %v", err)
	}
}

// The documentation is of this build type, and names all parameters.
func TestBuildTypeIsDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Base(BuildType))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(filepath.Dir(BuildType), "build/provenance") {
		t.Errorf("%s does not lead to this folder", BuildType)
	}
	for _, word := range []string{
		"image", "repository", "tag", "platform", "version", "sourceDateEpoch", "go", "fips140", "components", "programs", "dirHash", Builder, BuildType,
	} {
		if !bytes.Contains(doc, []byte("`"+word+"`")) {
			t.Errorf("%s is not documented", word)
		}
	}
}
