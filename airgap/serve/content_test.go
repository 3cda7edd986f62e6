package serve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/distribution"
)

// TestBlobs: blobs and any part of them are the right bytes, over HTTP, TLS and HTTP/2,
// from a plain bundle, a compressed one, and a layout.
func TestBlobs(t *testing.T) {
	bundle, layout, key := fixture(t)
	raw, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := filepath.Join(t.TempDir(), "b.tar.zst")
	if err := os.WriteFile(packed, z.EncodeAll(raw, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, _ := testTLS(t)
	want := distribution.Random(2, 200_000)
	for _, c := range []struct {
		what string
		path string
		tls  bool
	}{{"plain over HTTP", bundle, false}, {"plain over TLS", bundle, true}, {"compressed", packed, false}, {"layout", layout, true}} {
		t.Run(c.what, func(t *testing.T) {
			o := Options{Paths: []string{c.path}, Catalog: catalog.Options{Policy: policy(t, key)}}
			if c.tls {
				o.TLS = conf
			}
			r := start(t, o)
			at := "/v2/rancher/etcd/blobs/" + distribution.Digest(want)
			if a := r.ask(t, "GET", at); a.status != 200 || !bytes.Equal(a.body, want) {
				t.Fatalf("%d, %d bytes", a.status, len(a.body))
			}
			dice := rand.New(rand.NewPCG(1, 2))
			for range 40 {
				from := dice.IntN(len(want))
				to := from + dice.IntN(len(want)-from)
				spec, part := fmt.Sprintf("bytes=%d-%d", from, to), want[from:to+1]
				switch dice.IntN(4) {
				case 0:
					spec, part = fmt.Sprintf("bytes=%d-", from), want[from:]
				case 1:
					spec, part = fmt.Sprintf("bytes=-%d", to+1), want[len(want)-to-1:]
				case 2:
					spec, part = fmt.Sprintf("bytes=%d-%d", from, to+len(want)), want[from:]
				}
				a := r.ask(t, "GET", at, "Range", spec)
				begin := len(want) - len(part)
				if strings.HasSuffix(spec, fmt.Sprint(to)) && !strings.HasPrefix(spec, "bytes=-") {
					begin = from
				}
				said := fmt.Sprintf("bytes %d-%d/%d", begin, begin+len(part)-1, len(want))
				if a.status != 206 || !bytes.Equal(a.body, part) || a.header.Get("Content-Range") != said {
					t.Fatalf("%s: %d, %d bytes, %q instead of %q", spec, a.status, len(a.body), a.header.Get("Content-Range"), said)
				}
			}
		})
	}
}

// TestDamaged: a blob that is not what its digest says is never sent, and the operator
// reads which file to copy again. The rest is served.
func TestDamaged(t *testing.T) {
	bundle, _, key := fixture(t)
	raw, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	layer := distribution.Random(2, 200_000)
	raw[bytes.Index(raw, layer)+100_000] ^= 1
	if err := os.WriteFile(bundle, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var said []string
	r := start(t, Options{Paths: []string{bundle}, Catalog: catalog.Options{Policy: policy(t, key)}, Access: func(a Access) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, a.Err)
	}})
	for _, header := range [][]string{nil, {"Range", "bytes=0-9"}} {
		a := r.ask(t, "GET", "/v2/rancher/etcd/blobs/"+distribution.Digest(layer), header...)
		if a.status != 500 || a.code() != "UNKNOWN" || bytes.Contains(a.body, layer[:10]) {
			t.Errorf("%d %.200q", a.status, a.body)
		}
	}
	if a := r.ask(t, "GET", "/v2/rancher/etcd/blobs/"+distribution.Digest(distribution.Random(1, 1<<20))); a.status != 200 || len(a.body) != 1<<20 {
		t.Errorf("%d", a.status)
	}
	until(t, "three lines of the log", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(said) == 3
	})
	if !strings.Contains(said[0], "damaged") || !strings.Contains(said[0], bundle+" has the digest") || !strings.Contains(said[1], "copy the file again") || said[2] != "" {
		t.Errorf("%q", said)
	}
}

