package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
)

const (
	maxIndex = 128 << 20
	userName = "klipper-helm"
)

// maxChart is what a chart may have unpacked, so none can be larger packed.
var maxChart = loader.MaxDecompressedChartSize

// fetcher gets one URL: with the job's trust, and with its credentials if the URL is on
// the host that they are for.
type fetcher struct {
	job      job
	files    files
	url      *url.URL
	client   *http.Client
	user     string
	password string
}

// newFetcher reads certificates and credentials. home is the URL that the credentials
// were given for: the repository's, or the chart's own.
func newFetcher(j job, f files, u *url.URL, home string) (*fetcher, error) {
	out := &fetcher{job: j, files: f, url: u}
	config, err := out.tls()
	if err != nil {
		return nil, err
	}
	out.client = &http.Client{
		Timeout: j.timeout,
		Transport: limited{&http.Transport{
			Proxy:              http.ProxyFromEnvironment,
			TLSClientConfig:    config,
			DisableCompression: true, // a chart is compressed, and is wanted as it is
			ForceAttemptHTTP2:  true,
		}},
	}
	user, password, err := basicAuth(f.auth)
	if err != nil {
		return nil, err
	}
	h, err := url.Parse(home)
	if err != nil {
		return nil, fmt.Errorf("chart repository %s: %w", home, err)
	}
	if j.passCredentials || (h.Scheme == u.Scheme && h.Host == u.Host) {
		out.user, out.password = user, password
	}
	return out, nil
}

// basicAuth reads /auth/username and /auth/password, of which a secret of type
// kubernetes.io/basic-auth is made. Secrets made from files end with a line feed.
func basicAuth(dir string) (user, password string, _ error) {
	u, errU := os.ReadFile(filepath.Join(dir, "username"))
	p, errP := os.ReadFile(filepath.Join(dir, "password"))
	for _, err := range []error{errU, errP} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", fmt.Errorf("reading credentials: %w", err)
		}
	}
	if (errU == nil) != (errP == nil) {
		return "", "", usagef("the secret of spec.authSecret has only one of username and password: it needs both")
	}
	return strings.TrimRight(string(u), "\r\n"), strings.TrimRight(string(p), "\r\n"), nil
}

// tls says whom to trust: the certificates given with the job and no others, else the
// system's; for the Kubernetes API also the cluster's own.
func (f *fetcher) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: f.job.insecureTLS} // asked for by spec.insecureSkipTLSVerify
	pool, err := f.roots()
	if err != nil {
		return nil, err
	}
	c.RootCAs = pool
	certFile, keyFile := filepath.Join(f.files.auth, "tls.crt"), filepath.Join(f.files.auth, "tls.key")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	switch {
	case err == nil:
		c.Certificates = []tls.Certificate{cert}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading the client certificate %s: %w", certFile, err)
	}
	return c, nil
}

func (f *fetcher) roots() (*x509.CertPool, error) {
	paths := []string{filepath.Join(f.files.config, "ca-file.pem")}
	entries, err := os.ReadDir(f.files.caFiles)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") { // ..data, of which the kubelet links each file
			paths = append(paths, filepath.Join(f.files.caFiles, e.Name()))
		}
	}
	var pool *x509.CertPool
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading certificates: %w", err)
		}
		if pool == nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(data) {
			return nil, usagef("%s has no certificate in PEM: see spec.repoCA and spec.repoCAConfigMap of HelmChart %s", p, f.job.name)
		}
	}
	if f.job.apiServer == "" || f.url.Host != f.job.apiServer {
		return pool, nil
	}
	data, err := os.ReadFile(f.files.clusterCA)
	if errors.Is(err, fs.ErrNotExist) {
		return pool, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's certificate: %w", err)
	}
	if pool == nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM(data)
	return pool, nil
}

// http gets the URL, of at most that many bytes.
func (f *fetcher) http(ctx context.Context, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userName+"/"+strings.TrimPrefix(version, "v"))
	if f.user != "" {
		req.SetBasicAuth(f.user, f.password)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, explain(err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		if f.user == "" {
			return nil, fmt.Errorf("the server answers %s, and no credentials were sent: see spec.authSecret, and spec.authPassCredentials for charts on another host than the repository's", resp.Status)
		}
		return nil, fmt.Errorf("the server answers %s to user %q of spec.authSecret", resp.Status, f.user)
	default:
		return nil, fmt.Errorf("the server answers %s", resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("it has more than %d bytes", most)
	}
	return data, nil
}

// explain adds what to do about a server that is not trusted.
func explain(err error) error {
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &verify) || errors.As(err, &unknown) {
		return fmt.Errorf("%w; a private authority's certificate goes into spec.repoCA or spec.repoCAConfigMap", err)
	}
	return err
}

// checkSum compares with the SHA-256 of a repository's index, where it has one.
func checkSum(data []byte, want string) error {
	want = strings.ToLower(strings.TrimPrefix(want, "sha256:"))
	if len(want) != sha256.Size*2 {
		return nil
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); got != want {
		return fmt.Errorf("what came has sha256 %s, the repository's index says %s", got, want)
	}
	return nil
}

// limited refuses answers that are larger than any chart, for code that reads them whole.
type limited struct{ next http.RoundTripper }

func (l limited) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: max(maxChart, maxIndex) + 1}
	return resp, nil
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("the answer is larger than a chart may be")
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}
