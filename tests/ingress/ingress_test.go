//go:build linux

package ingress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// world is everything that runs.
type world struct {
	*cluster
	box        *container
	controller *process
	authority  *authority
	trusted    *x509.CertPool
}

// What Ingresses ask for, by name; each is for the host NAME.test.
var annotations = map[string]map[string]string{
	"plain":  nil,
	"path":   nil, // for /app and below
	"exact":  nil, // for /app alone
	"secure": nil, // with TLS
	"sticky": {"affinity": "cookie", "session-cookie-name": "backend"},
	"hashed": {"upstream-hash-by": "$arg_key"},
	"ewma":   {"load-balance": "ewma"},
	"v4":     {"whitelist-source-range": "10.20.0.1/32"},
	"v6":     {"whitelist-source-range": "fd00:20::1/128"},
	"auth":   {"auth-url": "http://10.20.0.1:9001/check?x=1", "auth-signin": "http://login.test/start", "auth-response-headers": "X-User"},
	"limited": {
		"global-rate-limit": "3", "global-rate-limit-window": "10m",
		"global-rate-limit-ignored-cidrs": "10.20.0.3/32,fd00:20::2/127",
	},
	"kept":     {"auth-url": "http://10.20.0.1:9001/check?x=1", "auth-keepalive": "5"},
	"cached":   {"auth-url": "http://10.20.0.1:9001/check?x=1", "auth-cache-key": "$http_x_password"},
	"client":   {"auth-tls-secret": namespace + "/ca", "auth-tls-match-cn": `CN=(client\.one|two)`}, // with TLS
	"redirect": {"permanent-redirect": "https://elsewhere.test/x?y=z"},
	"app":      {"app-root": "/start"},
	"basic":    {"auth-type": "basic", "auth-secret": "users", "auth-realm": "a realm"},
	"rpc":      {"backend-protocol": "GRPC"},
	"fcgi":     {"backend-protocol": "FCGI", "fastcgi-index": "index.php"},
	// A directive that this nginx doesn't have would stop everything.
	"many": {
		"limit-rps": "100", "limit-connections": "100", "limit-whitelist": "10.20.0.3/32", "denylist-source-range": "192.0.2.0/24",
		"enable-cors": "true", "cors-allow-origin": "https://a.test", "server-alias": "alias.test", "use-regex": "true",
		"rewrite-target": "/rewritten", "upstream-vhost": "vhost.test", "x-forwarded-prefix": "/prefix", "connection-proxy-header": "keep-alive",
		"proxy-body-size": "8m", "proxy-buffering": "on", "proxy-buffer-size": "8k", "proxy-read-timeout": "10", "proxy-connect-timeout": "5",
		"proxy-next-upstream": "error timeout", "proxy-request-buffering": "off", "proxy-http-version": "1.1", "client-body-buffer-size": "1m",
		"custom-http-errors": "502", "http2-push-preload": "true", "mirror-target": "http://10.20.0.1:9000", "mirror-request-body": "off",
		"ssl-ciphers": "ALL:!aNULL", "ssl-prefer-server-ciphers": "true", "enable-access-log": "false", "enable-rewrite-log": "true",
	},
	// What is not built in is closed, and does no harm to others.
	"digest":      {"auth-type": "digest", "auth-secret": "users"},
	"modsecurity": {"enable-modsecurity": "true"},
	"traced":      {"enable-opentelemetry": "true"},
	// What is not allowed is not done.
	"snippet":   {"configuration-snippet": "return 418;"},
	"injected1": {"auth-url": "http://x/;}\n}\nserver { listen 6661; }\n#"},
	"injected2": {"permanent-redirect": "https://x/;}}\nserver { listen 6662; }\n#"},
	"injected3": {"auth-tls-secret": namespace + "/ca", "auth-tls-match-cn": "CN=abc #(\n){}\n }}\nserver { listen 6663; }\n#"},
	"injected4": {"auth-tls-secret": namespace + "/ca", "auth-tls-verify-client": "on;\n}\nserver { listen 6664; }\nserver {\n#"},
	"injected5": {"auth-url": "http://10.20.0.1:9001/", "auth-method": "GET;\n}\n}\nserver { listen 6665; location / {\n#"},
	"injected6": nil, // by its path, as all that follow
	"injected7": nil,
	"injected8": {"use-regex": "true"},
	"injected9": {"auth-url": "http://10.20.0.1:9001/", "auth-keepalive": "5"},
	"slash":     {"use-regex": "true"},
}

