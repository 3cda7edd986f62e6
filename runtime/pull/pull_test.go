package pull

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/distribution"
)

const (
	repository = "docker.io/rancher/thing"
	reference  = repository + ":v1"
)

// lab is a registry with TLS and a password that has a signed image, and a node's settings.
type lab struct {
	server   *distribution.Server
	policy   trust.Policy
	dir      string
	log      *lockedBuffer
	settings Settings
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newLab(t *testing.T, image distribution.Image) *lab {
	t.Helper()
	l := &lab{server: distribution.Start(t, distribution.Options{}), dir: t.TempDir(), log: &lockedBuffer{}}
	// Credentials of whoever runs the test are not the test's. Only now: the registry is
	// built with the cache in HOME.
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", "")
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	image.Ref = l.server.Addr + "/rancher/thing:v1"
	layout := t.TempDir()
	key := distribution.WriteLayout(t, layout, image)
	l.server.Seed(t, layout)
	raw, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := trust.ParseKey(raw, "operator.pub")
	if err != nil {
		t.Fatal(err)
	}
	l.policy = trust.Policy{Mode: trust.ModeAll, OperatorKeys: []trust.Key{k}}
	l.settings = Settings{Registries: filepath.Join(l.dir, "registries.yaml"), Log: slog.New(slog.NewTextHandler(l.log, nil))}
	return l
}

// says writes registries.yaml; SERVER, CA, USER and PASSWORD are the registry's.
func (l *lab) says(t *testing.T, text string) {
	t.Helper()
	text = strings.NewReplacer("SERVER", l.server.Addr, "CA", l.server.CAFile, "USER", distribution.User, "PASSWORD", distribution.Password).Replace(text)
	if err := os.WriteFile(l.settings.Registries, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const mirrored = `
mirrors: {docker.io: {endpoint: ["https://SERVER"]}}
configs: {SERVER: {auth: {username: USER, password: PASSWORD}, tls: {ca_file: CA}}}
`

func (l *lab) find(t *testing.T, ref string) (*Remote, error) {
	t.Helper()
	c, err := New(l.settings)
	if err != nil {
		t.Fatal(err)
	}
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	return c.Find(t.Context(), r)
}

func platforms() []string { return []string{"s390x", runtime.GOARCH} }

// TestFind: through mirrors in each way that registries.yaml can say it, the image of this
// platform comes out of its index, admitted by a signature, whatever the address.
func TestFind(t *testing.T) {
	l := newLab(t, distribution.Image{Platforms: platforms(), Layers: [][]byte{distribution.Random(1, 1000)}})
	docker := distribution.DockerConfig(t, l.server.Addr)
	for what, c := range map[string]struct {
		text, ref, docker string
		providers         bool
	}{
		"exact":           {text: mirrored, ref: reference},
		"an alias":        {text: strings.Replace(mirrored, "docker.io:", "registry-1.docker.io:", 1), ref: reference},
		"any":             {text: strings.Replace(mirrored, "docker.io:", "\"*\":", 1), ref: "registry.example/rancher/thing:v1"},
		"rewritten":       {text: strings.Replace(mirrored, "\"]}", "\"], rewrite: {\"^team/(.*)$\": \"rancher/$1\"}}", 1), ref: "docker.io/team/thing:v1"},
		"the second":      {text: strings.Replace(mirrored, "[\"", "[\"https://127.0.0.1:1\", \"", 1), ref: reference},
		"the default":     {text: "mirrors: {}\nconfigs: {SERVER: {auth: {username: USER, password: PASSWORD}, tls: {ca_file: CA}}}", ref: "SERVER/rancher/thing:v1"},
		"base64":          {text: strings.Replace(mirrored, "username: USER, password: PASSWORD", "auth: b3BlcmF0b3I6YWlyLWdhcHBlZA==", 1), ref: reference},
		"any certificate": {text: strings.Replace(mirrored, "ca_file: CA", "insecure_skip_verify: true", 1), ref: reference},
		"docker login":    {text: strings.Replace(mirrored, "auth: {username: USER, password: PASSWORD}, ", "", 1), ref: reference, docker: docker},
		"a provider":      {text: strings.Replace(mirrored, "auth: {username: USER, password: PASSWORD}, ", "", 1), ref: reference, providers: true},
	} {
		t.Run(what, func(t *testing.T) {
			l.says(t, c.text)
			t.Setenv("DOCKER_CONFIG", c.docker)
			l.settings.Providers, l.settings.ProviderBin = "", ""
			if c.providers {
				l.settings.Providers, l.settings.ProviderBin = provide(t, strings.Replace(twoProviders, "\"docker.io\"", "\""+l.server.Addr+"\"", 1), map[string]string{
					"first": "echo '" + fmt.Sprintf(answer, `{"`+l.server.Addr+`":{"username":"`+distribution.User+`","password":"`+distribution.Password+`"}}`) + "'",
				})
			}
			r, err := l.find(t, strings.Replace(c.ref, "SERVER", l.server.Addr, 1))
			if err != nil {
				t.Fatal(err)
			}
			if r.From.Host != l.server.Addr || len(r.Manifest.Layers) != 1 || len(r.Signatures) != 1 || len(r.Index.Signatures) != 1 {
				t.Errorf("from %s: %d layers, signatures %d and %d", r.From, len(r.Manifest.Layers), len(r.Signatures), len(r.Index.Signatures))
			}
			admitted, err := r.Admit(l.policy)
			if what == "rewritten" {
				// It was signed for the name that it has there.
				if err == nil || !strings.Contains(err.Error(), "signed it as") {
					t.Errorf("admitted under another name: %v", err)
				}
				return
			}
			if err != nil || admitted.Digest() != r.Desc.Digest {
				t.Errorf("admitted %v, %v", admitted.Digest(), err)
			}
		})
	}
}

// TestFindSays: each way of not getting an image is one error that names the endpoint, what
// it said and what to do.
func TestFindSays(t *testing.T) {
	l := newLab(t, distribution.Image{Platforms: platforms(), Layers: [][]byte{distribution.Random(1, 1000)}})
	// The registry itself comes last: one that answers nothing, here.
	const registryItself = "127.0.0.1:2"
	mirror := strings.Replace(mirrored, "docker.io:", "\""+registryItself+"\":", 1)
	for what, c := range map[string]struct {
		text, ref string
		says      []string
		is        error
	}{
		"an unknown authority": {
			strings.Replace(mirror, ", tls: {ca_file: CA}", "", 1), "/rancher/thing:v1",
			[]string{"connecting to SERVER", "signed by an authority that this machine does not know", `configs."SERVER".tls.ca_file in ` + l.settings.Registries}, registry.ErrUntrusted,
		},
		"a wrong password": {
			strings.Replace(mirror, "PASSWORD", "guess", 1), "/rancher/thing:v1",
			[]string{"SERVER/rancher/thing", "not authorised", `set configs."SERVER".auth in ` + l.settings.Registries}, registry.ErrUnauthorised,
		},
		"no such tag": {
			mirror, "/rancher/thing:v2",
			[]string{"fetching v2 from SERVER/rancher/thing: not found"}, registry.ErrUnreachable,
		},
		"no such repository": {
			mirror, "/rancher/other:v1",
			[]string{"SERVER/rancher/other: not found"}, registry.ErrUnreachable,
		},
		"nothing there": {
			strings.Replace(mirror, "https://SERVER", "https://127.0.0.1:1", 1), "/rancher/thing:v1",
			[]string{"connecting to 127.0.0.1:1: no registry answers: nothing answers there"}, registry.ErrUnreachable,
		},
	} {
		t.Run(what, func(t *testing.T) {
			l.says(t, c.text)
			_, err := l.find(t, registryItself+c.ref)
			if !errors.Is(err, c.is) {
				t.Errorf("got %v", err)
			}
			for _, want := range append(c.says, "none of the 2 endpoints of "+registryItself, "connecting to "+registryItself+": no registry answers") {
				if want = strings.ReplaceAll(want, "SERVER", l.server.Addr); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not said: %v", want, err)
				}
			}
		})
	}
	l.says(t, strings.Replace(mirror, "ca_file: CA", "ca_file: /nowhere/ca.pem", 1))
	if _, err := l.find(t, registryItself+"/rancher/thing:v1"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), l.settings.Registries+": configs.\""+l.server.Addr) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestReferrers: a signature that refers to its image, as OCI has it, does as well as one
// under a tag.
func TestReferrers(t *testing.T) {
	l := newLab(t, distribution.Image{Platforms: []string{runtime.GOARCH}, Flat: true, Layers: [][]byte{distribution.Random(1, 1000)}})
	l.says(t, mirrored)
	r, err := l.find(t, reference)
	if err != nil || len(r.Signatures) != 1 {
		t.Fatalf("%v", err)
	}
	// The same image in another repository, where nothing is under a tag.
	options := []remote.Option{remote.WithTransport(l.server.HTTP().Transport), remote.WithAuth(authn.Anonymous)}
	from, err := name.NewTag(l.server.Addr + "/rancher/thing:v1")
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(from, options...)
	if err != nil {
		t.Fatal(err)
	}
	to, err := name.NewTag(l.server.Addr + "/other/thing:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, image, options...); err != nil {
		t.Fatal(err)
	}
	if r, err = l.find(t, "docker.io/other/thing:v1"); err != nil || len(r.Signatures) != 0 {
		t.Fatalf("nothing was signed there: %v", err)
	}
	subject, err := partial.Descriptor(image)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := l.find(t, reference)
	if err != nil {
		t.Fatal(err)
	}
	statement, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer:       static.NewLayer(signed.Signatures[0].Payload, signaturePayload),
		Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(signed.Signatures[0].Raw)},
	})
	if err != nil {
		t.Fatal(err)
	}
	statement = mutate.ConfigMediaType(statement, signatureArtifact)
	referring := mutate.Subject(statement, *subject).(v1.Image)
	digest, err := referring.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to.Context().Digest(digest.String()), referring, options...); err != nil {
		t.Fatal(err)
	}
	if r, err = l.find(t, "docker.io/other/thing:v1"); err != nil || len(r.Signatures) != 1 {
		t.Fatalf("%v, %+v", err, r)
	}
	if !bytes.Equal(r.Signatures[0].Raw, signed.Signatures[0].Raw) || !bytes.Equal(r.Signatures[0].Payload, signed.Signatures[0].Payload) {
		t.Error("it is another signature")
	}
}

