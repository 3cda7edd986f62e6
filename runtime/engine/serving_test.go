package engine

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"github.com/rancher/dynamiclistener/factory"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
)

// testAuthority is a certificate authority of a test.
type testAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestAuthority(t *testing.T, name string) testAuthority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte(name),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return testAuthority{cert, key}
}

func (a testAuthority) serving(t *testing.T) *corev1.Secret {
	t.Helper()
	secret, err := (&factory.TLS{CACert: []*x509.Certificate{a.cert}, CAKey: a.key, CN: "rke2", Organization: []string{"rke2"}}).
		Renew(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "rke2-serving", Namespace: "kube-system", Annotations: map[string]string{"listener.cattle.io/cn-localhost": "localhost"}},
		})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestRenewServing(t *testing.T) {
	dir := t.TempDir()
	e := newExecutor(config.Config{DataDir: dir}, host.Facts{}, nil, slog.New(slog.DiscardHandler))
	old, current, stranger := newTestAuthority(t, "old"), newTestAuthority(t, "current"), newTestAuthority(t, "stranger")
	var chain bytes.Buffer
	for _, c := range []*x509.Certificate{current.cert, old.cert} {
		if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	key, err := x509.MarshalECPrivateKey(current.key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "server", "tls", "server-ca.crt"), chain.String())
	write(t, filepath.Join(dir, "server", "tls", "server-ca.key"), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})))
	for _, c := range []struct {
		name string
		by   testAuthority
		want bool
	}{{"signed by the one before", old, true}, {"by the one in use", current, false}, {"by one that is newer than this server knows", stranger, false}} {
		secret := c.by.serving(t)
		client := fake.NewClientset(secret)
		renewed, err := e.renewServing(t.Context(), client, secret)
		if err != nil || renewed != c.want {
			t.Errorf("%s: renewed %t, want %t (%v)", c.name, renewed, c.want, err)
		}
		now, err := client.CoreV1().Secrets("kube-system").Get(t.Context(), "rke2-serving", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		again, err := e.renewServing(t.Context(), client, now)
		if err != nil || again {
			t.Errorf("%s: what was renewed is renewed again: %t, %v", c.name, again, err)
		}
		if c.want && now.Annotations["listener.cattle.io/cn-localhost"] != "localhost" {
			t.Errorf("%s: the names got lost: %v", c.name, now.Annotations)
		}
	}
}
