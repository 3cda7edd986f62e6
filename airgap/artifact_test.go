package airgap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// handmade is a bundle put together by hand, to hold the reader to what the writer
// may make and to what it never does.
type handmade struct {
	t     testing.TB
	idx   v1.IndexManifest
	blobs map[v1.Hash][]byte
}

func newHandmade(t testing.TB) *handmade {
	return &handmade{t, v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}, map[v1.Hash][]byte{}}
}

func (b *handmade) blob(content string) v1.Descriptor {
	h := hashOf([]byte(content))
	b.blobs[h] = []byte(content)
	return v1.Descriptor{Digest: h, Size: int64(len(content)), MediaType: "application/octet-stream"}
}

func (b *handmade) typed(mediaType types.MediaType, content string) v1.Descriptor {
	d := b.blob(content)
	d.MediaType = mediaType
	return d
}

// manifest adds a manifest; more is JSON that goes before its config.
func (b *handmade) manifest(more string, config v1.Descriptor, layers ...v1.Descriptor) v1.Descriptor {
	b.t.Helper()
	c, err := json.Marshal(config)
	noError(b.t, err)
	if layers == nil {
		layers = []v1.Descriptor{}
	}
	l, err := json.Marshal(layers)
	noError(b.t, err)
	return b.typed(types.OCIManifestSchema1, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,%s"config":%s,"layers":%s}`, types.OCIManifestSchema1, more, c, l))
}

// list adds a descriptor to the index, with annotations as key and value in turn.
func (b *handmade) list(d v1.Descriptor, annotations ...string) {
	d.Annotations = map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		d.Annotations[annotations[i]] = annotations[i+1]
	}
	b.idx.Manifests = append(b.idx.Manifests, d)
}

// image adds an image with one layer and returns its descriptor, not listed yet.
func (b *handmade) image(content string) v1.Descriptor {
	cfg := b.typed(types.OCIConfigJSON, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"author":"`+content+`"}`)
	d := b.manifest("", cfg, b.typed(types.OCILayer, content))
	d.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
	return d
}

func (b *handmade) named(d v1.Descriptor, name string, more ...string) {
	b.list(d, append([]string{AnnotationKind, KindImage, AnnotationImageName, name, AnnotationRefName, name}, more...)...)
}

// open seals the bundle and reads it back.
func (b *handmade) open() (*Archive, error) {
	b.t.Helper()
	c, err := bundleContents(&b.idx)
	if err != nil {
		return nil, err
	}
	index, err := sealIndex(b.idx, nil)
	noError(b.t, err)
	docker, err := dockerManifest(c.images, func(h v1.Hash) (*v1.Manifest, error) { return parseManifest(b.blobs[h], h) })
	noError(b.t, err)
	var tar bytes.Buffer
	add := func(name string, content []byte) { noError(b.t, writeEntry(context.Background(), &tar, name, content)) }
	add(layoutFile, []byte(layoutContent))
	add(indexFile, index)
	add(manifestFile, docker)
	var order []v1.Hash
	for h := range b.blobs {
		order = append(order, h)
	}
	slices.SortFunc(order, func(x, y v1.Hash) int { return strings.Compare(x.Hex, y.Hex) })
	for _, h := range order {
		add(blobName(h), b.blobs[h])
	}
	tar.Write(make([]byte, trailer))
	a, err := Open(file(b.t, "b.tar", tar.Bytes()))
	if err == nil {
		b.t.Cleanup(func() { _ = a.Close() })
	}
	return a, err
}

const (
	imageRef = "docker.io/rancher/rke2-runtime:v1"
	chartRef = "registry.example/charts/demo:1.2.3"
)

func (b *handmade) chart() v1.Descriptor {
	return b.manifest("", b.typed(TypeChartConfig, `{"name":"demo"}`), b.typed(TypeChartContent, "tgz"))
}

