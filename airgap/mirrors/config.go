// Package mirrors reaches registries the way registries.yaml says: through mirrors with
// rewritten names, with credentials and TLS settings an endpoint, and at last at the
// registry itself. The file is K3s's and RKE2's (https://docs.rke2.io/install/private_registry).
package mirrors

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"go.yaml.in/yaml/v3"

	"github.com/rancher/rke2/images/yamlfile"
)

// DefaultFile is where a node has its registries.yaml.
const DefaultFile = "/etc/rancher/rke2/registries.yaml"

// Config is what a registries.yaml says. The zero value sends everything to the
// registries themselves.
type Config struct {
	Mirrors map[string]Mirror `yaml:"mirrors"`
	Configs map[string]Host   `yaml:"configs"`
	// OnlyMirrors leaves a registry itself out where it has mirrors. The file does not
	// say it: it is an option of a node.
	OnlyMirrors bool `yaml:"-"`

	file string
}

// Mirror stands for a registry.
type Mirror struct {
	// Endpoints are URLs in the order in which they are asked, such as
	// https://mirror.example.com:5000/v2.
	Endpoints []string `yaml:"endpoint"`
	// Rewrites are regular expressions on a repository's name (without the registry),
	// and what it is called at the endpoints: $1 is the first group.
	Rewrites rewrites `yaml:"rewrite"`
}

// Host says how the registry at a host is spoken to.
type Host struct {
	Auth *Auth `yaml:"auth"`
	TLS  *TLS  `yaml:"tls"`
}

// Auth are credentials: a name and a password, both in one (base64 of NAME:PASSWORD), or
// a token.
type Auth struct {
	Username      string `yaml:"username"`
	Password      string `yaml:"password"`
	Auth          string `yaml:"auth"`
	IdentityToken string `yaml:"identity_token"`
}

