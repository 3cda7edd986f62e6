package airgap

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap/trust"
)

// oneImage is an OCI archive of one image with these bytes as config and layer; what
// refers to them is right.
func oneImage(t testing.TB, config, layer []byte) []byte {
	t.Helper()
	m, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: hashOf(config)},
		Layers: []v1.Descriptor{{MediaType: types.OCILayer, Size: int64(len(layer)), Digest: hashOf(layer)}}})
	noError(t, err)
	return oneManifest(t, m, config, layer)
}

// oneManifest is an OCI archive whose index lists a manifest of these bytes.
func oneManifest(t testing.TB, manifest []byte, blobs ...[]byte) []byte {
	t.Helper()
	idx, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{{
		MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: hashOf(manifest),
		Annotations: map[string]string{AnnotationImageName: "docker.io/x/y:z"}}}})
	noError(t, err)
	files := []tar.Header{reg(layoutFile, []byte(layoutContent)), reg(indexFile, idx)}
	seen := map[v1.Hash]bool{}
	for _, b := range append(blobs, manifest) {
		if h := hashOf(b); !seen[h] {
			seen[h] = true
			files = append(files, reg(blobName(h), b))
		}
	}
	return makeTar(t, files...)
}

// configOf is a config that says what the layer unpacks to.
func configOf(layer []byte) []byte {
	return fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]}}`, hashOf(layer))
}

// seedLayer is a layer with a file of each kind.
func seedLayer(t testing.TB) []byte {
	return makeTar(t, tar.Header{Name: "etc/", Typeflag: tar.TypeDir}, reg("etc/hosts", []byte("hosts")),
		tar.Header{Name: "etc/again", Typeflag: tar.TypeLink, Linkname: "etc/hosts"},
		tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, reg("out/x", []byte("x")),
		tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "../../.."}, reg("up/y", []byte("y")),
		reg("etc/.wh.gone", nil), tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})
}

func openBytes(b []byte) (*Archive, error) {
	return openSource("fuzz.tar", memory{bytes.NewReader(b)}, int64(len(b)))
}

// guarded is a folder in a folder that nothing else is in, and a check that it is so.
func guarded(t testing.TB) (dir string, check func()) {
	t.Helper()
	outside := t.TempDir()
	dir = filepath.Join(outside, "in", "side")
	noError(t, os.MkdirAll(filepath.Dir(dir), 0o755))
	noError(t, os.WriteFile(filepath.Join(outside, "sentinel"), []byte("untouched"), 0o600))
	return dir, func() {
		t.Helper()
		noError(t, filepath.WalkDir(outside, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			switch p {
			case outside, filepath.Dir(dir), filepath.Join(outside, "sentinel"):
				return nil
			case dir:
				return fs.SkipDir
			}
			t.Errorf("%s was written outside of %s", p, dir)
			return nil
		}))
		if b, err := os.ReadFile(filepath.Join(outside, "sentinel")); err != nil || string(b) != "untouched" {
			t.Errorf("the file outside is %q, %v", b, err)
		}
	}
}

// FuzzExtract throws configs and layers at inspection, verification and extraction:
// nothing may be written outside, and what verification accepts can be extracted.
func FuzzExtract(f *testing.F) {
	l := seedLayer(f)
	f.Add(configOf(l), l)
	f.Add([]byte(`{}`), compress(f, l, gz))
	f.Add([]byte(`{"history":[{"created_by":"x"}]}`), compress(f, l, zst))
	f.Fuzz(func(t *testing.T, config, layer []byte) {
		a, err := openBytes(oneImage(t, config, layer))
		if err != nil {
			return
		}
		v, err := a.Verify(t.Context(), VerifyOptions{Unsigned: true, Contents: true})
		noError(t, err)
		dir, check := guarded(t)
		out, err := Extract(t.Context(), a, ExtractOptions{Dir: dir})
		check()
		if _, there := os.Lstat(dir); (err == nil) != (there == nil) {
			t.Errorf("extraction ended with %v, and the folder: %v", err, there)
		}
		if err == nil && !v.OK {
			t.Errorf("%+v was extracted in spite of %v", out, v.Faults)
		}
		if err != nil && (errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "path escapes")) {
			t.Errorf("the system had to stop it: %v", err)
		}
	})
}

// FuzzManifest throws manifests at everything that reads an archive.
func FuzzManifest(f *testing.F) {
	l := seedLayer(f)
	c := configOf(l)
	all := entries(f, oneImage(f, c, l))
	f.Add([]byte(all[len(all)-1].PAXRecords["test.content"]))
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"` + TypeChartConfig + `","digest":"sha256:` + strings.Repeat("0", 64) + `","size":2},"layers":[]}`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		a, err := openBytes(oneManifest(t, manifest, c, l))
		if err != nil {
			return
		}
		_, err = a.Verify(t.Context(), VerifyOptions{Unsigned: true, Contents: true})
		noError(t, err)
		_, err = Diff(t.Context(), a, a, DiffOptions{Files: true})
		if err == nil {
			_, _, _ = a.choose("x/y:z", "")
		}
	})
}

