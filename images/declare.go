package images

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"text/template"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/mod/semver"
)

// productFile and componentFile are the file forms of product.yaml and image.yaml.
type productFile struct {
	VersionOf text       `yaml:"version-of"`
	Release   text       `yaml:"release"`
	FIPS140   text       `yaml:"fips140"`
	Registry  text       `yaml:"registry"`
	Repo      text       `yaml:"repo"`
	Debian    *Mirrors   `yaml:"debian"`
	Charts    text       `yaml:"charts"`
	Image     *imageFile `yaml:"image"`
}

type componentFile struct {
	Description string                `yaml:"description"`
	Debian      *debianFile           `yaml:"debian"`
	Source      *sourceFile           `yaml:"source"`
	Upstream    *upstreamFile         `yaml:"upstream"`
	Module      text                  `yaml:"module"`
	Version     text                  `yaml:"version"`
	Crypto      text                  `yaml:"crypto"`
	Reason      text                  `yaml:"crypto-reason"`
	Files       map[string]moduleFile `yaml:"files"`
	Tags        []string              `yaml:"tags"`
	LDFlags     []text                `yaml:"ldflags"`
	Cgo         *Cgo                  `yaml:"cgo"`
	Binaries    map[string]binaryFile `yaml:"binaries"`
	Image       *imageFile            `yaml:"image"`
}

// allTags are what every Go program is built with: nothing asks the C library for names
// and users, be the program linked with one or not, and all share one standard library in
// Go's build cache.
var allTags = []string{"netgo", "osusergo"}

type binaryFile struct {
	Package text     `yaml:"package"`
	Tags    []string `yaml:"tags"`
	LDFlags []text   `yaml:"ldflags"`
}

type imageFile struct {
	Name       text     `yaml:"name"`
	Role       text     `yaml:"role"`
	Dockerfile text     `yaml:"dockerfile"`
	Sets       []string `yaml:"sets"`
	Test       []test   `yaml:"test"`
}

var (
	plainName   = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	releaseName = regexp.MustCompile(`^[a-z0-9]+$`)
)

// Load reads the declarations in dir: product.yaml, go.mod with image.yaml of every
// folder that has an image.yaml, and package.yaml of the charts. Errors name file and line.
func Load(dir string) (*Tree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("finding declarations: %w", err)
	}
	productPath := filepath.Join(abs, "product.yaml")
	var pf productFile
	if err := decodeFile(productPath, &pf); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(abs)
	if err != nil {
		return nil, fmt.Errorf("reading declarations: %w", err)
	}
	t := &Tree{Dir: abs}
	files := map[string]componentFile{}
	for _, e := range entries {
		sub := filepath.Join(abs, e.Name())
		if _, err := os.Stat(filepath.Join(sub, "image.yaml")); err != nil {
			if _, modErr := os.Stat(filepath.Join(sub, "go.mod")); modErr == nil {
				return nil, fmt.Errorf("%s: a wrapper module without an image.yaml", sub)
			}
			continue
		}
		c, f, err := loadComponent(sub)
		if err != nil {
			return nil, err
		}
		files[c.Name] = f
		t.Components = append(t.Components, c)
	}
	if err := t.setProduct(productPath, pf); err != nil {
		return nil, err
	}
	for i := range t.Components {
		c := &t.Components[i]
		if err := c.expand(t.Product, files[c.Name]); err != nil {
			return nil, err
		}
	}
	if err := t.setImages(productPath, pf, files); err != nil {
		return nil, err
	}
	return t, t.setCharts(productPath, pf.Charts)
}

func (t *Tree) setProduct(path string, pf productFile) error {
	c, ok := t.Component(pf.VersionOf.value)
	if !ok {
		return at(path, pf.VersionOf.line, "version-of: there is no component %q", pf.VersionOf.value)
	}
	if !releaseName.MatchString(pf.Release.value) {
		return at(path, pf.Release.line, "release: %q is not a word of a-z and 0-9", pf.Release.value)
	}
	if !semver.IsValid(pf.FIPS140.value) {
		return at(path, pf.FIPS140.line, "fips140: %q is not a version such as v1.2.3", pf.FIPS140.value)
	}
	if _, err := name.NewRegistry(pf.Registry.value); err != nil || pf.Registry.value == "" {
		return at(path, pf.Registry.line, "registry: %q is not the name of a registry", pf.Registry.value)
	}
	if _, err := name.NewRepository(pf.Registry.value + "/" + pf.Repo.value + "/x"); err != nil || pf.Repo.value == "" {
		return at(path, pf.Repo.line, "repo: %q is not a repository prefix", pf.Repo.value)
	}
	debian := Mirrors{}
	if pf.Debian != nil {
		debian = *pf.Debian
		if debian.Suite == "" || debian.Main == "" || debian.Security == "" {
			return fmt.Errorf("%s: debian: suite, mirror and security are all needed", path)
		}
	}
	for _, c := range t.Components {
		if (c.Kind == KindDebian || c.Kind == KindSource) && pf.Debian == nil {
			return fmt.Errorf("%s: debian is missing: component %s is made of Debian packages, so say suite, mirror and security", path, c.Name)
		}
	}
	t.Product = Product{
		Debian:     debian,
		Version:    c.Version + "+" + pf.Release.value,
		Kubernetes: c.Version,
		Release:    pf.Release.value,
		FIPS140:    pf.FIPS140.value,
		Registry:   pf.Registry.value,
		Repo:       pf.Repo.value,
	}
	return nil
}

