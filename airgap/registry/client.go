// Package registry speaks to image registries (OCI distribution-spec v1.1): it pushes and
// fetches blobs as streams whose digest is checked on the way, goes on where a broken
// connection left off, and says in its errors what to do. Credentials never leave over
// plain HTTP unless that is allowed.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	userAgent = "rke2"
	// patience is how long a registry may take to answer a request that it has: some move
	// a whole blob before they do.
	patience = 5 * time.Minute
)

// Settings say how registries are reached. The zero value is HTTPS, the system's
// certificate authorities, and the credentials of docker login.
type Settings struct {
	PlainHTTP  bool   // allow HTTP where the registry does not speak TLS
	SkipVerify bool   // take any certificate
	CAFile     string // PEM, trusted beside the system's authorities
	ClientCert string // PEM, for registries that ask for a client's certificate
	ClientKey  string // PEM, of ClientCert
	Keychain   authn.Keychain
	// Base is where a registry's API is below its address; "" means /v2. Some registries
	// that hold many have one API each, such as /artifactory/api/docker/remote/v2.
	Base string
	// Namespace is the registry that a mirror stands for. It is sent with each request
	// (?ns=docker.io), as containerd does, for mirrors that stand for several.
	Namespace string
	// File is the registries.yaml that these settings are from; errors then advise to
	// change it, and not options of a command. May be "".
	File string
	// Retries is how often in a row a request is tried again. What brings bytes across
	// counts from the start.
	Retries int
	// Pause is what is waited before the first of them, and doubles with each; 0 means
	// half a second.
	Pause time.Duration
	// Stall is how long a transfer may stand still before its connection is given up;
	// 0 means two minutes.
	Stall time.Duration
	// Retrying is told what is tried again, why, and after what pause; may be nil.
	Retrying func(what string, cause error, pause time.Duration)
}

// Client reaches registries. It may be used from several goroutines.
type Client struct {
	s     Settings
	inner http.RoundTripper

	mu    sync.Mutex
	pings map[string]*ping
}

// ping is what a registry said about how it is spoken to.
type ping struct {
	once      sync.Once
	challenge *transport.Challenge
	err       error
}

