package pull

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"go.yaml.in/yaml/v3"
)

// providers are the kubelet's credential provider plugins, as one keychain
// (https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/).
type providers struct {
	list  []provider
	bin   string
	limit time.Duration // of one program
	log   *slog.Logger
}

// provider is one entry of the configuration.
type provider struct {
	Name        string   `yaml:"name"`
	MatchImages []string `yaml:"matchImages"`
	APIVersion  string   `yaml:"apiVersion"`
	Args        []string `yaml:"args"`
	Env         []struct {
		Name  string `yaml:"name"`
		Value string `yaml:"value"`
	} `yaml:"env"`
}

const (
	configGroup   = "kubelet.config.k8s.io/"
	protocolGroup = "credentialprovider.kubelet.k8s.io/"
	programLimit  = time.Minute // what the kubelet gives one
	maxAnswer     = 1 << 20
)

// loadProviders reads a CredentialProviderConfig; without that file there are none. Fields that are the kubelet's business
// alone are passed over.
func loadProviders(file, bin string, log *slog.Logger) (*providers, error) {
	fail := func(format string, args ...any) (*providers, error) {
		return nil, fmt.Errorf("reading credential providers %s: %w", file, fmt.Errorf(format, args...))
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return &providers{}, nil
	}
	if err != nil {
		return fail("%w", errors.Unwrap(err))
	}
	var c struct {
		APIVersion string     `yaml:"apiVersion"`
		Kind       string     `yaml:"kind"`
		Providers  []provider `yaml:"providers"`
	}
	if err := yaml.Unmarshal(raw, &c); err != nil {
		return fail("%w", err)
	}
	if c.Kind != "CredentialProviderConfig" || !strings.HasPrefix(c.APIVersion, configGroup) {
		return fail("it is %s %s, not CredentialProviderConfig of %sv1", c.APIVersion, c.Kind, configGroup)
	}
	if bin == "" {
		return fail("no folder of programs is set: set image-credential-provider-bin-dir too")
	}
	for n, p := range c.Providers {
		switch {
		case p.Name == "" || strings.ContainsAny(p.Name, "/ ") || p.Name == "." || p.Name == "..":
			return fail("provider %d: %q is no name of a program", n+1, p.Name)
		case len(p.MatchImages) == 0:
			return fail("provider %s: it has no matchImages", p.Name)
		case !strings.HasPrefix(p.APIVersion, protocolGroup):
			return fail("provider %s: apiVersion %q: must be of %s, such as %sv1", p.Name, p.APIVersion, protocolGroup, protocolGroup)
		}
		for _, m := range p.MatchImages {
			if _, err := parsePattern(m); err != nil {
				return fail("provider %s: matchImages %q: %w", p.Name, m, err)
			}
		}
	}
	return &providers{list: c.Providers, bin: bin, limit: programLimit, log: log}, nil
}

// Resolve implements authn.Keychain.
func (p *providers) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return p.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain. A program that fails is told of, and
// whoever comes after it is asked.
func (p *providers) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	image := r.String()
	if rest, ok := strings.CutPrefix(image, name.DefaultRegistry+"/"); ok {
		image = "docker.io/" + rest // as the kubelet calls it
	}
	for _, one := range p.list {
		if !slices.ContainsFunc(one.MatchImages, func(m string) bool { return matches(m, image) }) {
			continue
		}
		auth, err := p.ask(ctx, one, image)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			p.log.Warn("a credential provider gave nothing", "provider", one.Name, "image", image, "error", err)
			continue
		}
		if auth != nil {
			return authn.FromConfig(*auth), nil
		}
	}
	return authn.Anonymous, nil
}

// request and response are the protocol's documents.
type request struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Image      string `json:"image"`
}

type response struct {
	Kind       string           `json:"kind"`
	APIVersion string           `json:"apiVersion"`
	Auth       map[string]login `json:"auth"`
}

type login struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// ask runs a provider's program; nil if it has no credentials for the image.
func (p *providers) ask(ctx context.Context, one provider, image string) (*authn.AuthConfig, error) {
	question, err := json.Marshal(request{Kind: "CredentialProviderRequest", APIVersion: one.APIVersion, Image: image})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, one.Name), one.Args...)
	cmd.Env = os.Environ()
	for _, e := range one.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	cmd.WaitDelay = time.Second // for what it started and left
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(question), &bounded{&out}, &bounded{&errs}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("it did not answer within %v", p.limit)
		}
		if said := strings.TrimSpace(errs.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said[:min(len(said), 1<<10)])
		}
		return nil, fmt.Errorf("running %s: %w", cmd.Path, err)
	}
	var answer response
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return nil, fmt.Errorf("running %s: its answer: %w", cmd.Path, err)
	}
	if answer.Kind != "CredentialProviderResponse" || answer.APIVersion != one.APIVersion {
		return nil, fmt.Errorf("running %s: its answer is %s %s, not CredentialProviderResponse of %s", cmd.Path, answer.APIVersion, answer.Kind, one.APIVersion)
	}
	// The more said, the more meant: the kubelet takes the last in order first.
	for _, pattern := range slices.Backward(slices.Sorted(maps.Keys(answer.Auth))) {
		if l := answer.Auth[pattern]; matches(pattern, image) && l.Username != "" {
			return &authn.AuthConfig{Username: l.Username, Password: l.Password}, nil
		}
	}
	return nil, nil
}

// bounded takes no more than an answer may have.
type bounded struct{ b *bytes.Buffer }

func (w *bounded) Write(p []byte) (int, error) {
	if w.b.Len()+len(p) > maxAnswer {
		return 0, io.ErrShortWrite
	}
	return w.b.Write(p)
}

// pattern is host[:port][/path], each part of the host a glob.
type pattern struct {
	host       []string
	port, path string
}

func parsePattern(s string) (pattern, error) {
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		rest = s
	}
	host, below, _ := strings.Cut(rest, "/")
	var p pattern
	if below != "" {
		p.path = "/" + below
	}
	host, p.port, _ = strings.Cut(host, ":")
	p.host = strings.Split(host, ".")
	if host == "" {
		return p, errors.New("it has no host")
	}
	for _, part := range p.host {
		if _, err := path.Match(part, ""); err != nil {
			return p, err
		}
	}
	return p, nil
}

// matches tells whether an image's repository is meant by a pattern: as many parts of the
// host, each matched; the same port; a path that begins with the pattern's.
func matches(glob, image string) bool {
	want, err := parsePattern(glob)
	if err != nil {
		return false
	}
	is, err := parsePattern(image)
	if err != nil || len(is.host) != len(want.host) || is.port != want.port || !strings.HasPrefix(is.path, want.path) {
		return false
	}
	for i, part := range want.host {
		if ok, err := path.Match(part, is.host[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
