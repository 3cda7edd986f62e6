package images

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Tree is everything that is declared, sorted by name.
type Tree struct {
	Dir        string // absolute
	Product    Product
	Components []Component
	Images     []Image
}

// Product is what product.yaml says, with what follows from it.
type Product struct {
	Version    string // version of Kubernetes + release
	Kubernetes string // version of Kubernetes
	Release    string // the suffix alone
	FIPS140    string // version of the Go Cryptographic Module
	Registry   string // default for Naming
	Repo       string // default for Naming
}

// Crypto is how a component's cryptography is built.
type Crypto string

const (
	// FIPS140 is the certified Go Cryptographic Module (GOFIPS140), the default.
	FIPS140 Crypto = "fips140"
	// BoringCrypto is GOEXPERIMENT=boringcrypto, which needs cgo.
	BoringCrypto Crypto = "boringcrypto"
)

// Component is a wrapper module: the commands that are built of it.
type Component struct {
	Name        string // the folder's
	Dir         string // absolute
	Description string
	Module      string // path of the module that gives the version
	Version     string // of the module that is built, a replacement's where there is one
	Crypto      Crypto
	Cgo         *Cgo // nil: built without cgo
	Binaries    []Binary
}

// Cgo says that a component needs a C compiler, and which static libraries.
type Cgo struct {
	Libraries []Library `yaml:"libraries"`
}

// Library is a static C library by file name, and the Debian package that has it.
type Library struct {
	File    string `yaml:"file"`
	Package string `yaml:"package"`
}

// Binary is one command. Dockerfiles know it as a build context of its name.
type Binary struct {
	Name    string
	Package string // import path, as in the tool directive
	Tags    []string
	LDFlags []string // templates filled in; without -s -w
}

// Image is a declared image.
type Image struct {
	Name       string // rke2-runtime
	Role       string // what the node looks it up by: runtime, kubernetes, etcd, pause
	Version    string // of what is in it
	Tag        string // <version>-<release>
	Sets       []string
	Dockerfile string // absolute
}

// Component finds a component by name.
func (t *Tree) Component(n string) (Component, bool) {
	for _, c := range t.Components {
		if c.Name == n {
			return c, true
		}
	}
	return Component{}, false
}

// Maker finds the component that makes the named binary.
func (t *Tree) Maker(binary string) (Component, bool) {
	for _, c := range t.Components {
		if c.has(binary) {
			return c, true
		}
	}
	return Component{}, false
}

// Image finds an image by name.
func (t *Tree) Image(n string) (Image, bool) {
	for _, i := range t.Images {
		if i.Name == n {
			return i, true
		}
	}
	return Image{}, false
}

// Naming is where images are named after: registry/repo/<image>.
type Naming struct {
	Registry string
	Repo     string
}

// Tag gives the image's full reference. Registry docker.io is kept as it is written, as
// container runtimes do, not turned into index.docker.io.
func (n Naming) Tag(i Image) (name.Tag, error) {
	ref := strings.Trim(n.Registry, "/") + "/" + strings.Trim(n.Repo, "/") + "/" + i.Name + ":" + i.Tag
	tag, err := name.NewTag(ref, name.StrictValidation)
	if err != nil {
		return name.Tag{}, fmt.Errorf("naming image %s (registry %q, repo %q): %w", i.Name, n.Registry, n.Repo, err)
	}
	return tag, nil
}
