//go:build linux

package scenarios

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// bumpedTag is the tag of the test's next etcd.
const bumpedTag = "v9.9.9-test"

// TestPartsAndDeltas boots a node from a core bundle in parts, and has it move to the next
// one, with a new etcd, by a delta: beside what it was made from, then alone.
func TestPartsAndDeltas(t *testing.T) {
	p := products(t)
	dir := t.TempDir()
	info, err := os.Stat(p.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := airgap.SplitFile(t.Context(), airgap.SplitOptions{File: p.Bundle, Size: info.Size()/3 + 8<<20, OutputDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	key, err := fake.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	etcd, next := nextRelease(t, p, key)
	app, site := indexedProbe(t, key)
	delta := filepath.Join(t.TempDir(), "rke2-images-core.delta.tar")
	made, err := airgap.MakeDelta(t.Context(), airgap.DeltaOptions{From: []string{p.Bundle}, New: []string{next}, Output: delta})
	if err != nil {
		t.Fatal(err)
	}
	if made.Layers != 1 {
		t.Errorf("the delta has %d layers", made.Layers)
	}
	report(t, "delta with one new layer of etcd, kB", made.Size/1000)

	s := &scenario{Node: newNode(t, node.Options{
		Name: "parted", Binary: p.Binary, Plugins: plugins(t, p),
		Trust:  map[string][]byte{"operator.pub": public},
		Config: map[string]any{"image-verification": "all"},
	})}
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()

	t.Run("a part is missing", func(t *testing.T) {
		drop(t, s.Node, parts[0].File, parts[1].File)
		before := listing(t, s, node.DataDir)
		words, _ := refusedStart(t, s.Node)
		missing := filepath.Base(parts[2].File)
		if !strings.Contains(words, missing+") is missing") {
			t.Errorf("the error does not name %s:\n%s", missing, words)
		}
		leftNothing(t, s.Node, before)
		t.Log(words)
	})

	t.Run("boots from parts", func(t *testing.T) {
		drop(t, s.Node, parts[2].File, parts[0].File, parts[1].File, site)
		up(ctx, t, s)
		if log := imported(ctx, t, s); !strings.Contains(log, "refused=0") {
			t.Error(log)
		}
	})
	t.Run("runs a pod by its index's digest", func(t *testing.T) {
		apply(ctx, t, s, fmt.Sprintf(probePod, "probe", app))
		if _, err := s.WaitPod(ctx, "default", "probe", stepLimit); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}

	t.Run("moves on by a delta and its base", func(t *testing.T) {
		if err := s.Stop(ctx, stopLimit); err != nil {
			t.Fatal(err)
		}
		drop(t, s.Node, p.Bundle, delta, site)
		up(ctx, t, s, "--etcd-image", etcd)
		// The layer, the config and the manifest of the new etcd, and nothing else.
		log := imported(ctx, t, s)
		for _, word := range []string{"blobs=3", "refused=0"} {
			if !strings.Contains(log, word) {
				t.Errorf("not %s: %s", word, log)
			}
		}
		t.Log(log)
		runsEtcd(ctx, t, s)
	})
	if t.Failed() {
		t.FailNow()
	}

	t.Run("starts with the delta alone", func(t *testing.T) {
		if err := s.Stop(ctx, stopLimit); err != nil {
			t.Fatal(err)
		}
		drop(t, s.Node, delta, site)
		up(ctx, t, s, "--etcd-image", etcd)
		log := imported(ctx, t, s)
		for _, word := range []string{"blobs=0", "refused=0"} {
			if !strings.Contains(log, word) {
				t.Errorf("not %s: %s", word, log)
			}
		}
		runsEtcd(ctx, t, s)
	})
	reachedNothing(ctx, t, s)
}

// runsEtcd waits until etcd runs from the next image.
func runsEtcd(ctx context.Context, t *testing.T, s *scenario) {
	t.Helper()
	err := sealed.Wait(ctx, "etcd of the next release", stepLimit, func(context.Context) error {
		out, err := s.Kubectl(ctx, "-n", "kube-system", "get", "pod", "etcd-parted", "-o", "jsonpath={.spec.containers[0].image} {.status.containerStatuses[0].ready}")
		if err == nil && (!strings.Contains(out, "hardened-etcd:"+bumpedTag) || !strings.HasSuffix(out, "true")) {
			err = fmt.Errorf("it runs from, and is ready: %s", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// up starts rke2 and waits until all of it runs.
func up(ctx context.Context, t *testing.T, s *scenario, args ...string) {
	t.Helper()
	node.NextSecond()
	if err := s.Start(ctx, args...); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
}

// drop makes bundles the only ones on the node's disk.
func drop(t *testing.T, n *node.Node, bundles ...string) {
	t.Helper()
	for i, b := range bundles {
		if i == 0 {
			place(t, n, b)
			continue
		}
		to := filepath.Join(n.Disk(node.ImagesDir), filepath.Base(b))
		if err := os.Link(b, to); err != nil {
			if err := copyFile(b, to); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// indexedProbe is a bundle with the probe's image, of which the operator signed the index,
// and the name that charts would give it: a tag and the index's digest.
func indexedProbe(t *testing.T, key fake.Key) (name, bundle string) {
	t.Helper()
	image, err := fake.Program("probe", probe(t), runtime.GOARCH, "serve")
	if err != nil {
		t.Fatal(err)
	}
	var store fake.Store
	repository, _, _ := strings.Cut(probeReference, ":")
	index, err := store.AddIndex(image, runtime.GOARCH, repository+"@")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Sign(key, probeReference, index); err != nil {
		t.Fatal(err)
	}
	bundle = filepath.Join(t.TempDir(), "site-probe.tar")
	if err := store.WriteBundle(t.Context(), bundle, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return probeReference + "@" + index.String(), bundle
}

// nextRelease is the core bundle with another etcd, whose last layer is new and which key
// signed: the image's reference and the bundle.
func nextRelease(t *testing.T, p node.Products, key fake.Key) (reference, bundle string) {
	t.Helper()
	layout := airgap.Layout(p.Layout)
	store := fake.Store{Base: layout}
	idx, err := layout.Index()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range idx.Manifests {
		switch d.Annotations[airgap.AnnotationKind] {
		case airgap.KindImage:
			ref := d.Annotations[airgap.AnnotationImageName]
			core := strings.Contains(","+d.Annotations[airgap.AnnotationSets]+",", ",core,")
			if core && !strings.Contains(ref, "hardened-etcd") {
				store.AddBase(d, ref)
			}
		case airgap.KindSignatures:
			store.AddSignatures(d)
		}
	}
	old, desc, _, err := fake.Find(layout, "hardened-etcd")
	if err != nil {
		t.Fatal(err)
	}
	reference = old[:strings.LastIndex(old, ":")] + ":" + bumpedTag
	digest, err := store.Add(bumpEtcd(t, layout, desc), reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Sign(key, reference, digest); err != nil {
		t.Fatal(err)
	}
	bundle = filepath.Join(t.TempDir(), filepath.Base(p.Bundle))
	if err := store.WriteBundle(t.Context(), bundle, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return reference, bundle
}

// bumpEtcd is the layout's etcd with a new last layer, which has a file more.
func bumpEtcd(t *testing.T, layout airgap.Layout, desc v1.Descriptor) v1.Image {
	t.Helper()
	manifest := readManifest(t, layout, desc.Digest)
	r, err := layout.Blob(manifest.Config.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	config, err := v1.ParseConfigFile(r)
	if err != nil {
		t.Fatal(err)
	}
	image := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	for i, l := range manifest.Layers[:len(manifest.Layers)-1] {
		if image, err = mutate.AppendLayers(image, storedLayer{layout, l, config.RootFS.DiffIDs[i]}); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "bumped", Mode: 0o644, Size: 7}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "bumped\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.AppendLayers(image, static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)); err != nil {
		t.Fatal(err)
	}
	bumped, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	bumped = bumped.DeepCopy()
	bumped.OS, bumped.Architecture, bumped.Config = config.OS, config.Architecture, config.Config
	if image, err = mutate.ConfigFile(image, bumped); err != nil {
		t.Fatal(err)
	}
	return image
}

// storedLayer is a layer of a layout, as it is compressed there.
type storedLayer struct {
	layout airgap.Layout
	desc   v1.Descriptor
	diff   v1.Hash
}

func (l storedLayer) Digest() (v1.Hash, error)             { return l.desc.Digest, nil }
func (l storedLayer) DiffID() (v1.Hash, error)             { return l.diff, nil }
func (l storedLayer) Compressed() (io.ReadCloser, error)   { return l.layout.Blob(l.desc.Digest) }
func (l storedLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }
func (l storedLayer) Size() (int64, error)                 { return l.desc.Size, nil }
func (l storedLayer) MediaType() (types.MediaType, error)  { return l.desc.MediaType, nil }
