package publish

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/tests/distribution"
	"github.com/rancher/rke2/tests/tools"
)

// A registry that fails at random, by answer and by broken connection, gets everything.
func TestFlakyRegistry(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	p := distribution.NewProxy(t, s, 0)
	var mu sync.Mutex
	dice := rand.New(rand.NewPCG(1, 2))
	faults := map[string]int{}
	p.Fault = func(r *http.Request) distribution.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch n := dice.IntN(10); {
		case n == 0:
			faults["503"]++
			return distribution.Fault{Status: http.StatusServiceUnavailable, Body: "try later"}
		case n == 1:
			faults["500"]++
			return distribution.Fault{Status: http.StatusInternalServerError}
		case n == 2 && r.Method == http.MethodPatch:
			faults["cut upload"]++
			return distribution.Fault{Cut: true, After: dice.Int64N(2 << 20)}
		case n == 2:
			faults["cut"]++
			return distribution.Fault{Cut: true}
		}
		return distribution.Fault{}
	}
	dir, _ := fixture(t)
	var retried atomic.Int64
	c, err := registry.New(registry.Settings{
		CAFile: s.CAFile, Keychain: known, Retries: 12, Pause: 20 * time.Millisecond,
		Retrying: func(string, error, time.Duration) { retried.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	var last Progress
	res, err := Publish(t.Context(), Options{Layout: dir, To: to(t, p.Addr), Client: c, Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if last.Done != last.Total || res.Sent != last.Sent {
		t.Errorf("progress ends with %+v", last)
	}
	if retried.Load() == 0 || len(faults) < 3 {
		t.Errorf("%d retries, faults %v: this tested little", retried.Load(), faults)
	}
	identical(t, s, dir, "")
}

// A broken connection costs only what was not stored: the upload goes on.
func TestUploadGoesOn(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	p := distribution.NewProxy(t, s, 0)
	const size = 8 << 20
	var cuts atomic.Int64
	p.Fault = func(r *http.Request) distribution.Fault {
		if r.Method == http.MethodPatch && r.ContentLength > size/2 && cuts.Add(1) <= 2 {
			return distribution.Fault{Cut: true, After: size / 4}
		}
		return distribution.Fault{}
	}
	dir := filepath.Join(t.TempDir(), "oci")
	distribution.WriteLayout(t, dir, distribution.Image{Ref: etcd, Platforms: []string{"amd64"}, Layers: [][]byte{distribution.Random(5, size)}})
	if _, err := Publish(t.Context(), Options{Layout: dir, To: to(t, p.Addr), Client: client(t, s)}); err != nil {
		t.Fatal(err)
	}
	if cuts.Load() < 2 {
		t.Errorf("the connection broke %d times", cuts.Load())
	}
	if got := p.Bytes(); got > size+size/4 {
		t.Errorf("%d bytes were sent for a blob of %d: it began anew", got, size)
	}
	identical(t, s, dir, "")
}

// What a registry refuses is said so that an operator knows what to do.
func TestRefusals(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	plain := distribution.Start(t, distribution.Options{NoTLS: true, NoAuth: true})
	p := distribution.NewProxy(t, s, 0)
	dir := filepath.Join(t.TempDir(), "oci")
	distribution.WriteLayout(t, dir,
		distribution.Image{Ref: etcd, Platforms: []string{"amd64", "arm64"}, Layers: [][]byte{distribution.Random(6, 1000)}})
	manifest := func(kind, code string, status int) func(*http.Request) distribution.Fault {
		return func(r *http.Request) distribution.Fault {
			if r.Method == http.MethodPut && strings.HasSuffix(r.Header.Get("Content-Type"), kind) {
				return distribution.Fault{Status: status, Body: fmt.Sprintf(`{"errors":[{"code":%q,"message":"manifest invalid"}]}`, code)}
			}
			return distribution.Fault{}
		}
	}
	for _, c := range []struct {
		what     string
		settings registry.Settings
		addr     string
		fault    func(*http.Request) distribution.Fault
		is       error
		want     string
	}{
		{"no credentials", registry.Settings{CAFile: s.CAFile, Keychain: login{}}, s.Addr, nil, registry.ErrUnauthorised, "docker login " + s.Addr},
		{"wrong password", registry.Settings{CAFile: s.CAFile, Keychain: login{Username: "operator", Password: "x"}}, s.Addr, nil, registry.ErrUnauthorised, "--password-stdin"},
		{"unknown authority", registry.Settings{Keychain: known}, s.Addr, nil, registry.ErrUntrusted, "--ca-file"},
		{"no TLS", registry.Settings{}, plain.Addr, nil, registry.ErrUnreachable, "--plain-http"},
		{"nothing there", registry.Settings{Retries: 9}, "127.0.0.1:1", nil, registry.ErrUnreachable, "check address and port"},
		{"no such name", registry.Settings{Retries: 9}, "registry.invalid", nil, registry.ErrUnreachable, "can't be looked up"},
		{"takes no index", registry.Settings{CAFile: s.CAFile, Keychain: known}, p.Addr, manifest("index.v1+json", "MANIFEST_INVALID", 400), registry.ErrRefused, "image indexes"},
		{"takes no zstd", registry.Settings{CAFile: s.CAFile, Keychain: known}, p.Addr, manifest("manifest.v1+json", "UNSUPPORTED", 415), registry.ErrRefused, "zstd"},
		{"read-only", registry.Settings{CAFile: s.CAFile, Keychain: known}, p.Addr, func(r *http.Request) distribution.Fault {
			if r.Method == http.MethodPost {
				return distribution.Fault{Status: http.StatusMethodNotAllowed, Body: `{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}`}
			}
			return distribution.Fault{}
		}, registry.ErrRefused, "read-only"},
		{"forbidden", registry.Settings{CAFile: s.CAFile, Keychain: known}, p.Addr, func(r *http.Request) distribution.Fault {
			if r.Method == http.MethodPost {
				return distribution.Fault{Status: http.StatusForbidden, Body: `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`}
			}
			return distribution.Fault{}
		}, registry.ErrUnauthorised, "may not do that in repository forbidden/rancher/etcd"},
		{"quota", registry.Settings{CAFile: s.CAFile, Keychain: known, Retries: 9}, p.Addr, func(r *http.Request) distribution.Fault {
			if r.Method == http.MethodPost {
				return distribution.Fault{Status: http.StatusForbidden, Body: `{"errors":[{"code":"DENIED","message":"adding 1 GiB would exceed the configured upper limit: storage quota"}]}`}
			}
			return distribution.Fault{}
		}, registry.ErrFull, "make space there"},
		{"small requests only", registry.Settings{CAFile: s.CAFile, Keychain: known}, p.Addr, func(r *http.Request) distribution.Fault {
			if r.Method == http.MethodPatch {
				return distribution.Fault{Status: http.StatusRequestEntityTooLarge, Body: "<html>"}
			}
			return distribution.Fault{}
		}, registry.ErrRefused, "client_max_body_size"},
		{"web server", registry.Settings{CAFile: s.CAFile, Keychain: known}, p.Addr, func(*http.Request) distribution.Fault {
			return distribution.Fault{Status: http.StatusNotFound, Body: "<html>"}
		}, registry.ErrUnreachable, "not as a registry"},
	} {
		t.Run(c.what, func(t *testing.T) {
			// Each in repositories of its own, where nothing is yet.
			prefix := "/" + strings.ToLower(strings.NewReplacer(" ", "", "-", "").Replace(c.what))
			p.Fault = c.fault
			cl, err := registry.New(c.settings)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err = Publish(t.Context(), Options{Layout: dir, To: to(t, c.addr+prefix), Client: cl})
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("it took %v to say so", d)
			}
			t.Log(err)
		})
	}
	t.Run("plain HTTP, meant", func(t *testing.T) {
		cl, err := registry.New(registry.Settings{PlainHTTP: true, Keychain: login{}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Publish(t.Context(), Options{Layout: dir, To: to(t, plain.Addr), Client: cl}); err != nil {
			t.Error(err)
		}
	})
}

// A registry whose disk is full says so; when it has space the same push completes.
func TestRegistryFull(t *testing.T) {
	if os.Getuid() != 0 {
		tools.Absent(t, "a small file system for the registry needs root")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		tools.Absent(t, "a small file system can't be mounted: %v", err)
	}
	t.Cleanup(func() {
		// The registry is stopped by now, as it was started later.
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := distribution.Start(t, distribution.Options{Dir: disk})
	dir := filepath.Join(t.TempDir(), "oci")
	distribution.WriteLayout(t, dir, distribution.Image{Ref: etcd, Platforms: []string{"amd64"}, Layers: [][]byte{distribution.Random(7, 6<<20)}})
	o := Options{Layout: dir, To: to(t, s.Addr), Client: client(t, s)}
	_, err := Publish(t.Context(), o)
	if !errors.Is(err, registry.ErrFull) {
		t.Fatalf("%v", err)
	}
	t.Log(err)
	if _, status := s.Read(t, http.MethodGet, s.URL("rancher/etcd/manifests/v1")); status != http.StatusNotFound {
		t.Errorf("the tag is there: %d", status)
	}
	if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if _, err := Publish(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	identical(t, s, dir, "")
}