// Paths that are not /.
var paths = map[string]networkingv1.HTTPIngressPath{
	"path":      {Path: "/app", PathType: ptr(networkingv1.PathTypePrefix)},
	"exact":     {Path: "/app", PathType: ptr(networkingv1.PathTypeExact)},
	"injected6": {Path: "/x {\n}\n}\nserver { listen 6666; location /y", PathType: ptr(networkingv1.PathTypeImplementationSpecific)},
	"injected7": {Path: "/x {\n}\n}\nserver { listen 6667; location /y", PathType: ptr(networkingv1.PathTypeExact)},
	"injected8": {Path: "/x\" {\n}\n}\nserver { listen 6668; location \"/y", PathType: ptr(networkingv1.PathTypeImplementationSpecific)},
	"injected9": {Path: "/x\n}\nserver { listen 6669; }\n#", PathType: ptr(networkingv1.PathTypeImplementationSpecific)},
	"slash":     {Path: "/x\\", PathType: ptr(networkingv1.PathTypeImplementationSpecific)},
}

func ptr[T any](v T) *T { return &v }

// TestIngress runs the controller as a pod would, and asks it for what Ingresses promise.
func TestIngress(t *testing.T) {
	if !inside(t) {
		return
	}
	ca := newAuthority(t)
	certPEM, keyPEM := ca.server("secure.test", "client.test")
	w := &world{cluster: newCluster(t), box: newContainer(t), trusted: x509.NewCertPool()}
	w.trusted.AddCert(ca.cert)
	w.authority = ca
	w.furnish(t.Context(), certPEM, keyPEM, ca.pem)
	for name, a := range annotations {
		w.ingress(t.Context(), name, name == "secure" || name == "client", a)
	}
	echo(t, "10.20.0.1:9000")
	echo(t, "10.20.0.2:9000")
	memcached(t, "10.20.0.1:11211")
	serve(t, "10.20.0.1:9001", func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Password") != "secret" || r.URL.Query().Get("x") != "1" {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		rw.Header().Set("X-User", "somebody")
	})
	w.run()
	for _, tt := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"version", w.testVersion},
		{"routes", w.testRoutes},
		{"tls", w.testTLS},
		{"sticky", w.testSticky},
		{"balanced", w.testBalanced},
		{"allowed", w.testAllowed},
		{"authenticated", w.testAuthenticated},
		{"client certificates", w.testClientCertificates},
		{"annotations", w.testAnnotations},
		{"compressed", w.testCompressed},
		{"metrics", w.testMetrics},
		{"limited", w.testLimited},
		{"closed", w.testClosed},
		{"endpoints", w.testEndpoints},
		{"status", w.testStatus},
		{"shutdown", w.testShutdown},
	} {
		t.Run(tt.name, tt.test)
	}
}

