package airgap

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// memory is an archive's bytes as an open file.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// useAll opens an archive and uses everything that it claims to have.
func useAll(t *testing.T, b []byte) (*Archive, error) {
	t.Helper()
	a, err := openSource("fuzz.tar", memory{bytes.NewReader(b)}, int64(len(b)))
	if err != nil {
		return nil, err
	}
	if err := a.whole(); err != nil {
		return nil, err
	}
	for _, img := range a.Images() {
		if img.Desc.Digest == (v1.Hash{}) {
			continue // a legacy docker-archive's
		}
		_, raw, err := a.Manifest(img.Desc.Digest)
		if err != nil {
			t.Errorf("the manifest of a listed image: %v", err)
		}
		if hashOf(raw) != img.Desc.Digest {
			t.Errorf("the manifest of a listed image has other bytes")
		}
		if _, err := a.Signatures(img.Desc.Digest); err != nil {
			return nil, err
		}
	}
	return a, a.Walk(t.Context(), nil, func(d v1.Descriptor, r io.Reader) error {
		b, err := io.ReadAll(r)
		if err == nil && hashOf(b) != d.Digest {
			t.Errorf("a blob passed with other bytes")
		}
		return err
	})
}

// FuzzOpen throws bytes at the reader: whatever they are, it must not panic, hang or
// hand out bytes that do not have their digest; and what it takes for a bundle of
// ours must be one, to the last bit.
func FuzzOpen(f *testing.F) {
	fx := simple(f, 60)
	bundle := fx.bytes(core())
	img := image(f, 1, 60, 1, amd64)
	other := makeTar(f, ociTar(f, v1.IndexManifest{Manifests: []v1.Descriptor{descOf(f, img, AnnotationImageName, "docker.io/x/y:z")}}, []byte(`[{"RepoTags":["x/y:z"]}]`), img)...)
	legacy := makeTar(f, reg("c.json", []byte("{}")), tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "c.json"},
		reg(manifestFile, []byte(`[{"Config":"c.json","RepoTags":["busybox:1"],"Layers":["l"]}]`)))
	for _, b := range [][]byte{bundle, other, legacy} {
		for _, c := range []compression{plain, zst, gz, lz} {
			f.Add(compress(f, b, c))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := useAll(t, b)
		if err != nil || !a.IsBundle() || a.Compression() != string(plain) {
			return
		}
		if again := rewrite(t, a); !bytes.Equal(b, again) {
			t.Errorf("%d bytes pass for a bundle of ours, which would have %d", len(b), len(again))
		}
	})
}

// archiveSource is a bundle of ours as what bundles are written from.
type archiveSource struct{ *Archive }

func (a archiveSource) Index() (*v1.IndexManifest, error) { return a.head.idx, nil }

// rewrite writes a bundle of what a bundle holds.
func rewrite(t testing.TB, a *Archive) []byte {
	t.Helper()
	var b bytes.Buffer
	noError(t, Write(t.Context(), &b, archiveSource{a}, Selection{Sets: a.Sets(), Platform: *a.Images()[0].Platform, AllowUnsigned: true}))
	return b.Bytes()
}

// FuzzIndex throws indexes and manifests at the reader in an archive that is sound
// otherwise, also with a valid seal.
func FuzzIndex(f *testing.F) {
	fx := simple(f, 60)
	all := entries(f, fx.bytes(core()))
	f.Add(find(all, indexFile), find(all, manifestFile), false)
	f.Add(find(all, indexFile), find(all, manifestFile), true)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:00","size":1}]}`), []byte(`[{"Config":"x","RepoTags":["a:b"],"Layers":["l"]}]`), true)
	f.Fuzz(func(t *testing.T, index, manifest []byte, seal bool) {
		if seal {
			if idx, err := parseIndex(index); err == nil {
				if index, err = sealIndex(*idx, []string{"core"}); err != nil {
					return
				}
			}
		}
		b := retar(t, nil, func([]tar.Header) []tar.Header {
			h := append([]tar.Header{}, all...)
			h[1], h[2] = reg(indexFile, index), reg(manifestFile, manifest)
			return h
		})
		_, _ = useAll(t, b)
	})
}
