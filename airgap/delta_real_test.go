package airgap_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
)

// bumpedLayout is the product's layout with new bytes for some layers, of the same size: as
// if their binaries had been built of other sources. The manifests, configs, attestations
// and signatures of the images that have them change with them, in size as they are.
type bumpedLayout struct {
	airgap.Layout
	idx   *v1.IndexManifest
	blobs map[v1.Hash][]byte  // manifests and configs
	fresh map[v1.Hash]v1.Hash // new layer to the old one that it stands for
	sizes map[v1.Hash]int64   // of new layers
	moved map[v1.Hash]v1.Hash // old digest to new
}

func (b *bumpedLayout) Index() (*v1.IndexManifest, error) { return b.idx, nil }

func (b *bumpedLayout) Blob(h v1.Hash) (io.ReadCloser, error) {
	if content, ok := b.blobs[h]; ok {
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	if old, ok := b.fresh[h]; ok {
		return io.NopCloser(freshBytes(old, b.sizes[h])), nil
	}
	return b.Layout.Blob(h)
}

// freshBytes are bytes that follow from a digest and do not compress.
func freshBytes(of v1.Hash, size int64) io.Reader {
	var seed int64
	for _, c := range of.Hex[:15] {
		seed = seed*16 + int64(strings.IndexRune("0123456789abcdef", c))
	}
	return io.LimitReader(rand.New(rand.NewSource(seed)), size)
}

func bump(t *testing.T, layout airgap.Layout, layers map[v1.Hash]bool) *bumpedLayout {
	t.Helper()
	idx, err := layout.Index()
	if err != nil {
		t.Fatal(err)
	}
	b := &bumpedLayout{Layout: layout, idx: idx, blobs: map[v1.Hash][]byte{}, fresh: map[v1.Hash]v1.Hash{}, sizes: map[v1.Hash]int64{}, moved: map[v1.Hash]v1.Hash{}}
	for i, d := range idx.Manifests {
		if d.Annotations[airgap.AnnotationKind] == airgap.KindImage {
			idx.Manifests[i] = b.manifest(t, b.platform(t, d), func(l v1.Descriptor) bool { return layers[l.Digest] })
		}
	}
	for i, d := range idx.Manifests {
		subject, err := v1.NewHash(d.Annotations[airgap.AnnotationSigns])
		if err != nil {
			continue
		}
		if now, ok := b.moved[subject]; ok { // signed and attested anew
			idx.Manifests[i] = b.manifest(t, d, func(v1.Descriptor) bool { return true })
			idx.Manifests[i].Annotations[airgap.AnnotationSigns] = now.String()
		}
	}
	return b
}

// platform is the manifest of an image index that the base bundle has.
func (b *bumpedLayout) platform(t *testing.T, d v1.Descriptor) v1.Descriptor {
	t.Helper()
	if !d.MediaType.IsIndex() {
		return d
	}
	idx, err := v1.ParseIndexManifest(bytes.NewReader(b.read(t, d.Digest)))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range idx.Manifests {
		if m.Platform.Satisfies(v1.Platform{OS: "linux", Architecture: "amd64"}) {
			m.Annotations = d.Annotations
			return m
		}
	}
	t.Fatalf("%s is not for linux/amd64", d.Digest)
	return d
}

func (b *bumpedLayout) read(t *testing.T, h v1.Hash) []byte {
	t.Helper()
	r, err := b.Layout.Blob(h)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// manifest replaces layers of a manifest; its descriptor comes back.
func (b *bumpedLayout) manifest(t *testing.T, d v1.Descriptor, changes func(layer v1.Descriptor) bool) v1.Descriptor {
	t.Helper()
	raw := b.read(t, d.Digest)
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Layers {
		if !changes(l) {
			continue
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, freshBytes(l.Digest, l.Size)); err != nil {
			t.Fatal(err)
		}
		now := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
		b.fresh[now], b.sizes[now] = l.Digest, l.Size
		raw = bytes.ReplaceAll(raw, []byte(l.Digest.Hex), []byte(now.Hex))
	}
	was := d.Digest
	sum := sha256.Sum256(raw)
	d.Digest.Hex = hex.EncodeToString(sum[:])
	if d.Digest != was {
		b.blobs[d.Digest], b.moved[was] = raw, d.Digest
	}
	return d
}

// TestDeltaOfProducts measures what has to be carried across the gap when components of the
// real core bundle change: hardly more than their layers.
func TestDeltaOfProducts(t *testing.T) {
	dist := os.Getenv("RKE2_DIST")
	if dist == "" {
		dist = filepath.Join("..", "dist")
	}
	layout, bundle := airgap.Layout(filepath.Join(dist, "oci")), filepath.Join(dist, "rke2-images-core.linux-amd64.tar")
	base, err := airgap.Open(bundle)
	if err != nil {
		t.Fatalf("%v: run `make airgap` first, or set RKE2_DIST to the folder with its products", err)
	}
	defer base.Close()
	layersOf := func(repository string, which ...int) map[v1.Hash]bool {
		out := map[v1.Hash]bool{}
		for _, img := range base.Images() {
			if !strings.Contains(img.Refs[0].String(), repository+":") {
				continue
			}
			m, _, err := base.Manifest(img.Desc.Digest)
			if err != nil {
				t.Fatal(err)
			}
			for i, l := range m.Layers {
				if slices.Contains(which, i) {
					out[l.Digest] = true
				}
			}
		}
		if len(out) != len(which) {
			t.Fatalf("%s has no layers %v", repository, which)
		}
		return out
	}
	kubernetes := layersOf("hardened-kubernetes", 1, 2, 3, 4)
	for h := range layersOf("rke2-runtime", 6, 7) {
		kubernetes[h] = true
	}
	for _, c := range []struct {
		what   string
		layers map[v1.Hash]bool
	}{
		{"runc", layersOf("rke2-runtime", 3)},
		{"containerd and its shim and ctr", layersOf("rke2-runtime", 0, 1, 2)},
		{"etcd, etcdctl and etcdutl", layersOf("hardened-etcd", 0, 1, 2)},
		{"coredns", layersOf("hardened-coredns", 1)},
		{"all six programs of Kubernetes", kubernetes},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			plan, err := airgap.NewPlan(bump(t, layout, c.layers), airgap.Selection{Sets: base.Sets(), Platform: v1.Platform{OS: "linux", Architecture: "amd64"}})
			if err != nil {
				t.Fatal(err)
			}
			next := filepath.Join(dir, filepath.Base(bundle))
			write(t, plan, next)
			d, err := airgap.MakeDelta(t.Context(), airgap.DeltaOptions{From: []string{bundle}, New: []string{next}, Output: filepath.Join(dir, "d.tar")})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("figure: delta of the core bundle (%.1f MB) when %s changed: %.2f MB, of which layers %.2f MB\n",
				float64(d.Whole.Size)/1e6, c.what, float64(d.Size)/1e6, float64(d.LayerBytes)/1e6)
			if d.Layers != len(c.layers) {
				t.Errorf("%d layers, want %d", d.Layers, len(c.layers))
			}
			if over := d.Size - d.LayerBytes; over > 2<<20 {
				t.Errorf("%d bytes beside the layers", over)
			}
			if len(c.layers) > 1 {
				return // once is enough
			}
			made, err := airgap.Assemble(t.Context(), airgap.AssembleOptions{Parts: []string{d.File}, From: []string{bundle}, Output: filepath.Join(dir, "again.tar")})
			if err != nil {
				t.Fatal(err)
			}
			if made.SHA256 != d.Whole.SHA256 {
				t.Errorf("sum %s, want %s", made.SHA256, d.Whole.SHA256)
			}
		})
	}
}

func write(t *testing.T, plan *airgap.Plan, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := plan.Write(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}