// TestFetch: what a registry cuts short goes on where it was, in the same run and in the
// next; what is damaged on disk is fetched again.
func TestFetch(t *testing.T) {
	const size = 3 << 20
	l := newLab(t, distribution.Image{Platforms: []string{runtime.GOARCH}, Flat: true, Layers: [][]byte{distribution.Random(1, size), distribution.Random(2, size)}})
	var sent atomic.Int64
	var cuts atomic.Int32
	proxy := distribution.NewProxy(t, l.server, 0)
	proxy.Fault = func(r *http.Request) distribution.Fault {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && cuts.Add(-1) >= 0 {
			return distribution.Fault{Cut: true, After: size / 3}
		}
		return distribution.Fault{}
	}
	server := *l.server
	server.Addr = proxy.Addr
	l.server = &server
	l.says(t, mirrored)
	r, err := l.find(t, reference)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(l.dir, "blobs")
	whole := func() {
		t.Helper()
		for _, d := range r.Manifest.Layers {
			b, err := os.ReadFile(filepath.Join(dir, d.Digest.Hex))
			if err != nil {
				t.Fatal(err)
			}
			if h, _, err := v1.SHA256(bytes.NewReader(b)); err != nil || h != d.Digest {
				t.Errorf("%s has the content of %s", d.Digest, h)
			}
		}
	}
	cuts.Store(2)
	if err := r.Fetch(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	whole()
	if !strings.Contains(l.log.String(), "is asked again") {
		t.Errorf("the interruptions are not in the log:\n%s", l.log)
	}

	// All is there: no blob is asked for.
	before := proxy.Requests()[http.MethodGet]
	if err := r.Fetch(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if after := proxy.Requests()[http.MethodGet]; after != before {
		t.Errorf("%d requests for what is there", after-before)
	}

	// Part of one is there, and another is damaged.
	first, second := filepath.Join(dir, r.Manifest.Layers[0].Digest.Hex), filepath.Join(dir, r.Manifest.Layers[1].Digest.Hex)
	if err := os.Truncate(first, size/2); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(second, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), size/2); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Fetch(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	whole()

	// A registry that gives up leaves what it gave.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	proxy.Fault = func(r *http.Request) distribution.Fault {
		switch {
		case !strings.HasSuffix(r.URL.Path, filepath.Base(first)):
			return distribution.Fault{}
		case r.Header.Get("Range") == "":
			return distribution.Fault{Cut: true, After: size / 3}
		}
		return distribution.Fault{Status: http.StatusForbidden}
	}
	err = r.Fetch(t.Context(), dir)
	if !errors.Is(err, registry.ErrUnauthorised) || !strings.Contains(err.Error(), proxy.Addr) {
		t.Errorf("got %v", err)
	}
	proxy.Fault = func(r *http.Request) distribution.Fault {
		if strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Range") != "" {
			sent.Add(1)
		}
		return distribution.Fault{}
	}
	if err := r.Fetch(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	whole()
	if sent.Load() == 0 {
		t.Error("it began anew")
	}
}
