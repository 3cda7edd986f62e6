//go:build linux

package scenarios

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

const tlsDir = node.DataDir + "/server/tls"

// rotatesAuthorities: new authorities, which the old ones vouch for. The agent, who knows
// the old ones, goes on, and takes the new ones at its next start.
func rotatesAuthorities(ctx context.Context, t *testing.T, c *cluster) {
	const folder = "/root/new-ca"
	const name = "the-new-authority"
	for _, kind := range []string{"client", "server", "request-header", "etcd/peer", "etcd/server"} {
		old, err := tls.LoadX509KeyPair(c.one.Path(tlsDir+"/"+kind+"-ca.crt"), c.one.Path(tlsDir+"/"+kind+"-ca.key"))
		if err != nil {
			t.Fatal(err)
		}
		cert, key := authority(t, name, old)
		for file, content := range map[string][]byte{kind + "-ca.crt": cert, kind + "-ca.key": key} {
			if err := c.one.WriteFile(filepath.Join(folder, file), content); err != nil {
				t.Fatal(err)
			}
		}
	}
	service, err := os.ReadFile(c.one.Path(tlsDir + "/service.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.one.WriteFile(folder+"/service.key", service); err != nil {
		t.Fatal(err)
	}
	if by, err := issuer(ctx, c.one, "6443"); err != nil || strings.Contains(by, name) {
		t.Fatalf("the API server's certificate before: %q, %v", by, err)
	}
	mustRun(ctx, t, c.one, "certificate", "rotate-ca", "--path", folder)
	for _, n := range []*node.Node{c.one, c.two, c.agent} {
		restart(ctx, t, n, nil)
	}
	for _, port := range []string{"6443", "9345", "2379", "10250"} {
		if err := sealed.Wait(ctx, "a certificate of the new authority on port "+port, stepLimit, func(ctx context.Context) error {
			by, err := issuer(ctx, c.one, port)
			if err == nil && !strings.Contains(by, name) {
				err = fmt.Errorf("it is %s's", by)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	if out, err := c.one.Kubectl(ctx, "get", "nodes"); err != nil {
		t.Errorf("with the new kubeconfig: %v\n%s", err, out)
	}
	c.healthy(ctx, t, c.one, 2)
}

// issuer names who signed the certificate that a port of a host shows.
func issuer(ctx context.Context, n *node.Node, port string) (string, error) {
	cert, err := shown(ctx, n, port)
	if err != nil {
		return "", err
	}
	return cert.Issuer.CommonName, nil
}

// shown is the certificate that a port of a host shows.
func shown(ctx context.Context, n *node.Node, port string) (*x509.Certificate, error) {
	conn, err := n.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	c := tls.Client(conn, trustAnyone())
	// A port that wants a client's certificate shows its own first.
	if err := c.HandshakeContext(ctx); err != nil && len(c.ConnectionState().PeerCertificates) == 0 {
		return nil, err
	}
	return c.ConnectionState().PeerCertificates[0], nil
}

// authority makes a new root, which an old authority vouches for too, and an authority
// under it: the files NAME-ca.crt and NAME-ca.key of the engine.
func authority(t *testing.T, name string, old tls.Certificate) (certs, keys []byte) {
	t.Helper()
	oldRoot, err := x509.ParseCertificate(old.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	root, below := newKey(t), newKey(t)
	self := sign(t, name+"-root", root.Public(), nil, root)
	cross := sign(t, name+"-root", root.Public(), oldRoot, old.PrivateKey)
	rootCert, err := x509.ParseCertificate(self)
	if err != nil {
		t.Fatal(err)
	}
	issued := sign(t, name, below.Public(), rootCert, root)
	var c, k bytes.Buffer
	for _, der := range [][]byte{issued, self, cross, old.Certificate[0]} {
		if err := pem.Encode(&c, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []*ecdsa.PrivateKey{below, root} {
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := pem.Encode(&k, &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}); err != nil {
			t.Fatal(err)
		}
	}
	return c.Bytes(), k.Bytes()
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes an authority's certificate, signed by itself without a parent.
func sign(t *testing.T, name string, public crypto.PublicKey, parent *x509.Certificate, by crypto.PrivateKey) []byte {
	t.Helper()
	raw, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(raw)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, SubjectKeyId: id[:20],
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * 365 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent = cert
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
