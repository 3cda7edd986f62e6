//go:build linux

package ingress

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func serve(t *testing.T, address string, handler http.HandlerFunc) {
	t.Helper()
	go func(l net.Listener) { _ = http.Serve(l, handler) }(listen(t, address))
}

// echo is a backend: it says who it is and what it was asked.
func echo(t *testing.T, address string) {
	serve(t, address, func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(address)
		w.Header().Set("X-Backend", host)
		fmt.Fprintf(w, "%s %s %s proto=%s for=%s user=%s", r.Method, r.URL, r.Host, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"), r.Header.Get("X-User"))
	})
}

// memcached serves as much of the protocol as there is need of.
func memcached(t *testing.T, address string) {
	var mu sync.Mutex
	values := map[string]int{}
	answer := func(r *bufio.Reader, f []string) string {
		mu.Lock()
		defer mu.Unlock()
		value, there := values[f[1]]
		switch {
		case f[0] == "incr" && len(f) == 3 && there:
			n, _ := strconv.Atoi(f[2])
			values[f[1]] += n
			return strconv.Itoa(values[f[1]])
		case f[0] == "incr" && len(f) == 3:
			return "NOT_FOUND"
		case f[0] == "get" && len(f) == 2 && there:
			s := strconv.Itoa(value)
			return fmt.Sprintf("VALUE %s 0 %d\r\n%s\r\nEND", f[1], len(s), s)
		case f[0] == "get" && len(f) == 2:
			return "END"
		case f[0] == "add" && len(f) == 5:
			data, err := r.ReadString('\n')
			n, convErr := strconv.Atoi(strings.TrimSpace(data))
			if err != nil || convErr != nil || strconv.Itoa(len(data)-2) != f[4] {
				return "CLIENT_ERROR bad data chunk"
			}
			if there {
				return "NOT_STORED"
			}
			values[f[1]] = n
			return "STORED"
		}
		return "ERROR"
	}
	l := listen(t, address)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					line, err := r.ReadString('\n')
					f := strings.Fields(line)
					if err != nil || len(f) < 2 {
						return
					}
					if _, err := io.WriteString(c, answer(r, f)+"\r\n"); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// authority issues throw-away certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key, a.pem, _ = a.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	return a
}

func (a *authority) issue(c *x509.Certificate, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent, parentKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
	if err != nil {
		a.t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// server gives a certificate for names, and its key.
func (a *authority) server(names ...string) (certPEM, keyPEM []byte) {
	a.t.Helper()
	_, _, certPEM, keyPEM = a.issue(&x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, a.cert, a.key)
	return certPEM, keyPEM
}

func (a *authority) client(name string) tls.Certificate {
	a.t.Helper()
	_, _, certPEM, keyPEM := a.issue(&x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, a.cert, a.key)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}

func (a *authority) pair(name string) tls.Certificate {
	a.t.Helper()
	pair, err := tls.X509KeyPair(a.server(name))
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}
