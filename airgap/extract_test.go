package airgap

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// stack is an OCI archive of one image with these layers, the lowest first, each
// compressed as its name in kinds says.
func stack(t testing.TB, kinds []compression, layers ...[]byte) []byte {
	t.Helper()
	cfg := v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	var blobs [][]byte
	for i, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, hashOf(l))
		b := compress(t, l, kinds[i%len(kinds)])
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: types.OCILayer, Size: int64(len(b)), Digest: hashOf(b)})
		blobs = append(blobs, b)
	}
	config, err := json.Marshal(cfg)
	noError(t, err)
	m.Config = v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: hashOf(config)}
	raw, err := json.Marshal(m)
	noError(t, err)
	return oneManifest(t, raw, append(blobs, config)...)
}

// contentsOf lists what is below a folder: mode, path, and content or target.
func contentsOf(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	noError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		noError(t, err)
		rel, err := filepath.Rel(dir, p)
		noError(t, err)
		line := fmt.Sprintf("%s %s", info.Mode(), rel)
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(p)
			noError(t, err)
			line += " " + string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			noError(t, err)
			line += " → " + to
		}
		out = append(out, line)
		return nil
	}))
	return out
}

// TestExtract: layers of every compression, in archives of every compression and in a
// folder, with all that layers do to those below.
func TestExtract(t *testing.T) {
	low := makeTar(t, reg("etc/hosts", []byte("low")), reg("etc/gone", []byte("x")), reg("var/cache/x", []byte("x")),
		tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"}, tar.Header{Name: "usr/lib/", Typeflag: tar.TypeDir})
	middle := makeTar(t, reg("etc/.wh.gone", nil), reg("var/cache/.wh..wh..opq", nil), reg("var/cache/y", []byte("y")), reg("lib/z", []byte("z")),
		tar.Header{Name: "etc/again", Typeflag: tar.TypeLink, Linkname: "etc/hosts"}, tar.Header{Name: "dev/null", Typeflag: tar.TypeChar})
	high := makeTar(t, reg("etc/hosts", []byte("high")), tar.Header{Name: "abs", Typeflag: tar.TypeSymlink, Linkname: "/etc/hosts"})
	b := stack(t, []compression{plain, gz, zst}, low, middle, high)
	want := []string{
		"Lrwxrwxrwx abs → /etc/hosts", "drwxr-xr-x dev", "drwxr-xr-x etc", "-rwxr-xr-x etc/again low", "-rwxr-xr-x etc/hosts high",
		"Lrwxrwxrwx lib → usr/lib", "drwxr-xr-x usr", "drwxr-xr-x usr/lib", "-rwxr-xr-x usr/lib/z z", "drwxr-xr-x var", "drwxr-xr-x var/cache", "-rwxr-xr-x var/cache/y y",
	}
	files := map[string]string{}
	for _, c := range []compression{plain, gz, zst, lz, bz, xzc} {
		files[string(c)] = file(t, "x.tar", compress(t, b, c))
	}
	dir := t.TempDir()
	for _, h := range entries(t, b) {
		p := filepath.Join(dir, h.Name)
		noError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		noError(t, os.WriteFile(p, []byte(h.PAXRecords["test.content"]), 0o600))
	}
	files["folder"] = dir
	for how, f := range files {
		t.Run(how, func(t *testing.T) {
			a := mustOpen(t, f)
			to, check := guarded(t)
			out, err := Extract(t.Context(), a, ExtractOptions{Dir: to})
			noError(t, err)
			check()
			if got := contentsOf(t, to); !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
			if out.Files != 4 || out.Links != 2 || out.Bytes != 9 || !slices.Equal(out.LeftOut, []string{"dev/null"}) {
				t.Errorf("%+v", out)
			}
			if _, err := Extract(t.Context(), a, ExtractOptions{Dir: to}); err == nil || !strings.Contains(err.Error(), "is not empty") {
				t.Errorf("again: %v", err)
			}
		})
	}

	a := mustOpen(t, files[string(plain)])
	t.Run("paths", func(t *testing.T) {
		to, check := guarded(t)
		noError(t, os.MkdirAll(to, 0o755))
		_, err := Extract(t.Context(), a, ExtractOptions{Dir: to, Paths: []string{"/lib/z", "abs", "var"}})
		noError(t, err)
		check()
		if got := contentsOf(t, to); !slices.Equal(got, []string{"-rwxr-xr-x abs high", "drwxr-xr-x var", "drwxr-xr-x var/cache", "-rwxr-xr-x var/cache/y y", "-rwxr-xr-x z z"}) {
			t.Errorf("got %q", got)
		}
		for path, says := range map[string]string{"abs": "file exists", "etc/gone": "no such file", "/": "leave the path out"} {
			if _, err := Extract(t.Context(), a, ExtractOptions{Dir: to, Paths: []string{path}}); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", path, err)
			}
		}
		if _, err := Extract(t.Context(), a, ExtractOptions{Dir: to, Paths: []string{"etc/hosts", "hosts"}}); err == nil {
			t.Error("two files of one name were taken")
		}
	})
	t.Run("one file", func(t *testing.T) {
		var b bytes.Buffer
		noError(t, ExtractFile(t.Context(), a, "x/y:z", "linux/amd64", "/abs", &b))
		if b.String() != "high" {
			t.Errorf("got %q", b.String())
		}
		if err := ExtractFile(t.Context(), a, "", "", "etc", &b); err == nil || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("a folder: %v", err)
		}
	})
	t.Run("what is not there", func(t *testing.T) {
		_, err := Extract(t.Context(), a, ExtractOptions{Dir: t.TempDir(), Ref: "x/y:other"})
		if err == nil || !strings.Contains(err.Error(), "it has:\n  docker.io/x/y:z") {
			t.Errorf("error: %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		to, check := guarded(t)
		if _, err := Extract(ctx, a, ExtractOptions{Dir: to}); !errors.Is(err, context.Canceled) {
			t.Errorf("error: %v", err)
		}
		check()
	})
}

// TestExtractHostile: layers that try to write elsewhere. Each is refused or stays
// inside; nothing is left of what was refused.
func TestExtractHostile(t *testing.T) {
	outside := t.TempDir()
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	for _, c := range []struct {
		what   string
		says   string // why it is refused; empty: it stays inside
		layers [][]tar.Header
	}{
		{"a way up", "leads outside", [][]tar.Header{{reg("../evil", []byte("x"))}}},
		{"an absolute path", "", [][]tar.Header{{reg(outside+"/evil", []byte("x"))}}},
		{"through a link out", "", [][]tar.Header{{link("l", outside), reg("l/evil", []byte("x"))}}},
		{"through a link up", "", [][]tar.Header{{link("l", "../../../../../../../.."+outside), reg("l/evil", []byte("x"))}}},
		{"through a link of a lower layer", "", [][]tar.Header{{link("l", outside)}, {reg("l/evil", []byte("x"))}}},
		{"through links to links", "", [][]tar.Header{{link("a", ".."), link("b", "a/.."), link("c", "b/.."+outside), reg("c/evil", []byte("x"))}}},
		{"over a link", "", [][]tar.Header{{link("evil", outside+"/sentinel")}, {reg("evil", []byte("x"))}}},
		{"a hard link out", "leads outside", [][]tar.Header{{hard("evil", "../../sentinel")}}},
		{"an absolute hard link", "which is no file", [][]tar.Header{{hard("etc/evil", "/etc/passwd")}}},
		{"a hard link to a link out", "", [][]tar.Header{{link("l", outside+"/sentinel"), hard("evil", "l")}, {reg("x", nil)}}},
		{"a whiteout up", "leads outside", [][]tar.Header{{reg("../.wh.sentinel", nil)}}},
		{"a whiteout through a link out", "", [][]tar.Header{{link("l", outside)}, {reg("l/.wh.sentinel", nil)}}},
		{"an opaque link out", "", [][]tar.Header{{link("l", outside)}, {reg("l/.wh..wh..opq", nil)}}},
		{"a device", "", [][]tar.Header{{tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}}}},
		{"links in a circle", "links on the way", [][]tar.Header{{link("a", "b"), link("b", "a"), reg("a/evil", nil)}}},
		{"a folder where a file is", "no folder", [][]tar.Header{{reg("a", nil), reg("a/b", nil)}}},
	} {
		t.Run(c.what, func(t *testing.T) {
			noError(t, os.WriteFile(filepath.Join(outside, "sentinel"), []byte("untouched"), 0o600))
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, makeTar(t, slices.Clone(l)...))
			}
			a := mustOpen(t, file(t, "x.tar", stack(t, []compression{gz}, layers...)))
			to, check := guarded(t)
			_, err := Extract(t.Context(), a, ExtractOptions{Dir: to})
			check()
			if c.says == "" {
				noError(t, err)
			} else if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error: %v", err)
			}
			if _, there := os.Lstat(to); err != nil && there == nil {
				t.Errorf("something is left: %q", contentsOf(t, to))
			}
			if got := contentsOf(t, outside); !slices.Equal(got, []string{"-rw------- sentinel untouched"}) {
				t.Errorf("outside is now %q", got)
			}
		})
	}
}