func (w *world) run() {
	w.box.write("tmp/kubeconfig", kubeconfig())
	args := append(w.box.args, "--kubeconfig=/tmp/kubeconfig", "--configmap="+namespace+"/controller",
		"--publish-status-address=10.20.0.1", "--election-id=test", "--enable-metrics=true", "--post-shutdown-grace-period=0", "--v=2")
	w.controller = start(w.t, "controller", w.box.command([]string{"POD_NAME=controller", "POD_NAMESPACE=" + namespace}, args...))
	w.until(w.t, "the controller is healthy", 30*time.Second, func() error {
		r, err := http.Get("http://127.0.0.1:10254/healthz")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return errors.New(r.Status)
		}
		return nil
	})
	w.until(w.t, "plain.test is served", 20*time.Second, func() error {
		a, err := w.browse("", nil).get("http://10.20.0.1/", "plain.test", nil)
		if err == nil && a.status != http.StatusOK {
			err = errors.New(a.text)
		}
		return err
	})
}

func (w *world) until(t *testing.T, what string, limit time.Duration, ok func() error) {
	t.Helper()
	w.controller.until(t, what, limit, ok)
}

// browser is a client that calls from one of this world's addresses.
type browser struct{ http.Client }

type answered struct {
	status  int
	text    string // status line and body, for errors
	body    string
	backend string
	header  http.Header
	proto   string
	tls     *tls.ConnectionState
}

func (w *world) browse(from string, jar http.CookieJar) *browser {
	d := net.Dialer{Timeout: 5 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	b := &browser{http.Client{
		Jar:     jar,
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			// Names are all those of the controller.
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				host, port, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				if net.ParseIP(host) == nil {
					address = net.JoinHostPort("10.20.0.1", port)
				}
				return d.DialContext(ctx, network, address)
			},
			TLSClientConfig:   &tls.Config{RootCAs: w.trusted},
			ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	w.t.Cleanup(b.CloseIdleConnections)
	return b
}

func (b *browser) get(url, host string, header map[string]string) (answered, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return answered{}, err
	}
	req.Host = host
	for k, v := range header {
		req.Header.Set(k, v)
	}
	r, err := b.Do(req)
	if err != nil {
		return answered{}, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return answered{}, err
	}
	return answered{
		status: r.StatusCode, text: fmt.Sprintf("%s: %s", r.Status, body), body: string(body),
		backend: r.Header.Get("X-Backend"), header: r.Header, proto: r.Proto, tls: r.TLS,
	}, nil
}

// expect gets a URL from an address and checks the status.
func (w *world) expect(t *testing.T, from, url, host string, header map[string]string, status int) answered {
	t.Helper()
	a, err := w.browse(from, nil).get(url, host, header)
	if err != nil {
		t.Fatalf("%s of %s: %v", url, host, err)
	}
	if a.status != status {
		t.Errorf("%s of %s from %q: %s, want %d", url, host, from, a.text, status)
	}
	return a
}

func (w *world) testVersion(t *testing.T) {
	for i, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"/nginx-ingress-controller", "--version"}, "nginx version: nginx/"},
		{[]string{"/usr/sbin/nginx", "-V"}, "--with-http_v2_module"},
		{[]string{"/usr/sbin/nginx", "-t"}, "test is successful"}, // of what the controller rendered
		{[]string{"/dbg", "backends", "list"}, "web-plain-80"},
	} {
		p := start(t, fmt.Sprint("version", i), w.box.command(nil, tt.args...))
		<-p.done
		if p.err != nil || !strings.Contains(p.said(), tt.want) {
			t.Errorf("%v: %v\n%s", tt.args, p.err, p.said())
		}
	}
}

func (w *world) testRoutes(t *testing.T) {
	a := w.expect(t, "10.20.0.2", "http://10.20.0.1/a/b?c=d", "plain.test", nil, 200)
	if want := "GET /a/b?c=d plain.test proto=http for=10.20.0.2 user="; a.body != want {
		t.Errorf("the backend saw %q, want %q", a.body, want)
	}
	if a.header.Get("Server") != "" {
		t.Errorf("nginx names itself: %s", a.header.Get("Server"))
	}
	w.expect(t, "fd00:20::1", "http://[fd00:20::1]/", "plain.test", nil, 200)
	w.expect(t, "", "http://10.20.0.1/app/x", "path.test", nil, 200)
	w.expect(t, "", "http://10.20.0.1/application", "path.test", nil, 404)
	w.expect(t, "", "http://10.20.0.1/app", "exact.test", nil, 200)
	w.expect(t, "", "http://10.20.0.1/app/x", "exact.test", nil, 404)
	w.expect(t, "", "http://10.20.0.1/", "unknown.test", nil, 404)
}

