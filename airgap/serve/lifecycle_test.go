package serve

import (
	"bytes"

	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/tests/distribution"
)

// until waits for something that happens in another goroutine.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// rename puts a bundle in place as it should be: whole.
func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestChanges: bundles that come, are replaced and go are noticed; a transfer that is
// under way ends with the bytes that it began with.
func TestChanges(t *testing.T) {
	first, _, key := fixture(t)
	layout := filepath.Join(t.TempDir(), "oci")
	big := distribution.Random(9, 8<<20)
	key2 := distribution.WriteLayout(t, layout, distribution.Image{Ref: "docker.io/rancher/big:v1", Platforms: []string{"amd64"}, Layers: [][]byte{big}})
	dir := t.TempDir()
	p := policy(t, key)
	p.OperatorKeys = append(p.OperatorKeys, policy(t, key2).OperatorKeys...)
	var mu sync.Mutex
	var loads []Load
	r := start(t, Options{Paths: []string{dir}, Catalog: catalog.Options{Policy: p}, Watch: 50 * time.Millisecond, Loaded: func(l Load) {
		mu.Lock()
		defer mu.Unlock()
		loads = append(loads, l)
	}})
	has := func(path string) func() bool {
		return func() bool { return r.ask(t, "HEAD", "/v2/"+path).status == 200 }
	}
	if has("rancher/etcd/manifests/v1")() {
		t.Fatal("the folder is empty")
	}
	rename(t, first, filepath.Join(dir, "a.tar"))
	until(t, "the bundle that came", has("rancher/etcd/manifests/v1"))
	rename(t, bundleOf(t, layout, "amd64"), filepath.Join(dir, "big.tar"))
	until(t, "the second bundle", has("rancher/big/manifests/v1"))

	// A client that is slow.
	resp, err := r.http.Get(r.url("/v2/rancher/big/blobs/%s", distribution.Digest(big)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 1000)
	if _, err := io.ReadFull(resp.Body, got); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "big.tar")); err != nil {
		t.Fatal(err)
	}
	until(t, "the bundle that went", func() bool { return !has("rancher/big/manifests/v1")() })
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(append(got, rest...), big) {
		t.Errorf("%d bytes, %v", len(rest), err)
	}

	// Half a copy is told of and left out, and the rest stays; whole, it is served.
	whole := bundleOf(t, layout, "amd64")
	raw, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big.tar"), raw[:len(raw)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "what is said of half a bundle", func() bool {
		mu.Lock()
		defer mu.Unlock()
		last := loads[len(loads)-1]
		return len(last.Refused) == 1 && strings.Contains(last.Refused[0].Err.Error(), "truncated")
	})
	if !has("rancher/etcd/manifests/v1")() {
		t.Error("the other bundle is no longer served")
	}
	if err := os.WriteFile(filepath.Join(dir, "big.tar"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the whole bundle", has("rancher/big/manifests/v1"))
}

// TestReload: by hand, and what can't be loaded leaves what was there.
func TestReload(t *testing.T) {
	bundle, _, key := fixture(t)
	r := start(t, Options{Paths: []string{bundle}, Catalog: catalog.Options{Policy: policy(t, key)}})
	raw, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(other, raw[:1000], 0o600); err != nil {
		t.Fatal(err)
	}
	rename(t, other, bundle)
	if err := r.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("%v", err)
	}
	layer := distribution.Random(2, 200_000)
	if a := r.ask(t, "GET", "/v2/rancher/etcd/blobs/"+distribution.Digest(layer)); a.status != 200 || !bytes.Equal(a.body, layer) {
		t.Errorf("what was served before is gone: %d", a.status)
	}
	if _, err := New(t.Context(), Options{Paths: []string{bundle}}); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("started with a broken bundle: %v", err)
	}
}

