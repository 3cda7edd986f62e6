package node

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/tests/fake"
)

const (
	runtimeRef = "docker.io/rancher/rke2-runtime:v9.8.7-rke2r6"
	otherRef   = "docker.io/rancher/hardened-etcd:v3"
)

// world is a release with two images, its key, and a node that trusts it.
type world struct {
	key, stranger  fake.Key
	runtime, other v1.Image
	config         config.Config
	log            *bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{log: &bytes.Buffer{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.key, err = fake.NewKey()
	must(err)
	w.stranger, err = fake.NewKey()
	must(err)
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	must(os.WriteFile(program, bytes.Repeat([]byte("kubelet"), 100_000), 0o755))
	w.runtime, err = fake.Program("bin/kubelet", program, runtime.GOARCH)
	must(err)
	w.other, err = fake.Program("etcd", program, runtime.GOARCH)
	must(err)
	public, err := w.key.Public()
	must(err)
	digest := func(i v1.Image) string {
		h, err := i.Digest()
		must(err)
		return h.String()
	}
	w.config = config.Config{
		Role: config.Server, DataDir: filepath.Join(dir, "data"), Offline: true,
		Charts:       charts.Choice{CNI: []string{"none"}, IngressController: []string{"none"}},
		Verification: trust.ModeSystem, TrustDir: filepath.Join(dir, "trust"),
		Release: images.Release{
			Version: "v9.8.7+rke2r6", PublicKeys: []string{string(public)},
			Images: []images.ReleaseImage{
				{Name: "rke2-runtime", Role: config.RoleRuntime, Reference: runtimeRef, Digests: here(digest(w.runtime))},
				{Name: "hardened-etcd", Role: config.RoleEtcd, Reference: otherRef, Digests: here(digest(w.other))},
			},
		},
	}
	must(os.MkdirAll(w.config.ImagesDir(), 0o755))
	return w
}

func (w *world) prepare(t *testing.T) (*Content, error) {
	t.Helper()
	content, _, err := prepare(t.Context(), w.config, slog.New(slog.NewTextHandler(w.log, nil)), anyHost)
	if content != nil {
		t.Cleanup(func() { _ = content.Close() })
	}
	return content, err
}

// bundle writes agent/images/NAME from what fill puts into a store.
func (w *world) bundle(t *testing.T, name string, fill func(*fake.Store) error) string {
	t.Helper()
	var store fake.Store
	if err := fill(&store); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.config.ImagesDir(), name)
	if err := store.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return path
}

// signed adds an image with a signature by key that says signedAs.
func signed(s *fake.Store, image v1.Image, ref string, key *fake.Key, signedAs string) error {
	digest, err := s.Add(image, ref)
	if err != nil || key == nil {
		return err
	}
	return s.Sign(*key, signedAs, digest)
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		out = append(out, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPrepareFromBundle(t *testing.T) {
	w := newWorld(t)
	w.bundle(t, "core.tar", func(s *fake.Store) error { return signed(s, w.runtime, runtimeRef, &w.key, runtimeRef) })
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(content.Bin(), "kubelet")); err != nil {
		t.Error(err)
	}
	digest, _ := w.runtime.Digest()
	if got, want := content.Pinned(runtimeRef), "docker.io/rancher/rke2-runtime@"+digest.String(); got != want {
		t.Errorf("pinned %s, want %s", got, want)
	}
	if got := content.Pinned("example.com/a:1"); got != "example.com/a:1" {
		t.Errorf("an image that is not the release's became %s", got)
	}
	content.config.Verification = trust.ModeOff
	if got := content.Pinned(runtimeRef); got != runtimeRef {
		t.Errorf("with verification off: %s", got)
	}
}

// TestPrepareRefuses is point 5's table: whatever is wrong, the reason is said
// and nothing is left behind.
func TestPrepareRefuses(t *testing.T) {
	within := func(text string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(raw, []byte(text))
			if at < 0 {
				t.Fatalf("no %q in the bundle", text)
			}
			raw[at+len(text)-1] ^= 1
			if err := os.WriteFile(path, raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	cases := map[string]struct {
		fill   func(*world, *fake.Store) error
		damage func(*testing.T, string)
		want   string
	}{
		"unsigned": {
			fill: func(w *world, s *fake.Store) error { return signed(s, w.runtime, runtimeRef, nil, "") },
			want: "no signature came with it",
		},
		"signed by another key": {
			fill: func(w *world, s *fake.Store) error { return signed(s, w.runtime, runtimeRef, &w.stranger, runtimeRef) },
			want: "none of the trusted keys",
		},
		"tag on another signed image": {
			fill: func(w *world, s *fake.Store) error { return signed(s, w.other, runtimeRef, &w.key, otherRef) },
			want: "this release has sha256:",
		},
		"flipped byte in a layer": {
			damage: func(t *testing.T, path string) {
				raw, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				raw[bytes.Index(raw, []byte{0x1f, 0x8b})+20] ^= 1 // the layer is gzip
				if err := os.WriteFile(path, raw, 0o644); err != nil {
					t.Fatal(err)
				}
			},
			want: "damaged: blob sha256:",
		},
		"flipped byte in the index": {damage: within(`"schemaVersion":`), want: "index.json"},
		"flipped tag in the index":  {damage: within("rke2-runtime:v9.8.7-rke2r6"), want: ""},
		"truncated": {
			damage: func(t *testing.T, path string) {
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(path, info.Size()*2/3); err != nil {
					t.Fatal(err)
				}
			},
			want: "truncated",
		},
		"empty file": {
			damage: func(t *testing.T, path string) {
				if err := os.Truncate(path, 0); err != nil {
					t.Fatal(err)
				}
			},
			want: "core.tar",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			path := w.bundle(t, "core.tar", func(s *fake.Store) error {
				if c.fill != nil {
					return c.fill(w, s)
				}
				return signed(s, w.runtime, runtimeRef, &w.key, runtimeRef)
			})
			if c.damage != nil {
				c.damage(t, path)
			}
			before := files(t, w.config.DataDir)
			_, err := w.prepare(t)
			if err == nil {
				t.Fatal("the node would have run it")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "core.tar") {
				t.Errorf("the error does not say %q and the file: %v", c.want, err)
			}
			after := files(t, w.config.DataDir)
			if !slices.Equal(before, after) {
				t.Errorf("left behind: %q, before: %q", after, before)
			}
		})
	}
}

func TestPrepareOfflineSaysWhatIsThere(t *testing.T) {
	w := newWorld(t)
	w.bundle(t, "old.tar", func(s *fake.Store) error {
		return signed(s, w.runtime, "docker.io/rancher/rke2-runtime:v9.8.6-rke2r1", &w.key, "docker.io/rancher/rke2-runtime:v9.8.6-rke2r1")
	})
	w.bundle(t, "etcd.tar", func(s *fake.Store) error { return signed(s, w.other, otherRef, &w.key, otherRef) })
	for name, content := range map[string]string{"broken.tar.gz": "no archive", "README": "?", ".hidden.tar": "?", "list.txt": ""} {
		if err := os.WriteFile(filepath.Join(w.config.ImagesDir(), name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	_, err := w.prepare(t)
	if err == nil {
		t.Fatal("no error")
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v to know", took)
	}
	t.Log(err)
	for _, want := range []string{runtimeRef, w.config.ImagesDir(), "old.tar: has docker.io/rancher/rke2-runtime:v9.8.6-rke2r1", "etcd.tar: 1 images", "broken.tar.gz: cannot be read", "README: not looked at", "offline is set"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in the error", want)
		}
	}
	for _, not := range []string{".hidden.tar", "list.txt"} {
		if strings.Contains(err.Error(), not) {
			t.Errorf("%q is in the error", not)
		}
	}
}

func TestPrepareUsesWhatWasStagedWhenTheBundleIsGone(t *testing.T) {
	w := newWorld(t)
	path := w.bundle(t, "core.tar", func(s *fake.Store) error { return signed(s, w.runtime, runtimeRef, &w.key, runtimeRef) })
	first, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := w.prepare(t)
	if err != nil || second.Bin() != first.Bin() {
		t.Fatalf("got %v, %v", second, err)
	}
	if err := os.WriteFile(filepath.Join(first.Bin(), "kubelet"), []byte("changed"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := w.prepare(t); err == nil {
		t.Error("a staged runtime that had been changed was used")
	}
}

func TestOperatorKeys(t *testing.T) {
	w := newWorld(t)
	w.config.ImageOverrides = map[string]string{config.RoleRuntime: "example.com/own/runtime:1"}
	w.bundle(t, "own.tar", func(s *fake.Store) error {
		return signed(s, w.runtime, "example.com/own/runtime:1", &w.stranger, "example.com/own/runtime:1")
	})
	if _, err := w.prepare(t); err == nil || !strings.Contains(err.Error(), "none of the trusted keys") {
		t.Errorf("before the key is trusted: %v", err)
	}
	public, err := w.stranger.Public()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(w.config.TrustDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.config.TrustDir, "ours.pub"), public, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := w.prepare(t); err != nil {
		t.Errorf("with the operator's key: %v", err)
	}
}

// TestPrepareFromRegistry pulls from a registry process on loopback.
func TestPrepareFromRegistry(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")

	w := newWorld(t)
	w.config.Offline = false
	w.config.SystemDefaultRegistry = host
	ref, err := w.config.Image(config.RoleRuntime)
	if err != nil {
		t.Fatal(err)
	}
	tag := ref.(name.Tag)
	if err := remote.Write(tag, w.runtime); err != nil {
		t.Fatal(err)
	}
	if _, err := w.prepare(t); err == nil || !strings.Contains(err.Error(), "no signature came with it") {
		t.Errorf("unsigned in the registry: %v", err)
	}

	// The signature, where cosign puts it.
	var store fake.Store
	if err := signed(&store, w.runtime, runtimeRef, &w.key, runtimeRef); err != nil {
		t.Fatal(err)
	}
	digest, _ := w.runtime.Digest()
	signature := signatureImage(t, &store, digest)
	if err := remote.Write(tag.Context().Tag(fmt.Sprintf("sha256-%s.sig", digest.Hex)), signature); err != nil {
		t.Fatal(err)
	}
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(content.Bin(), "kubelet")); err != nil {
		t.Error(err)
	}

	// What drifts is fetched again, that layer alone, and nothing stays beside.
	damage(t, filepath.Join(content.Bin(), "kubelet"))
	if _, err = w.prepare(t); err != nil || !strings.Contains(w.log.String(), "pulling a layer of an image") {
		t.Errorf("restoring: %v\n%s", err, w.log)
	}
	if left, _ := filepath.Glob(filepath.Join(w.config.DataDir, "data", ".*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	w.config.Offline = true
	w.config.DataDir = filepath.Join(t.TempDir(), "fresh")
	if _, err := w.prepare(t); err == nil || !strings.Contains(err.Error(), "no registry is asked") {
		t.Errorf("offline: %v", err)
	}
}

// signatureImage is the image in which cosign stores a signature, from a store
// that has it.
func signatureImage(t *testing.T, store *fake.Store, image v1.Hash) v1.Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "signed.tar")
	if err := store.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	archive, err := airgap.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	signatures, err := archive.Signatures(image)
	if err != nil || len(signatures) != 1 {
		t.Fatalf("%d signatures, %v", len(signatures), err)
	}
	out, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:       static.NewLayer(signatures[0].Payload, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signatures[0].Raw)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return mutate.MediaType(out, types.OCIManifestSchema1)
}

// here is a release image's digests that has this platform's alone.
func here(digest string) map[string]string {
	return map[string]string{runtime.GOOS + "/" + runtime.GOARCH: digest}
}