func (w *world) testTLS(t *testing.T) {
	a := w.expect(t, "", "https://secure.test/x", "secure.test", nil, 200)
	if a.proto != "HTTP/2.0" || a.tls == nil || a.tls.PeerCertificates[0].Subject.CommonName != "secure.test" {
		t.Errorf("answered by %s, %+v", a.proto, a.tls)
	}
	if !strings.Contains(a.body, "proto=https") {
		t.Errorf("the backend saw %q", a.body)
	}
	if a.header.Get("Strict-Transport-Security") == "" {
		t.Error("no Strict-Transport-Security")
	}
	a = w.expect(t, "", "http://10.20.0.1/x", "secure.test", nil, 308)
	if l := a.header.Get("Location"); l != "https://secure.test/x" {
		t.Errorf("redirected to %q", l)
	}
}

func (w *world) testSticky(t *testing.T) {
	seen := map[string]int{}
	for range 24 {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		b := w.browse("", jar)
		backend := ""
		for range 5 {
			a, err := b.get("http://sticky.test/", "sticky.test", nil)
			if err != nil || a.status != 200 {
				t.Fatal(a.text, err)
			}
			if backend != "" && a.backend != backend {
				t.Fatalf("moved from %s to %s", backend, a.backend)
			}
			backend = a.backend
		}
		seen[backend]++
	}
	if len(seen) != 2 {
		t.Errorf("24 clients all went to %v", seen)
	}
}

func (w *world) testBalanced(t *testing.T) {
	for _, host := range []string{"plain.test", "ewma.test"} {
		seen := map[string]int{}
		for range 20 {
			seen[w.expect(t, "", "http://10.20.0.1/", host, nil, 200).backend]++
		}
		if len(seen) != 2 || (host == "plain.test" && seen["10.20.0.1"] < 5) {
			t.Errorf("20 requests to %s went to %v", host, seen)
		}
	}
	first := map[string]string{}
	seen := map[string]bool{}
	for i := range 40 {
		key := fmt.Sprint(i % 20)
		backend := w.expect(t, "", "http://10.20.0.1/?key="+key, "hashed.test", nil, 200).backend
		if f, ok := first[key]; ok && f != backend {
			t.Errorf("key %s went to %s, then to %s", key, f, backend)
		}
		first[key], seen[backend] = backend, true
	}
	if len(seen) != 2 {
		t.Errorf("20 keys all went to %v", seen)
	}
}

func (w *world) testAllowed(t *testing.T) {
	for _, tt := range []struct {
		host, from string
		status     int
	}{
		{"v4.test", "10.20.0.1", 200}, {"v4.test", "10.20.0.2", 403}, {"v4.test", "fd00:20::1", 403},
		{"v6.test", "fd00:20::1", 200}, {"v6.test", "fd00:20::2", 403}, {"v6.test", "10.20.0.1", 403},
	} {
		to := "http://10.20.0.1/"
		if strings.Contains(tt.from, ":") {
			to = "http://[fd00:20::1]/"
		}
		w.expect(t, tt.from, to, tt.host, nil, tt.status)
	}
}

func (w *world) testAuthenticated(t *testing.T) {
	a := w.expect(t, "", "http://10.20.0.1/x", "auth.test", map[string]string{"X-Password": "secret"}, 200)
	if !strings.HasSuffix(a.body, "user=somebody") {
		t.Errorf("the backend saw %q", a.body)
	}
	a = w.expect(t, "", "http://10.20.0.1/x?y=z", "auth.test", nil, 302)
	if l := a.header.Get("Location"); l != "http://login.test/start?rd=http://auth.test%2Fx%3Fy%3Dz" {
		t.Errorf("redirected to %q", l)
	}
}

