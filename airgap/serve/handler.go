package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap/catalog"
)

// codes of the distribution specification.
const (
	codeNameInvalid     = "NAME_INVALID"
	codeNameUnknown     = "NAME_UNKNOWN"
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeBlobUnknown     = "BLOB_UNKNOWN"
	codeDigestInvalid   = "DIGEST_INVALID"
	codeUnauthorized    = "UNAUTHORIZED"
	codeUnsupported     = "UNSUPPORTED"
	codeUnknown         = "UNKNOWN"
	codePagination      = "PAGINATION_NUMBER_INVALID"
)

// Grammar of the distribution specification.
var (
	namePattern   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$`)
	hexPattern    = regexp.MustCompile(`^[a-f0-9]+$`)
)

const maxName = 255

// failure is an answer that is an error.
type failure struct {
	status  int
	code    string
	message string
	cause   error // for the access log, where it is not the client's doing
}

func (f *failure) Error() string { return f.message }

func fail(status int, code, format string, args ...any) error {
	return &failure{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// Handler answers requests. It is what Serve serves.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w, start: time.Now()}
		err := s.answer(rec, r)
		half := err != nil && rec.status != 0
		if err != nil && !half {
			explain(rec, r, err)
		}
		if s.o.Access != nil {
			s.o.Access(rec.access(r, err))
		}
		if half {
			panic(http.ErrAbortHandler) // only a broken connection tells the client
		}
	})
}

// explain answers with an error in the form of the distribution specification.
func explain(w *recorder, r *http.Request, err error) {
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{status: http.StatusInternalServerError, code: codeUnknown, message: "the bundle can't be read: see the server's log", cause: err}
	}
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	body, _ := json.Marshal(struct { // strings only: it can't fail
		Errors []one `json:"errors"`
	}{[]one{{Code: f.code, Message: f.message}}})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(f.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // to a client that may be gone
	}
}

func (s *Server) answer(w *recorder, r *http.Request) error {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path == "/healthz" {
		return s.health(w, r)
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if s.o.Users != nil {
		user, ok := s.o.Users.allowed(r)
		if !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="rke2 bundle serve", charset="UTF-8"`)
			return fail(http.StatusUnauthorized, codeUnauthorized, "a user and a password are needed")
		}
		w.user = user
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2")
	if !ok || path != "" && path[0] != '/' {
		return fail(http.StatusNotFound, codeUnknown, "this is a registry: its API is below /v2/")
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return fail(http.StatusMethodNotAllowed, codeUnsupported, "this registry is read-only: it serves bundles")
	}
	if path == "" || path == "/" {
		return write(w, r, "application/json", []byte("{}"))
	}
	sh, err := s.acquire()
	if err != nil {
		return err
	}
	defer func() { _ = sh.release() }() // of files that were only read
	return s.route(w, r, sh, path[1:])
}

func (s *Server) route(w *recorder, r *http.Request, sh *shelf, path string) error {
	if path == "_catalog" {
		return page(w, r, "repositories", sh.names, nil)
	}
	parts := strings.Split(path, "/")
	if len(parts) < 3 {
		return fail(http.StatusNotFound, codeNameUnknown, "there is nothing at this path")
	}
	name, kind, reference := strings.Join(parts[:len(parts)-2], "/"), parts[len(parts)-2], parts[len(parts)-1]
	if len(name) > maxName || !namePattern.MatchString(name) {
		return fail(http.StatusBadRequest, codeNameInvalid, "%.300q is no name of a repository", name)
	}
	repo := sh.repository(name, r.URL.Query().Get("ns"))
	if repo == nil {
		if others := sh.unclear[name]; len(others) > 0 {
			return fail(http.StatusNotFound, codeNameUnknown, "several registries have %s: ask for one of %s", name, strings.Join(others, ", "))
		}
		return fail(http.StatusNotFound, codeNameUnknown, "no bundle has the repository %s", name)
	}
	switch kind {
	case "manifests":
		return s.manifest(w, r, sh, repo, reference)
	case "blobs":
		return s.sendBlob(w, r, sh, repo, reference)
	case "tags":
		if reference == "list" {
			return page(w, r, "tags", slices.Sorted(maps.Keys(repo.Tags)), map[string]any{"name": name})
		}
	case "referrers":
		return referrers(w, r, repo, reference)
	}
	return fail(http.StatusNotFound, codeUnknown, "there is nothing at this path")
}

