//go:build linux

package scenarios

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// runtimeImage is the one that is extracted and run on the node itself.
const runtimeImage = "rke2-runtime"

// TestUntrustedBundlesAreRefused puts bundles before a node, with the default
// verification, that are wrong in one way each. Every one is refused with its
// reason, and the node's disk is as it was.
func TestUntrustedBundlesAreRefused(t *testing.T) {
	p := products(t)
	layout := airgap.Layout(p.Layout)
	reference, runtimeDesc, signatures, err := fake.Find(layout, runtimeImage)
	if err != nil {
		t.Fatal(err)
	}
	if len(signatures) == 0 {
		t.Fatalf("%s is not signed in %s", reference, p.Layout)
	}
	etcdReference, etcd, etcdSignatures, err := fake.Find(layout, "hardened-etcd")
	if err != nil {
		t.Fatal(err)
	}
	// Offline, a node refuses to start for want of the images that these bundles lack.
	n := newNode(t, node.Options{Name: "wary", Binary: p.Binary, Config: map[string]any{"offline": false}})
	// That there is no registry is known at once.
	if out, err := n.Command(t.Context(), "sh", "-ec", "echo 127.0.0.1 index.docker.io >> /etc/hosts").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	work := t.TempDir()

	t.Run("signatures", func(t *testing.T) {
		for _, c := range []struct {
			name  string
			store func(*fake.Store) error
			want  []string
		}{
			{"unsigned", func(s *fake.Store) error {
				s.AddBase(runtimeDesc, reference)
				return nil
			}, []string{"unsigned", reference}},
			{"signed by another key", func(s *fake.Store) error {
				s.AddBase(runtimeDesc, reference)
				key, err := fake.NewKey()
				if err != nil {
					return err
				}
				return s.Sign(key, reference, runtimeDesc.Digest)
			}, []string{"trusted key", reference}},
			{"another image under the runtime's tag", func(s *fake.Store) error {
				s.AddBase(etcd, reference)
				for _, d := range etcdSignatures {
					s.AddSignatures(d)
				}
				return nil
			}, []string{reference, etcd.Digest.Hex}},
			{"signatures of another image", func(s *fake.Store) error {
				s.AddBase(runtimeDesc, reference)
				for _, d := range etcdSignatures {
					d.Annotations = map[string]string{airgap.AnnotationKind: airgap.KindSignatures, airgap.AnnotationSigns: runtimeDesc.Digest.String()}
					s.AddSignatures(d)
				}
				return nil
			}, []string{reference, etcd.Digest.Hex}},
		} {
			t.Run(c.name, func(t *testing.T) {
				store := fake.Store{Base: layout}
				if err := c.store(&store); err != nil {
					t.Fatal(err)
				}
				bundle := filepath.Join(work, "bundle.tar")
				if err := store.WriteBundle(t.Context(), bundle, runtime.GOARCH); err != nil {
					t.Fatal(err)
				}
				refused(t, n, bundle, c.want...)
			})
		}
	})

	// From here on the bundle is right but for one damage, which is done and
	// undone in place.
	good := fake.Store{Base: layout}
	good.AddBase(runtimeDesc, reference)
	for _, d := range signatures {
		good.AddSignatures(d)
	}
	bundle := filepath.Join(work, "damaged.tar")
	if err := good.WriteBundle(t.Context(), bundle, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	entries := tarEntries(t, bundle)
	manifest := readManifest(t, layout, runtimeDesc.Digest)

	t.Run("one byte", func(t *testing.T) {
		type flip struct {
			name, entry string
			at          int64 // in the entry; negative: in its header
		}
		flips := []flip{
			{"of oci-layout", "oci-layout", 5},
			{"of index.json", "index.json", entries["index.json"].size / 2},
			{"of manifest.json", "manifest.json", entries["manifest.json"].size / 2},
			{"of a tar header", blobEntry(runtimeDesc.Digest), -500},
			{"of the manifest", blobEntry(runtimeDesc.Digest), runtimeDesc.Size / 2},
			{"of the configuration", blobEntry(manifest.Config.Digest), manifest.Config.Size / 2},
			{"of the signature's manifest", blobEntry(signatures[0].Digest), signatures[0].Size / 2},
		}
		for _, l := range readManifest(t, layout, signatures[0].Digest).Layers {
			flips = append(flips, flip{"of the signature's payload", blobEntry(l.Digest), l.Size / 2})
		}
		for i, l := range manifest.Layers {
			flips = append(flips, flip{fmt.Sprintf("of layer %d", i), blobEntry(l.Digest), l.Size / 2})
		}
		last := manifest.Layers[len(manifest.Layers)-1]
		flips = append(flips, flip{"at the very end of the last layer", blobEntry(last.Digest), last.Size - 1})
		for _, f := range flips {
			t.Run(f.name, func(t *testing.T) {
				e, ok := entries[f.entry]
				if !ok {
					t.Fatalf("the bundle has no %s", f.entry)
				}
				flipByte(t, bundle, e.offset+f.at)
				defer flipByte(t, bundle, e.offset+f.at)
				refused(t, n, bundle, "damaged.tar", "damaged:")
			})
		}
	})

	t.Run("cut short", func(t *testing.T) {
		info, err := os.Stat(bundle)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name string
			size int64
		}{
			{"in the index", entries["index.json"].offset + 10},
			{"in the middle", info.Size() / 2},
			{"before the trailer", info.Size() - 1024},
			{"by one byte", info.Size() - 1},
			{"to nothing", 0},
		} {
			t.Run(c.name, func(t *testing.T) {
				short := filepath.Join(work, "short.tar")
				if err := copyFile(bundle, short); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(short, c.size); err != nil {
					t.Fatal(err)
				}
				refused(t, n, short, "short.tar", "truncated:")
			})
		}
	})

	t.Run("an image that is not the runtime's", func(t *testing.T) { damagedControlPlane(t, p, etcdReference, etcd) })

	// The same bundle, undamaged, is not refused: else all above would prove
	// nothing.
	t.Run("undamaged", func(t *testing.T) {
		place(t, n, bundle)
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := sealed.Wait(t.Context(), "the runtime to be staged", stepLimit, func(context.Context) error {
			log, err := n.Log()
			if err == nil && !strings.Contains(log, "the runtime is ready") {
				err = errors.New("the log does not say so")
			}
			return err
		})
		if err != nil {
			t.Errorf("%v\n%s", err, n.LastWords())
		}
		if _, err := os.Stat(n.Path(node.DataDir + "/data")); err != nil {
			t.Errorf("the runtime is not staged: %v\n%s", err, n.LastWords())
		}
		if err := n.Stop(t.Context(), stopLimit); err != nil {
			t.Error(err)
		}
	})
}