func (w *world) testClientCertificates(t *testing.T) {
	for name, status := range map[string]int{"": 400, "client.one": 200, "two": 200, "clientXone": 403, "three": 403} {
		b := w.browse("", nil)
		if name != "" {
			b.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{w.authority.client(name)}
		}
		a, err := b.get("https://client.test/", "client.test", nil)
		if err != nil || a.status != status {
			t.Errorf("certificate of %q: %s (%v), want %d", name, a.text, err, status)
		}
	}
}

func (w *world) testAnnotations(t *testing.T) {
	for _, host := range []string{"many.test", "alias.test"} {
		a := w.expect(t, "", "http://10.20.0.1/x", host, map[string]string{"Origin": "https://a.test"}, 200)
		if !strings.HasPrefix(a.body, "GET /rewritten vhost.test") || a.header.Get("Access-Control-Allow-Origin") != "https://a.test" {
			t.Errorf("the backend saw %q, headers are %v", a.body, a.header)
		}
	}
	a := w.expect(t, "", "http://10.20.0.1/", "redirect.test", nil, 301)
	if l := a.header.Get("Location"); l != "https://elsewhere.test/x?y=z" {
		t.Errorf("redirected to %q", l)
	}
	a = w.expect(t, "", "http://10.20.0.1/", "app.test", nil, 302)
	if l := a.header.Get("Location"); l != "http://app.test/start" {
		t.Errorf("redirected to %q", l)
	}
	w.expect(t, "", "http://10.20.0.1/", "basic.test", nil, 401)
	w.expect(t, "", "http://10.20.0.1/", "basic.test", map[string]string{"Authorization": "Basic dXNlcjpwYXNzd29yZA=="}, 200)
	for _, host := range []string{"kept.test", "cached.test"} {
		for range 3 {
			w.expect(t, "", "http://10.20.0.1/", host, nil, 401)
			w.expect(t, "", "http://10.20.0.1/", host, map[string]string{"X-Password": "secret"}, 200)
		}
	}
	for _, host := range []string{"rpc.test", "fcgi.test"} { // backends that speak something else
		w.expect(t, "", "http://10.20.0.1/", host, nil, 502)
	}
}

func (w *world) testCompressed(t *testing.T) {
	for _, encoding := range []string{"br", "gzip"} {
		a := w.expect(t, "", "http://10.20.0.1/"+strings.Repeat("long", 300), "plain.test", map[string]string{"Accept-Encoding": encoding}, 200)
		if got := a.header.Get("Content-Encoding"); got != encoding || len(a.body) > 600 {
			t.Errorf("encoded as %q in %d bytes, want %s", got, len(a.body), encoding)
		}
	}
}

// Workers send what they counted to the controller by Lua.
func (w *world) testMetrics(t *testing.T) {
	w.until(t, "requests are counted", 15*time.Second, func() error {
		a, err := w.browse("", nil).get("http://127.0.0.1:10254/metrics", "", nil)
		if err == nil && !strings.Contains(a.body, `nginx_ingress_controller_requests{canary="",controller_class="k8s.io/ingress-nginx",controller_namespace="web",controller_pod="controller",host="plain.test"`) {
			err = fmt.Errorf("%d metrics, none of plain.test", strings.Count(a.body, "\n"))
		}
		return err
	})
}

// The limit is kept in memcached; addresses that it ignores are matched by resty.ipmatcher.
func (w *world) testLimited(t *testing.T) {
	for range 5 {
		w.expect(t, "10.20.0.3", "http://10.20.0.1/", "limited.test", nil, 200)
		w.expect(t, "fd00:20::2", "http://[fd00:20::1]/", "limited.test", nil, 200)
	}
	for i := range 5 {
		want := 200
		if i >= 3 {
			want = 429
		}
		w.expect(t, "10.20.0.2", "http://10.20.0.1/", "limited.test", nil, want)
	}
	w.expect(t, "fd00:20::1", "http://[fd00:20::1]/", "limited.test", nil, 200) // another client
}

