package publish

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/airgap/catalog"
)

// Destination is where images go: a registry, and what stands before their own paths,
// which may be rewritten.
type Destination struct {
	registry name.Registry
	prefix   string
	rewrites []Rewrite
}

// Rewrite replaces the start of a repository's path, by whole parts: From docker.io/rancher
// (or rancher, at any registry) To mirror/rke2.
type Rewrite struct{ From, To string }

// ParseRewrite reads FROM=TO. TO may be empty, and FROM may have a registry.
func ParseRewrite(s string) (Rewrite, error) {
	from, to, ok := strings.Cut(s, "=")
	from, to = strings.Trim(from, "/"), strings.Trim(to, "/")
	if !ok || from == "" || strings.Contains(to, "=") {
		return Rewrite{}, fmt.Errorf("rewrite %q: want FROM=TO, such as docker.io/rancher=mirror/rancher", s)
	}
	if to != "" {
		if _, err := name.NewRepository("registry.invalid/"+to+"/name", name.StrictValidation); err != nil {
			return Rewrite{}, fmt.Errorf("rewrite %q: %q is no path of a repository: %w", s, to, err)
		}
	}
	return Rewrite{from, to}, nil
}

// apply is the path after the rewrite, if it is one that is meant.
func (r Rewrite) apply(n catalog.Name) (string, bool) {
	for _, path := range []string{n.Path(), n.Repository} {
		rest, ok := strings.CutPrefix(path, r.From)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		return strings.Trim(r.To+rest, "/"), true
	}
	return "", false
}

// With is the destination with rewrites. The longest FROM that fits a name is applied,
// and no other.
func (d Destination) With(rewrites ...Rewrite) (Destination, error) {
	for i, r := range rewrites {
		for _, o := range rewrites[:i] {
			if o.From == r.From && o.To != r.To {
				return d, fmt.Errorf("%s is to be rewritten to %q and to %q", r.From, o.To, r.To)
			}
		}
	}
	d.rewrites = rewrites
	return d, nil
}

// ParseDestination reads REGISTRY[/PREFIX], such as registry.example.com:5000/mirror.
func ParseDestination(s string) (Destination, error) {
	if strings.Contains(s, "://") {
		return Destination{}, fmt.Errorf("registry %q: write it without %s (plain HTTP has an option of its own)", s, s[:strings.Index(s, "://")+3])
	}
	host, prefix, _ := strings.Cut(strings.TrimSuffix(s, "/"), "/")
	reg, err := name.NewRegistry(host, name.StrictValidation)
	if err != nil {
		return Destination{}, fmt.Errorf("registry %q: want HOST[:PORT][/PREFIX]: %w", s, err)
	}
	d := Destination{registry: reg, prefix: prefix}
	if prefix != "" {
		if _, err := name.NewRepository(host+"/"+prefix+"/x", name.StrictValidation); err != nil {
			return Destination{}, fmt.Errorf("registry %q: want HOST[:PORT][/PREFIX]: %w", s, err)
		}
	}
	return d, nil
}

// String is the destination as it was written.
func (d Destination) String() string {
	if d.prefix == "" {
		return d.registry.Name()
	}
	return d.registry.Name() + "/" + d.prefix
}

// Tag is what an image is called there: its own path, rewritten, below the prefix.
func (d Destination) Tag(source catalog.Name) (name.Tag, error) {
	path, longest := source.Repository, ""
	for _, r := range d.rewrites {
		if to, ok := r.apply(source); ok && len(r.From) > len(longest) {
			path, longest = to, r.From
		}
	}
	if path == "" {
		return name.Tag{}, fmt.Errorf("the rewrite of %s leaves no name", longest)
	}
	if d.prefix != "" {
		path = d.prefix + "/" + path
	}
	tag := source.Tag
	if tag == "" {
		tag = "unnamed" // it is not set: the image goes by its digest
	}
	return name.NewTag(d.registry.Name()+"/"+path+":"+tag, name.StrictValidation)
}
