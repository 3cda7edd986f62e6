package serve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// SelfSigned makes a certificate for names and addresses, with a key of its own. It is
// its own authority, so that a client can be told to trust exactly it. With a folder it is
// kept there (serve.crt and serve.key) and used again until thirty days before its end.
func SelfSigned(hosts []string, dir string) (tls.Certificate, error) {
	cert, key := filepath.Join(dir, "serve.crt"), filepath.Join(dir, "serve.key")
	if dir != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return pair, fmt.Errorf("reading the certificate %s and its key: %w", cert, err)
		case covers(pair.Leaf, hosts):
			return pair, nil
		}
	}
	certPEM, keyPEM, err := selfSigned(hosts)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate: %w", err)
	}
	if dir != "" {
		err := errors.Join(os.MkdirAll(dir, 0o700), writeWhole(key, keyPEM, 0o600), writeWhole(cert, certPEM, 0o644))
		if err != nil {
			return tls.Certificate{}, fmt.Errorf("keeping the certificate: %w", err)
		}
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}

// covers tells whether a certificate is good for all of the hosts for some time yet.
func covers(c *x509.Certificate, hosts []string) bool {
	if time.Now().Add(30 * 24 * time.Hour).After(c.NotAfter) {
		return false
	}
	return !slices.ContainsFunc(hosts, func(h string) bool { return c.VerifyHostname(h) != nil })
}

func selfSigned(hosts []string) (certPEM, keyPEM []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "rke2 bundle serve"},
		// Clocks of isolated hosts differ.
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// writeWhole makes a small file appear whole.
func writeWhole(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".serve-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// Fingerprint is the SHA-256 of a certificate in DER, as openssl x509 -fingerprint
// -sha256 and browsers show it.
func Fingerprint(c tls.Certificate) string {
	var out []string
	for _, b := range sha256.Sum256(c.Certificate[0]) {
		out = append(out, fmt.Sprintf("%02X", b))
	}
	return strings.Join(out, ":")
}

// Hosts are the names and addresses that this host may be reached by: its name,
// localhost, and the addresses of its interfaces.
func Hosts() []string {
	out := []string{"localhost"}
	if h, err := os.Hostname(); err == nil && h != "" {
		out = append(out, h)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return append(out, "127.0.0.1", "::1")
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