// New reads the certificates that the settings name.
func New(s Settings) (*Client, error) {
	conf, err := s.tls()
	if err != nil {
		return nil, err
	}
	if s.Keychain == nil {
		s.Keychain = authn.DefaultKeychain
	}
	if s.Stall == 0 {
		s.Stall = 2 * time.Minute
	}
	if s.Pause == 0 {
		s.Pause = 500 * time.Millisecond
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = conf
	t.MaxIdleConnsPerHost = 32
	t.ResponseHeaderTimeout = max(s.Stall, patience)
	// Blobs are compressed already.
	t.DisableCompression = true
	var inner http.RoundTripper = &guard{inner: t, plain: s.PlainHTTP}
	if s.Base != "" && s.Base != "/v2" || s.Namespace != "" {
		inner = &relocated{inner: inner, base: strings.TrimSuffix(s.Base, "/"), namespace: s.Namespace}
	}
	return &Client{
		s:     s,
		inner: transport.NewUserAgent(inner, userAgent),
		pings: map[string]*ping{},
	}, nil
}

func (s Settings) tls() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.SkipVerify}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading certificate authorities: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading certificate authorities: %s holds no certificate in PEM", s.CAFile)
		}
		conf.RootCAs = pool
	}
	if (s.ClientCert == "") != (s.ClientKey == "") {
		return nil, errors.New("a client certificate and its key are needed together")
	}
	if s.ClientCert != "" {
		pair, err := tls.LoadX509KeyPair(s.ClientCert, s.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate %s with key %s: %w", s.ClientCert, s.ClientKey, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// guard lets nothing out over plain HTTP, unless that is allowed.
type guard struct {
	inner http.RoundTripper
	plain bool
}

var errPlain = errors.New("plain HTTP is not allowed")

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.plain {
		if r.Body != nil {
			_ = r.Body.Close() // as a RoundTripper must
		}
		return nil, errPlain
	}
	// A request that is sent again with a new token has had its body read.
	if c, ok := r.Body.(*checked); ok && c.used() && r.GetBody != nil {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Body = body
	}
	return g.inner.RoundTrip(r)
}

// relocated sends what is for a registry's API where that API is.
type relocated struct {
	inner           http.RoundTripper
	base, namespace string
}

// RoundTrip implements http.RoundTripper.
func (m *relocated) RoundTrip(r *http.Request) (*http.Response, error) {
	below, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok || r.Response != nil { // a redirect or a server of tokens has paths of its own
		return m.inner.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	if m.base != "" {
		r.URL.Path, r.URL.RawPath = m.base+"/"+below, ""
	}
	if m.namespace != "" {
		q := r.URL.Query()
		q.Set("ns", m.namespace)
		r.URL.RawQuery = q.Encode()
	}
	return m.inner.RoundTrip(r)
}

// Repository is one repository of a registry, with the right to do something there.
type Repository struct {
	c      *Client
	name   name.Repository
	scheme string
	http   *http.Client
}

// Scopes of a Repository.
const (
	Pull = transport.PullScope
	Push = transport.PushScope
)

// Repository asks the registry how it is spoken to, once for all its repositories, and
// for the right to pull from the repository, or to push to it.
func (c *Client) Repository(ctx context.Context, repo name.Repository, scope string) (*Repository, error) {
	challenge, err := c.ping(ctx, repo.Registry)
	if err != nil {
		return nil, err
	}
	auth, err := authn.Resolve(ctx, c.s.Keychain, repo)
	if err != nil {
		return nil, fmt.Errorf("looking up credentials for %s: %w", repo.RegistryStr(), err)
	}
	r := &Repository{c: c, name: repo, scheme: "https"}
	if challenge.Insecure {
		r.scheme = "http"
	}
	tok := &transport.Token{}
	if strings.EqualFold(challenge.Scheme, "bearer") {
		err := c.retry(ctx, "asking for access to "+repo.Name(), func() error {
			tok, err = transport.Exchange(ctx, repo.Registry, auth, c.inner, []string{repo.Scope(scope)}, challenge)
			return err
		})
		if err != nil {
			return nil, r.explain("asking for access", err)
		}
		if tok.Token == "" {
			tok.Token = tok.AccessToken
		}
	}
	t, err := transport.FromToken(repo.Registry, auth, c.inner, challenge, tok)
	if err != nil {
		return nil, fmt.Errorf("authenticating at %s: %w", repo.RegistryStr(), err)
	}
	r.http = &http.Client{Transport: t}
	return r, nil
}

// Name is the repository's full name.
func (r *Repository) Name() string { return r.name.Name() }

func (c *Client) ping(ctx context.Context, reg name.Registry) (*transport.Challenge, error) {
	c.mu.Lock()
	p, ok := c.pings[reg.RegistryStr()]
	if !ok {
		p = &ping{}
		c.pings[reg.RegistryStr()] = p
	}
	c.mu.Unlock()
	p.once.Do(func() {
		at := reg
		if c.s.PlainHTTP {
			insecure, err := name.NewRegistry(reg.RegistryStr(), name.Insecure)
			if err != nil {
				p.err = err
				return
			}
			at = insecure
		}
		p.err = c.retry(ctx, "connecting to "+reg.RegistryStr(), func() error {
			var err error
			p.challenge, err = transport.Ping(ctx, at, c.inner)
			if err != nil && unreachable(err) {
				return final{err} // a wrong name or address should be told at once
			}
			return err
		})
		if p.err != nil {
			p.err = explain(c.s.advice(reg.RegistryStr()), "", "connecting to "+reg.RegistryStr(), p.err)
		}
	})
	return p.challenge, p.err
}