// TestExpandedDamaged: what was expanded from a compressed bundle and went bad since is
// not sent, and named.
func TestExpandedDamaged(t *testing.T) {
	bundle, _, key := fixture(t)
	raw, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed, work := filepath.Join(t.TempDir(), "b.tar.zst"), t.TempDir()
	if err := os.WriteFile(packed, z.EncodeAll(raw, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	r := start(t, Options{Paths: []string{packed}, Catalog: catalog.Options{Policy: policy(t, key), Unpack: work}, Access: func(a Access) { said <- a.Err }})
	digest := distribution.Digest(distribution.Random(2, 200_000))
	expanded := filepath.Join(work, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
	if err := os.WriteFile(expanded, make([]byte, 200_000), 0o600); err != nil {
		t.Fatal(err)
	}
	a := r.ask(t, "GET", "/v2/rancher/etcd/blobs/"+digest)
	if err := <-said; a.status != 500 || !strings.Contains(err, expanded+" (expanded from "+packed) {
		t.Errorf("%d, %q", a.status, err)
	}
}

// TestVerifiedOnly: without a trusted signature nothing is served, and the reason is
// there; with the policy off everything is.
func TestVerifiedOnly(t *testing.T) {
	bundle, _, _ := fixture(t)
	_, _, another := fixture(t)
	for _, c := range []struct {
		what   string
		policy trust.Policy
		served int
	}{
		{"another key", policy(t, another), 0},
		{"no key", trust.Policy{}, 0},
		{"off", trust.Policy{Mode: trust.ModeOff}, 2},
	} {
		var load Load
		r := start(t, Options{Paths: []string{bundle}, Catalog: catalog.Options{Policy: c.policy}, Loaded: func(l Load) { load = l }})
		status := r.ask(t, "GET", "/v2/rancher/etcd/manifests/v1").status
		blob := r.ask(t, "GET", "/v2/rancher/etcd/blobs/"+distribution.Digest(distribution.Random(2, 200_000))).status
		if len(load.Items) != c.served || len(load.Refused) != 2-c.served || (status == 200) != (c.served > 0) || (blob == 200) != (c.served > 0) {
			t.Errorf("%s: %d items, refused %v, %d, %d", c.what, len(load.Items), load.Refused, status, blob)
		}
	}
}

// TestPages: lists in pieces are the list.
func TestPages(t *testing.T) {
	layout := filepath.Join(t.TempDir(), "oci")
	var images []distribution.Image
	for i := range 7 {
		images = append(images, distribution.Image{Ref: fmt.Sprintf("docker.io/rancher/app:v%d", i), Platforms: []string{"amd64"}, Layers: [][]byte{{byte(i)}}})
		images = append(images, distribution.Image{Ref: fmt.Sprintf("docker.io/rancher/app%d:v1", i), Platforms: []string{"amd64"}, Layers: [][]byte{{byte(i)}}})
	}
	key := distribution.WriteLayout(t, layout, images...)
	r := start(t, Options{Paths: []string{layout}, Catalog: catalog.Options{Policy: policy(t, key)}})
	read := func(path, what string) []string {
		var out []string
		for n := 0; path != ""; n++ {
			if n > 100 {
				t.Fatal("it does not end")
			}
			a := r.ask(t, "GET", path)
			var body map[string]json.RawMessage
			var part []string
			if err := json.Unmarshal(a.body, &body); err != nil || json.Unmarshal(body[what], &part) != nil {
				t.Fatalf("%s: %s", path, a.body)
			}
			out = append(out, part...)
			path = ""
			if link := a.header.Get("Link"); link != "" {
				path = link[1:strings.Index(link, ">")]
			}
		}
		return out
	}
	for path, what := range map[string]string{"/v2/rancher/app/tags/list": "tags", "/v2/_catalog": "repositories"} {
		whole := read(path, what)
		if len(whole) < 7 || !slices.IsSorted(whole) {
			t.Errorf("%s: %q", path, whole)
		}
		for _, n := range []int{1, 2, 3, 1000} {
			if got := read(fmt.Sprintf("%s?n=%d", path, n), what); !slices.Equal(got, whole) {
				t.Errorf("%s in pieces of %d: %q", path, n, got)
			}
		}
		if got := read(path+"?last="+whole[2], what); !slices.Equal(got, whole[3:]) {
			t.Errorf("%s after %s: %q", path, whole[2], got)
		}
		if got := read(path+"?n=0", what); len(got) != 0 {
			t.Errorf("%s, none: %q", path, got)
		}
	}
}

// TestReferrers: manifests that name another as their subject are listed with it, and can
// be asked for by their kind.
func TestReferrers(t *testing.T) {
	layout := filepath.Join(t.TempDir(), "oci")
	key := distribution.WriteLayout(t, layout, distribution.Image{Ref: etcd, Platforms: []string{"amd64"}, Flat: true, Layers: [][]byte{{1}}})
	idx, err := airgap.Layout(layout).Index()
	if err != nil {
		t.Fatal(err)
	}
	subject := idx.Manifests[0]
	about := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.example.report")
	about = mutate.Annotations(about, map[string]string{"who": "me"}).(v1.Image)
	about = mutate.Subject(about, v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest}).(v1.Image)
	err = ggcr.Path(layout).AppendImage(about, ggcr.WithAnnotations(map[string]string{
		airgap.AnnotationKind: airgap.KindReferrer, airgap.AnnotationSigns: subject.Digest.String(),
	}))
	if err != nil {
		t.Fatal(err)
	}
	want, err := partial.Descriptor(about)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, Options{Paths: []string{layout}, Catalog: catalog.Options{Policy: policy(t, key)}})
	for query, n := range map[string]int{"": 1, "?artifactType=application/vnd.example.report": 1, "?artifactType=other": 0} {
		a := r.ask(t, "GET", "/v2/rancher/etcd/referrers/"+subject.Digest.String()+query)
		got, err := v1.ParseIndexManifest(bytes.NewReader(a.body))
		if err != nil || a.header.Get("Content-Type") != string(types.OCIImageIndex) || len(got.Manifests) != n || (query != "") != (a.header.Get("OCI-Filters-Applied") == "artifactType") {
			t.Fatalf("%s: %v %s %v", query, err, a.body, a.header)
		}
		if n == 1 && (got.Manifests[0].Digest != want.Digest || got.Manifests[0].ArtifactType != "application/vnd.example.report" || got.Manifests[0].Annotations["who"] != "me") {
			t.Errorf("%+v", got.Manifests[0])
		}
	}
	if a := r.ask(t, "GET", "/v2/rancher/etcd/manifests/"+want.Digest.String()); a.status != http.StatusOK {
		t.Errorf("%d", a.status)
	}
}

// TestRegistries: one path at several registries.
func TestRegistries(t *testing.T) {
	layout := filepath.Join(t.TempDir(), "oci")
	var images []distribution.Image
	for i, ref := range []string{"docker.io/a/x:v1", "quay.io/a/x:v1", "quay.io/a/y:v1", "ghcr.io/a/y:v1", "quay.io/a/z:v1"} {
		images = append(images, distribution.Image{Ref: ref, Platforms: []string{"amd64"}, Layers: [][]byte{{byte(i)}}})
	}
	key := distribution.WriteLayout(t, layout, images...)
	r := start(t, Options{Paths: []string{layout}, Catalog: catalog.Options{Policy: policy(t, key)}})
	digest := func(path string) string {
		return r.ask(t, "HEAD", "/v2/"+path).header.Get("Docker-Content-Digest")
	}
	docker, quay := digest("docker.io/a/x/manifests/v1"), digest("quay.io/a/x/manifests/v1")
	if docker == "" || quay == "" || docker == quay || digest("a/x/manifests/v1") != docker || digest("a/x/manifests/v1?ns=quay.io") != quay ||
		digest("a/z/manifests/v1") != digest("quay.io/a/z/manifests/v1") || digest("a/x/manifests/v1?ns=registry-1.docker.io") != docker {
		t.Errorf("%s %s", docker, quay)
	}
	if a := r.ask(t, "GET", "/v2/a/y/manifests/v1"); a.status != 404 || !strings.Contains(string(a.body), "ghcr.io/a/y, quay.io/a/y") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := r.ask(t, "GET", "/v2/_catalog"); string(a.body) != `{"repositories":["a/x","a/z","ghcr.io/a/y","quay.io/a/x","quay.io/a/y"]}` {
		t.Errorf("%s", a.body)
	}
}