// damagedControlPlane: the runtime image is right, an image that the runtime's
// containerd would run has one wrong byte. Nothing of it may stay in containerd.
func damagedControlPlane(t *testing.T, p node.Products, reference string, image v1.Descriptor) {
	bundle := filepath.Join(t.TempDir(), "rke2-images-core.tar")
	if err := copyFile(p.Bundle, bundle); err != nil {
		t.Fatal(err)
	}
	layer := readManifest(t, airgap.Layout(p.Layout), image.Digest).Layers[0]
	e, ok := tarEntries(t, bundle)[blobEntry(layer.Digest)]
	if !ok {
		t.Fatalf("the bundle has no layer %s", layer.Digest)
	}
	flipByte(t, bundle, e.offset+layer.Size/2)
	n := newNode(t, node.Options{Name: "wounded", Binary: p.Binary, Bundles: []string{bundle}})
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := n.Wait(t.Context(), stepLimit)
	var failed *sealed.ExitError
	if !errors.As(err, &failed) {
		t.Errorf("rke2 ended with %v", err)
	}
	words := n.LastError()
	for _, w := range []string{reference, filepath.Base(bundle), layer.Digest.Hex} {
		if !strings.Contains(words, w) {
			t.Errorf("the error does not name %s:\n%s", w, words)
		}
	}
	for _, file := range []string{"blobs/sha256/" + layer.Digest.Hex, "blobs/sha256/" + image.Digest.Hex} {
		if _, err := os.Stat(n.Path(content + "/" + file)); err == nil {
			t.Errorf("%s is in containerd", file)
		}
	}
	if left, err := os.ReadDir(n.Path(content + "/ingest")); err == nil && len(left) > 0 {
		t.Errorf("%d unfinished pieces are left in containerd", len(left))
	}
	if manifests, err := os.ReadDir(n.Path(node.DataDir + "/agent/pod-manifests")); err == nil && len(manifests) > 0 {
		t.Errorf("static pods were written: %v", manifests)
	}
	rest, err := n.OtherProcesses()
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range rest {
		t.Errorf("process %d is left: %s", left.Pid, strings.Join(left.Args, " "))
	}
}