// FuzzNested throws an index that the archive's index refers to, which may refer to
// itself in vain.
func FuzzNested(f *testing.F) {
	l := seedLayer(f)
	c := configOf(l)
	all := entries(f, oneImage(f, c, l))
	m := []byte(all[len(all)-1].PAXRecords["test.content"])
	inner := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"arm64"}},{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"vnd.docker.reference.type":"attestation-manifest"}}]}`,
		types.OCIImageIndex, types.OCIManifestSchema1, hashOf(m), len(m), types.OCIManifestSchema1, hashOf(m), len(m))
	f.Add(inner)
	f.Add([]byte(strings.ReplaceAll(string(inner), string(types.OCIManifestSchema1), string(types.OCIImageIndex))))
	f.Fuzz(func(t *testing.T, nested []byte) {
		outer, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{{MediaType: types.OCIImageIndex, Digest: hashOf(nested), Size: int64(len(nested))}}})
		noError(t, err)
		files := []tar.Header{reg(layoutFile, []byte(layoutContent)), reg(indexFile, outer)}
		seen := map[v1.Hash]bool{}
		for _, b := range [][]byte{c, l, m, nested} {
			if !seen[hashOf(b)] {
				files = append(files, reg(blobName(hashOf(b)), b))
			}
			seen[hashOf(b)] = true
		}
		a, err := openBytes(makeTar(t, files...))
		if err != nil {
			return
		}
		_, err = a.Verify(t.Context(), VerifyOptions{Unsigned: true})
		noError(t, err)
	})
}

// FuzzDocker throws manifest.json and configs at the reader of legacy docker-archives.
func FuzzDocker(f *testing.F) {
	l := seedLayer(f)
	f.Add([]byte(`[{"Config":"c.json","RepoTags":["busybox:1"],"Layers":["l/layer.tar"]}]`), configOf(l), false)
	f.Add([]byte(`[{"Config":"c.json","RepoTags":null,"Layers":["k/layer.tar","l/layer.tar"]}]`), []byte(`{}`), true)
	f.Fuzz(func(t *testing.T, manifest, config []byte, compressed bool) {
		b := makeTar(t, reg("l/layer.tar", l), reg("c.json", config),
			tar.Header{Name: "k/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../l/layer.tar"}, reg(manifestFile, manifest))
		if compressed {
			b = compress(t, b, zst)
		}
		a, err := openBytes(b)
		if err != nil {
			return
		}
		_, err = a.Verify(t.Context(), VerifyOptions{Unsigned: true, Contents: true})
		noError(t, err)
		dir, check := guarded(t)
		_, _ = Extract(t.Context(), a, ExtractOptions{Dir: dir, Paths: []string{"etc"}})
		check()
	})
}

// FuzzDecompress throws bytes at the decompressors.
func FuzzDecompress(f *testing.F) {
	b := makeTar(f, reg("a", bytes.Repeat([]byte("a"), 5000)))
	for _, c := range []compression{zst, gz, lz} {
		f.Add(compress(f, b, c))
	}
	f.Add([]byte("BZh91AY&SY\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := sniff(b)
		if err != nil || c == plain {
			return
		}
		r, err := decompress(bytes.NewReader(b), c)
		if err != nil {
			return
		}
		defer r.Close()
		if n, _ := io.Copy(io.Discard, io.LimitReader(r, 64<<20)); n > freeExpansion+maxCompression*int64(len(b)) {
			t.Errorf("%d bytes became %d", len(b), n)
		}
	})
}

// FuzzAttestation throws envelopes at the reader of attestations: none that the key did
// not sign may pass, whatever it says.
func FuzzAttestation(f *testing.F) {
	fx := newFixture(f)
	policy := trust.Policy{OperatorKeys: []trust.Key{fx.key}}
	subject := hashOf([]byte("an image"))
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"sig":"MEUCIQ=="}]}`))
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJwcmVkaWNhdGVUeXBlIjoieCIsInByZWRpY2F0ZSI6e319","signatures":[]}`))
	f.Fuzz(func(t *testing.T, env []byte) {
		if att, err := policy.Attested(subject, env); err == nil || att.Valid() {
			t.Errorf("it passes: %+v", att.Statement())
		}
		if st, err := trust.UnverifiedStatement(env); err == nil && !json.Valid(st.Predicate) {
			t.Errorf("its predicate is no JSON: %q", st.Predicate)
		}
	})
}

