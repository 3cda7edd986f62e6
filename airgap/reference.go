package airgap

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
)

// ParseTag reads a reference as people and docker write it and returns its full
// form: "busybox" is docker.io/library/busybox:latest. A reference by digest is
// an error.
func ParseTag(s string) (name.Tag, error) {
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return name.Tag{}, fmt.Errorf("image reference %q: %w", s, err)
	}
	if _, ok := named.(reference.Tagged); !ok {
		return name.Tag{}, fmt.Errorf("image reference %q: a tag is needed, not a digest", s)
	}
	return name.NewTag(named.String(), name.StrictValidation)
}

// ParseReference is [ParseTag] of a reference by tag, and takes one by digest too: a tag
// beside the digest says nothing more and is dropped.
func ParseReference(s string) (name.Reference, error) {
	tag, digest, err := parseName(s)
	switch {
	case err != nil:
		return nil, err
	case tag != nil:
		return *tag, nil
	}
	return *digest, nil
}

// parseName reads a name from an archive into a tag or a digest reference.
func parseName(s string) (*name.Tag, *name.Digest, error) {
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return nil, nil, fmt.Errorf("image reference %q: %w", s, err)
	}
	if _, ok := named.(reference.Digested); ok {
		d, err := name.NewDigest(named.String())
		return nil, &d, err
	}
	t, err := name.NewTag(named.String(), name.StrictValidation)
	return &t, nil, err
}