func (w *world) testClosed(t *testing.T) {
	w.expect(t, "", "http://10.20.0.1/", "digest.test", nil, 503)
	w.expect(t, "", "http://10.20.0.1/", "modsecurity.test", nil, 503)
	w.expect(t, "", "http://10.20.0.1/", "traced.test", nil, 200)
	if a, err := w.browse("", nil).get("http://10.20.0.1/", "snippet.test", nil); err != nil || a.status == 418 {
		t.Errorf("a snippet took effect: %s (%v)", a.text, err)
	}
	if a, err := w.browse("", nil).get("http://10.20.0.1/", "injected1.test", nil); err != nil || a.status == 200 {
		t.Errorf("served without the authentication that was asked for: %s (%v)", a.text, err)
	}
	for port := 6661; port <= 6669; port++ {
		if c, err := net.Dial("tcp", fmt.Sprintf("10.20.0.1:%d", port)); err == nil {
			_ = c.Close()
			t.Errorf("an Ingress opened port %d", port)
		}
	}
}

// Endpoints come and go without nginx being loaded again.
func (w *world) testEndpoints(t *testing.T) {
	const reloaded = "Backend successfully reloaded"
	before := strings.Count(w.controller.said(), reloaded)
	slices := w.client.DiscoveryV1().EndpointSlices(namespace)
	if _, err := slices.Update(t.Context(), slice("plain", "10.20.0.2"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	served := func(want int) func() error {
		return func() error {
			seen := map[string]int{}
			for range 20 {
				seen[w.expect(t, "", "http://10.20.0.1/", "plain.test", nil, 200).backend]++
			}
			if len(seen) != want || seen["10.20.0.2"] == 0 {
				return fmt.Errorf("requests go to %v", seen)
			}
			return nil
		}
	}
	w.until(t, "one endpoint is left", 30*time.Second, served(1))
	if _, err := slices.Update(t.Context(), slice("plain", "10.20.0.1", "10.20.0.2"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until(t, "both are back", 30*time.Second, served(2))
	if after := strings.Count(w.controller.said(), reloaded); after != before || before == 0 {
		t.Errorf("nginx was loaded %d times before the endpoints changed, %d times after", before, after)
	}
}

func (w *world) testStatus(t *testing.T) {
	w.until(t, "the Ingress has its address", 90*time.Second, func() error {
		i, err := w.client.NetworkingV1().Ingresses(namespace).Get(t.Context(), "plain", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if a := i.Status.LoadBalancer.Ingress; len(a) != 1 || a[0].IP != "10.20.0.1" {
			return fmt.Errorf("its addresses are %v", a)
		}
		return nil
	})
}

// What a preStop hook does: it returns when nginx is gone, and then so is the container.
func (w *world) testShutdown(t *testing.T) {
	out, err := w.box.command(nil, "/usr/bin/pgrep", "worker").CombinedOutput()
	if err != nil || strings.Count(string(out), "\n") != 2 {
		t.Errorf("pgrep worker: %v, %q, want two processes", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stopped := make(chan error, 1)
	go func() {
		out, err := w.box.command(nil, "/wait-shutdown").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		stopped <- err
	}()
	select {
	case err := <-stopped:
		if err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatal("wait-shutdown did not return")
	}
	if c, err := net.Dial("tcp", "10.20.0.1:80"); err == nil {
		_ = c.Close()
		t.Error("nginx still listens")
	}
	select {
	case <-w.controller.done:
		if w.controller.err != nil {
			t.Errorf("the container ended with %v", w.controller.err)
		}
	case <-ctx.Done():
		t.Error("the container did not end")
	}
}
