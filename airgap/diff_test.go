package airgap

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/rancher/rke2/airgap/trust"
)

// changes is a difference in short lines.
func changes(d Difference) []string {
	var out []string
	for _, c := range d.Images {
		out = append(out, fmt.Sprintf("%s %s: %d same -%d +%d attached %v", c.Change, c.Name, c.Layers.Same, len(c.Layers.Removed), len(c.Layers.Added), c.Attached))
		for _, f := range c.Files {
			out = append(out, fmt.Sprintf("  %s %s %s %s", f.Change, f.Type, f.Path, strings.Join(f.What, "+")))
		}
	}
	for _, c := range d.Artifacts {
		out = append(out, fmt.Sprintf("%s %s %s", c.Change, c.Kind, c.Ref))
	}
	for _, c := range d.Packages {
		out = append(out, fmt.Sprintf("%s %s %s %q → %q in %d", c.Change, c.Type, c.Name, c.From, c.To, len(c.Images)))
	}
	return out
}

// release is a layout of three images of a version, one of which has an SBOM.
func release(t *testing.T, version string, seed int64, key *fixture) *fixture {
	t.Helper()
	f := newFixture(t)
	f.priv, f.key, f.pub = key.priv, key.key, key.pub
	base := image(t, 1, 2000, 2, amd64)
	changed, err := mutate.AppendLayers(base, mustLayers(t, image(t, seed, 3000, 1, amd64))...)
	noError(t, err)
	for _, one := range []struct {
		name string
		img  v1.Image
	}{{"docker.io/rancher/same:v1", image(t, 2, 500, 1, amd64)}, {"docker.io/rancher/component:" + version, changed}, {"docker.io/rancher/only-in-" + version + ":v1", base}} {
		h := f.add(one.img, one.name, "core")
		_, tag, _ := strings.Cut(one.name, ":")
		f.sign(one.name, h, map[string]any{trust.ClaimTag: tag})
	}
	return f
}

func mustLayers(t *testing.T, img v1.Image) []v1.Layer {
	t.Helper()
	l, err := img.Layers()
	noError(t, err)
	return l
}

func TestDiff(t *testing.T) {
	key := newFixture(t)
	one, two := release(t, "v1", 10, key), release(t, "v2", 11, key)
	oldFile, newFile := file(t, "b.tar", one.bytes(core())), file(t, "b.tar", two.bytes(core()))
	a, b := mustOpen(t, oldFile), mustOpen(t, newFile)
	d, err := Diff(t.Context(), a, b, DiffOptions{})
	noError(t, err)
	want := []string{
		"changed docker.io/rancher/component: 2 same -1 +1 attached false",
		// The same bytes under another name are that image renamed, signed anew.
		"changed docker.io/rancher/only-in-v1: 2 same -0 +0 attached true",
	}
	if got := changes(d); !slices.Equal(got, want) || d.Same {
		t.Errorf("got %q", got)
	}
	// The delta is what bundle delta writes, to the byte.
	made, err := MakeDelta(t.Context(), DeltaOptions{From: []string{oldFile}, New: []string{newFile}, Output: t.TempDir()})
	noError(t, err)
	if d.Delta == nil || d.Delta.File != made.Size {
		t.Errorf("the delta is said to have %+v, and has %d bytes", d.Delta, made.Size)
	}
	same, err := Diff(t.Context(), a, mustOpen(t, file(t, "c.tar.zst", compress(t, one.bytes(core()), zst))), DiffOptions{Files: true})
	noError(t, err)
	if !same.Same || len(changes(same)) > 0 || same.Delta.Blobs != 0 {
		t.Errorf("the same, compressed: %+v", same)
	}
	part, err := Diff(t.Context(), a, b, DiffOptions{Image: "rancher/component"})
	noError(t, err)
	if got := changes(part); !slices.Equal(got, want[:1]) || part.Delta != nil {
		t.Errorf("one image: %q", got)
	}
	if _, err := Diff(t.Context(), a, b, DiffOptions{Image: "nope"}); err == nil || !strings.Contains(err.Error(), "neither has nope") {
		t.Errorf("error: %v", err)
	}
}

