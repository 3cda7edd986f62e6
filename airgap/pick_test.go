package airgap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// listed is a source of handmade blobs.
type listed struct{ *handmade }

func (l listed) Index() (*v1.IndexManifest, error) { return &l.idx, nil }

func (l listed) Blob(h v1.Hash) (io.ReadCloser, error) {
	b, ok := l.blobs[h]
	if !ok {
		return nil, fmt.Errorf("no blob %s", h)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// index makes an image index of manifests.
func (b *handmade) index(of ...v1.Descriptor) v1.Descriptor {
	raw, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: of})
	noError(b.t, err)
	d := b.typed(types.OCIImageIndex, string(raw))
	d.MediaType = types.OCIImageIndex
	return d
}

// attach adds a manifest of a kind about another.
func (b *handmade) attach(kind string, to v1.Descriptor) {
	b.list(b.manifest("", b.blob("{}"), b.blob(kind+to.Digest.Hex)), AnnotationKind, kind, AnnotationSigns, to.Digest.String())
}

// written opens the bundle of everything.
func (b *handmade) written() (*Archive, error) {
	b.t.Helper()
	var out bytes.Buffer
	if err := Write(b.t.Context(), &out, listed{b}, Selection{Platform: amd64, AllowUnsigned: true}); err != nil {
		return nil, err
	}
	return mustOpen(b.t, file(b.t, "b.tar", out.Bytes())), nil
}

// TestIndexComesAlong: the image index of a manifest is in the bundle where something is
// attached to it that the manifest lacks, where the source wants it, or where the image
// is named by it; and nowhere else.
func TestIndexComesAlong(t *testing.T) {
	const byTag = "registry.example/app:v1"
	for what, c := range map[string]struct {
		make func(b *handmade, img, index v1.Descriptor)
		want bool
		refs int // names
	}{
		"nothing attached":         {func(b *handmade, _, index v1.Descriptor) { b.named(index, byTag) }, false, 1},
		"only the index is signed": {func(b *handmade, _, index v1.Descriptor) { b.named(index, byTag); b.attach(KindSignatures, index) }, true, 1},
		"both are signed": {func(b *handmade, img, index v1.Descriptor) {
			b.named(index, byTag)
			b.attach(KindSignatures, index)
			b.attach(KindSignatures, img)
		}, false, 1},
		"both, and it is wanted": {func(b *handmade, img, index v1.Descriptor) {
			b.named(img, byTag, AnnotationIndex, index.Digest.String())
			b.attach(KindSignatures, index)
			b.attach(KindSignatures, img)
		}, true, 1},
		"wanted, nothing attached": {func(b *handmade, img, index v1.Descriptor) {
			b.named(img, byTag, AnnotationIndex, index.Digest.String())
		}, false, 1},
		"named by the index": {func(b *handmade, img, index v1.Descriptor) {
			b.named(index, "registry.example/app@"+index.Digest.String())
		}, true, 1},
		"by the index, and by tag": {func(b *handmade, img, index v1.Descriptor) {
			b.named(img, byTag)
			b.named(index, "registry.example/app@"+index.Digest.String())
		}, true, 2},
		"named by the manifest": {func(b *handmade, img, index v1.Descriptor) {
			b.named(index, "registry.example/app@"+img.Digest.String())
		}, false, 1},
		"a referrer of the wanted": {func(b *handmade, img, index v1.Descriptor) {
			b.named(img, byTag, AnnotationIndex, index.Digest.String())
			b.attach(KindReferrer, index)
		}, true, 1},
		"a referrer of an index": {func(b *handmade, img, index v1.Descriptor) { b.named(index, byTag); b.attach(KindReferrer, index) }, false, 1},
	} {
		t.Run(what, func(t *testing.T) {
			b := newHandmade(t)
			img := b.image("layer")
			index := b.index(img)
			c.make(b, img, index)
			a, err := b.written()
			noError(t, err)
			is := a.Images()[0]
			if (is.Index == index.Digest) != c.want || !c.want && is.Index != (v1.Hash{}) || len(a.Images()) != 1 || len(is.Names()) != c.refs {
				t.Errorf("%+v", a.Images())
			}
			if _, ok := a.blobs[index.Digest]; ok != c.want {
				t.Errorf("the index is in it: %v", ok)
			}
		})
	}
}

