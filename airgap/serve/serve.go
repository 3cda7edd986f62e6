// Package serve is a read-only image registry (OCI distribution-spec v1.1, pull and
// content discovery) straight out of bundle files: what is asked for is sent from where
// it lies in them. Bundles that come, go or are replaced while it runs are noticed.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rancher/rke2/airgap/catalog"
)

// Limits on clients. A connection costs a few hundred kB at most, TLS included.
const (
	headerTime  = 10 * time.Second // to send a request's header
	headerBytes = 16 << 10         // of a request's header
	idleTime    = 2 * time.Minute  // between requests of a connection
	stallTime   = 2 * time.Minute  // in which a piece of a blob must have been taken
)

// Options say what is served to whom.
type Options struct {
	// Paths are bundles, other tools' OCI archives, OCI layouts, and folders of such.
	Paths []string
	// Catalog says how they are opened. Its Unpack is needed: compressed archives are
	// expanded there, once.
	Catalog catalog.Options
	// TLS is nil for plain HTTP.
	TLS *tls.Config
	// Users may pull; nil: everybody may.
	Users *Users
	// Connections is how many there are at a time; more wait. 0: 1024.
	Connections int
	// Watch is how often it is looked whether files changed; 0: only Reload does.
	Watch time.Duration
	// Grace is what transfers have to end after a stop.
	Grace time.Duration
	// Access is told each request that was answered; may be nil. It is called from
	// several goroutines.
	Access func(Access)
	// Loaded is told of each look at the files that changed something, or tried to; may be nil.
	Loaded func(Load)
}

// Load is the outcome of a look at the files.
type Load struct {
	Files   int
	Items   []catalog.Item
	Refused []catalog.Refusal
	Summary string
	Elapsed time.Duration
	// Err: nothing changed, because it could not be done.
	Err error
}

// Server serves bundles.
type Server struct {
	o       Options
	now     atomic.Pointer[shelf]
	sound   soundness
	loading sync.Mutex
	state   string // of the files that were last looked at; guarded by loading
	ending  atomic.Bool
	started time.Time
}

// New opens the files. The caller closes the server.
func New(ctx context.Context, o Options) (*Server, error) {
	if o.Connections < 1 {
		o.Connections = 1024
	}
	s := &Server{o: o, started: time.Now()}
	s.sound.blobs = map[blobID]*check{}
	state, err := s.look()
	if err == nil {
		err = s.load(ctx, state)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close closes the files, when nobody reads them any more.
func (s *Server) Close() error {
	if last := s.now.Swap(nil); last != nil {
		return last.retire()
	}
	return nil
}

// Reload looks at all files anew. Transfers that are under way end with the old ones.
func (s *Server) Reload(ctx context.Context) error {
	state, err := s.look()
	if err == nil {
		err = s.load(ctx, state)
	}
	if err == nil && s.o.Users != nil {
		err = s.o.Users.Reload()
	}
	return err
}

// load replaces what is served, or leaves it where that fails.
func (s *Server) load(ctx context.Context, state string) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	start := time.Now()
	s.state = state
	l := Load{}
	err := func() error {
		files, err := catalog.Files(s.o.Paths)
		if err != nil {
			return err
		}
		c, err := catalog.Open(ctx, files, s.o.Catalog)
		if err != nil {
			return err
		}
		next := newShelf(c)
		l.Files, l.Items, l.Refused, l.Summary = len(files), c.Items(), c.Refused(), c.Summary()
		s.sound.forget(next.current)
		if old := s.now.Swap(next); old != nil {
			return old.retire()
		}
		return nil
	}()
	if l.Elapsed, l.Err = time.Since(start), err; s.o.Loaded != nil {
		s.o.Loaded(l)
	}
	return err
}

// Serve answers on a listener until the context ends, then lets transfers end. It closes
// the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	l = limited(l, s.o.Connections)
	if s.o.TLS != nil {
		l = tls.NewListener(l, s.tls())
	}
	h := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: headerBytes,
		ErrorLog: quiet(), BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(l) }()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go s.watch(watching)
	select {
	case err := <-ended:
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.ending.Store(true)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Grace)
	defer cancel()
	if err := h.Shutdown(grace); err != nil {
		_ = h.Close() // it says of which connections it broke off
		return fmt.Errorf("stopping: transfers were broken off after %s", s.o.Grace)
	}
	return nil
}

func (s *Server) tls() *tls.Config {
	c := s.o.TLS.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	return c
}

// errClosed is what requests get after Close.
var errClosed = errors.New("the server is closed")

// shelf is a catalog with what is needed to answer for it, until its last reader is done.
type shelf struct {
	c       *catalog.Catalog
	repos   map[string]*catalog.Repository // by what they may be asked for as
	unclear map[string][]string            // paths that several registries have
	names   []string                       // for _catalog
	current map[string]bool                // identities of the files

	mu      sync.Mutex
	readers int
	retired bool
}

// newShelf gives repositories their names: the path that they have at their registry, as
// mirrors are asked, and that with the registry in front. A path that several registries
// have stands for docker.io's, or else for none.
func newShelf(c *catalog.Catalog) *shelf {
	s := &shelf{c: c, repos: map[string]*catalog.Repository{}, unclear: map[string][]string{}, current: map[string]bool{}}
	byPath := map[string][]*catalog.Repository{}
	for _, r := range c.Repositories() {
		s.repos[r.Name] = r
		byPath[r.Path] = append(byPath[r.Path], r)
	}
	for path, all := range byPath {
		var main *catalog.Repository
		for _, r := range all {
			if r.Registry == "docker.io" || r.Registry == "" || len(all) == 1 {
				main = r
			}
		}
		for _, r := range all {
			if r != main {
				s.unclear[path] = append(s.unclear[path], r.Name)
				s.names = append(s.names, r.Name)
			}
		}
		if main != nil {
			s.repos[path] = main
			s.names = append(s.names, path)
		}
	}
	slices.Sort(s.names)
	for _, id := range c.Identities() {
		s.current[id] = true
	}
	return s
}

// repository finds a repository by its path and the registry that a mirror's client says
// (containerd's query parameter ns).
func (s *shelf) repository(path, registry string) *catalog.Repository {
	if registry != "" {
		if registry == "index.docker.io" || registry == "registry-1.docker.io" {
			registry = "docker.io"
		}
		if r := s.repos[registry+"/"+path]; r != nil {
			return r
		}
	}
	return s.repos[path]
}

// acquire gives what is served now. Its user releases it.
func (s *Server) acquire() (*shelf, error) {
	for {
		now := s.now.Load()
		if now == nil {
			return nil, errClosed
		}
		now.mu.Lock()
		if !now.retired {
			now.readers++
			now.mu.Unlock()
			return now, nil
		}
		now.mu.Unlock()
	}
}

func (s *shelf) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers--; s.readers == 0 && s.retired {
		return s.c.Close()
	}
	return nil
}

// retire closes the files now, or when their last reader is done.
func (s *shelf) retire() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	if s.readers == 0 {
		return s.c.Close()
	}
	return nil
}
