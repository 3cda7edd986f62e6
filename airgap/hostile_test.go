package airgap

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// legacyTar is an archive as docker save wrote it before version 25.
func legacyTar(t testing.TB, layers ...[]byte) []byte {
	t.Helper()
	cfg := v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}}
	var files []tar.Header
	d := dockerImage{RepoTags: []string{"busybox:1"}}
	for i, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, hashOf(l))
		name := fmt.Sprintf("%064d/layer.tar", i)
		d.Layers = append(d.Layers, name)
		files = append(files, reg(name, l))
	}
	config, err := json.Marshal(cfg)
	noError(t, err)
	d.Config = hashOf(config).Hex + ".json"
	m, err := json.Marshal([]dockerImage{d})
	noError(t, err)
	return makeTar(t, append(files, reg(d.Config, config), reg(manifestFile, m), reg("repositories", []byte("{}")))...)
}

// boundaries are the offsets at which something begins or ends in a tar.
func boundaries(t testing.TB, b []byte) []int {
	t.Helper()
	var out []int
	at := 0
	for _, h := range entries(t, b) {
		size := len(h.PAXRecords["test.content"])
		out = append(out, at, at+1, at+blockSize-1, at+blockSize, at+blockSize+1, at+blockSize+size/2, at+blockSize+size-1, at+blockSize+size)
		at += blockSize + size + int(padding(int64(size)))
	}
	return append(out, at, at+1, at+blockSize, len(b)-1)
}

// TestBoundaries cuts archives of each kind wherever something begins or ends.
func TestBoundaries(t *testing.T) {
	l := seedLayer(t)
	for what, b := range map[string][]byte{
		"ours": simple(t, 700).bytes(core()), "oci": oneImage(t, configOf(l), l), "docker": legacyTar(t, l, l),
	} {
		t.Run(what, func(t *testing.T) {
			v, err := Verify(t.Context(), file(t, "whole.tar", b), VerifyOptions{Unsigned: true, Contents: what != "ours"})
			if noError(t, err); what != "ours" && !v.OK {
				t.Fatalf("the whole: %v", v.Faults)
			}
			path := file(t, "x.tar", b)
			for _, n := range slices.Backward(slices.Compact(slices.Sorted(slices.Values(boundaries(t, b))))) {
				noError(t, os.Truncate(path, int64(n)))
				a, err := Open(path)
				if err == nil {
					a.Close()
					t.Errorf("%d of %d bytes were accepted", n, len(b))
					continue
				}
				known := errors.Is(err, ErrTruncated) || n < blockSize && errors.Is(err, ErrNotArchive)
				// Between two entries, with nothing after: what is missing is named, or the end.
				known = known || errors.Is(err, ErrDamaged) && strings.Contains(err.Error(), "missing") || errors.Is(err, ErrNotArchive) && strings.Contains(err.Error(), "without")
				if !known || !strings.Contains(err.Error(), path) {
					t.Errorf("%d of %d bytes: %v", n, len(b), err)
				}
				// Each compression: what is inside ends early, though the stream is whole.
				z := file(t, "x.tar.zst", compress(t, b[:n], zst))
				if err := readAll(z); err == nil {
					t.Errorf("%d of %d bytes were accepted when compressed", n, len(b))
				}
			}
		})
	}
}

// TestReordered: other tools' archives may have their entries in any order; a bundle of
// ours may not.
func TestReordered(t *testing.T) {
	l := seedLayer(t)
	rng := rand.New(rand.NewSource(1))
	shuffle := func(h []tar.Header) []tar.Header {
		rng.Shuffle(len(h), func(i, j int) { h[i], h[j] = h[j], h[i] })
		return h
	}
	for what, b := range map[string][]byte{"oci": oneImage(t, configOf(l), l), "docker": legacyTar(t, l)} {
		for range 10 {
			again := makeTar(t, shuffle(entries(t, b))...)
			for _, c := range []compression{plain, gz} {
				v, err := Verify(t.Context(), file(t, "x.tar", compress(t, again, c)), VerifyOptions{Unsigned: true, Contents: true})
				if noError(t, err); !v.OK || len(v.Images) != 1 || v.Layers != 1 {
					t.Errorf("%s, %s: %+v", what, c, v)
				}
			}
		}
	}
	ours := simple(t, 100).bytes(core())
	for i := range 10 {
		b := retar(t, ours, shuffle)
		if bytes.Equal(b, ours) {
			continue
		}
		if err := readAll(file(t, "x.tar", b)); err == nil {
			t.Errorf("order %d of ours was accepted", i)
		}
	}
}

