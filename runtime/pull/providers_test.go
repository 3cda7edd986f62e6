package pull

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// TestMatches is the kubelet's documented rules for matchImages.
func TestMatches(t *testing.T) {
	for _, c := range []struct {
		glob, image string
		want        bool
	}{
		{"registry.io", "registry.io/app", true},
		{"https://registry.io", "registry.io/app", true},
		{"registry.io:8080/path", "registry.io:8080/path/app", true},
		{"registry.io:8080/path", "registry.io:8080/other/app", false},
		{"registry.io", "registry.io:8080/app", false},
		{"registry.io:8080", "registry.io/app", false},
		{"*.registry.io", "eu.registry.io/app", true},
		{"*.registry.io", "registry.io/app", false},
		{"*.registry.io", "a.b.registry.io/app", false},
		{"*.*.registry.io", "a.b.registry.io/app", true},
		{"app*.k8s.io", "app3.k8s.io/x", true},
		{"*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-1.amazonaws.com/x", true},
		{"registry.io", "registry.io.evil.com/app", false},
		{"docker.io", "docker.io/library/busybox", true},
		{"198.51.100.20:5000", "198.51.100.20:5000/a/b", true},
	} {
		if got := matches(c.glob, c.image); got != c.want {
			t.Errorf("%s, %s: %v", c.glob, c.image, got)
		}
	}
}

// provide writes a configuration of providers and their programs, shell scripts by name.
func provide(t *testing.T, config string, programs map[string]string) (file, bin string) {
	t.Helper()
	dir := t.TempDir()
	file, bin = filepath.Join(dir, "config.yaml"), filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, script := range programs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return file, bin
}

const twoProviders = `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: first
  matchImages: ["*.example.com", "docker.io"]
  defaultCacheDuration: 10m
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  args: [--region, here]
  env: [{name: SECRET, value: sesame}]
- name: second
  matchImages: ["*.example.com:5000/a"]
  defaultCacheDuration: 0s
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  tokenAttributes: {requireServiceAccount: true}
`

const answer = `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","auth":%s}`

func TestProviders(t *testing.T) {
	var log bytes.Buffer
	file, bin := provide(t, twoProviders, map[string]string{
		// It answers with what it was asked, and how.
		"first":  `q=$(cat | tr -d '"{}'); echo "` + strings.ReplaceAll(fmt.Sprintf(answer, `{"*.example.com":{"username":"$1 $2 $SECRET","password":"$q"},"eu.example.com/a":{"username":"closer","password":"p"},"*.other":{"username":"no","password":"no"},"docker.io":{"username":"hub","password":"$q"}}`), `"`, `\"`) + `"`,
		"second": `echo "no token today" >&2; exit 3`,
	})
	p, err := loadProviders(file, bin, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	login := func(repository string) string {
		t.Helper()
		r, err := name.NewRepository(repository)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := authn.Resolve(t.Context(), p, r)
		if err != nil {
			t.Fatal(err)
		}
		c, err := auth.Authorization()
		if err != nil {
			t.Fatal(err)
		}
		return c.Username + "/" + c.Password
	}
	for repository, want := range map[string]string{
		"us.example.com/bb":      "--region here sesame/kind:CredentialProviderRequest,apiVersion:credentialprovider.kubelet.k8s.io/v1,image:us.example.com/bb",
		"eu.example.com/a/bb":    "closer/p",
		"busybox":                "hub/kind:CredentialProviderRequest,apiVersion:credentialprovider.kubelet.k8s.io/v1,image:docker.io/library/busybox",
		"example.com/aa":         "/",
		"eu.example.com:5000/bb": "/",
	} {
		if got := login(repository); got != want {
			t.Errorf("%s: %q, want %q", repository, got, want)
		}
	}
	if got := login("eu.example.com:5000/aa"); got != "/" || !strings.Contains(log.String(), "exit status 3: no token today") || !strings.Contains(log.String(), "provider=second") {
		t.Errorf("a program that fails: %q\n%s", got, log.String())
	}
}

func TestProvidersThatMisbehave(t *testing.T) {
	for script, says := range map[string]string{
		"sleep 60":             "it did not answer within",
		"echo hello":           "its answer: invalid character",
		"echo '{}'":            "not CredentialProviderResponse",
		"exit 0":               "its answer: unexpected end",
		"yes":                  "provider=first",
		"sleep 60 & echo '{}'": "",
	} {
		var log bytes.Buffer
		file, bin := provide(t, twoProviders, map[string]string{"first": script})
		p, err := loadProviders(file, bin, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		p.limit = time.Second
		r, err := name.NewRepository("eu.example.com/aa")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		auth, err := p.Resolve(r)
		if err != nil || auth != authn.Anonymous || !strings.Contains(log.String(), says) {
			t.Errorf("%s: %v, %v\n%s", script, auth, err, log.String())
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: it took %v", script, took)
		}
	}
}

func TestLoadProvidersRefuses(t *testing.T) {
	if p, err := loadProviders("/nowhere/config.yaml", "", nil); err != nil || len(p.list) != 0 {
		t.Errorf("no file: %v", err)
	}
	for change, says := range map[[2]string]string{
		{"CredentialProviderConfig", "Pod"}:                                         "not CredentialProviderConfig",
		{"kubelet.config.k8s.io/v1", "v1"}:                                          "not CredentialProviderConfig",
		{"name: first", "name: ../first"}:                                           "is no name of a program",
		{"matchImages: [\"*.example.com\", \"docker.io\"]", "matchImages: []"}:      "it has no matchImages",
		{"\"docker.io\"]", "\"[.io\"]"}:                                             "syntax error in pattern",
		{"\"docker.io\"]", "\"/x\"]"}:                                               "it has no host",
		{"apiVersion: credentialprovider.kubelet.k8s.io/v1", "apiVersion: example"}: "must be of credentialprovider",
		{"providers:", "providers: ["}:                                              "yaml:",
	} {
		file, bin := provide(t, strings.Replace(twoProviders, change[0], change[1], 1), nil)
		if _, err := loadProviders(file, bin, nil); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v", change, err)
		}
	}
	file, _ := provide(t, twoProviders, nil)
	if _, err := loadProviders(file, "", nil); err == nil || !strings.Contains(err.Error(), "image-credential-provider-bin-dir") {
		t.Errorf("no folder: %v", err)
	}
}
