package serve

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/distribution"
)

const (
	etcd = "docker.io/rancher/etcd:v1"
	kube = "docker.io/rancher/kubernetes:v1"
)

// fixture writes a bundle for amd64 of two signed images that share a layer, and the
// layout that it is of.
func fixture(t testing.TB) (bundle, layout, key string) {
	t.Helper()
	dir := t.TempDir()
	layout = filepath.Join(dir, "oci")
	shared := distribution.Random(1, 1<<20)
	both := []string{"amd64", "arm64"}
	key = distribution.WriteLayout(t, layout,
		distribution.Image{Ref: etcd, Platforms: both, Layers: [][]byte{shared, distribution.Random(2, 200_000)}},
		distribution.Image{Ref: kube, Platforms: both, Layers: [][]byte{shared, distribution.Random(3, 300_000)}},
	)
	return bundleOf(t, layout, "amd64"), layout, key
}

// bundleOf writes a bundle of a layout's images for a platform.
func bundleOf(t testing.TB, layout, architecture string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images-"+architecture+".tar")
	writeBundle(t, path, layout, architecture)
	return path
}

func writeBundle(t testing.TB, path, layout, architecture string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = airgap.Write(t.Context(), f, airgap.Layout(layout), airgap.Selection{Platform: v1.Platform{OS: "linux", Architecture: architecture}, AllowUnsigned: true})
	if err != nil {
		t.Fatal(err)
	}
}

// policy trusts a key.
func policy(t testing.TB, key string) trust.Policy {
	t.Helper()
	k, err := trust.LoadKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Policy{Mode: trust.ModeAll, OperatorKeys: []trust.Key{k}}
}

// running is a server on a port of its own.
type running struct {
	*Server
	addr string
	http *http.Client
	tls  bool
}

// start starts a server, which ends with the test. Of the options Paths and a policy are
// needed.
func start(t testing.TB, o Options) *running {
	t.Helper()
	if o.Catalog.Unpack == "" {
		o.Catalog.Unpack = t.TempDir()
	}
	if o.Grace == 0 {
		o.Grace = 5 * time.Second
	}
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Server: s, addr: l.Addr().String(), tls: o.TLS != nil, http: &http.Client{}}
	if o.TLS != nil {
		pool := x509.NewCertPool()
		pool.AddCert(o.TLS.Certificates[0].Leaf)
		r.http.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	}
	serveUntilEnd(t, s, l)
	return r
}

func serveUntilEnd(t testing.TB, s *Server, l net.Listener) {
	t.Helper()
	ctx, stop := contextOf(t)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// testTLS is a TLS configuration and the file of its certificate.
func testTLS(t testing.TB) (*tls.Config, string) {
	t.Helper()
	dir := t.TempDir()
	pair, err := SelfSigned([]string{"localhost", "127.0.0.1"}, dir)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, filepath.Join(dir, "serve.crt")
}

func (r *running) url(format string, args ...any) string {
	scheme := "http"
	if r.tls {
		scheme = "https"
	}
	return scheme + "://" + r.addr + fmt.Sprintf(format, args...)
}

// reply is an answer that was read whole.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r *running) ask(t testing.TB, method, path string, header ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url("%s", path), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, body}
}

// code is the first error code of an answer.
func (a reply) code() string {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.body, &e) != nil || len(e.Errors) == 0 || e.Errors[0].Message == "" {
		return ""
	}
	return e.Errors[0].Code
}

