// Package distribution runs the CNCF distribution registry as a process for tests, with
// TLS and a password, and a proxy before it that counts, slows down and breaks.
package distribution

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/tools"
)

// User and Password are what the registry asks for.
const (
	User     = "operator"
	Password = "air-gapped"
	// htpasswd is the line of that user (bcrypt, cost 5).
	htpasswd = "operator:$2a$05$44LCMuZs9FT9PoFyd47NKeo4gxL67NiqxR1ZzKLNzFMFv5vlbORE2\n"
)

// Options change what is started.
type Options struct {
	Dir    string // of its storage; "": a temporary one
	NoAuth bool
	NoTLS  bool
}

// Server is a running registry.
type Server struct {
	Addr   string // HOST:PORT
	Dir    string // of its storage
	CAFile string // PEM file of the authority that signed its certificate
	// Folder has its files but for those in Dir; Config is one of them.
	Folder, Config string
	Program        string

	certificate tls.Certificate
	pool        *x509.CertPool
	tls         bool
}

// Lay lays out what a registry needs that will listen at an address of another host. All
// is below Folder, which that host must see under the same path, with Dir writable; the
// program is [Server.Program], and its arguments are "serve" and Config. Nothing is started.
func Lay(t testing.TB, address string, o Options) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{Addr: address, Dir: o.Dir, CAFile: filepath.Join(dir, "ca.pem"), Folder: dir, Config: filepath.Join(dir, "config.yml"), tls: !o.NoTLS}
	s.Program = tools.Build(t, "airgap/publish/testdata/tools/registry", "registry")
	if s.Dir == "" {
		s.Dir = filepath.Join(dir, "storage")
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	s.makeCertificate(t, cert, key)
	var config strings.Builder
	fmt.Fprintf(&config, "version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %q}\n  delete: {enabled: true}\n", s.Dir)
	fmt.Fprintf(&config, "http:\n  addr: %q\n  secret: not-much-of-one\n", s.Addr)
	if !o.NoTLS {
		fmt.Fprintf(&config, "  tls: {certificate: %q, key: %q}\n", cert, key)
	}
	if !o.NoAuth {
		users := filepath.Join(dir, "htpasswd")
		write(t, users, []byte(htpasswd))
		fmt.Fprintf(&config, "auth:\n  htpasswd: {realm: test, path: %q}\n", users)
	}
	write(t, s.Config, []byte(config.String()))
	return s
}

// Start starts a registry, which ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := Lay(t, freeAddress(t), o)
	logs, err := os.Create(filepath.Join(s.Folder, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(s.Program, "serve", s.Config)
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none", "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = logs, logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			b, _ := os.ReadFile(logs.Name())
			t.Logf("the registry's log:\n%s", tail(b, 4<<10))
		}
		_ = logs.Close() // it was written to by another process
	})
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.Addr)
		if err == nil {
			_ = conn.Close()
			return s
		}
		select {
		case <-ended:
			limit = time.Time{}
		default:
		}
		if time.Now().After(limit) {
			b, _ := os.ReadFile(logs.Name())
			t.Fatalf("the registry does not answer: %v\n%s", err, b)
		}
	}
}

// HTTP is a client that trusts the registry and knows its password.
func (s *Server) HTTP() *http.Client {
	return &http.Client{Transport: &known{&http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool}}}}
}

type known struct{ inner http.RoundTripper }

func (k *known) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth(User, Password)
	return k.inner.RoundTrip(r)
}

// URL is an address in the registry's API.
func (s *Server) URL(format string, args ...any) string {
	scheme := "https"
	if !s.tls {
		scheme = "http"
	}
	return scheme + "://" + s.Addr + "/v2/" + fmt.Sprintf(format, args...)
}

// DockerConfig writes a docker config folder with the credentials for addresses, as
// docker login does.
func DockerConfig(t testing.TB, addresses ...string) string {
	t.Helper()
	dir := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte(User + ":" + Password))
	var entries []string
	for _, a := range addresses {
		entries = append(entries, fmt.Sprintf("%q: {\"auth\": %q}", a, auth))
	}
	write(t, filepath.Join(dir, "config.json"), []byte(`{"auths": {`+strings.Join(entries, ", ")+`}}`))
	return dir
}

func (s *Server) makeCertificate(t testing.TB, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	addresses := []net.IP{net.IPv4(127, 0, 0, 1)}
	if host, _, err := net.SplitHostPort(s.Addr); err == nil && net.ParseIP(host) != nil {
		addresses = append(addresses, net.ParseIP(host))
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test registry"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: addresses, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	write(t, cert, certPEM)
	write(t, s.CAFile, certPEM)
	write(t, key, keyPEM)
	if s.certificate, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	s.pool = x509.NewCertPool()
	s.pool.AppendCertsFromPEM(certPEM)
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// freeAddress is free when it is chosen, and most likely still a moment later.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return addr
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }
