package mirrors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/registry"
)

// Door reaches repositories through their endpoints. It may be used from several
// goroutines.
type Door struct {
	config *Config
	base   registry.Settings
	// passed is told why an endpoint was passed over for the next.
	passed func(endpoint string, why error)

	mu      sync.Mutex
	clients map[clientKey]*registry.Client
	repos   map[string]*Repository
}

type clientKey struct{ scheme, host, base, namespace string }

// NewDoor makes a door. base says how patient it is, and where credentials are that the
// configuration lacks; what an endpoint says of itself comes before it. passed is told of
// each endpoint that is given up for the next, once a repository; it may be nil.
func NewDoor(c *Config, base registry.Settings, passed func(endpoint string, why error)) *Door {
	if passed == nil {
		passed = func(string, error) {}
	}
	if base.File = c.file; base.File == "" {
		base.File = DefaultFile
	}
	return &Door{config: c, base: base, passed: passed, clients: map[clientKey]*registry.Client{}, repos: map[string]*Repository{}}
}

// client gives the one client for an endpoint.
func (d *Door) client(e Endpoint) (*registry.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := clientKey{e.Scheme, e.Host, e.Base, e.Namespace}
	if c, ok := d.clients[k]; ok {
		return c, nil
	}
	s := d.base
	s.Base, s.Namespace = e.Base, e.Namespace
	s.PlainHTTP = s.PlainHTTP && e.Scheme == "" || e.plain()
	if e.TLS != nil {
		s.CAFile, s.ClientCert, s.ClientKey, s.SkipVerify = e.TLS.CAFile, e.TLS.CertFile, e.TLS.KeyFile, e.TLS.InsecureSkipVerify
	}
	if e.Auth != nil {
		s.Keychain = fixed(authn.AuthConfig{
			Username: e.Auth.Username, Password: e.Auth.Password, Auth: e.Auth.Auth, IdentityToken: e.Auth.IdentityToken,
		})
	}
	c, err := registry.New(s)
	if err != nil {
		return nil, fmt.Errorf("%s: configs.%q: %w", s.File, e.Host, err)
	}
	d.clients[k] = c
	return c, nil
}

// fixed is a keychain of one key.
type fixed authn.AuthConfig

// Resolve implements authn.Keychain.
func (f fixed) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(f)), nil
}

// Repository is a repository at all its endpoints: what one has not, or does not answer,
// is asked of the next.
type Repository struct {
	door *Door
	name name.Repository
	at   []*opened
}

// opened is a repository at one endpoint.
type opened struct {
	Endpoint
	once sync.Once
	repo *registry.Repository
	err  error
	told sync.Once
}

// Repository finds the endpoints of a repository. Nothing is dialled yet.
func (d *Door) Repository(repo name.Repository) (*Repository, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r, ok := d.repos[repo.Name()]; ok {
		return r, nil
	}
	endpoints, err := d.config.Endpoints(repo)
	if err != nil {
		return nil, err
	}
	r := &Repository{door: d, name: repo}
	for _, e := range endpoints {
		r.at = append(r.at, &opened{Endpoint: e})
	}
	d.repos[repo.Name()] = r
	return r, nil
}

// Name is the repository's own full name.
func (r *Repository) Name() string { return r.name.Name() }

func (o *opened) open(ctx context.Context, d *Door) (*registry.Repository, error) {
	o.once.Do(func() {
		c, err := d.client(o.Endpoint)
		if err != nil {
			o.err = err
			return
		}
		repo, err := name.NewRepository(o.Host+"/"+o.Repository, name.StrictValidation)
		if err != nil {
			o.err = fmt.Errorf("the name %s at endpoint %s: %w", o.Repository, o, err)
			return
		}
		o.repo, o.err = c.Repository(ctx, repo, registry.Pull)
	})
	return o.repo, o.err
}

// each asks one endpoint after the other until one answers. It tells which did.
func (r *Repository) each(ctx context.Context, ask func(*registry.Repository) error) (Endpoint, error) {
	var faults []error
	missing := true
	for i, o := range r.at {
		repo, err := o.open(ctx, r.door)
		if err == nil {
			if err = ask(repo); err == nil {
				return o.Endpoint, nil
			}
		}
		if ctx.Err() != nil {
			return Endpoint{}, ctx.Err()
		}
		if local(err) {
			return Endpoint{}, err
		}
		faults = append(faults, err)
		if !errors.Is(err, registry.ErrNotFound) {
			missing = false
			if i+1 < len(r.at) {
				o.told.Do(func() { r.door.passed(o.String(), err) })
			}
		}
	}
	if len(faults) == 1 {
		return Endpoint{}, faults[0]
	}
	return Endpoint{}, &Unanswered{Repository: r.Name(), Missing: missing, Faults: faults}
}

