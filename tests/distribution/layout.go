package distribution

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/build/sign"
)

// Image is an image for a layout, made of layers of random bytes.
type Image struct {
	Ref       string
	Layers    [][]byte // of each platform alike, but for the config
	Tars      [][]byte // layers too: compressed, with gzip and zstd in turn
	Platforms []string // architectures; one: a manifest, more: an index
	Flat      bool     // one platform, and no index
	Sets      string   // that it is in, joined by commas
}

// Random gives size bytes that can't be compressed, the same for the same seed.
func Random(seed byte, size int) []byte {
	out := make([]byte, size)
	// A ChaCha8 never fails.
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(out)
	return out
}

// WriteLayout makes an OCI layout of images as the pipeline does, signed with a key of
// its own, with one attestation on each manifest. It returns the public key's file.
func WriteLayout(t testing.TB, dir string, images ...Image) (publicKey string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keys := filepath.Join(t.TempDir(), "development.key")
	key, err := sign.LoadDevelopment(t.Context(), keys)
	must(err)
	l, err := layout.Open(dir)
	must(err)
	defer l.Close()
	put := func(mediaType types.MediaType, data []byte) v1.Descriptor {
		t.Helper()
		h, err := l.Put(data)
		must(err)
		return v1.Descriptor{MediaType: mediaType, Digest: h, Size: int64(len(data))}
	}
	encode := func(v any) []byte {
		t.Helper()
		data, err := json.Marshal(v)
		must(err)
		return data
	}
	var entries, said []v1.Descriptor
	say := func(kind string, of v1.Hash, s sign.Signature, err error) {
		t.Helper()
		must(err)
		for _, b := range append(s.Blobs, s.Manifest) {
			put("", b)
		}
		d := s.Descriptor
		d.Annotations = map[string]string{layout.Kind: kind, layout.Signs: of.String()}
		said = append(said, d)
	}
	for _, img := range images {
		colon := strings.LastIndex(img.Ref, ":") // a registry may have a port
		repo, tag := img.Ref[:colon], img.Ref[colon+1:]
		var manifests []v1.Descriptor
		for _, arch := range img.Platforms {
			config := v1.ConfigFile{OS: "linux", Architecture: arch, RootFS: v1.RootFS{Type: "layers"}}
			m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
			for _, b := range img.Layers {
				d := put(types.OCILayerZStd, b)
				m.Layers = append(m.Layers, d)
				config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d.Digest)
			}
			for i, b := range img.Tars {
				mediaType, packed := pack(t, i, b)
				m.Layers = append(m.Layers, put(mediaType, packed))
				plain, _, err := v1.SHA256(bytes.NewReader(b))
				must(err)
				config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, plain)
			}
			m.Config = put(types.OCIConfigJSON, encode(config))
			d := put(types.OCIManifestSchema1, encode(m))
			d.Platform = &v1.Platform{OS: "linux", Architecture: arch}
			manifests = append(manifests, d)
		}
		root := manifests[0]
		subjects := manifests
		if !img.Flat {
			root = put(types.OCIImageIndex, encode(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: manifests}))
			subjects = append([]v1.Descriptor{root}, manifests...)
		}
		for i, d := range subjects {
			s, err := key.Sign(t.Context(), sign.Claim{Repository: repo, Tag: tag, Manifest: d.Digest})
			say(layout.KindSigs, d.Digest, s, err)
			if i > 0 || img.Flat {
				statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":%q,"digest":{"sha256":%q}}],"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}`, repo, d.Digest.Hex)
				s, err := key.Attest(t.Context(), [][]byte{[]byte(statement)})
				say("dev.cosignproject.cosign/atts", d.Digest, s, err)
			}
		}
		root.Annotations = map[string]string{layout.Kind: layout.KindImage, layout.RefName: img.Ref, layout.ImageName: img.Ref}
		if img.Sets != "" {
			root.Annotations[layout.Sets] = img.Sets
		}
		entries = append(entries, root)
	}
	must(l.Commit(append(entries, said...)))
	pem, err := key.PublicPEM()
	must(err)
	publicKey = filepath.Join(filepath.Dir(keys), "cosign.pub")
	must(os.WriteFile(publicKey, pem, 0o644))
	return publicKey
}

// pack compresses a layer.
func pack(t testing.TB, i int, data []byte) (types.MediaType, []byte) {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	mediaType := types.OCILayer
	if i%2 == 1 {
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w, mediaType = z, types.OCILayerZStd
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return mediaType, b.Bytes()
}

// Digest is the SHA-256 of bytes, as registries write it.
func Digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
