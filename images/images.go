package images

import (
	"fmt"
	"slices"
	"sort"
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
	Debian     Mirrors
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
	// NoCrypto is for what has no certified cryptography; CryptoReason says why.
	NoCrypto Crypto = "none"
)

// Mirrors are the Debian archives that packages are locked and fetched from.
type Mirrors struct {
	Suite    string `yaml:"suite"`    // bookworm
	Main     string `yaml:"mirror"`   // URL of the archive
	Security string `yaml:"security"` // URL of the security archive
}

// Kind is where a component comes from.
type Kind string

const (
	KindGo       Kind = "go"            // commands of a Go module
	KindDebian   Kind = "debian"        // Debian packages with what they depend on
	KindSource   Kind = "debian source" // static programs built from a Debian source package
	KindUpstream Kind = "upstream"      // somebody's image, as it is
	KindCharts   Kind = "charts"        // Helm charts of this project
)

// Component is something that images are made of. Its kind says which fields are set.
type Component struct {
	Name        string // the folder's
	Dir         string // absolute
	Description string
	Kind        Kind
	// Version is that of the module that is built, a replacement's where there is one;
	// of KindUpstream the tag; of Debian kinds the suite, as the lock has their versions;
	// of KindCharts the product's.
	Version      string
	Crypto       Crypto
	CryptoReason string // why Crypto is NoCrypto

	// Of KindGo. Source programs are listed in Binaries too, by name alone.
	Module        string // path of the module that gives the version
	ModuleVersion string // as the go command knows it: Version, or a pseudo-version
	Cgo           *Cgo   // nil: built without cgo
	Binaries      []Binary
	Files         []ModuleFiles

	Debian   *Debian
	Source   *Source
	Upstream *Upstream
	Charts   []Chart // sorted by name
}

// Debian is a list of Debian packages; their dependencies come along.
type Debian struct {
	Packages []string          // by name
	Without  []string          // globs of paths that are left out
	Omit     []Omit            // dependencies that are left out
	Links    map[string]string // symbolic links that maintainer scripts would have made
}

// Omit is a dependency that is not needed where the packages are used.
type Omit struct {
	Package string
	Reason  string
}

// Source is a Debian source package and how static programs are made of it.
type Source struct {
	Package  string
	Build    [][]string        // commands, run in this order in the source tree; {{.Host}}, {{.Jobs}} and {{.CC}} are filled in
	Binaries map[string]string // path in the built tree, by name
}

// Upstream is an image that somebody else built.
type Upstream struct {
	Image string // reference with a tag; the lock has the digest
	Key   string // absolute path of a public key that must have signed it; "": none is asked for
}

// ModuleFiles is a build context of files that a Go module ships beside its code.
type ModuleFiles struct {
	Context string   // name of the build context
	Module  string   // path; go.mod says the version
	From    string   // folder in the module whose content is the context; "": all of it
	Paths   []string // globs relative to From; none: everything
	Edits   []Edit
	Line    int // of the declaration, for errors
}

// Edit is a change to one of the files: Replace, which must be there exactly Count times,
// gives way to With.
type Edit struct {
	File, Replace, With string
	Count               int
	Line                int // of the declaration, for errors
}

// Contexts lists the build contexts that the component gives, sorted.
func (c Component) Contexts() []string {
	var out []string
	switch c.Kind {
	case KindDebian, KindUpstream, KindCharts:
		out = append(out, c.Name)
	default:
		for _, b := range c.Binaries {
			out = append(out, b.Name)
		}
		for _, f := range c.Files {
			out = append(out, f.Context)
		}
	}
	sort.Strings(out)
	return out
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
	Package string   // import path, as in the tool directive
	Tags    []string // netgo, osusergo, then what is declared
	LDFlags []string // templates filled in; without -s -w
}

// Image is a declared image.
type Image struct {
	Name       string // rke2-runtime
	Role       string // what the node looks it up by: runtime, kubernetes, etcd, pause
	Version    string // of what is in it
	Tag        string // <version>-<release>
	Sets       []string
	Dockerfile string // absolute; "" for an image that is copied from upstream
	Upstream   string // name of the component that it is a copy of
	Test       []Test
	Owner      string // name of the component whose folder declares it; "": the product
}

// TestSet is the set of images that tests alone need. An image of no other set is built
// and signed like all, and is no part of the release.
const TestSet = "test"

// Released reports whether the image is part of the release.
func (i Image) Released() bool { return len(i.Sets) != 1 || i.Sets[0] != TestSet }

// Test is a command that runs in the image's own root file system.
type Test struct {
	Run    []string
	Prints string // what its output must contain; "": the version
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

// Maker finds the component that gives the named build context: the binary of that name,
// in most cases.
func (t *Tree) Maker(context string) (Component, bool) {
	for _, c := range t.Components {
		if slices.Contains(c.Contexts(), context) {
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