// manifestOf reads a manifest, as one of an image or of an index.
func (r *running) manifestOf(t testing.TB, repo, reference string) (m struct {
	Manifests, Layers []v1.Descriptor
	Config            v1.Descriptor
}) {
	t.Helper()
	a := r.ask(t, http.MethodGet, "/v2/"+repo+"/manifests/"+reference)
	if a.status != http.StatusOK {
		t.Fatalf("%s:%s: %d %s", repo, reference, a.status, a.body)
	}
	if err := json.Unmarshal(a.body, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestAnswers: the form of answers, and their errors.
func TestAnswers(t *testing.T) {
	bundle, _, key := fixture(t)
	conf, _ := testTLS(t)
	r := start(t, Options{Paths: []string{bundle}, Catalog: catalog.Options{Policy: policy(t, key)}, TLS: conf})
	m := r.manifestOf(t, "rancher/etcd", "v1")
	layer := m.Layers[1]
	blob := "/v2/rancher/etcd/blobs/" + layer.Digest.String()
	of := func(s string) string { return strings.ReplaceAll(s, "LAYER", layer.Digest.String()) }
	zeros := strings.Repeat("0", 64)
	for _, c := range []struct {
		method, path string
		header       []string
		status       int
		code         string
	}{
		{"GET", "/v2/", nil, 200, ""},
		{"GET", "/v2", nil, 200, ""},
		{"HEAD", "/v2/rancher/etcd/manifests/v1", nil, 200, ""},
		{"GET", "/v2/docker.io/rancher/etcd/manifests/v1", nil, 200, ""},
		{"GET", "/v2/rancher/etcd/manifests/v1?ns=docker.io", nil, 200, ""},
		{"GET", "/v2/rancher/etcd/manifests/v2", nil, 404, "MANIFEST_UNKNOWN"},
		{"HEAD", "/v2/rancher/etcd/manifests/v2", nil, 404, ""},
		{"GET", "/v2/rancher/etcd/manifests/-x", nil, 400, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/rancher/etcd/manifests/sha256:" + zeros, nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/rancher/etcd/manifests/sha256:short", nil, 400, "DIGEST_INVALID"},
		{"GET", "/v2/rancher/etcd/manifests/sha512:" + zeros + zeros, nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/rancher/none/manifests/v1", nil, 404, "NAME_UNKNOWN"},
		{"GET", "/v2/rancher/none/tags/list", nil, 404, "NAME_UNKNOWN"},
		{"GET", "/v2/Rancher/etcd/manifests/v1", nil, 400, "NAME_INVALID"},
		{"GET", "/v2/" + strings.Repeat("a/", 200) + "x/manifests/v1", nil, 400, "NAME_INVALID"},
		{"GET", "/v2/../../etc/manifests/passwd", nil, 400, "NAME_INVALID"},
		{"GET", "/v2/rancher/kubernetes/blobs/LAYER", nil, 404, "BLOB_UNKNOWN"}, // of another repository
		{"GET", "/v2/rancher/etcd/blobs/sha256:" + zeros, nil, 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/rancher/etcd/blobs/x", nil, 400, "DIGEST_INVALID"},
		{"GET", "/v2/rancher/etcd/tags/list?n=x", nil, 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/rancher/etcd/referrers/x", nil, 400, "DIGEST_INVALID"},
		{"GET", "/v2/rancher/etcd/referrers/sha256:" + zeros, nil, 200, ""},
		{"GET", "/v2/rancher/etcd/what/ever", nil, 404, "UNKNOWN"},
		{"POST", "/v2/rancher/etcd/blobs/uploads/", nil, 405, "UNSUPPORTED"},
		{"PUT", "/v2/rancher/etcd/manifests/v1", nil, 405, "UNSUPPORTED"},
		{"DELETE", blob, nil, 405, "UNSUPPORTED"},
		{"GET", "/", nil, 404, "UNKNOWN"},
		{"GET", "/v2x", nil, 404, "UNKNOWN"},
		{"GET", "/healthz", nil, 200, ""},
		{"POST", "/healthz", nil, 405, "UNSUPPORTED"},
		{"GET", blob, []string{"If-None-Match", `"x", W/"LAYER"`}, 304, ""},
		{"GET", blob, []string{"If-None-Match", `"other"`}, 200, ""},
		{"GET", blob, []string{"Range", "bytes=200000-"}, 416, "UNKNOWN"},
		{"GET", blob, []string{"Range", "bytes=-0"}, 416, "UNKNOWN"},
		{"GET", blob, []string{"Range", "bytes=0-1,3-4"}, 200, ""},
		{"GET", blob, []string{"Range", "bytes=9-5"}, 200, ""},
		{"GET", blob, []string{"Range", "lines=1-2"}, 200, ""},
		{"GET", blob, []string{"Range", "bytes=0-1", "If-Range", `"other"`}, 200, ""},
		{"GET", blob, []string{"Range", "bytes=0-1", "If-Range", `"LAYER"`}, 206, ""},
	} {
		for i := range c.header {
			c.header[i] = of(c.header[i])
		}
		a := r.ask(t, c.method, of(c.path), c.header...)
		if a.status != c.status || a.code() != c.code {
			t.Errorf("%s %s %q: %d %q, want %d %q", c.method, c.path, c.header, a.status, a.body, c.status, c.code)
		}
		if c.method == http.MethodHead && len(a.body) > 0 {
			t.Errorf("%s %s has a body", c.method, c.path)
		}
	}
	if a := r.ask(t, "HEAD", blob); a.header.Get("Content-Length") != fmt.Sprint(layer.Size) || a.header.Get("Docker-Content-Digest") != layer.Digest.String() {
		t.Errorf("%v", a.header)
	}
	if a := r.ask(t, "PATCH", blob); a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%v", a.header)
	}
}