func TestDiffFiles(t *testing.T) {
	low := makeTar(t, reg("etc/same", []byte("x")), reg("etc/changed", []byte("one")), reg("etc/gone", nil), tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "etc"})
	before := makeTar(t, reg("etc/again", []byte("x")))
	after := makeTar(t, reg("etc/changed", []byte("two")), reg("etc/.wh.gone", nil), reg("etc/new", []byte("y")), tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"})
	want := []string{
		"changed docker.io/x/y: 1 same -1 +1 attached false",
		"  removed file /etc/again ", "  changed file /etc/changed content", "  removed file /etc/gone ", "  added file /etc/new ", "  changed link /l target",
	}
	for _, how := range []compression{plain, gz} {
		a := mustOpen(t, file(t, "a.tar", compress(t, stack(t, []compression{gz}, low, before), how)))
		// Compressed again, a layer is the same.
		b := mustOpen(t, file(t, "b.tar", stack(t, []compression{zst}, low, after)))
		d, err := Diff(t.Context(), a, b, DiffOptions{Files: true})
		noError(t, err)
		if got := changes(d); !slices.Equal(got, want) {
			t.Errorf("%s: got %q", how, got)
		}
	}
	// A legacy archive of the same image as an OCI archive: the same layers.
	a := mustOpen(t, file(t, "a.tar", stack(t, []compression{gz}, low, before)))
	b := mustOpen(t, file(t, "b.tar", strictReplace(legacyTar(t, low, after), "busybox:1", "x/y:z    ")))
	d, err := Diff(t.Context(), a, b, DiffOptions{Files: true})
	noError(t, err)
	if got := changes(d); !slices.Equal(got, want) || !strings.Contains(strings.Join(d.Notes, " "), "legacy") {
		t.Errorf("a legacy archive: got %q, notes %q", got, d.Notes)
	}
}

// strictReplace replaces text by text of the same length.
func strictReplace(b []byte, old, with string) []byte {
	return []byte(strings.Replace(string(b), `"`+old+`"`, `"`+strings.TrimSpace(with)+`"`+strings.Repeat(" ", len(old)-len(strings.TrimSpace(with))), 1))
}

func TestDiffPackages(t *testing.T) {
	before, after := inventory{}, inventory{}
	for _, p := range []struct {
		i             inventory
		name, version string
		images        []string
	}{
		{before, "same", "v1", []string{"a", "b"}}, {after, "same", "v1", []string{"a"}},
		{before, "moved", "v1", []string{"a", "b"}}, {after, "moved", "v2", []string{"a"}}, {after, "moved", "v1", []string{"b"}},
		{before, "gone", "v1", []string{"a"}}, {after, "new", "v1", []string{"c"}},
	} {
		for _, img := range p.images {
			p.i.add(SBOMPackage{Name: p.name, Version: p.version, PURL: "pkg:golang/" + p.name}, img)
		}
	}
	got := changes(Difference{Packages: comparePackages(before, after)})
	want := []string{
		`removed golang gone ["v1"] → [] in 1`, `changed golang moved ["v1"] → ["v1" "v2"] in 1`, `added golang new [] → ["v1"] in 1`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// TestDiffArtifacts: charts and files by their references.
func TestDiffArtifacts(t *testing.T) {
	side := func(refs map[string]string) *Archive {
		a := &Archive{file: "x"}
		for ref, hex := range refs {
			a.artifacts = append(a.artifacts, Artifact{Kind: KindChart, Ref: ref, Desc: v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: hex}}})
		}
		return a
	}
	d := &differ{a: side(map[string]string{"r/a:1": "1", "r/b:1": "2", "r/c:1": "3"}), b: side(map[string]string{"r/a:1": "1", "r/b:1": "9", "r/d:1": "4"})}
	d.artifacts()
	if got := changes(d.out); !slices.Equal(got, []string{"changed chart r/b:1", "removed chart r/c:1", "added chart r/d:1"}) {
		t.Errorf("got %q", got)
	}
	b, err := json.Marshal(d.out)
	noError(t, err)
	if !strings.Contains(string(b), `"fromDigest":"sha256:2"`) {
		t.Errorf("%s", b)
	}
}