func (b *handmade) files(titles ...string) v1.Descriptor {
	var layers []v1.Descriptor
	for _, title := range titles {
		l := b.blob("content of " + title)
		l.Annotations = map[string]string{AnnotationTitle: title}
		layers = append(layers, l)
	}
	return b.manifest(`"artifactType":"`+TypeFiles+`",`, b.typed("application/vnd.oci.empty.v1+json", "{}"), layers...)
}

func TestArtifacts(t *testing.T) {
	b := newHandmade(t)
	b.named(b.image("layer"), imageRef)
	chart, files := b.chart(), b.files("bin/tool", "bin/other", "readme")
	b.list(chart, AnnotationKind, KindChart, AnnotationRefName, chartRef, AnnotationSets, "core,extra")
	b.list(files, AnnotationKind, KindFiles, AnnotationRefName, "tools:v1")
	b.list(b.manifest("", b.blob("{ }"), b.blob("signature")), AnnotationKind, KindSignatures, AnnotationSigns, chart.Digest.String())
	a, err := b.open()
	noError(t, err)
	got := a.Artifacts()
	if len(got) != 2 || len(a.Images()) != 1 {
		t.Fatalf("artifacts %v, images %v", got, a.Images())
	}
	if c := got[0]; c.Kind != KindChart || c.Ref != chartRef || c.Desc.Digest != chart.Digest || !slices.Equal(c.Sets, []string{"core", "extra"}) {
		t.Errorf("chart %+v", c)
	}
	if f := got[1]; f.Kind != KindFiles || f.Ref != "tools:v1" || f.Desc.Digest != files.Digest || f.Sets != nil {
		t.Errorf("files %+v", f)
	}
	if strings.Contains(string(a.head.manifest), chart.Digest.Hex) {
		t.Error("manifest.json has the chart")
	}
}

func TestArtifactFaults(t *testing.T) {
	for name, c := range map[string]struct {
		list func(b *handmade)
		want string
	}{
		"no reference": {func(b *handmade) { b.list(b.chart(), AnnotationKind, KindChart) }, "invalid reference"},
		"short reference": {func(b *handmade) {
			b.list(b.chart(), AnnotationKind, KindChart, AnnotationRefName, "demo:1.2.3")
		}, "not one full reference"},
		"image's name": {func(b *handmade) {
			b.list(b.chart(), AnnotationKind, KindChart, AnnotationRefName, chartRef, AnnotationImageName, chartRef)
		}, "name of an image"},
		"order": {func(b *handmade) {
			b.list(b.files("x"), AnnotationKind, KindFiles, AnnotationRefName, "x:v1")
			b.list(b.chart(), AnnotationKind, KindChart, AnnotationRefName, chartRef)
		}, "out of order"},
		"image after": {func(b *handmade) {
			b.list(b.chart(), AnnotationKind, KindChart, AnnotationRefName, chartRef)
			b.named(b.image("layer"), imageRef)
		}, "out of order"},
		"not a chart": {func(b *handmade) {
			b.list(b.files("x"), AnnotationKind, KindChart, AnnotationRefName, chartRef)
		}, "a chart whose config"},
		"not files": {func(b *handmade) {
			b.list(b.chart(), AnnotationKind, KindFiles, AnnotationRefName, chartRef)
		}, "of the artifact type"},
		"dot-dot":   {func(b *handmade) { b.list(b.files("a/../../x"), AnnotationKind, KindFiles, AnnotationRefName, "x:v1") }, "clean path"},
		"absolute":  {func(b *handmade) { b.list(b.files("/x"), AnnotationKind, KindFiles, AnnotationRefName, "x:v1") }, "clean path"},
		"untitled":  {func(b *handmade) { b.list(b.files(""), AnnotationKind, KindFiles, AnnotationRefName, "x:v1") }, "clean path"},
		"twice":     {func(b *handmade) { b.list(b.files("x", "x"), AnnotationKind, KindFiles, AnnotationRefName, "x:v1") }, "twice"},
		"file, dir": {func(b *handmade) { b.list(b.files("x", "x/y"), AnnotationKind, KindFiles, AnnotationRefName, "x:v1") }, "a file and a folder"},
		"unknown": {func(b *handmade) {
			b.list(b.chart(), AnnotationKind, "io.rancher.rke2/other", AnnotationRefName, chartRef)
		}, "no known kind"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newHandmade(t)
			c.list(b)
			if _, err := b.open(); err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrRefusedContent) {
				t.Errorf("want %q: %v", c.want, err)
			}
		})
	}
}