// local tells whether an error is about a file of this machine: another endpoint would
// not mend it.
func local(err error) bool {
	var p *os.PathError
	return errors.As(err, &p)
}

// Unanswered is what all endpoints of a repository said.
type Unanswered struct {
	Repository string
	Missing    bool // each says that it has not got it
	Faults     []error
}

// Error implements error.
func (u *Unanswered) Error() string {
	lines := []string{fmt.Sprintf("none of the %d endpoints of %s has it:", len(u.Faults), u.Repository)}
	for _, f := range u.Faults {
		lines = append(lines, "  "+f.Error())
	}
	return strings.Join(lines, "\n")
}

// Is makes an Unanswered that is Missing a [registry.ErrNotFound].
func (u *Unanswered) Is(target error) bool { return target == registry.ErrNotFound && u.Missing }

// Unwrap gives the endpoints' errors but for those that only say that it is not there.
func (u *Unanswered) Unwrap() []error {
	var out []error
	for _, f := range u.Faults {
		if !errors.Is(f, registry.ErrNotFound) {
			out = append(out, f)
		}
	}
	return out
}

// Manifest fetches the manifest that a tag or digest names, and tells which endpoint had
// it. What no endpoint has gives [registry.ErrNotFound].
func (r *Repository) Manifest(ctx context.Context, reference string) (data []byte, d v1.Descriptor, from Endpoint, err error) {
	from, err = r.each(ctx, func(repo *registry.Repository) (err error) {
		data, d, err = repo.Manifest(ctx, reference)
		return err
	})
	return data, d, from, err
}

// Referrers lists the manifests whose subject is a digest, of the first endpoint that
// answers.
func (r *Repository) Referrers(ctx context.Context, subject v1.Hash) (out []v1.Descriptor, err error) {
	_, err = r.each(ctx, func(repo *registry.Repository) (err error) {
		out, err = repo.Referrers(ctx, subject)
		return err
	})
	return out, err
}

// FetchBlob is [registry.Repository.FetchBlob] at one endpoint after the other; what one
// gave of the blob the next goes on with.
func (r *Repository) FetchBlob(ctx context.Context, d v1.Descriptor, f *os.File, moved func(n int64)) error {
	there := int64(0) // that moved knows of
	count := func(n int64) {
		there += n
		if moved != nil {
			moved(n)
		}
	}
	_, err := r.each(ctx, func(repo *registry.Repository) error {
		count(-there)
		return repo.FetchBlob(ctx, d, f, count)
	})
	return err
}

// Prefer is the repository with one endpoint asked before the others.
func (r *Repository) Prefer(e Endpoint) *Repository {
	out := &Repository{door: r.door, name: r.name}
	for _, o := range r.at {
		if o.is(e) {
			out.at = append([]*opened{o}, out.at...)
		} else {
			out.at = append(out.at, o)
		}
	}
	return out
}

// Only is the repository at one endpoint alone.
func (r *Repository) Only(e Endpoint) *Repository {
	out := r.Prefer(e)
	out.at = out.at[:min(1, len(out.at))]
	return out
}

func (o *opened) is(e Endpoint) bool {
	return o.Scheme == e.Scheme && o.Host == e.Host && o.Base == e.Base && o.Repository == e.Repository
}

// Tags lists the tags of the first endpoint that answers.
func (r *Repository) Tags(ctx context.Context) (out []string, err error) {
	_, err = r.each(ctx, func(repo *registry.Repository) (err error) {
		out, err = repo.Tags(ctx)
		return err
	})
	return out, err
}

// Get opens a URL that is no registry's, such as a chart repository's index, with what
// the configuration says of its host. The caller closes it.
func (d *Door) Get(ctx context.Context, from string) (io.ReadCloser, error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", from, err)
	}
	e := Endpoint{Host: u.Host, Base: "/v2"}
	if h, ok := lookUp(d.config.Configs, canonical(u.Host)); ok {
		e.Auth, e.TLS = h.Auth, h.TLS
	}
	c, err := d.client(e)
	if err != nil {
		return nil, err
	}
	return c.Get(ctx, from)
}
