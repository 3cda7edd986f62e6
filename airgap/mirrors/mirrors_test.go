package mirrors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/rancher/rke2/airgap/registry"
)

func load(t testing.TB, text string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "registries.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(file)
}

func TestEndpoints(t *testing.T) {
	c, err := load(t, `
mirrors:
  docker.io:
    endpoint: [https://one.example.com:5000/v2, "two.example.com", "http://three.example.com/v2/hub"]
    rewrite:
      "^library/(.*)": "mirror/docker/$1"
      "^library/": "never"
  quay.io:
    endpoint: [https://quay.io]
  gcr.io:443:
    endpoint: [https://art.example.com/artifactory/api/docker/gcr/v2]
  "*":
    endpoint: [https://all.example.com]
    rewrite: {"(.*)": "any/$1"}
configs:
  one.example.com:5000: {auth: {username: u, password: p}}
  docker.io: {auth: {identity_token: t}}
  "*": {tls: {insecure_skip_verify: true}}
`)
	if err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string][]string{
		"busybox": {
			"https://one.example.com:5000 mirror/docker/busybox ns=docker.io auth",
			"https://two.example.com mirror/docker/busybox ns=docker.io any",
			"http://three.example.com/v2/hub mirror/docker/busybox ns=docker.io any",
			"https://index.docker.io library/busybox ns= auth",
		},
		"rancher/x": {
			"https://one.example.com:5000 rancher/x ns=docker.io auth", "https://two.example.com rancher/x ns=docker.io any",
			"http://three.example.com/v2/hub rancher/x ns=docker.io any", "https://index.docker.io rancher/x ns= auth",
		},
		"quay.io/a/b":            {"https://quay.io a/b ns= any"}, // itself, once
		"gcr.io/a/b":             {"https://art.example.com/artifactory/api/docker/gcr a/b ns=gcr.io any", "https://gcr.io a/b ns= any"},
		"other.example.com/aa":   {"https://all.example.com any/aa ns=other.example.com any", "https://other.example.com aa ns= any"},
		"other.example.com:1/aa": {"https://all.example.com any/aa ns=other.example.com:1 any", "https://other.example.com:1 aa ns= any"},
	} {
		r, err := name.NewRepository(repo)
		if err != nil {
			t.Fatal(err)
		}
		all, err := c.Endpoints(r)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range all {
			s := fmt.Sprintf("%s %s ns=%s", e, e.Repository, e.Namespace)
			if e.Auth != nil {
				s += " auth"
			}
			if e.TLS != nil && e.TLS.InsecureSkipVerify {
				s += " any"
			}
			got = append(got, s)
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s:\n%s\ninstead of\n%s", repo, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestOnlyMirrors: where there are none, the registry itself is asked all the same.
func TestOnlyMirrors(t *testing.T) {
	c, err := load(t, "mirrors:\n  docker.io: {endpoint: [\"https://one.example.com\"]}\n  quay.io: {}\n")
	if err != nil {
		t.Fatal(err)
	}
	c.OnlyMirrors = true
	for repo, want := range map[string]string{"busybox": "https://one.example.com", "quay.io/a/b": "https://quay.io", "gcr.io/a/b": "https://gcr.io"} {
		r, err := name.NewRepository(repo)
		if err != nil {
			t.Fatal(err)
		}
		all, err := c.Endpoints(r)
		if err != nil || len(all) != 1 || all[0].String() != want {
			t.Errorf("%s: %v, %v", repo, all, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for what, c := range map[string]struct{ text, says string }{
		"an unknown key":       {"mirrors:\n  docker.io:\n    endpoints: [a]\n", "registries.yaml:3: unknown key \"endpoints\""},
		"a key of old":         {"auths: {}\n", "registries.yaml:1: unknown key \"auths\""},
		"a wrong type":         {"mirrors: [a]\n", "registries.yaml:1: cannot unmarshal"},
		"no YAML":              {"mirrors: [\n", "registries.yaml:"},
		"a pattern":            {"mirrors:\n  a:\n    rewrite:\n      \"(\": b\n", "registries.yaml:4: the pattern"},
		"a list of rewrites":   {"mirrors:\n  a:\n    rewrite: [b]\n", "registries.yaml:3: rewrite is a map"},
		"another scheme":       {"mirrors:\n  a: {endpoint: [\"ftp://b\"]}\n", "ftp:// is not spoken"},
		"credentials in a URL": {"mirrors:\n  a: {endpoint: [\"https://u:p@b\"]}\n", "credentials belong under configs"},
		"a query":              {"mirrors:\n  a: {endpoint: [\"https://b?c\"]}\n", "has no query"},
		"no host":              {"mirrors:\n  a: {endpoint: [\"https://\"]}\n", "it has no host"},
		"a URL for a host":     {"configs:\n  \"https://a\": {}\n", "without https://"},
		"half a certificate":   {"configs:\n  a: {tls: {cert_file: b}}\n", "are needed together"},
	} {
		if _, err := load(t, c.text); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Load("/nowhere/registries.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if c, err := load(t, ""); err != nil || len(c.Mirrors) != 0 {
		t.Errorf("an empty file: %v", err)
	}
}

// TestLoadForNode: a key that is not known is passed over and named; what else is wrong is
// an error all the same.
func TestLoadForNode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "registries.yaml")
	if c, ignored, err := LoadForNode(file); err != nil || ignored != nil || len(c.Mirrors) != 0 {
		t.Errorf("no file: %v, %v", ignored, err)
	}
	for text, says := range map[string]string{
		"mirrors:\n  a: {endpoint: [\"https://b\"]}\n":               "",
		"auths: {}\nmirrors:\n  a: {endpoint: [\"https://b\"]}\n":    "registries.yaml:1: unknown key \"auths\"",
		"auths: {}\nmirrors:\n  a: {endpoint: [\"ftp://b\"]}\n":      "error: registries.yaml:1: unknown key \"auths\"",
		"mirrors:\n  a: {endpoint: [\"ftp://b\"]}\n":                 "error: ftp:// is not spoken",
		"mirrors:\n  a: {endpoint: [\"https://b\"]}\nconfigs: [a]\n": "error: registries.yaml:3: cannot unmarshal",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, ignored, err := LoadForNode(file)
		got := ignored
		want, fails := strings.CutPrefix(says, "error: ")
		if fails {
			got = err
		}
		if fails != (err != nil) || (got == nil) != (want == "") || got != nil && !strings.Contains(got.Error(), want) {
			t.Errorf("%q: %v, %v", text, ignored, err)
		}
		if err == nil && len(c.Mirrors["a"].Endpoints) != 1 {
			t.Errorf("%q: %+v", text, c.Mirrors)
		}
	}
}

// server is a registry without TLS, and what it is asked for.
func server(t *testing.T, around func(w http.ResponseWriter, r *http.Request, next http.Handler)) string {
	t.Helper()
	next := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { around(w, r, next) }))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// TestPathsAndNamespace: an endpoint whose API is not at /v2 is asked there, for the
// registry that it stands for.
func TestPathsAndNamespace(t *testing.T) {
	const base = "/artifactory/api/docker/remote/v2"
	var asked []string
	host := server(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if p, ok := strings.CutPrefix(r.URL.Path, base); ok {
			if r.Method == http.MethodGet {
				asked = append(asked, p+"?"+r.URL.RawQuery)
			}
			r.URL.Path = "/v2" + p
		} else if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "manifests") {
			t.Errorf("asked for %s", r.URL)
		}
		next.ServeHTTP(w, r)
	})
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(host + "/a/bb:c")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	asked = nil
	c, err := load(t, "mirrors:\n  x.example.com:\n    endpoint: [\"http://"+host+base+"\"]\n    rewrite: {\"^(.*)$\": \"a/$1\"}\n")
	if err != nil {
		t.Fatal(err)
	}
	_, d, from, err := repository(t, c, "x.example.com/bb", registry.Settings{}).Manifest(t.Context(), "c")
	want, _ := img.Digest()
	if err != nil || d.Digest != want || from.Host != host {
		t.Errorf("%v %v %v", d, from, err)
	}
	if strings.Join(asked, " ") != "/?ns=x.example.com /a/bb/manifests/c?ns=x.example.com" {
		t.Errorf("%q", asked)
	}
}

// repository is one behind a door of its own.
func repository(t *testing.T, c *Config, repo string, s registry.Settings) *Repository {
	t.Helper()
	named, err := name.NewRepository(repo)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewDoor(c, s, nil).Repository(named)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestUnanswered: what no endpoint has is not found; what one could not say is not.
func TestUnanswered(t *testing.T) {
	none := server(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) })
	ask := func(endpoints ...string) error {
		c, err := load(t, "mirrors:\n  \""+none+"\":\n    endpoint: [\""+strings.Join(endpoints, `","`)+"\"]\n")
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = repository(t, c, none+"/aa", registry.Settings{}).Manifest(t.Context(), "b")
		return err
	}
	other := server(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) })
	if err := ask("http://" + other); !errors.Is(err, registry.ErrNotFound) || !strings.Contains(err.Error(), "none of the 2 endpoints of "+none+"/aa has it") {
		t.Errorf("nowhere: %v", err)
	}
	err := ask("http://127.0.0.1:1")
	if errors.Is(err, registry.ErrNotFound) || !errors.Is(err, registry.ErrUnreachable) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("one is down: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := repository(t, &Config{}, "127.0.0.1:1/aa", registry.Settings{Retries: 9})
	if _, _, _, err := r.Manifest(ctx, "b"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
