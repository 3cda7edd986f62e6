package airgap

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	mrand "math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/rancher/rke2/airgap/trust"
)

var amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}

// fixture is a layout as rke2-build writes it, of random images, signed by a key
// made for the test.
type fixture struct {
	t    testing.TB
	dir  layout.Path
	priv *ecdsa.PrivateKey
	key  trust.Key
	pub  []byte // PEM
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	der, err := x509.MarshalPKIXPublicKey(priv.Public())
	noError(t, err)
	pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	key, err := trust.ParseKey(pub, trust.ReleaseSource)
	noError(t, err)
	dir, err := layout.Write(t.TempDir(), empty.Index)
	noError(t, err)
	return &fixture{t, dir, priv, key, pub}
}

// image makes a random image of the platform; the seed fixes its bytes.
func image(t testing.TB, seed, layerSize int64, layers int, p v1.Platform) v1.Image {
	t.Helper()
	img, err := random.Image(layerSize, int64(layers), random.WithSource(mrand.NewSource(seed)))
	noError(t, err)
	img = mutate.MediaType(mutate.ConfigMediaType(img, types.OCIConfigJSON), types.OCIManifestSchema1)
	cfg, err := img.ConfigFile()
	noError(t, err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = p.OS, p.Architecture
	img, err = mutate.ConfigFile(img, cfg)
	noError(t, err)
	return img
}

// add puts an image into the layout under a name.
func (f *fixture) add(img v1.Image, ref, sets string) v1.Hash {
	f.t.Helper()
	noError(f.t, f.dir.AppendImage(img, layout.WithAnnotations(map[string]string{
		AnnotationKind: KindImage, AnnotationImageName: ref, AnnotationRefName: ref, AnnotationSets: sets,
	})))
	h, err := img.Digest()
	noError(f.t, err)
	return h
}

// sign adds a signature manifest for an image.
func (f *fixture) sign(ref string, h v1.Hash, claims map[string]any) {
	f.t.Helper()
	noError(f.t, f.dir.AppendImage(f.signature(ref, h, claims), layout.WithAnnotations(map[string]string{
		AnnotationKind: KindSignatures, AnnotationSigns: h.String(),
	})))
}

func (f *fixture) signature(ref string, h v1.Hash, claims map[string]any) v1.Image {
	f.t.Helper()
	tag, err := name.NewTag(ref)
	noError(f.t, err)
	// cosign takes the repository's name as it is written.
	simple := payload.SimpleContainerImage{Optional: claims}
	simple.Critical.Type = payload.CosignSignatureType
	simple.Critical.Identity.DockerReference = strings.TrimSuffix(tag.String(), ":"+tag.TagStr())
	simple.Critical.Image.DockerManifestDigest = h.String()
	body, err := json.Marshal(simple)
	noError(f.t, err)
	sum := sha256.Sum256(body)
	raw, err := f.priv.Sign(nil, sum[:], crypto.SHA256)
	noError(f.t, err)
	img, err := mutate.Append(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), mutate.Addendum{
		Layer:       static.NewLayer(body, simpleSigning),
		Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(raw)},
	})
	noError(f.t, err)
	return img
}

// simple is a layout with two images in set core, one in another set and one for
// another platform, all signed.
func simple(t testing.TB, layerSize int64) *fixture {
	f := newFixture(t)
	for i, one := range []struct {
		ref, sets string
		platform  v1.Platform
	}{
		{"docker.io/rancher/rke2-runtime:v1.35.4-rke2r1", "core", amd64},
		{"docker.io/rancher/hardened-etcd:v3.6.8-rke2r1", "core,other", amd64},
		{"docker.io/rancher/extra:v1", "other", amd64},
		{"docker.io/rancher/rke2-runtime:v1.35.4-rke2r1-arm64", "core", v1.Platform{OS: "linux", Architecture: "arm64"}},
	} {
		img := image(t, int64(i+1), layerSize, 2, one.platform)
		h := f.add(img, one.ref, one.sets)
		_, tag, _ := strings.Cut(one.ref, ":")
		f.sign(one.ref, h, map[string]any{trust.ClaimTag: tag})
	}
	return f
}

func core() Selection { return Selection{Sets: []string{"core"}, Platform: amd64} }

func (f *fixture) bytes(sel Selection) []byte {
	f.t.Helper()
	var b bytes.Buffer
	noError(f.t, Write(f.t.Context(), &b, Layout(f.dir), sel))
	return b.Bytes()
}

// file writes b to a new file of that name.
func file(t testing.TB, base string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), base)
	noError(t, os.WriteFile(p, b, 0o600))
	return p
}

func mustOpen(t testing.TB, path string) *Archive {
	t.Helper()
	a, err := Open(path)
	noError(t, err)
	t.Cleanup(func() { noError(t, a.Close()) })
	return a
}

// readAll opens the archive and reads everything that it has, verified.
func readAll(path string) error {
	a, err := Open(path)
	if err != nil {
		return err
	}
	defer a.Close()
	return a.Walk(context.Background(), nil, func(_ v1.Descriptor, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
