package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	inprocess "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

type keychain authn.AuthConfig

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(k)), nil
}

// serve starts an in-process registry behind TLS; around may answer in its place.
func serve(t *testing.T, around func(w http.ResponseWriter, r *http.Request, next http.Handler)) (s *httptest.Server, settings Settings) {
	t.Helper()
	next := inprocess.New(inprocess.Logger(log.New(io.Discard, "", 0)))
	s = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if around == nil {
			next.ServeHTTP(w, r)
			return
		}
		around(w, r, next)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, Settings{CAFile: ca, Keychain: keychain{}, Retries: 3, Pause: time.Millisecond}
}

func open(t *testing.T, s *httptest.Server, settings Settings, scope string) (*Repository, error) {
	t.Helper()
	c, err := New(settings)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := name.NewRepository(strings.TrimPrefix(s.URL, "https://")+"/some/image", name.StrictValidation)
	if err != nil {
		t.Fatal(err)
	}
	return c.Repository(t.Context(), repo, scope)
}

func mustOpen(t *testing.T, s *httptest.Server, settings Settings) *Repository {
	t.Helper()
	r, err := open(t, s, settings, Push)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func blobOf(data []byte) Blob {
	return Blob{
		Descriptor: v1.Descriptor{Digest: digest(data), Size: int64(len(data))},
		Open:       func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	}
}

var payload = bytes.Repeat([]byte("0123456789abcdef"), 1<<16)

// roundTrip pushes a blob and fetches it.
func roundTrip(t *testing.T, r *Repository) error {
	t.Helper()
	var moved int64
	b := blobOf(payload)
	b.Moved = func(n int64) { moved += n }
	out, err := r.PushBlob(t.Context(), b)
	if err != nil {
		if moved != 0 {
			t.Errorf("%d bytes are said to have arrived", moved)
		}
		return err
	}
	if out != Sent || moved != b.Size {
		t.Errorf("%s, %d bytes", out, moved)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "blob"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.FetchBlob(t.Context(), b.Descriptor, f, nil); err != nil {
		return err
	}
	if out, err := r.PushBlob(t.Context(), b); out != Present || err != nil {
		t.Errorf("again: %s, %v", out, err)
	}
	return nil
}

func TestRoundTrip(t *testing.T) {
	s, settings := serve(t, nil)
	if err := roundTrip(t, mustOpen(t, s, settings)); err != nil {
		t.Fatal(err)
	}
}

// tokens is a registry that wants bearer tokens, each good for a few requests.
func tokens(t *testing.T, uses int64) (*httptest.Server, Settings, *atomic.Int64) {
	var issued, left atomic.Int64
	var s *httptest.Server
	s, settings := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path == "/token" {
			user, pass, _ := r.BasicAuth()
			if user != "me" || pass != "secret" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if !strings.HasPrefix(r.URL.Query().Get("scope"), "repository:some/image:") {
				t.Errorf("scope %q", r.URL.Query()["scope"])
			}
			left.Store(uses)
			_ = json.NewEncoder(w).Encode(map[string]string{"token": fmt.Sprint("t", issued.Add(1))})
			return
		}
		if r.Header.Get("Authorization") != fmt.Sprint("Bearer t", issued.Load()) || left.Add(-1) < 0 {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x",scope="repository:some/image:pull,push"`, s.URL))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	return s, settings, &issued
}

func TestTokens(t *testing.T) {
	s, settings, issued := tokens(t, 2)
	settings.Keychain = keychain{Username: "me", Password: "secret"}
	if err := roundTrip(t, mustOpen(t, s, settings)); err != nil {
		t.Fatal(err)
	}
	if issued.Load() < 3 {
		t.Errorf("only %d tokens were used: this tested little", issued.Load())
	}
	settings.Keychain = keychain{Username: "me", Password: "wrong"}
	if _, err := open(t, s, settings, Push); !errors.Is(err, ErrUnauthorised) || !strings.Contains(err.Error(), "docker login") {
		t.Errorf("%v", err)
	}
}

// An upload goes on through all that can befall it.
func TestUploads(t *testing.T) {
	for _, c := range []struct {
		what   string
		around func(n int64, w http.ResponseWriter, r *http.Request, next http.Handler) // n counts requests of its method
		fails  bool
		as     error // if it is known
	}{
		{"registry doesn't say how far it is", func(n int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
			switch {
			case r.Method == http.MethodPatch && n <= 2:
				_, _ = io.CopyN(io.Discard, r.Body, 1000)
				panic(http.ErrAbortHandler)
			case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/uploads/"):
				w.WriteHeader(http.StatusNotFound)
			default:
				next.ServeHTTP(w, r)
			}
		}, false, nil},
		{"session is lost", func(n int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodPatch && n == 1 {
				w.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(w, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}`)
				return
			}
			next.ServeHTTP(w, r)
		}, false, nil},
		{"answer to the last request is lost", func(n int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodPut && n == 1 {
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		}, false, nil},
		{"bytes change on the way", func(n int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodPatch && n == 1 {
				body, _ := io.ReadAll(r.Body)
				body[7] ^= 1
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			next.ServeHTTP(w, r)
		}, false, nil},
		{"too many requests", func(n int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
			if n <= 1 {
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			next.ServeHTTP(w, r)
		}, false, nil},
		{"upload location says http", func(_ int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			if l := rec.Header().Get("Location"); strings.HasPrefix(l, "/") {
				w.Header().Set("Location", "http://"+r.Host+l)
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
		}, false, nil},
		{"upload location leads elsewhere without TLS", func(_ int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodPost {
				w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
				w.WriteHeader(http.StatusAccepted)
				return
			}
			next.ServeHTTP(w, r)
		}, true, ErrUnreachable},
		{"never anything but 503", func(_ int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodPatch {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		}, true, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			counts := map[string]*atomic.Int64{}
			for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodPut} {
				counts[m] = &atomic.Int64{}
			}
			s, settings := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				c.around(counts[r.Method].Add(1), w, r, next)
			})
			err := roundTrip(t, mustOpen(t, s, settings))
			if (err != nil) != c.fails || c.as != nil && !errors.Is(err, c.as) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Content that is not what its digest says is not sent to its end.
func TestDamagedContent(t *testing.T) {
	s, settings := serve(t, nil)
	r := mustOpen(t, s, settings)
	for _, c := range []struct {
		what    string
		content []byte
	}{{"other", bytes.ToUpper(payload)}, {"short", payload[:1000]}, {"long", append(bytes.Clone(payload), 1)}} {
		b := blobOf(payload)
		b.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c.content)), nil }
		_, err := r.PushBlob(t.Context(), b)
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", c.what, err)
		}
		if found, err := r.HasBlob(t.Context(), b.Digest); found || err != nil {
			t.Errorf("%s: the registry has it: %v", c.what, err)
		}
	}
}

// A transfer that stands still is given up and tried again.
func TestStall(t *testing.T) {
	release := make(chan struct{})
	var patches, gets atomic.Int64
	s, settings := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPatch && patches.Add(1) == 1 {
			<-release
			panic(http.ErrAbortHandler)
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256") && gets.Add(1) == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(len(payload)))
			_, _ = w.Write(payload[:100])
			w.(http.Flusher).Flush()
			<-release
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
	t.Cleanup(func() { close(release) })
	settings.Stall = 200 * time.Millisecond
	var why []string
	settings.Retrying = func(_ string, cause error, _ time.Duration) { why = append(why, cause.Error()) }
	// More than what buffers on the way take.
	payload := bytes.Repeat(payload, 16)
	r := mustOpen(t, s, settings)
	if _, err := r.PushBlob(t.Context(), blobOf(payload)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.FetchBlob(t.Context(), blobOf(payload).Descriptor, f, nil); err != nil {
		t.Fatal(err)
	}
	if len(why) < 2 || !strings.Contains(why[0], "no byte went out for 200ms") || !strings.Contains(why[len(why)-1], "no byte came in for 200ms") {
		t.Errorf("%q", why)
	}
}

func TestFetchRefuses(t *testing.T) {
	var body []byte
	s, settings := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			_, _ = w.Write(body)
			return
		}
		next.ServeHTTP(w, r)
	})
	r := mustOpen(t, s, settings)
	for what, b := range map[string][]byte{"other bytes": bytes.ToUpper(payload), "more bytes": append(bytes.Clone(payload), 1), "fewer bytes": payload[:10]} {
		body = b
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		err = r.FetchBlob(t.Context(), blobOf(payload).Descriptor, f, nil)
		f.Close()
		if err == nil || what != "fewer bytes" && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	s, settings := serve(t, nil)
	pair := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	settings.ClientCert, settings.ClientKey = settings.CAFile, filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(settings.ClientKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600); err != nil {
		t.Fatal(err)
	}
	s.TLS.ClientAuth = tls.RequireAnyClientCert
	if err := roundTrip(t, mustOpen(t, s, settings)); err != nil {
		t.Error(err)
	}
	settings.ClientCert, settings.ClientKey = "", ""
	if _, err := open(t, s, settings, Pull); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "--client-cert") {
		t.Errorf("%v", err)
	}
}

func TestSettings(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, s := range map[string]Settings{
		"no such file":         {CAFile: "/nowhere/ca.pem"},
		"holds no certificate": {CAFile: empty},
		"needed together":      {ClientKey: "x"},
		"with key":             {ClientCert: empty, ClientKey: empty},
	} {
		if _, err := New(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, settings := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPatch {
			cancel()
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
	settings.Pause = time.Hour
	if _, err := mustOpen(t, s, settings).PushBlob(ctx, blobOf(payload)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestFetchGoesOn: what a file holds already is not fetched again, if it is right.
func TestFetchGoesOn(t *testing.T) {
	var ranges []string
	s, settings := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			ranges = append(ranges, r.Header.Get("Range"))
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(payload))
			return
		}
		next.ServeHTTP(w, r)
	})
	r := mustOpen(t, s, settings)
	for _, c := range []struct {
		what  string
		there []byte
		want  []string
	}{
		{"nothing", nil, []string{""}},
		{"a part", payload[:1000], []string{fmt.Sprintf("bytes=1000-%d", len(payload)-1)}},
		{"all of it", payload, nil},
		{"a part of another blob", bytes.ToUpper(payload)[:1000], []string{fmt.Sprintf("bytes=1000-%d", len(payload)-1), ""}},
		{"more than all", append(bytes.Clone(payload), 1), []string{""}},
	} {
		ranges = nil
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, c.there, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		moved := int64(0)
		err = r.FetchBlob(t.Context(), blobOf(payload).Descriptor, f, func(n int64) { moved += n })
		f.Close()
		got, _ := os.ReadFile(file)
		if err != nil || !bytes.Equal(got, payload) || !slices.Equal(ranges, c.want) || moved != int64(len(payload)) {
			t.Errorf("%s: %v, %d bytes, ranges %q, moved %d", c.what, err, len(got), ranges, moved)
		}
	}
}

func TestReferrers(t *testing.T) {
	subject := blobOf(payload).Digest
	entry := func(i int) string {
		return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":%d,"digest":"sha256:%064x","artifactType":"application/spdx+json"}`, i, i)
	}
	list := func(entries ...string) string {
		return `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` + strings.Join(entries, ",") + `]}`
	}
	for _, c := range []struct {
		what  string
		serve func(w http.ResponseWriter, r *http.Request) bool
		want  []int64
		err   string
	}{
		{"two pages", func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/referrers/"+subject.String()) {
				return false
			}
			if r.URL.Query().Get("page") == "" {
				w.Header().Set("Link", `<`+r.URL.Path+`?page=2>; rel="next"`)
				fmt.Fprint(w, list(entry(1)))
			} else {
				fmt.Fprint(w, list(entry(2)))
			}
			return true
		}, []int64{1, 2}, ""},
		{"no such API, and a tag", func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case strings.Contains(r.URL.Path, "/referrers/"):
				w.WriteHeader(http.StatusNotFound)
			case strings.HasSuffix(r.URL.Path, "/manifests/sha256-"+subject.Hex):
				w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
				fmt.Fprint(w, list(entry(3)))
			default:
				return false
			}
			return true
		}, []int64{3}, ""},
		{"no such API, no tag", func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusNotFound)
			return strings.Contains(r.URL.Path, "/image/")
		}, nil, ""},
		{"without end", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Link", `<`+r.URL.Path+`>; rel="next"`)
			fmt.Fprint(w, list(entry(1)))
			return strings.Contains(r.URL.Path, "/referrers/")
		}, nil, "pages of referrers"},
		{"no digest in it", func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/sha256-") {
				w.WriteHeader(http.StatusNotFound)
				return strings.Contains(r.URL.Path, "/referrers/")
			}
			w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
			fmt.Fprint(w, `{"schemaVersion":2,"manifests":[{"size":1}]}`)
			return true
		}, nil, "without digest or size"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s, settings := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.Contains(r.URL.Path, "/some/image/") && c.serve(w, r) {
					return
				}
				next.ServeHTTP(w, r)
			})
			got, err := mustOpen(t, s, settings).Referrers(t.Context(), subject)
			var sizes []int64
			for _, d := range got {
				sizes = append(sizes, d.Size)
				if d.ArtifactType != "application/spdx+json" {
					t.Errorf("%+v", d)
				}
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) || !slices.Equal(sizes, c.want) {
				t.Errorf("%v %v", sizes, err)
			}
		})
	}
}