// nest is an archive of an index in an index and so on, each of which lists the next so
// many times.
func nest(t testing.TB, depth, times int) []byte {
	t.Helper()
	l := seedLayer(t)
	all := entries(t, oneImage(t, configOf(l), l))
	child := []byte(all[len(all)-1].PAXRecords["test.content"])
	media := types.OCIManifestSchema1
	files := all[2:]
	for range depth {
		d := v1.Descriptor{MediaType: media, Size: int64(len(child)), Digest: hashOf(child)}
		idx, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: slices.Repeat([]v1.Descriptor{d}, times)})
		noError(t, err)
		child, media = idx, types.OCIImageIndex
		files = append(files, reg(blobName(hashOf(idx)), idx))
	}
	root, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{{MediaType: media, Size: int64(len(child)), Digest: hashOf(child)}}})
	noError(t, err)
	return makeTar(t, append(files, reg(layoutFile, []byte(layoutContent)), reg(indexFile, root))...)
}

func TestIndexRecursion(t *testing.T) {
	a := mustOpen(t, file(t, "x.tar", nest(t, maxNesting, 1)))
	if len(a.Images()) != 1 || a.Images()[0].Index == (v1.Hash{}) {
		t.Errorf("%+v", a.Images())
	}
	for what, c := range map[string]struct {
		b    []byte
		says string
	}{
		"too deep":                     {nest(t, maxNesting+1, 1), "indexes within each other"},
		"wide at each of three levels": {nest(t, 3, 1000), "lead to more than"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := Open(file(t, "x.tar", c.b))
			if !errors.Is(err, ErrRefusedContent) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// TestUnknownMediaTypes: what is no container image is left alone, and does not make the
// images beside it unreadable.
func TestUnknownMediaTypes(t *testing.T) {
	l := seedLayer(t)
	sound := entries(t, oneImage(t, configOf(l), l))
	idx, err := parseIndex(find(sound, indexFile))
	noError(t, err)
	thing := []byte("a thing")
	wasm, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: "application/vnd.wasm.config.v1+json", Size: int64(len(thing)), Digest: hashOf(thing)}})
	noError(t, err)
	idx.Manifests = append(idx.Manifests,
		v1.Descriptor{MediaType: "application/x-thing", Size: int64(len(thing)), Digest: hashOf(thing)},
		v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(wasm)), Digest: hashOf(wasm)})
	raw, err := json.Marshal(idx)
	noError(t, err)
	sound[1] = reg(indexFile, raw)
	a := mustOpen(t, file(t, "x.tar", makeTar(t, append(sound, reg(blobName(hashOf(thing)), thing), reg(blobName(hashOf(wasm)), wasm))...)))
	if len(a.Images()) != 1 || a.Images()[0].Refs[0].String() != "docker.io/x/y:z" {
		t.Errorf("%+v", a.Images())
	}

	// A layer of a type that nobody knows is read for what it is.
	config := configOf(l)
	m, err := json.Marshal(v1.Manifest{SchemaVersion: 2, Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: hashOf(config)},
		Layers: []v1.Descriptor{{MediaType: "application/x-layer", Size: int64(len(l)), Digest: hashOf(l)}}})
	noError(t, err)
	v, err := Verify(t.Context(), file(t, "y.tar", oneManifest(t, m, config, l)), VerifyOptions{Unsigned: true, Contents: true})
	if noError(t, err); !v.OK {
		t.Errorf("%v", v.Faults)
	}
}

// TestManyEntries: 100,000 files in an archive and in a layer are nothing special; more
// than any tool makes are refused.
func TestManyEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("makes archives of 100,000 files")
	}
	many := func(n int) []tar.Header {
		out := make([]tar.Header, n)
		for i := range out {
			out[i] = tar.Header{Name: fmt.Sprintf("d%d/f%d", i%100, i)}
		}
		return out
	}
	l := makeTar(t, many(100_000)...)
	sound := entries(t, oneImage(t, configOf(l), l))
	path := file(t, "x.tar", makeTar(t, append(many(100_000), sound...)...))
	v, err := Verify(t.Context(), path, VerifyOptions{Unsigned: true, Contents: true})
	if noError(t, err); !v.OK {
		t.Errorf("%v", v.Faults)
	}
	a := mustOpen(t, path)
	dir, check := guarded(t)
	out, err := Extract(t.Context(), a, ExtractOptions{Dir: dir, Paths: []string{"d7"}})
	noError(t, err)
	check()
	if out.Files != 1000 {
		t.Errorf("%+v", out)
	}
	if _, err := Open(file(t, "y.tar", makeTar(t, append(many(maxEntries), sound...)...))); !errors.Is(err, ErrRefusedContent) || !strings.Contains(err.Error(), "entries") {
		t.Errorf("error: %v", err)
	}
}