// TestImageOfIndex: an image that was taken out of an image index keeps what signs
// that index, and its name by that digest.
func TestImageOfIndex(t *testing.T) {
	b := newHandmade(t)
	img := b.image("layer")
	idx, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{img}})
	noError(t, err)
	index := b.typed(types.OCIImageIndex, string(idx))
	byDigest := "docker.io/rancher/rke2-runtime@" + index.Digest.String()
	b.named(img, imageRef, AnnotationIndex, index.Digest.String())
	b.named(img, byDigest, AnnotationIndex, index.Digest.String())
	b.list(b.manifest("", b.blob("{ }"), b.blob("signature")), AnnotationKind, KindSignatures, AnnotationSigns, index.Digest.String())
	b.list(b.manifest("", b.blob("{ }"), b.blob("notation")), AnnotationKind, KindReferrer, AnnotationSigns, img.Digest.String())
	a, err := b.open()
	noError(t, err)
	got := a.Images()
	if len(got) != 1 || got[0].Index != index.Digest || !slices.Equal(got[0].Names(), []string{imageRef, byDigest}) {
		t.Fatalf("images %+v", got)
	}
	of, err := a.IndexOf(got[0])
	if err != nil || string(of.Raw) != string(idx) {
		t.Errorf("the index: %s, %v", of.Raw, err)
	}
	r, err := a.Blob(index.Digest)
	noError(t, err)
	noError(t, r.Close())

	t.Run("of two indexes", func(t *testing.T) {
		c := newHandmade(t)
		img := c.image("layer")
		c.named(img, imageRef)
		more := c.typed(types.OCIImageIndex, string(idx))
		c.named(img, "docker.io/rancher/rke2-runtime@"+more.Digest.String(), AnnotationIndex, more.Digest.String())
		a, err := c.open()
		noError(t, err)
		if got := a.Images(); len(got) != 2 || got[0].Index != (v1.Hash{}) || got[1].Index != more.Digest || got[0].Desc.Digest != got[1].Desc.Digest {
			t.Errorf("images %+v", got)
		}
	})
	for name, spoil := range map[string]func(b *handmade){
		"other image": func(b *handmade) { b.idx.Manifests[0].Digest = b.image("other").Digest },
		"absent":      func(b *handmade) { delete(b.blobs, index.Digest) },
		"not listed": func(b *handmade) {
			other := b.typed(types.OCIImageIndex, `{"schemaVersion":2,"manifests":[]}`)
			b.idx.Manifests[0].Annotations[AnnotationIndex] = other.Digest.String()
			b.idx.Manifests = b.idx.Manifests[:1]
			delete(b.blobs, index.Digest)
		},
		"wrong name": func(b *handmade) {
			other := "docker.io/rancher/rke2-runtime@" + hashOf(nil).String()
			b.idx.Manifests[1].Annotations[AnnotationImageName], b.idx.Manifests[1].Annotations[AnnotationRefName] = other, other
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newHandmade(t)
			for h, content := range b.blobs {
				c.blobs[h] = content
			}
			for _, d := range b.idx.Manifests {
				c.idx.Manifests = append(c.idx.Manifests, *d.DeepCopy())
			}
			spoil(c)
			if _, err := c.open(); !errors.Is(err, ErrDamaged) {
				t.Errorf("taken: %v", err)
			}
		})
	}
}
