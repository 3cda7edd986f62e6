package mirrors

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap/registry"
)

// TestIdentityToken: it is changed for a registry's token where the registry says (docker's
// token authentication, OAuth2), and a client certificate is shown where one is asked for.
func TestIdentityToken(t *testing.T) {
	const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`
	var granted int
	s := httptest.NewUnstartedServer(nil)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			if err := r.ParseForm(); err != nil || r.Form.Get("grant_type") != "refresh_token" || r.Form.Get("refresh_token") != "who-i-am" || r.Form.Get("scope") != "repository:aa/bb:pull" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			granted++
			_ = json.NewEncoder(w).Encode(map[string]string{"access_token": "one-way"}) // the client would tell
		case r.Header.Get("Authorization") != "Bearer one-way":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/v2/aa/bb/manifests/c":
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = w.Write([]byte(manifest)) // the client would tell
		}
	})
	s.StartTLS()
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "https://")
	ca, cert, key := pemFiles(t, s)
	ask := func(token, certificate string) error {
		c, err := load(t, strings.NewReplacer("HOST", host, "TOKEN", token, "CERT", certificate, "CA", ca).Replace(`
mirrors: {docker.io: {endpoint: ["https://HOST"]}}
configs: {HOST: {auth: {identity_token: TOKEN}, tls: {ca_file: CA, CERT}}}
`))
		if err != nil {
			t.Fatal(err)
		}
		c.OnlyMirrors = true
		_, _, _, err = repository(t, c, "docker.io/aa/bb", registry.Settings{}).Manifest(t.Context(), "c")
		return err
	}
	certificate := "cert_file: " + cert + ", key_file: " + key
	if err := ask("who-i-am", certificate); err != nil || granted != 1 {
		t.Errorf("%d tokens: %v", granted, err)
	}
	if err := ask("somebody-else", certificate); err == nil || !strings.Contains(err.Error(), "not authorised") {
		t.Errorf("another token: %v", err)
	}
	if err := ask("who-i-am", "insecure_skip_verify: false"); err == nil || !strings.Contains(err.Error(), "it may want a client certificate (configs.\""+host+"\".tls.cert_file") {
		t.Errorf("no certificate: %v", err)
	}
}

// pemFiles writes the server's certificate, which does for the client too.
func pemFiles(t *testing.T, s *httptest.Server) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pair := s.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return file("ca.pem", "CERTIFICATE", pair.Certificate[0]), file("cert.pem", "CERTIFICATE", pair.Certificate[0]), file("key.pem", "PRIVATE KEY", der)
}