// TestPlanOrder: in whatever order a source lists things, and however often, the bundle is
// the same.
func TestPlanOrder(t *testing.T) {
	b := newHandmade(t)
	one, two := b.image("one"), b.image("two")
	first, second := b.index(one), b.index(one, two)
	b.named(first, "registry.example/app:v1", AnnotationSets, "core")
	b.named(second, "registry.example/app:v1", AnnotationSets, "extra")
	b.named(one, "registry.example/app:v1", AnnotationIndex, second.Digest.String())
	b.named(two, "registry.example/other:v1")
	b.list(b.chart(), AnnotationKind, KindChart, AnnotationRefName, chartRef, AnnotationSets, "core")
	b.list(b.chart(), AnnotationKind, KindChart, AnnotationRefName, chartRef, AnnotationSets, "more")
	b.list(b.files("a", "b/c"), AnnotationKind, KindFiles, AnnotationRefName, "files/x:1")
	for _, d := range []v1.Descriptor{one, first, second} {
		b.attach(KindSignatures, d)
		b.attach(KindAttestations, d)
	}
	write := func() []byte {
		var out bytes.Buffer
		noError(t, Write(t.Context(), &out, listed{b}, Selection{Platform: amd64, AllowUnsigned: true}))
		return out.Bytes()
	}
	want := write()
	a := mustOpen(t, file(t, "b.tar", want))
	if i := a.Images(); len(i) != 2 || i[0].Index != second.Digest || !slices.Equal(i[0].Sets, []string{"core", "extra"}) {
		t.Errorf("%+v", i)
	}
	if art := a.Artifacts(); len(art) != 2 || !slices.Equal(art[0].Sets, []string{"core", "more"}) {
		t.Errorf("%+v", art)
	}
	for range 20 {
		rand.Shuffle(len(b.idx.Manifests), func(i, j int) {
			b.idx.Manifests[i], b.idx.Manifests[j] = b.idx.Manifests[j], b.idx.Manifests[i]
		})
		if !bytes.Equal(write(), want) {
			t.Fatal("it depends on the order")
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	const ref = "registry.example/app:v1"
	for what, c := range map[string]struct {
		make func(b *handmade)
		says string
	}{
		"no such platform": {func(b *handmade) {
			arm := b.image("arm")
			arm.Platform = &v1.Platform{OS: "linux", Architecture: "arm64"}
			unknown := b.image("attestation")
			unknown.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
			b.named(b.index(arm, unknown), ref)
		}, "image " + ref + ": it is not made for linux/amd64; it has linux/arm64"},
		"an index that is of another": {func(b *handmade) {
			b.named(b.image("one"), ref, AnnotationIndex, b.index(b.image("two")).Digest.String())
		}, "does not list manifest"},
		"an index that is not there": {func(b *handmade) {
			b.named(b.image("one"), ref, AnnotationIndex, "sha256:"+strings.Repeat("0", 64))
		}, "its image index: no blob"},
		"a digest of something else": {func(b *handmade) {
			b.named(b.image("one"), "registry.example/app@sha256:"+strings.Repeat("0", 64))
		}, "is named by a digest, and has another"},
		"two indexes by their digests": {func(b *handmade) {
			img := b.image("one")
			for _, index := range []v1.Descriptor{b.index(img), b.index(img, b.image("two"))} {
				b.named(index, "registry.example/app@"+index.Digest.String())
			}
		}, "the same manifest in different image indexes"},
		"two charts of one name": {func(b *handmade) {
			b.list(b.chart(), AnnotationKind, KindChart, AnnotationRefName, chartRef)
			b.list(b.manifest("", b.typed(TypeChartConfig, `{"name":"other"}`), b.typed(TypeChartContent, "tgz")), AnnotationKind, KindChart, AnnotationRefName, chartRef)
		}, "two artifacts are called " + chartRef},
		"a chart that is none": {func(b *handmade) {
			b.list(b.image("one"), AnnotationKind, KindChart, AnnotationRefName, chartRef)
		}, "artifact " + chartRef},
	} {
		t.Run(what, func(t *testing.T) {
			b := newHandmade(t)
			c.make(b)
			if _, err := b.written(); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestUnsigned: what is not signed is told; what must be is refused.
func TestUnsigned(t *testing.T) {
	b := newHandmade(t)
	one, two := b.image("one"), b.image("two")
	b.named(one, "registry.example/one:v1")
	b.named(two, "registry.example/two:v1")
	b.attach(KindSignatures, two)
	sel := Selection{Platform: amd64, AllowUnsigned: true}
	p, err := NewPlan(listed{b}, sel)
	noError(t, err)
	if !slices.Equal(p.Unsigned, []string{"registry.example/one:v1"}) {
		t.Errorf("%q", p.Unsigned)
	}
	sel.SignedOnly = map[string]bool{"registry.example/two:v1": true}
	if _, err := NewPlan(listed{b}, sel); err != nil {
		t.Error(err)
	}
	sel.SignedOnly["registry.example/one:v1"] = true
	if _, err := NewPlan(listed{b}, sel); err == nil || !strings.Contains(err.Error(), "image registry.example/one:v1") {
		t.Errorf("%v", err)
	}
}