// TestExtractVerifies: what is damaged, or not what the config says, does not appear.
func TestExtractVerifies(t *testing.T) {
	l := makeTar(t, reg("a", bytes.Repeat([]byte("a"), 5000)))
	other := makeTar(t, reg("a", []byte("b")))
	sound := oneImage(t, configOf(l), l)
	damaged := bytes.Replace(sound, []byte("aaaaaaaa"), []byte("aaaaXaaa"), 1)
	bomb := compress(t, append(slices.Clone(l[:len(l)-1024]), make([]byte, 400<<20)...), zst)
	for what, c := range map[string]struct {
		b    []byte
		is   error
		says string
	}{
		"damage":            {damaged, ErrDamaged, "has the digest"},
		"another layer":     {oneImage(t, configOf(l), other), ErrDamaged, "the image's config says"},
		"a truncated layer": {oneImage(t, []byte(`{}`), l[:3000]), ErrDamaged, "ends early"},
		"a zip bomb":        {oneImage(t, []byte(`{}`), bomb), ErrRefusedContent, "unpacks to more than"},
		"too few layers":    {oneImage(t, []byte(`{"rootfs":{"type":"layers","diff_ids":["sha256:`+strings.Repeat("0", 64)+`","sha256:`+strings.Repeat("0", 64)+`"]}}`), l), ErrDamaged, "speaks of 2 layers"},
	} {
		t.Run(what, func(t *testing.T) {
			for _, how := range []compression{plain, gz} {
				f := file(t, "x.tar", compress(t, c.b, how))
				to, check := guarded(t)
				a, err := Open(f)
				if err == nil {
					defer a.Close()
					_, err = Extract(t.Context(), a, ExtractOptions{Dir: to})
				}
				if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), f) {
					t.Errorf("%s: %v", how, err)
				}
				check()
				if _, err := os.Lstat(to); err == nil {
					t.Error("something appeared")
				}
				v, err := Verify(t.Context(), f, VerifyOptions{Unsigned: true, Contents: true})
				noError(t, err)
				if v.OK || !strings.Contains(fmt.Sprint(v.Faults), c.says) {
					t.Errorf("%s: verified: %v", how, v.Faults)
				}
			}
		})
	}
	v, err := Verify(t.Context(), file(t, "x.tar", sound), VerifyOptions{Unsigned: true, Contents: true})
	if err != nil || !v.OK || v.Layers != 1 {
		t.Errorf("the sound one: %+v, %v", v, err)
	}
}