// TestUsers: a password is asked for everywhere but at /healthz, and the file is held to
// its form.
func TestUsers(t *testing.T) {
	bundle, _, key := fixture(t)
	file := filepath.Join(t.TempDir(), "htpasswd")
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# people\n\noperator:" + string(hash) + "\n")
	users, err := LoadUsers(file)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, Options{Paths: []string{bundle}, Catalog: catalog.Options{Policy: policy(t, key)}, Users: users})
	status := func(path, user, password string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url("%s", path), nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			req.SetBasicAuth(user, password)
		}
		resp, err := r.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusUnauthorized && !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Basic realm=") {
			t.Errorf("%v", resp.Header)
		}
		return resp.StatusCode
	}
	for _, c := range []struct {
		path, user, password string
		want                 int
	}{
		{"/v2/", "", "", 401},
		{"/v2/", "operator", "wrong", 401},
		{"/v2/", "nobody", "secret", 401},
		{"/v2/", "operator", "secret", 200},
		{"/v2/", "operator", "secret", 200}, // from memory
		{"/v2/", "operator", "secre", 401},
		{"/v2/rancher/etcd/manifests/v1", "", "", 401},
		{"/v2/rancher/etcd/manifests/v1", "operator", "secret", 200},
		{"/healthz", "", "", 200},
	} {
		if got := status(c.path, c.user, c.password); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if a := r.ask(t, "GET", "/v2/"); a.code() != "UNAUTHORIZED" {
		t.Errorf("%s", a.body)
	}
	write("another:" + string(hash) + "\n")
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status("/v2/", "operator", "secret") != 401 || status("/v2/", "another", "secret") != 200 {
		t.Error("the new file does not hold")
	}
	for content, want := range map[string]string{
		"":           "has none",
		"operator\n": "line 1",
		"operator:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n": "htpasswd -B",
	} {
		write(content)
		if _, err := LoadUsers(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestStop: transfers end, new connections are not taken, and health says so meanwhile.
func TestStop(t *testing.T) {
	layout := filepath.Join(t.TempDir(), "oci")
	big := distribution.Random(9, 16<<20)
	key := distribution.WriteLayout(t, layout, distribution.Image{Ref: etcd, Platforms: []string{"amd64"}, Layers: [][]byte{big}})
	s, err := New(t.Context(), Options{Paths: []string{layout}, Catalog: catalog.Options{Policy: policy(t, key), Unpack: t.TempDir()}, Grace: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := contextOf(t)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/v2/rancher/etcd/blobs/" + distribution.Digest(big))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stop()
	until(t, "the listener's end", func() bool {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestLimits: a request's header, and how many connections there are.
func TestLimits(t *testing.T) {
	bundle, _, key := fixture(t)
	r := start(t, Options{Paths: []string{bundle}, Catalog: catalog.Options{Policy: policy(t, key)}, Connections: 2})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url("/v2/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	// The connection may break before the answer is read: most of the header is unread.
	if resp, err := r.http.Do(req); err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%d", resp.StatusCode)
		}
	}
	r.http.CloseIdleConnections()
	var held []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	client := &http.Client{Timeout: 300 * time.Millisecond}
	if resp, err := client.Get(r.url("/v2/")); err == nil {
		resp.Body.Close()
		t.Error("a third connection was answered")
	} else if !os.IsTimeout(err) {
		t.Errorf("%v", err)
	}
	for _, c := range held {
		_ = c.Close()
	}
	until(t, "an answer when there is room", func() bool {
		resp, err := client.Get(r.url("/v2/"))
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil
	})
}

// TestCertificate: one that is made here is good for its names, kept, and made again for
// other names.
func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	one, err := SelfSigned([]string{"localhost", "127.0.0.1", "files.example.com"}, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"localhost", "127.0.0.1", "files.example.com"} {
		if err := one.Leaf.VerifyHostname(h); err != nil {
			t.Error(err)
		}
	}
	same, err := SelfSigned([]string{"files.example.com"}, dir)
	if err != nil || Fingerprint(same) != Fingerprint(one) {
		t.Errorf("another certificate, %v", err)
	}
	other, err := SelfSigned([]string{"new.example.com"}, dir)
	if err != nil || Fingerprint(other) == Fingerprint(one) || other.Leaf.VerifyHostname("new.example.com") != nil {
		t.Errorf("the same certificate, %v", err)
	}
	if st, err := os.Stat(filepath.Join(dir, "serve.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(dir, "serve.crt"))
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	if _, err := other.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "new.example.com"}); err != nil {
		t.Error(err)
	}
	if len(strings.Split(Fingerprint(other), ":")) != 32 {
		t.Error(Fingerprint(other))
	}
	if err := os.WriteFile(filepath.Join(dir, "serve.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := SelfSigned([]string{"localhost"}, dir); err == nil {
		t.Error("a broken certificate was taken")
	}
	if h := Hosts(); len(h) < 2 {
		t.Errorf("%q", h)
	}
}
