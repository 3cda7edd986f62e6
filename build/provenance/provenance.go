// Package provenance writes SLSA v1 provenance (https://slsa.dev/spec/v1.0/provenance) of
// one platform's image, in an in-toto statement about the image's manifest, or of a program
// that is shipped as a file: what was asked for, with which settings, and everything that
// went in, by digest. buildtype-v1.md and program-v1.md beside this file document the two
// build types. The same input gives the same bytes: there
// is no clock and no host in it.
package provenance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"sort"
	"time"

	"github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/common"
	slsa "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v1"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/inventory"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/statement"
	"github.com/rancher/rke2/images"
)

const (
	// BuildType names how to read the parameters; the document is in this folder.
	BuildType = "https://github.com/rancher/rke2/blob/master/build/provenance/buildtype-v1.md"
	// Builder is the program that builds; whose it was is told by the key that signed.
	Builder = "https://github.com/rancher/rke2/tree/master/cmd/rke2-build"
)

// Input is what provenance is made of.
type Input struct {
	Name       string // registry/repo/name
	Tag        string
	Digest     string // of the platform's manifest: sha256:…
	Platform   artifact.Platform
	Product    string // version of the product, which is that of the builder
	Epoch      time.Time
	Go         string             // version of the toolchain: go1.26.8; "" if nothing was compiled
	FIPS140    string             // version of the Go Cryptographic Module
	Assembly   string             // what made the image of its parts: daemonless, buildkit or copy
	Compilers  []string           // C compilers that took part, by what they say they are
	Components []images.Component // whose contexts the Dockerfile copies from
	Sources    []Source           // declarations and locks
	Files      []layer.File       // the image's final tree
	Materials  []artifact.Material
	Cache      *cache.Cache // where what is found out about files is kept; may be nil
}

// External are the parameters that a user sets.
type External struct {
	Image           string `json:"image"`      // as declared: rke2-runtime
	Repository      string `json:"repository"` // registry/repo
	Tag             string `json:"tag"`
	Platform        string `json:"platform"` // os/arch
	Version         string `json:"version"`  // of the product
	SourceDateEpoch int64  `json:"sourceDateEpoch"`
}

// Internal are the parameters that follow from the declarations.
type Internal struct {
	Go         string                       `json:"go,omitempty"`
	FIPS140    string                       `json:"fips140,omitempty"`
	Compilers  []string                     `json:"cCompilers,omitempty"`
	Assembly   string                       `json:"assembly,omitempty"`
	Components []Component                  `json:"components"`
	Programs   map[string]map[string]string `json:"programs,omitempty"` // path in the image: settings in its build info
}

// Component is how a component was declared to be made.
type Component struct {
	Name     string     `json:"name"`
	Version  string     `json:"version,omitempty"`
	Kind     string     `json:"kind"`
	Crypto   string     `json:"crypto,omitempty"`
	Cgo      bool       `json:"cgo,omitempty"`
	Binaries []Binary   `json:"binaries,omitempty"`
	Packages []string   `json:"packages,omitempty"` // Debian packages asked for
	Without  []string   `json:"without,omitempty"`  // globs of what was left out
	Source   string     `json:"source,omitempty"`   // Debian source package
	Build    [][]string `json:"build,omitempty"`    // commands run in it
	Upstream string     `json:"upstream,omitempty"` // image that was copied
	Charts   []Chart    `json:"charts,omitempty"`
}

// Chart is how a Helm chart was declared to be packaged.
type Chart struct {
	Name        string            `json:"name"`
	AppVersion  string            `json:"appVersion"`
	Images      map[string]string `json:"images,omitempty"`      // declared image, by the value that names it
	Definitions string            `json:"definitions,omitempty"` // build context that CRDs come from
}

// Binary is how a Go program was asked for. Flags that every program has are in the
// documentation of the build type.
type Binary struct {
	Name    string   `json:"name"`
	Package string   `json:"package"`
	Tags    []string `json:"tags,omitempty"`
	LDFlags []string `json:"ldflags,omitempty"`
}

// Statement gives the provenance of an image as an in-toto statement: JSON.
func Statement(in Input) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("writing the provenance of %s: %w", in.Name, err)
	}
	files, err := inventory.Read(in.Cache, in.Files)
	if err != nil {
		return fail(err)
	}
	deps, err := dependencies(in, files)
	if err != nil {
		return fail(err)
	}
	p := definition(in, deps, files)
	p.BuildDefinition.BuildType = BuildType
	p.BuildDefinition.ExternalParameters = External{
		Image: path.Base(in.Name), Repository: path.Dir(in.Name), Tag: in.Tag,
		Platform: in.Platform.String(), Version: in.Product, SourceDateEpoch: in.Epoch.Unix(),
	}
	data, err := encode(p)
	if err != nil {
		return fail(err)
	}
	return statement.Encode(statement.Provenance, in.Name, in.Digest, data)
}