// FuzzSignature does the same with signatures.
func FuzzSignature(f *testing.F) {
	fx := newFixture(f)
	policy := trust.Policy{OperatorKeys: []trust.Key{fx.key}}
	subject := hashOf([]byte("an image"))
	tag, err := ParseTag("docker.io/x/y:z")
	noError(f, err)
	f.Add([]byte(`{"critical":{"identity":{"docker-reference":"docker.io/x/y"},"image":{"docker-manifest-digest":"`+subject.String()+`"},"type":"cosign container image signature"},"optional":{"tag":"z"}}`), []byte("sig"))
	f.Fuzz(func(t *testing.T, payload, raw []byte) {
		s := trust.Signature{Payload: payload, Raw: raw}
		if adm, err := policy.Admit(tag, subject, []trust.Signature{s}); err == nil || adm.Valid() {
			t.Error("it passes")
		}
		_, _ = s.UnverifiedClaims()
	})
}

// FuzzSBOM throws documents at the reader of SBOMs.
func FuzzSBOM(f *testing.F) {
	f.Add([]byte(`{"spdxVersion":"SPDX-2.3","packages":[{"name":"x","versionInfo":"1","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:golang/x@1"}]}],"files":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		doc, err := parseSPDX(b)
		if err != nil {
			return
		}
		i := inventory{}
		for _, p := range doc.packages() {
			i.add(p, "x")
		}
		if len(doc.packages()) != len(doc.Packages) || len(i) > len(doc.Packages) {
			t.Error("packages were lost or made up")
		}
	})
}

// FuzzPartial throws the marker of a partial bundle at the reader, in an index whose seal
// is right.
func FuzzPartial(f *testing.F) {
	fx := simple(f, 60)
	all := entries(f, fx.bytes(core()))
	idx, err := parseIndex(find(all, indexFile))
	noError(f, err)
	whole, err := wholeIndex(*idx)
	noError(f, err)
	marker, err := json.Marshal(Partial{Whole: Whole{Name: "w.tar", Index: hashOf(whole), Size: int64(len(fx.bytes(core()))), SHA256: strings.Repeat("0", 64)}, Part: 1, Of: 2})
	noError(f, err)
	f.Add(string(marker), listDigest(nil).String(), 3)
	f.Add(strings.Replace(string(marker), `"part":1,"of":2`, `"bases":[{"name":"o.tar","index":"`+hashOf(whole).String()+`"}]`, 1), listDigest(nil).String(), 5)
	f.Fuzz(func(t *testing.T, marker, blobs string, keep int) {
		about := map[string]string{annotationFormat: partialFormat, annotationPartial: marker, annotationBlobs: blobs, annotationSets: "core"}
		index, err := sealWith(*idx, about)
		if err != nil {
			return
		}
		h := append([]tar.Header{}, all...)
		h[1] = reg(indexFile, index)
		if keep >= 0 && keep+3 < len(h) {
			h = h[:keep+3]
		}
		a, err := openBytes(retar(t, nil, func([]tar.Header) []tar.Header { return h }))
		if err != nil {
			return
		}
		p, ok := a.Partial()
		if !ok || p.check() != nil {
			t.Errorf("it is taken for %+v", p)
		}
		_, err = a.Verify(t.Context(), VerifyOptions{Unsigned: true})
		noError(t, err)
	})
}
