package publish

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Destination is where images go: a registry, and what stands before their own paths.
type Destination struct {
	registry name.Registry
	prefix   string
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

// Tag is what an image is called there: its own path below the prefix.
func (d Destination) Tag(source name.Tag) (name.Tag, error) {
	path := source.RepositoryStr()
	if d.prefix != "" {
		path = d.prefix + "/" + path
	}
	return name.NewTag(d.registry.Name()+"/"+path+":"+source.TagStr(), name.StrictValidation)
}
