package upstream

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/publish"
	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/tests/distribution"
)

var (
	amd64 = artifact.Platform{OS: "linux", Arch: "amd64"}
	arm64 = artifact.Platform{OS: "linux", Arch: "arm64"}
)

type login authn.AuthConfig

func (l login) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(l)), nil
}

func client(t *testing.T, s *distribution.Server) *registry.Client {
	t.Helper()
	c, err := registry.New(registry.Settings{
		CAFile: s.CAFile, Keychain: login{Username: distribution.User, Password: distribution.Password},
		Retries: 4, Pause: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// entries of a layer: name, then content, "/" for a folder, "-> x" for a symbolic link,
// "=> x" for a hard link.
func archive(t *testing.T, entries ...[2]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e[0], Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(e[1])), Uid: 7}
		body := e[1]
		switch {
		case e[1] == "/":
			h.Typeflag, h.Size, h.Mode, body = tar.TypeDir, 0, 0o750, ""
		case e[1] == "fifo":
			h.Typeflag, h.Size, body = tar.TypeFifo, 0, ""
		case strings.HasPrefix(e[1], "-> "):
			h.Typeflag, h.Size, h.Linkname, body = tar.TypeSymlink, 0, e[1][3:], ""
		case strings.HasPrefix(e[1], "=> "):
			h.Typeflag, h.Size, h.Linkname, body = tar.TypeLink, 0, e[1][3:], ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// vendor publishes an image to a registry, and declares a component that is a copy of it.
type vendor struct {
	server  *distribution.Server
	proxy   *distribution.Proxy
	layout  string
	key     string
	c       images.Component
	mirrors images.Mirrors
}

func newVendor(t *testing.T, img distribution.Image) *vendor {
	t.Helper()
	v := &vendor{server: distribution.Start(t, distribution.Options{}), layout: filepath.Join(t.TempDir(), "oci"), mirrors: images.Mirrors{Suite: "bookworm"}}
	v.proxy = distribution.NewProxy(t, v.server, 0)
	v.push(t, img)
	v.c = images.Component{
		Name: "tool", Dir: t.TempDir(), Kind: images.KindUpstream, Version: "v1",
		Upstream: &images.Upstream{Image: v.proxy.Addr + "/vendor/tool:v1"},
	}
	return v
}

func (v *vendor) push(t *testing.T, img distribution.Image) {
	t.Helper()
	if err := os.RemoveAll(v.layout); err != nil {
		t.Fatal(err)
	}
	img.Ref = "docker.io/vendor/tool:v1"
	v.key = distribution.WriteLayout(t, v.layout, img)
	to, err := publish.ParseDestination(v.server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := publish.Publish(t.Context(), publish.Options{Layout: v.layout, To: to, Client: client(t, v.server)}); err != nil {
		t.Fatal(err)
	}
}

func (v *vendor) maker(t *testing.T, dir string) *Maker {
	t.Helper()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return New(c, v.mirrors, client(t, v.server))
}

// lock resolves as rke2-build lock does.
func (v *vendor) lock(t *testing.T, m *Maker, update ...string) ([]lock.Updated, error) {
	t.Helper()
	return lock.Update(t.Context(), []images.Component{v.c}, lock.Options{
		Mirrors: v.mirrors, Resolvers: map[images.Kind]lock.Resolver{images.KindUpstream: m}, Update: update,
	})
}

var both = []string{"amd64", "arm64"}

func TestCopy(t *testing.T) {
	v := newVendor(t, distribution.Image{Platforms: both, Tars: [][]byte{
		archive(t, [2]string{"bin/", "/"}, [2]string{"bin/tool", "one"}, [2]string{"etc/old", "x"}, [2]string{"etc/kept", "k"}, [2]string{"lib", "-> usr/lib"}, [2]string{"usr/lib/a", "a"}),
		archive(t, [2]string{"bin/tool", "two"}, [2]string{"etc/.wh.old", ""}, [2]string{"lib/b", "b"}, [2]string{"bin/alias", "=> bin/tool"}),
	}})
	v.c.Upstream.Key = v.key
	dir := t.TempDir()
	m := v.maker(t, dir)
	var stale *lock.StaleError
	if _, err := m.Image(t.Context(), v.c, amd64); !errors.As(err, &stale) {
		t.Fatalf("without a lock: %v", err)
	}
	updated, err := v.lock(t, m)
	if err != nil || len(updated) != 1 || !updated[0].Written {
		t.Fatalf("%+v, %v", updated, err)
	}
	if _, err := lock.Read(v.c, v.mirrors); err != nil {
		t.Fatal(err)
	}
	for _, p := range []artifact.Platform{amd64, arm64} {
		img, err := m.Image(t.Context(), v.c, p)
		if err != nil {
			t.Fatal(err)
		}
		blob := func(h v1.Hash) []byte {
			b, err := os.ReadFile(filepath.Join(v.layout, "blobs", h.Algorithm, h.Hex))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		man, err := v1.ParseManifest(bytes.NewReader(img.Manifest))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(blob(img.Descriptor.Digest), img.Manifest) || !bytes.Equal(blob(man.Config.Digest), img.Config) || img.Descriptor.Platform.Architecture != p.Arch {
			t.Errorf("%s: other bytes than upstream's: %+v", p, img.Descriptor)
		}
		if len(img.Layers) != 2 {
			t.Fatalf("%d layers", len(img.Layers))
		}
		for i, l := range img.Layers {
			got, err := os.ReadFile(l.Blob)
			if err != nil || !bytes.Equal(got, blob(man.Layers[i].Digest)) || l.Digest != man.Layers[i].Digest || l.Size != int64(len(got)) {
				t.Errorf("layer %d: %+v, %v", i, l, err)
			}
		}
	}
	a, err := m.Make(t.Context(), v.c, amd64, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"bin": "/", "bin/tool": "two", "bin/alias": "two", "etc": "/", "etc/kept": "k", "lib": "-> usr/lib", "usr": "/", "usr/lib": "/", "usr/lib/a": "a", "usr/lib/b": "b"}
	compare(t, a.Contexts["tool"], want)
	if len(a.Materials) != 1 || !strings.HasPrefix(a.Materials[0].PURL, "pkg:oci/tool@sha256%3A") || !strings.Contains(a.Materials[0].URI, "/vendor/tool:v1@sha256:") {
		t.Errorf("materials %+v", a.Materials)
	}
	if !a.Cached {
		t.Error("it was all there, and is not said to be cached")
	}

	t.Run("with no registry", func(t *testing.T) {
		v.proxy.Fault = func(*http.Request) distribution.Fault { return distribution.Fault{Cut: true} }
		defer func() { v.proxy.Fault = nil }()
		again := v.maker(t, dir)
		if _, err := again.Image(t.Context(), v.c, arm64); err != nil {
			t.Error(err)
		}
	})
	t.Run("the same tree in another cache", func(t *testing.T) {
		b, err := v.maker(t, t.TempDir()).Make(t.Context(), v.c, amd64, nil)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, b.Contexts["tool"], want)
		strip := func(files []layer.File) (out []layer.File) {
			for _, f := range files {
				f.Source = ""
				out = append(out, f)
			}
			return out
		}
		if !slices.Equal(strip(a.Contexts["tool"]), strip(b.Contexts["tool"])) {
			t.Error("the trees differ")
		}
	})
	t.Run("moved tag", func(t *testing.T) {
		before, err := os.ReadFile(lock.Path(v.c))
		if err != nil {
			t.Fatal(err)
		}
		key := v.c.Upstream.Key
		defer func() { v.c.Upstream.Key = key }()
		v.push(t, distribution.Image{Platforms: both, Tars: [][]byte{archive(t, [2]string{"new", "n"})}})
		v.c.Upstream.Key = v.key
		if _, err := v.lock(t, m); err != nil {
			t.Fatal(err)
		}
		if after, _ := os.ReadFile(lock.Path(v.c)); !bytes.Equal(before, after) {
			t.Error("the lock moved by itself")
		}
		b, err := func() (artifact.Artifact, error) {
			v.c.Upstream.Key = key
			return v.maker(t, t.TempDir()).Make(t.Context(), v.c, amd64, nil)
		}()
		if err != nil {
			t.Fatal(err)
		}
		compare(t, b.Contexts["tool"], want)
		v.c.Upstream.Key = v.key
		if u, err := v.lock(t, m, "tool"); err != nil || len(u[0].Changes) == 0 {
			t.Fatalf("%+v, %v", u, err)
		}
		if b, err = v.maker(t, t.TempDir()).Make(t.Context(), v.c, amd64, nil); err != nil {
			t.Fatal(err)
		}
		compare(t, b.Contexts["tool"], map[string]string{"new": "n"})
	})
}

func compare(t *testing.T, files []layer.File, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, f := range files {
		switch {
		case f.Dir:
			got[f.Path] = "/"
		case f.Link != "":
			got[f.Path] = "-> " + f.Link
		default:
			b, err := os.ReadFile(f.Source)
			if err != nil {
				t.Fatal(err)
			}
			if got[f.Path] = string(b); "sha256:"+f.SHA256 != distribution.Digest(b) || !strings.HasPrefix(f.Package, "pkg:oci/tool@") {
				t.Errorf("%+v", f)
			}
		}
	}
	for p, w := range want {
		if got[p] != w {
			t.Errorf("%s is %q, not %q", p, got[p], w)
		}
		delete(got, p)
	}
	if len(got) > 0 {
		t.Errorf("and there is %v", got)
	}
}

func TestRefused(t *testing.T) {
	v := newVendor(t, distribution.Image{Platforms: []string{"amd64"}, Tars: [][]byte{archive(t, [2]string{"a", "a"})}})
	other := distribution.WriteLayout(t, filepath.Join(t.TempDir(), "other"), distribution.Image{Ref: "docker.io/x/y:z", Platforms: []string{"amd64"}})
	m := v.maker(t, t.TempDir())
	if _, err := v.lock(t, m); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(lock.Path(v.c))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		with  func(c *images.Component)
		p     artifact.Platform
		fault func(*http.Request) distribution.Fault
		wants []string
	}{
		{"platform", nil, arm64, nil, []string{"not made for linux/arm64", "it has: linux/amd64"}},
		{"another key", func(c *images.Component) { c.Upstream.Key = other }, amd64, nil, []string{"not by key", other}},
		{"no key file", func(c *images.Component) { c.Upstream.Key = "/nowhere.pub" }, amd64, nil, []string{"/nowhere.pub"}},
		{"not signed", func(c *images.Component) { c.Upstream.Key = v.key }, amd64, func(r *http.Request) distribution.Fault {
			if strings.HasSuffix(r.URL.Path, ".sig") {
				return distribution.Fault{Status: http.StatusNotFound}
			}
			return distribution.Fault{}
		}, []string{"not signed", "image.yaml declares the key"}},
		{"gone", nil, amd64, func(r *http.Request) distribution.Fault {
			if strings.Contains(r.URL.Path, "/manifests/") {
				return distribution.Fault{Status: http.StatusNotFound}
			}
			return distribution.Fault{}
		}, []string{"no longer has what is locked", "lock --update tool"}},
		{"other bytes", nil, amd64, func(r *http.Request) distribution.Fault {
			if strings.Contains(r.URL.Path, "/manifests/") {
				return distribution.Fault{Status: http.StatusOK, Body: `{"schemaVersion":2}`}
			}
			return distribution.Fault{}
		}, []string{"wrong digest"}},
		{"another declaration", func(c *images.Component) { c.Upstream.Image = v.proxy.Addr + "/vendor/tool:v2" }, amd64, nil, []string{"sources.lock", "is new", "rke2-build lock tool"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			v.proxy.Fault = c.fault
			defer func() { v.proxy.Fault = nil }()
			component := v.c
			u := *v.c.Upstream
			component.Upstream = &u
			if c.with != nil {
				c.with(&component)
			}
			_, err := v.maker(t, t.TempDir()).Make(t.Context(), component, c.p, nil)
			if err == nil {
				t.Fatal("it is taken")
			}
			for _, w := range append(c.wants, "component tool") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in: %v", w, err)
				}
			}
		})
	}
	t.Run("tag that is not there", func(t *testing.T) {
		if _, err := m.Digest(t.Context(), v.proxy.Addr+"/vendor/tool:v9"); !errors.Is(err, registry.ErrNotFound) {
			t.Error(err)
		}
	})
	t.Run("lock edited", func(t *testing.T) {
		defer func() { _ = os.WriteFile(lock.Path(v.c), good, 0o644) }()
		if err := os.WriteFile(lock.Path(v.c), bytes.Replace(good, []byte("digest: sha256:"), []byte("digest: md5:"), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Make(t.Context(), v.c, amd64, nil); err == nil || !strings.Contains(err.Error(), "digest") {
			t.Errorf("%v", err)
		}
	})
}

// What arrived whole is kept when the rest does not arrive, and a blob goes on where its
// connection broke.
func TestFetchGoesOn(t *testing.T) {
	big := distribution.Random(1, 6<<20)
	v := newVendor(t, distribution.Image{Platforms: []string{"amd64"}, Tars: [][]byte{
		archive(t, [2]string{"small", "s"}), archive(t, [2]string{"big", string(big)}),
	}})
	dir := t.TempDir()
	m := v.maker(t, dir)
	if _, err := v.lock(t, m); err != nil {
		t.Fatal(err)
	}
	layers := sizes(t, v.layout)
	fetches := map[string]int{}
	var mu sync.Mutex
	var cuts, ranges int
	fail := true
	v.proxy.Fault = func(r *http.Request) distribution.Fault {
		mu.Lock()
		defer mu.Unlock()
		_, digest, ok := strings.Cut(r.URL.Path, "/blobs/")
		if !ok || r.Method != http.MethodGet {
			return distribution.Fault{}
		}
		fetches[digest]++
		if r.Header.Get("Range") != "" {
			ranges++
		}
		switch large := layers[digest] > 1<<20; {
		case large && fail:
			return distribution.Fault{Status: http.StatusBadGateway}
		case large && cuts < 3:
			cuts++
			return distribution.Fault{Cut: true, After: 1 << 20}
		}
		return distribution.Fault{}
	}
	if _, err := m.Image(t.Context(), v.c, amd64); err == nil || !strings.Contains(err.Error(), "502") {
		t.Fatalf("%v", err)
	}
	mu.Lock()
	fail = false
	mu.Unlock()
	img, err := m.Image(t.Context(), v.c, amd64)
	if err != nil {
		t.Fatal(err)
	}
	if ranges < 3 {
		t.Errorf("%d times a blob was asked for from the middle on", ranges)
	}
	for digest, n := range fetches {
		if layers[digest] <= 1<<20 && n > 1 {
			t.Errorf("%s was fetched %d times", digest, n)
		}
	}
	for _, f := range img.Files {
		if f.Path == "big" && "sha256:"+f.SHA256 != distribution.Digest(big) {
			t.Error("other bytes arrived")
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*", ".tmp-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// sizes gives the sizes of a layout's blobs by digest.
func sizes(t *testing.T, layout string) map[string]int64 {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(layout, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		out["sha256:"+e.Name()] = info.Size()
	}
	return out
}

// A blob in the cache that rotted is found, and fetched again by the next build.
func TestRottenCache(t *testing.T) {
	v := newVendor(t, distribution.Image{Platforms: []string{"amd64"}, Tars: [][]byte{archive(t, [2]string{"a", "a"})}})
	dir := t.TempDir()
	m := v.maker(t, dir)
	if _, err := v.lock(t, m); err != nil {
		t.Fatal(err)
	}
	img, err := m.Image(t.Context(), v.c, amd64)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, treeKind)); err != nil {
		t.Fatal(err)
	}
	blob := img.Layers[0].Blob
	data, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(blob, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Image(t.Context(), v.c, amd64); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("%v", err)
	}
	if _, err := m.Image(t.Context(), v.c, amd64); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, err := os.Stat(blob); errors.Is(err, fs.ErrNotExist) {
		t.Error("it was not fetched again")
	}
}