// TLS names PEM files.
type TLS struct {
	CAFile             string `yaml:"ca_file"`
	CertFile           string `yaml:"cert_file"`
	KeyFile            string `yaml:"key_file"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
}

// rewrites keep the file's order: the first that matches counts.
type rewrites []rewrite

type rewrite struct {
	match *regexp.Regexp
	to    string
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (r *rewrites) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: rewrite is a map of patterns to names", n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		re, err := regexp.Compile(k.Value)
		if err != nil {
			return fmt.Errorf("line %d: the pattern %q: %w", k.Line, k.Value, err)
		}
		*r = append(*r, rewrite{re, v.Value})
	}
	return nil
}

// apply gives a repository's name at the endpoints.
func (r rewrites) apply(repository string) string {
	for _, w := range r {
		if w.match.MatchString(repository) {
			return w.match.ReplaceAllString(repository, w.to)
		}
	}
	return repository
}

// LoadForNode reads a registries.yaml as a node does, which goes on without keys that it
// does not know: they are what ignored says. A file that is not there says nothing.
func LoadForNode(file string) (c *Config, ignored, err error) {
	c, strict := Load(file)
	switch {
	case strict == nil:
		return c, nil, nil
	case errors.Is(strict, fs.ErrNotExist):
		return &Config{file: file}, nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, strict
	}
	c = &Config{file: file}
	if yaml.Unmarshal(data, c) != nil || c.check() != nil {
		return nil, nil, strict
	}
	return c, strict, nil
}

// Load reads a registries.yaml. Unlike [LoadForNode]
// it takes nothing that is wrong: unknown keys, addresses and patterns that can't be read,
// half a client certificate; its errors say FILE:LINE where there is one.
func Load(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the registries' settings: %w", err)
	}
	c := &Config{file: file}
	if err := yamlfile.Decode(file, data, c); err != nil && !errors.Is(err, yamlfile.ErrEmpty) {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

// LoadDefault is Load of a node's own file, if there is one.
func LoadDefault() (*Config, error) {
	c, err := Load(DefaultFile)
	if errors.Is(err, fs.ErrNotExist) {
		return &Config{}, nil
	}
	return c, err
}

func (c *Config) check() error {
	for _, host := range slices.Sorted(maps.Keys(c.Mirrors)) {
		for _, e := range c.Mirrors[host].Endpoints {
			if _, err := parseAddress(e); err != nil {
				return fmt.Errorf("mirrors.%q: endpoint %q: %w", host, e, err)
			}
		}
	}
	for _, host := range slices.Sorted(maps.Keys(c.Configs)) {
		h := c.Configs[host]
		if strings.Contains(host, "://") {
			return fmt.Errorf("configs.%q: a host and port are needed, without %s", host, host[:strings.Index(host, "://")+3])
		}
		if h.TLS != nil && (h.TLS.CertFile == "") != (h.TLS.KeyFile == "") {
			return fmt.Errorf("configs.%q.tls: cert_file and key_file are needed together", host)
		}
	}
	return nil
}

// Endpoint is one address at which a repository can be had.
type Endpoint struct {
	Scheme string // https, http, or "" where it was not said
	Host   string // HOST[:PORT]
	Base   string // of the API below the host; /v2
	// Repository is the repository's name there.
	Repository string
	// Namespace is the registry that the endpoint stands for; "" at the registry itself.
	Namespace string
	Auth      *Auth
	TLS       *TLS
}

// String is the endpoint's address.
func (e Endpoint) String() string {
	s := e.Scheme
	if s == "" {
		s = "https"
	}
	return s + "://" + e.Host + strings.TrimSuffix(e.Base, "/v2")
}

// Endpoints gives the addresses of a repository in the order in which they are to be
// asked: the mirrors of its registry by its exact name (docker.io has several), else
// those of "*"; the registry itself comes last.
func (c *Config) Endpoints(repo name.Repository) ([]Endpoint, error) {
	registry := canonical(repo.RegistryStr())
	var out []Endpoint
	if m, ok := lookUp(c.Mirrors, registry); ok {
		there := m.Rewrites.apply(repo.RepositoryStr())
		for _, s := range m.Endpoints {
			e, err := parseAddress(s)
			if err != nil {
				return nil, fmt.Errorf("%s: mirrors.%q: endpoint %q: %w", c.file, registry, s, err)
			}
			e.Repository = there
			if canonical(e.Host) != registry {
				e.Namespace = registry
			}
			out = append(out, e)
		}
	}
	self := Endpoint{Host: repo.RegistryStr(), Base: "/v2", Repository: repo.RepositoryStr()}
	itself := !c.OnlyMirrors || len(out) == 0
	if itself && !slices.ContainsFunc(out, func(e Endpoint) bool {
		return canonical(e.Host) == registry && e.Base == self.Base && e.Repository == self.Repository
	}) {
		out = append(out, self)
	}
	for i := range out {
		if h, ok := lookUp(c.Configs, canonical(out[i].Host)); ok {
			out[i].Auth, out[i].TLS = h.Auth, h.TLS
		}
	}
	return out, nil
}

// canonical gives the one name of a registry that has several.
func canonical(host string) string {
	switch host {
	case name.DefaultRegistry, "registry-1.docker.io":
		return "docker.io"
	}
	return host
}

// lookUp finds what is said of a registry: under its name, its other names, its name with
// the port that goes without saying, or else under "*".
func lookUp[T any](m map[string]T, registry string) (T, bool) {
	keys := []string{registry}
	if registry == "docker.io" {
		keys = append(keys, name.DefaultRegistry, "registry-1.docker.io")
	}
	if _, _, err := net.SplitHostPort(registry); err != nil {
		keys = append(keys, registry+":443", registry+":80")
	} else if bare, ok := strings.CutSuffix(registry, ":443"); ok {
		keys = append(keys, bare)
	}
	for _, k := range append(keys, "*") {
		if v, ok := m[k]; ok {
			return v, true
		}
	}
	var none T
	return none, false
}

// parseAddress reads an endpoint as operators write it: a URL, or HOST[:PORT].
func parseAddress(s string) (Endpoint, error) {
	full := s
	if !strings.Contains(s, "://") {
		full = "//" + s
	}
	u, err := url.Parse(full)
	if err != nil {
		return Endpoint{}, err
	}
	switch {
	case u.Host == "":
		return Endpoint{}, errors.New("it has no host")
	case u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https":
		return Endpoint{}, fmt.Errorf("%s:// is not spoken with registries: use https://", u.Scheme)
	case u.User != nil:
		return Endpoint{}, errors.New("credentials belong under configs")
	case u.RawQuery != "" || u.Fragment != "":
		return Endpoint{}, errors.New("a registry's address has no query")
	}
	e := Endpoint{Scheme: u.Scheme, Host: u.Host, Base: path.Clean("/" + u.Path)}
	if e.Base == "/" {
		e.Base = "/v2"
	}
	return e, nil
}

// plain tells whether the endpoint may be spoken to without TLS: where that is said, and
// on this machine, as containerd has it, if it is not said otherwise.
func (e Endpoint) plain() bool {
	if e.Scheme != "" {
		return e.Scheme == "http"
	}
	host, port, err := net.SplitHostPort(e.Host)
	if err != nil || port == "443" {
		return false
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
