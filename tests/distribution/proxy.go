package distribution

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy stands before a registry and speaks TLS with its certificate.
type Proxy struct {
	Addr string // HOST:PORT
	// Fault may end a request in another way than the registry would; it may be nil. It
	// is called from several goroutines.
	Fault func(r *http.Request) Fault

	rate int64 // bytes a second of a request's body; 0: no limit

	mu       sync.Mutex
	requests map[string]int // by method
	bytes    int64          // of requests' bodies
}

// Fault is how a request ends.
type Fault struct {
	Status int // the answer, instead of the registry's; 0: the registry is asked
	Body   string
	Cut    bool  // the connection breaks …
	After  int64 // … after this many bytes of the request's body, or the response's
}

// NewProxy starts a proxy, which ends with the test.
func NewProxy(t testing.TB, s *Server, rate int64) *Proxy {
	t.Helper()
	p := &Proxy{rate: rate, requests: map[string]int{}}
	target := &url.URL{Scheme: "https", Host: s.Addr}
	if !s.tls {
		target.Scheme = "http"
	}
	reverse := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // so that upload locations lead through the proxy, too
			r.SetXForwarded()
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool}, MaxIdleConnsPerHost: 16},
		ErrorLog:  log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler)
		},
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.serve(w, r, reverse)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{s.certificate}}
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	p.Addr = strings.TrimPrefix(server.URL, "https://")
	return p
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	p.mu.Lock()
	p.requests[r.Method]++
	p.mu.Unlock()
	var f Fault
	if p.Fault != nil {
		f = p.Fault(r)
	}
	if f.Status != 0 {
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	r = r.WithContext(ctx)
	cut := int64(-1)
	if f.Cut {
		cut = f.After
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &metered{p: p, rc: r.Body, left: cut}
	} else if f.Cut {
		w = &short{ResponseWriter: w, left: f.After}
	}
	next.ServeHTTP(w, r)
	if f.Cut {
		panic(http.ErrAbortHandler)
	}
}

// Requests gives the number of requests by method.
func (p *Proxy) Requests() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]int{}
	for k, v := range p.requests {
		out[k] = v
	}
	return out
}

// Bytes is how much has gone through in requests' bodies.
func (p *Proxy) Bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}

// Reset forgets what was counted.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests, p.bytes = map[string]int{}, 0
}

var errCut = errors.New("the connection was cut")

// metered is a request's body on its way to the registry.
type metered struct {
	p    *Proxy
	rc   io.ReadCloser
	left int64 // less than 0: no limit
}

func (m *metered) Read(b []byte) (int, error) {
	if m.left == 0 {
		return 0, errCut
	}
	if m.left > 0 && int64(len(b)) > m.left {
		b = b[:m.left]
	}
	if m.p.rate > 0 && int64(len(b)) > m.p.rate/20+1 {
		b = b[:m.p.rate/20+1]
	}
	n, err := m.rc.Read(b)
	if m.left > 0 {
		m.left -= int64(n)
	}
	m.p.mu.Lock()
	m.p.bytes += int64(n)
	m.p.mu.Unlock()
	if m.p.rate > 0 {
		time.Sleep(time.Duration(float64(n) / float64(m.p.rate) * float64(time.Second)))
	}
	return n, err
}

func (m *metered) Close() error { return m.rc.Close() }

// short is a response of which only so much arrives.
type short struct {
	http.ResponseWriter
	left int64
}

func (s *short) Write(b []byte) (int, error) {
	if int64(len(b)) <= s.left {
		n, err := s.ResponseWriter.Write(b)
		s.left -= int64(n)
		return n, err
	}
	_, _ = s.ResponseWriter.Write(b[:s.left])
	s.left = 0
	if f, ok := s.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
	panic(http.ErrAbortHandler)
}
