package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/registry"
)

// packed is a chart as a .tgz.
func packed(t *testing.T, ch *chart.Chart) []byte {
	t.Helper()
	path, err := chartutil.Save(ch, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// encode is base64 in lines, as base64(1) writes it.
func encode(t *testing.T, data []byte) []byte {
	t.Helper()
	text := base64.StdEncoding.EncodeToString(data)
	var b bytes.Buffer
	for len(text) > 76 {
		b.WriteString(text[:76] + "\n")
		text = text[76:]
	}
	b.WriteString(text + "\n")
	return b.Bytes()
}

func versioned(version string) *chart.Chart {
	ch := webChart()
	ch.Metadata.Version = version
	return ch
}

// find loads the chart of a job and gives its version, or the error.
func find(t *testing.T, j job, f files) (string, error) {
	t.Helper()
	if j.name == "" {
		j.name = "web"
	}
	j.timeout = 10 * time.Second
	if f.chart == "" {
		f.chart = filepath.Join(t.TempDir(), "none")
	}
	for _, p := range []*string{&f.auth, &f.config, &f.caFiles, &f.docker, &f.clusterCA} {
		if *p == "" {
			*p = f.chart
		}
	}
	s := &source{job: j, files: f, report: &report{out: new(bytes.Buffer)}}
	ch, err := s.load(context.Background())
	if err != nil {
		return "", err
	}
	return ch.Metadata.Version, nil
}

// server serves paths with TLS to whoever knows the password.
func server(t *testing.T, user, password string, paths map[string][]byte) *httptest.Server {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="charts"`)
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		data, ok := paths[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		}
		_, _ = w.Write(data)
	}))
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	return s
}

func caOf(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func index(digest string, urls ...string) []byte {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nentries:\n  web:\n")
	for i, u := range urls {
		fmt.Fprintf(&b, "  - {apiVersion: v2, name: web, version: 1.%d.0, digest: %q, urls: [%q]}\n", i, digest, u)
	}
	return []byte(b.String())
}

func TestContentWins(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"web.tgz.base64": string(encode(t, packed(t, versioned("0.0.1"))))})
	if v, err := find(t, job{chart: "https://nowhere.invalid/web.tgz"}, files{chart: dir}); err != nil || v != "0.0.1" {
		t.Errorf("%q, %v", v, err)
	}
	// Another chart's content is not this one's.
	if _, err := find(t, job{name: "other"}, files{chart: dir}); err == nil || !strings.Contains(err.Error(), "no chart") {
		t.Errorf("got %v", err)
	}
}

func TestBadContent(t *testing.T) {
	good := packed(t, webChart())
	library, lacking := webChart(), webChart()
	library.Metadata.Type = "library"
	lacking.Metadata.Dependencies = []*chart.Dependency{{Name: "database", Version: "1", Repository: "https://charts.invalid"}}
	for _, c := range []struct {
		name, content, want string
	}{
		{"not base64", "this is no base64", "illegal base64"},
		{"not gzip", string(encode(t, []byte("hello"))), "spec.chartContent"},
		{"cut off", string(encode(t, good[:len(good)/2])), "unexpected EOF"},
		{"empty", "", "spec.chartContent"},
		{"a library", string(encode(t, packed(t, library))), "cannot be installed"},
		{"lacks a dependency", string(encode(t, packed(t, lacking))), "database"},
	} {
		dir := write(t, t.TempDir(), map[string]string{"web.tgz.base64": c.content})
		if _, err := find(t, job{}, files{chart: dir}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestRepository(t *testing.T) {
	old, latest := packed(t, versioned("1.0.0")), packed(t, versioned("1.1.0"))
	paths := map[string][]byte{
		"/charts/index.yaml":    index("", "web-1.0.0.tgz", "web-1.1.0.tgz"),
		"/charts/web-1.0.0.tgz": old, "/charts/web-1.1.0.tgz": latest,
		"/summed/index.yaml":   index(fmt.Sprintf("%x", sha256.Sum256(old)), "../charts/web-1.0.0.tgz"),
		"/tampered/index.yaml": index(fmt.Sprintf("%x", sha256.Sum256(old)), "../charts/web-1.1.0.tgz"),
		"/broken/index.yaml":   []byte("<html>"),
	}
	s := server(t, "ship", "s3cret", paths)
	ca := write(t, t.TempDir(), map[string]string{"ca-file.pem": caOf(s), "ca.crt": caOf(s)})
	wrongCA := write(t, t.TempDir(), map[string]string{"ca-file.pem": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"})
	// What `kubectl create secret --from-file` makes of a file that an editor wrote.
	auth := write(t, t.TempDir(), map[string]string{"username": "ship\n", "password": "s3cret\n"})
	wrongAuth := write(t, t.TempDir(), map[string]string{"username": "ship", "password": "guess"})
	half := write(t, t.TempDir(), map[string]string{"username": "ship"})
	trusted := files{config: ca, auth: auth}
	named := job{repo: s.URL + "/charts", chart: "web/web"}
	for _, c := range []struct {
		name string
		job  job
		f    files
		want string // version, or part of the error
	}{
		{"newest", named, trusted, "1.1.0"},
		{"slash at the end", job{repo: s.URL + "/charts/", chart: "web/web"}, trusted, "1.1.0"},
		{"version", job{repo: named.repo, chart: named.chart, version: "1.0.0"}, trusted, "1.0.0"},
		{"range of versions", job{repo: named.repo, chart: named.chart, version: "<1.1"}, trusted, "1.0.0"},
		{"authority in a ConfigMap", named, files{caFiles: ca, auth: auth}, "1.1.0"},
		{"sum holds", job{repo: s.URL + "/summed", chart: "web/web"}, trusted, "1.0.0"},
		{"chart's own URL", job{chart: s.URL + "/charts/web-1.0.0.tgz"}, trusted, "1.0.0"},
		{"stable", job{chart: "stable/web", stableRepo: s.URL + "/charts/"}, trusted, "1.1.0"},
		{"no verification", job{repo: named.repo, chart: named.chart, insecureTLS: true}, files{auth: auth}, "1.1.0"},
		{"Kubernetes API", job{chart: s.URL + "/charts/web-1.0.0.tgz", apiServer: s.Listener.Addr().String()},
			files{clusterCA: filepath.Join(ca, "ca.crt"), auth: auth}, "1.0.0"},

		{"sum does not hold", job{repo: s.URL + "/tampered", chart: "web/web"}, trusted, "the repository's index says"},
		{"no such version", job{repo: named.repo, chart: named.chart, version: "3.0.0"}, trusted, `no chart web of version "3.0.0"`},
		{"no such chart", job{repo: named.repo, chart: "web/database"}, trusted, "no chart database"},
		{"no such repository", job{repo: s.URL + "/none", chart: "web/web"}, trusted, "404"},
		{"no index", job{repo: s.URL + "/broken", chart: "web/web"}, trusted, "reading the index"},
		{"unknown authority", named, files{auth: auth}, "spec.repoCA"},
		{"wrong authority", named, files{config: wrongCA, auth: auth}, "no certificate in PEM"},
		{"the cluster's authority is for the cluster only", job{repo: named.repo, chart: named.chart, apiServer: "10.43.0.1:443"},
			files{clusterCA: filepath.Join(ca, "ca.crt"), auth: auth}, "spec.repoCA"},
		{"wrong password", named, files{config: ca, auth: wrongAuth}, `401 Unauthorized to user "ship"`},
		{"no password", named, files{config: ca}, "no credentials were sent"},
		{"half a secret", named, files{config: ca, auth: half}, "only one of username and password"},
		{"nowhere", job{chart: "web"}, trusted, "needs spec.repo"},
		{"not a repository's URL", job{repo: "charts.example.com", chart: "web/web"}, trusted, "not the URL of a chart repository"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := find(t, c.job, c.f)
			if err != nil {
				got = err.Error()
			}
			if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if strings.Contains(got, "s3cret") {
				t.Errorf("the password is in the message: %s", got)
			}
		})
	}
}

// Credentials are for the repository's host; another host gets them on request only.
func TestCredentialsStayHome(t *testing.T) {
	data := packed(t, versioned("1.0.0"))
	far := server(t, "ship", "s3cret", map[string][]byte{"/web.tgz": data})
	home := server(t, "ship", "s3cret", map[string][]byte{"/index.yaml": index("", far.URL+"/web.tgz")})
	f := files{
		config: write(t, t.TempDir(), map[string]string{"ca-file.pem": caOf(home) + caOf(far)}),
		auth:   write(t, t.TempDir(), map[string]string{"username": "ship", "password": "s3cret"}),
	}
	j := job{repo: home.URL, chart: "web/web"}
	if _, err := find(t, j, f); err == nil || !strings.Contains(err.Error(), "spec.authPassCredentials") {
		t.Errorf("got %v", err)
	}
	j.passCredentials = true
	if v, err := find(t, j, f); err != nil || v != "1.0.0" {
		t.Errorf("%q, %v", v, err)
	}
}

func TestFolderAndFile(t *testing.T) {
	dir := t.TempDir()
	if err := chartutil.SaveDir(versioned("0.1.0"), dir); err != nil {
		t.Fatal(err)
	}
	if v, err := find(t, job{chart: filepath.Join(dir, "web")}, files{}); err != nil || v != "0.1.0" {
		t.Errorf("%q, %v", v, err)
	}
	if _, err := find(t, job{chart: filepath.Join(dir, "none")}, files{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 100))
	}))
	defer s.Close()
	u, _ := url.Parse(s.URL)
	none := filepath.Join(t.TempDir(), "none")
	f, err := newFetcher(job{}, files{auth: none, config: none, caFiles: none}, u, s.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.http(context.Background(), 99); err == nil || !strings.Contains(err.Error(), "more than 99 bytes") {
		t.Errorf("got %v", err)
	}
	if data, err := f.http(context.Background(), 100); err != nil || len(data) != 100 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// registryOf serves charts as an OCI registry does: manifests by tag and digest, blobs,
// and the list of tags.
func registryOf(t *testing.T, user, password string, versions ...string) *httptest.Server {
	t.Helper()
	paths := map[string][]byte{}
	put := func(data []byte) string {
		d := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
		paths["/v2/charts/web/blobs/"+d] = data
		return d
	}
	for _, v := range versions {
		config, err := json.Marshal(versioned(v).Metadata)
		if err != nil {
			t.Fatal(err)
		}
		data := packed(t, versioned(v))
		manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
			"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
			registry.ConfigMediaType, put(config), len(config), registry.ChartLayerMediaType, put(data), len(data))
		paths["/v2/charts/web/manifests/"+v] = manifest
		paths[fmt.Sprintf("/v2/charts/web/manifests/sha256:%x", sha256.Sum256(manifest))] = manifest
	}
	tags, _ := json.Marshal(map[string]any{"name": "charts/web", "tags": versions})
	paths["/v2/charts/web/tags/list"] = tags
	return server(t, user, password, paths)
}

func (f files) withDocker(t *testing.T, config string) files {
	f.docker = filepath.Join(write(t, t.TempDir(), map[string]string{"config.json": config}), "config.json")
	return f
}

func TestRegistry(t *testing.T) {
	s := registryOf(t, "ship", "s3cret", "1.0.0", "1.1.0", "2.0.0-rc.1")
	host := s.Listener.Addr().String()
	ca := files{config: write(t, t.TempDir(), map[string]string{"ca-file.pem": caOf(s)})}
	withAuth := ca
	withAuth.auth = write(t, t.TempDir(), map[string]string{"username": "ship", "password": "s3cret"})
	wrongAuth := ca
	wrongAuth.auth = write(t, t.TempDir(), map[string]string{"username": "ship", "password": "guess"})
	entry := base64.StdEncoding.EncodeToString([]byte("ship:s3cret"))
	docker := fmt.Sprintf(`{"auths":{%q:{"auth":%q}},"credsStore":"desktop"}`, host, entry)
	for _, c := range []struct {
		name string
		job  job
		f    files
		want string
	}{
		{"newest", job{chart: "oci://" + host + "/charts/web"}, withAuth, "1.1.0"},
		{"version", job{chart: "oci://" + host + "/charts/web", version: "1.0.0"}, withAuth, "1.0.0"},
		{"range", job{chart: "oci://" + host + "/charts/web", version: "^1"}, withAuth, "1.1.0"},
		{"tag", job{chart: "oci://" + host + "/charts/web:1.0.0"}, withAuth, "1.0.0"},
		{"as a repository", job{repo: "oci://" + host + "/charts/", chart: "web/web", version: "1.0.0"}, withAuth, "1.0.0"},
		// A credential helper is named too: it must not be run.
		{"docker configuration", job{chart: "oci://" + host + "/charts/web"}, ca.withDocker(t, docker), "1.1.0"},
		{"no such version", job{chart: "oci://" + host + "/charts/web", version: "3.0.0"}, withAuth, "not found"},
		{"wrong password", job{chart: "oci://" + host + "/charts/web"}, wrongAuth, "401"},
		{"no password", job{chart: "oci://" + host + "/charts/web"}, ca, "no credentials"},
		{"bad docker configuration", job{chart: "oci://" + host + "/charts/web"}, ca.withDocker(t, "{"), "spec.dockerRegistrySecret"},
		{"unknown authority", job{chart: "oci://" + host + "/charts/web"}, files{auth: withAuth.auth}, "spec.repoCA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := find(t, c.job, c.f)
			if err != nil {
				got = err.Error()
			}
			if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
