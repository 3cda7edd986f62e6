package provenance

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/inventory/inventorytest"
	"github.com/rancher/rke2/build/layer"
)

func TestProgram(t *testing.T) {
	program, sync := inventorytest.Program(t)
	in := Input{
		Name: "thing.linux-amd64", Digest: digest, Platform: artifact.Platform{OS: "linux", Arch: "amd64"}, Product: "v1.35.4+rke2r1",
		Sources: []Source{{Path: "go.mod", SHA256: strings.Repeat("1", 64)}}, Files: []layer.File{{Path: "thing", Source: program}},
	}
	raw, err := Program(in)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Program(in); err != nil || !bytes.Equal(raw, again) {
		t.Errorf("made again it differs (%v)", err)
	}
	d := parsed(t, in, raw).GetBuildDefinition()
	external := d.GetExternalParameters().AsMap()
	if d.GetBuildType() != ProgramBuildType || external["program"] != "thing" || external["platform"] != "linux/amd64" || external["version"] != in.Product {
		t.Errorf("%s, %v", d.GetBuildType(), external)
	}
	internal := d.GetInternalParameters().AsMap()
	if v, _ := internal["go"].(string); !strings.HasPrefix(v, "go1.") {
		t.Errorf("internal parameters %v", internal)
	}
	var named []string
	for _, r := range d.GetResolvedDependencies() {
		named = append(named, r.GetName()+r.GetUri())
	}
	for _, want := range []string{"go.mod", "pkg:golang/" + sync.Path + "@" + sync.Version} {
		if !slices.Contains(named, want) {
			t.Errorf("%s is not among %q", want, named)
		}
	}

	for name, files := range map[string][]layer.File{
		"two programs":  {in.Files[0], {Path: "other", Source: program}},
		"not a program": {{Path: "thing", Source: "program_test.go"}},
	} {
		in.Files = files
		if _, err := Program(in); err == nil || !strings.Contains(err.Error(), in.Name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCompilers(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "main.c"), "int main(void) { return 0; }\n")
	program := filepath.Join(dir, "main")
	if out, err := exec.CommandContext(t.Context(), "gcc", "-s", "-o", program, filepath.Join(dir, "main.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, err := compilers(program); err != nil || len(got) == 0 || !strings.HasPrefix(got[0], "GCC: ") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestRecorded(t *testing.T) {
	program := filepath.Join(t.TempDir(), "thing")
	one, two, own := strings.Repeat("1", 64), strings.Repeat("2", 64), strings.Repeat("a", 64)
	if _, err := Recorded(program, own); err == nil || !strings.Contains(err.Error(), "make airgap") {
		t.Errorf("no record: %v", err)
	}
	for content, want := range map[string]string{
		"":                                   "another build",
		own + "  thing\n":                    "another build",
		one + "  b.go\n" + own + "  other\n": "another build",
		one + "  b.go\n" + two + "  thing\n": "another build",
		one + "  b.go\n":                     "another build",
		"b.go\n" + own + "  thing\n":         ".sources:1: ",
		one + "  b.go\n1  a.go\n" + own + "  thing": ".sources:2: ",
	} {
		write(t, RecordName(program), content)
		if _, err := Recorded(program, own); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
	write(t, RecordName(program), one+"  b.go\n"+two+"  a.go\n"+own+"  thing\n")
	got, err := Recorded(program, own)
	if want := []Source{{Path: "a.go", SHA256: two}, {Path: "b.go", SHA256: one}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if err := os.Remove(RecordName(program)); err != nil {
		t.Fatal(err)
	}
}