func (t *Tree) setImages(productPath string, pf productFile, files map[string]componentFile) error {
	giver := map[string]string{}
	for _, c := range t.Components {
		for _, n := range c.Contexts() {
			if other, ok := giver[n]; ok {
				return fmt.Errorf("%s: build context %q (a binary's name, files, or the component itself) is given by component %s too", c.file(), n, other)
			}
			giver[n] = c.Name
		}
	}
	add := func(path string, c Component, f *imageFile) error {
		if f == nil {
			return nil
		}
		img, err := f.image(path, c, t.Product)
		if err != nil {
			return err
		}
		for _, other := range t.Images {
			if other.Name == img.Name || other.Role == img.Role {
				return at(path, f.Name.line, "image %s (role %s): name or role is taken by %s", img.Name, img.Role, other.Dockerfile)
			}
		}
		t.Images = append(t.Images, img)
		return nil
	}
	if err := add(productPath, Component{Version: t.Product.Kubernetes}, pf.Image); err != nil {
		return err
	}
	for _, c := range t.Components {
		if err := add(c.file(), c, files[c.Name].Image); err != nil {
			return err
		}
	}
	sort.Slice(t.Images, func(i, j int) bool { return t.Images[i].Name < t.Images[j].Name })
	return nil
}

func (f *imageFile) image(path string, c Component, p Product) (Image, error) {
	if !plainName.MatchString(f.Name.value) {
		return Image{}, at(path, f.Name.line, "image name %q is not lower-case words joined by -", f.Name.value)
	}
	if !plainName.MatchString(f.Role.value) {
		return Image{}, at(path, max(f.Role.line, f.Name.line), "image %s needs a role, a lower-case word", f.Name.value)
	}
	if len(f.Sets) == 0 {
		return Image{}, at(path, f.Name.line, "image %s is in no set; name at least one under sets", f.Name.value)
	}
	for _, s := range f.Sets {
		if !plainName.MatchString(s) {
			return Image{}, at(path, f.Name.line, "image %s: set %q is not lower-case words joined by -", f.Name.value, s)
		}
	}
	sets := slices.Clone(f.Sets)
	sort.Strings(sets)
	img := Image{
		Name:    f.Name.value,
		Role:    f.Role.value,
		Version: c.Version,
		Tag:     strings.ReplaceAll(c.Version+"-"+p.Release, "+", "-"),
		Sets:    slices.Compact(sets),
		Owner:   c.Name,
	}
	for _, t := range f.Test {
		img.Test = append(img.Test, Test(t))
	}
	switch c.Kind {
	case KindUpstream:
		if f.Dockerfile.value != "" {
			return Image{}, at(path, f.Dockerfile.line, "image %s: an upstream image is copied as it is; a Dockerfile that starts FROM %s needs a component of its own", img.Name, c.Name)
		}
		img.Upstream = c.Name
		return img, nil
	case KindDebian, KindSource:
		return Image{}, at(path, f.Name.line, "image %s: declare it with the Go or upstream component that gives it a version, and copy from %s there", img.Name, c.Name)
	}
	img.Dockerfile = filepath.Join(filepath.Dir(path), "Dockerfile")
	if f.Dockerfile.value != "" {
		img.Dockerfile = filepath.Join(filepath.Dir(path), filepath.FromSlash(f.Dockerfile.value))
	}
	if st, err := os.Stat(img.Dockerfile); err != nil || st.IsDir() {
		return Image{}, at(path, max(f.Dockerfile.line, f.Name.line), "image %s: there is no file %s", img.Name, img.Dockerfile)
	}
	return img, nil
}

// expand fills in what depends on the product: the linker flags' templates.
func (c *Component) expand(p Product, f componentFile) error {
	if c.Kind != KindGo {
		if c.Version == "" {
			c.Version = p.Debian.Suite
		}
		return nil
	}
	parts := strings.SplitN(strings.TrimPrefix(semver.MajorMinor(c.Version), "v"), ".", 2)
	values := map[string]string{
		"Version": c.Version,
		"Major":   parts[0],
		"Minor":   parts[1],
		"Product": p.Version,
		"Release": p.Release,
	}
	for i := range c.Binaries {
		b := &c.Binaries[i]
		own := f.Binaries[b.Name]
		b.Tags = slices.Concat(allTags, f.Tags, own.Tags)
		for _, flag := range append(slices.Clone(f.LDFlags), own.LDFlags...) {
			t, err := template.New("").Option("missingkey=error").Parse(flag.value)
			if err != nil {
				return at(c.file(), flag.line, "ldflags: %v", err)
			}
			var out bytes.Buffer
			if err := t.Execute(&out, values); err != nil {
				return at(c.file(), flag.line, "ldflags: %v", err)
			}
			b.LDFlags = append(b.LDFlags, out.String())
		}
	}
	return nil
}