// digest parses a digest. Algorithms other than SHA-256 are well-formed and never here.
func digest(s string) (v1.Hash, error) {
	if !digestPattern.MatchString(s) {
		return v1.Hash{}, fail(http.StatusBadRequest, codeDigestInvalid, "%.200q is no digest", s)
	}
	algorithm, hex, _ := strings.Cut(s, ":")
	lengths := map[string]int{"sha256": 64, "sha384": 96, "sha512": 128}
	if n, known := lengths[algorithm]; known && (len(hex) != n || !hexPattern.MatchString(hex)) {
		return v1.Hash{}, fail(http.StatusBadRequest, codeDigestInvalid, "%.200q is no digest", s)
	}
	return v1.Hash{Algorithm: algorithm, Hex: hex}, nil
}

func (s *Server) manifest(w *recorder, r *http.Request, sh *shelf, repo *catalog.Repository, reference string) error {
	var d v1.Descriptor
	var ok bool
	if strings.Contains(reference, ":") {
		h, err := digest(reference)
		if err != nil {
			return err
		}
		d, ok = repo.Manifests[h]
	} else {
		if !tagPattern.MatchString(reference) {
			return fail(http.StatusBadRequest, codeManifestUnknown, "%.200q is neither a tag nor a digest", reference)
		}
		if d, ok = repo.Tags[reference]; ok {
			d = repo.Manifests[d.Digest]
		}
	}
	if !ok {
		return fail(http.StatusNotFound, codeManifestUnknown, "no bundle has %s in repository %s", reference, repo.Name)
	}
	w.Header().Set("Docker-Content-Digest", d.Digest.String())
	w.Header().Set("ETag", `"`+d.Digest.String()+`"`)
	if fresh(r, d.Digest) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if r.Method == http.MethodHead {
		return head(w, string(d.MediaType), d.Size)
	}
	body, err := sh.c.Manifest(d)
	if err != nil {
		return err
	}
	return write(w, r, string(d.MediaType), body)
}

// fresh tells whether the client has the content already.
func fresh(r *http.Request, h v1.Hash) bool {
	for _, tag := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == "*" || tag == `"`+h.String()+`"` {
			return true
		}
	}
	return false
}

func head(w *recorder, contentType string, size int64) error {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	return nil
}

// write sends what is in memory.
func write(w *recorder, r *http.Request, contentType string, body []byte) error {
	if err := head(w, contentType, int64(len(body))); err != nil || r.Method == http.MethodHead {
		return err
	}
	_, err := w.Write(body)
	return err
}

func writeJSON(w *recorder, r *http.Request, contentType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return write(w, r, contentType, body)
}

// page sends a sorted list, as much of it as is asked for (n), from behind a name (last).
func page(w *recorder, r *http.Request, key string, all []string, with map[string]any) error {
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if s := q.Get("n"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return fail(http.StatusBadRequest, codePagination, "n=%.20s is no number of entries", s)
		}
		if n < len(all) {
			all = all[:n]
			if n > 0 {
				q.Set("last", all[n-1])
				w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.EscapedPath(), q.Encode()))
			}
		}
	}
	body := map[string]any{key: append([]string{}, all...)}
	maps.Copy(body, with)
	return writeJSON(w, r, "application/json", body)
}

// referrers lists the manifests that name another as their subject.
func referrers(w *recorder, r *http.Request, repo *catalog.Repository, reference string) error {
	h, err := digest(reference)
	if err != nil {
		return err
	}
	all := append([]v1.Descriptor{}, repo.Referrers[h]...)
	if t := r.URL.Query().Get("artifactType"); t != "" {
		all = slices.DeleteFunc(all, func(d v1.Descriptor) bool { return d.ArtifactType != t })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, r, string(types.OCIImageIndex), v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: all})
}

// Health is what /healthz answers.
type Health struct {
	Status       string `json:"status"` // ok or stopping
	Items        int    `json:"items"`
	Repositories int    `json:"repositories"`
	Refused      int    `json:"refused"`
	Uptime       int64  `json:"uptimeSeconds"`
}

func (s *Server) health(w *recorder, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return fail(http.StatusMethodNotAllowed, codeUnsupported, "health is only asked for")
	}
	sh, err := s.acquire()
	if err != nil {
		return err
	}
	defer func() { _ = sh.release() }() // of files that were only read
	h := Health{
		Status: "ok", Items: len(sh.c.Items()), Repositories: len(sh.c.Repositories()), Refused: len(sh.c.Refused()),
		Uptime: int64(time.Since(s.started).Seconds()),
	}
	w.Header().Set("Cache-Control", "no-store")
	if s.ending.Load() {
		h.Status = "stopping"
		body, err := json.Marshal(h)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, err = w.Write(body)
		return err
	}
	return writeJSON(w, r, "application/json", h)
}

// quiet takes what net/http says of broken handshakes and the like: the access log has
// what concerns an operator.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
