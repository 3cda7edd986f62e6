package catalog

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/airgap"
)

// Name is a reference with its parts as people write them.
type Name struct {
	Registry   string // docker.io, not index.docker.io; "" for files without one
	Repository string
	Tag        string   // "" of an image that is only named by its digest
	Digest     string   // of such an image
	tag        name.Tag // as policies know it
}

func (n Name) String() string {
	if n.Tag == "" {
		return n.Path() + "@" + n.Digest
	}
	return n.Path() + ":" + n.Tag
}

// Path is the repository with its registry in front, if it has one.
func (n Name) Path() string {
	if n.Registry == "" {
		return n.Repository
	}
	return n.Registry + "/" + n.Repository
}

func nameOf(t name.Tag) Name {
	reg := t.RegistryStr()
	if reg == name.DefaultRegistry {
		reg = "docker.io"
	}
	return Name{Registry: reg, Repository: t.RepositoryStr(), Tag: t.TagStr(), tag: t}
}

// nameOfDigest names an image without a tag. No signature can be for a tag of its, so
// the policy is asked with one that nobody gives.
func nameOfDigest(d name.Digest) Name {
	n := nameOf(d.Context().Tag("unnamed"))
	n.Tag, n.Digest = "", d.DigestStr()
	return n
}

// ParseName reads the reference of an item. That of files need not have a registry, and
// then has none.
func ParseName(kind, ref string) (Name, error) {
	if repository, _, ok := strings.Cut(ref, "@"); ok && kind == airgap.KindImage {
		d, err := name.NewDigest(ref)
		if err != nil {
			return Name{}, fmt.Errorf("image reference %q: %w", ref, err)
		}
		if _, err := airgap.ParseTag(repository + ":unnamed"); err != nil {
			return Name{}, err
		}
		return nameOfDigest(d), nil
	}
	t, err := airgap.ParseTag(ref)
	if err != nil {
		return Name{}, err
	}
	n := nameOf(t)
	first, _, path := strings.Cut(ref, "/")
	if kind == airgap.KindFiles && (!path || !strings.ContainsAny(first, ".:") && first != "localhost") {
		repository, _, ok := strings.Cut(ref, ":")
		if !ok {
			return Name{}, fmt.Errorf("files %q: a version is needed: NAME:VERSION", ref)
		}
		n.Registry, n.Repository = "", repository
	}
	return n, nil
}