// definition is what the provenance of images and of programs have in common.
func definition(in Input, deps []slsa.ResourceDescriptor, files []inventory.File) slsa.ProvenancePredicate {
	return slsa.ProvenancePredicate{
		BuildDefinition: slsa.ProvenanceBuildDefinition{InternalParameters: internal(in, files), ResolvedDependencies: deps},
		RunDetails: slsa.ProvenanceRunDetails{
			Builder: slsa.Builder{ID: Builder, Version: map[string]string{"rke2-build": in.Product}},
		},
	}
}

// encode keeps characters that HTML would not have.
func encode(p slsa.ProvenancePredicate) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(p)
	return bytes.TrimSpace(b.Bytes()), err
}

func internal(in Input, files []inventory.File) Internal {
	out := Internal{Go: in.Go, FIPS140: in.FIPS140, Compilers: in.Compilers, Assembly: in.Assembly, Components: []Component{}, Programs: map[string]map[string]string{}}
	for _, c := range in.Components {
		out.Components = append(out.Components, component(c))
	}
	sort.Slice(out.Components, func(i, j int) bool { return out.Components[i].Name < out.Components[j].Name })
	for _, f := range files {
		if f.Go != nil {
			out.Programs["/"+f.Path] = f.Go.Settings
		}
	}
	return out
}

func component(c images.Component) Component {
	out := Component{Name: c.Name, Version: c.Version, Kind: string(c.Kind), Crypto: string(c.Crypto), Cgo: c.Cgo != nil}
	for _, b := range c.Binaries {
		out.Binaries = append(out.Binaries, Binary{Name: b.Name, Package: b.Package, Tags: b.Tags, LDFlags: b.LDFlags})
	}
	if c.Debian != nil {
		out.Packages, out.Without = slices.Clone(c.Debian.Packages), slices.Clone(c.Debian.Without)
	}
	if c.Source != nil {
		out.Source, out.Build = c.Source.Package, c.Source.Build
	}
	if c.Upstream != nil {
		out.Upstream = c.Upstream.Image
	}
	for _, ch := range c.Charts {
		declared := Chart{Name: ch.Name, AppVersion: ch.AppVersion, Images: map[string]string{}}
		for _, i := range ch.Images {
			declared.Images[i.Path] = i.Image
		}
		if ch.CRDs != nil {
			declared.Definitions = ch.CRDs.Files.Context
		}
		out.Charts = append(out.Charts, declared)
	}
	return out
}

// dependencies are all that went in: declarations, materials, the modules that programs
// say they have, and Go itself. Sorted, each once.
func dependencies(in Input, files []inventory.File) ([]slsa.ResourceDescriptor, error) {
	var out []slsa.ResourceDescriptor
	for _, s := range in.Sources {
		out = append(out, slsa.ResourceDescriptor{Name: s.Path, Digest: common.DigestSet{"sha256": s.SHA256}})
	}
	byURI := map[string]slsa.ResourceDescriptor{}
	add := func(d slsa.ResourceDescriptor) {
		// The one that says more: a material may name a module without its sum.
		if old, ok := byURI[d.URI]; !ok || len(d.Digest) > len(old.Digest) {
			byURI[d.URI] = d
		}
	}
	for _, m := range in.Materials {
		d := slsa.ResourceDescriptor{URI: m.PURL, DownloadLocation: m.URI, Digest: common.DigestSet{}}
		if m.SHA256 != "" {
			d.Digest["sha256"] = m.SHA256
		}
		hex, err := inventory.DirHash(m.H1)
		if err != nil {
			return nil, fmt.Errorf("material %s: %w", m.PURL, err)
		}
		if hex != "" {
			d.Digest["dirHash"] = hex
		}
		add(d)
	}
	for _, f := range files {
		if f.Go == nil {
			continue
		}
		for _, m := range append([]inventory.Module{f.Go.Main, f.Go.Standard()}, f.Go.Modules...) {
			d, ok, err := moduleDependency(m)
			if err != nil {
				return nil, fmt.Errorf("/%s: module %s: %w", f.Path, m.Path, err)
			}
			if ok {
				add(d)
			}
		}
	}
	for _, d := range byURI {
		out = append(out, d)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].URI != out[j].URI {
			return out[i].URI < out[j].URI
		}
		return out[i].Name < out[j].Name
	})
	return out, nil
}

// moduleDependency is false for the project's own modules: their files are sources.
func moduleDependency(m inventory.Module) (slsa.ResourceDescriptor, bool, error) {
	if m.Folder != "" || m.Version == "" || m.Version == "(devel)" {
		return slsa.ResourceDescriptor{}, false, nil
	}
	d := slsa.ResourceDescriptor{URI: m.PURL(), DownloadLocation: m.Location()}
	hex, err := m.DirHash()
	if hex != "" {
		d.Digest = common.DigestSet{"dirHash": hex}
	}
	return d, true, err
}