// refused starts rke2 with one bundle and checks that it does not run it, says
// why, and leaves the disk as it was.
func refused(t *testing.T, n *node.Node, bundle string, want ...string) {
	t.Helper()
	place(t, n, bundle)
	before, err := n.Listing(node.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	words, _ := refusedStart(t, n)
	for _, w := range want {
		if !strings.Contains(words, w) {
			t.Errorf("the error does not say %q:\n%s", w, words)
		}
	}
	leftNothing(t, n, before)
	if !t.Failed() {
		t.Log(words)
	}
}

// place makes a bundle the only one on the node's disk.
func place(t *testing.T, n *node.Node, bundle string) {
	t.Helper()
	dir := n.Disk(node.ImagesDir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, filepath.Base(bundle))
	// The same bytes under two names, where the file system has that.
	if err := os.Link(bundle, to); err != nil {
		if err := copyFile(bundle, to); err != nil {
			t.Fatal(err)
		}
	}
}

// refusedStart starts rke2, which must end with an error of its own, and returns
// the error and how long it took.
func refusedStart(t *testing.T, n *node.Node) (string, time.Duration) {
	t.Helper()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := n.Wait(t.Context(), stepLimit)
	took := time.Since(n.Started())
	var failed *sealed.ExitError
	if !errors.As(err, &failed) || failed.Status.Signaled() {
		t.Fatalf("rke2 was to refuse; it ended with: %v\n%s", err, n.LastWords())
	}
	words := n.LastError()
	if words == "" {
		t.Fatalf("rke2 ended without an error message:\n%s", n.LastWords())
	}
	for _, trace := range []string{"goroutine ", "panic:"} {
		if strings.Contains(words, trace) {
			t.Errorf("the error is a stack trace:\n%s", words)
		}
	}
	return words, took
}

// leftNothing compares the node's data folder with what it was.
func leftNothing(t *testing.T, n *node.Node, before map[string]string) {
	t.Helper()
	after, err := n.Listing(node.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if d := node.Difference(before, after); len(d) > 0 {
		t.Errorf("the data folder changed:\n%s", strings.Join(d, "\n"))
	}
	if all, err := n.Processes(); err != nil || len(all) > 0 {
		t.Errorf("processes are left: %v, %v", all, err)
	}
}

type tarEntry struct{ offset, size int64 }

// tarEntries finds where each entry's content is.
func tarEntries(t *testing.T, path string) map[string]tarEntry {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entries := map[string]tarEntry{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			t.Fatal(err)
		}
		entries[h.Name] = tarEntry{at, h.Size}
	}
}

func flipByte(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func blobEntry(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func readManifest(t *testing.T, src airgap.Source, h v1.Hash) *v1.Manifest {
	t.Helper()
	r, err := src.Blob(h)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	m, err := v1.ParseManifest(r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
