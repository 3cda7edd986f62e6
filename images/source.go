package images

import (
	"path"
	"path/filepath"
	"slices"
	"sort"

	"github.com/google/go-containerregistry/pkg/name"
	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/modfile"
)

// The file forms of the kinds of component that are not Go modules.
type debianFile struct {
	Packages []string          `yaml:"packages"`
	Without  []string          `yaml:"without"`
	Omit     map[string]string `yaml:"omit"` // package: reason
	Links    map[string]string `yaml:"links"`
}

type sourceFile struct {
	Package  text              `yaml:"package"`
	Build    [][]string        `yaml:"build"`
	Binaries map[string]string `yaml:"binaries"`
}

type upstreamFile struct {
	Image text `yaml:"image"`
	Key   text `yaml:"key"`
}

type moduleFile struct {
	Module text       `yaml:"module"`
	From   string     `yaml:"from"`
	Paths  []string   `yaml:"paths"`
	Edits  []editFile `yaml:"edits"`
}

type editFile struct {
	File    text   `yaml:"file"`
	Replace text   `yaml:"replace"`
	With    string `yaml:"with"`
	Count   int    `yaml:"count"`
}

// test is a command, or a command with what it prints.
type test Test

func (t *test) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return n.Decode(&t.Run)
	}
	var full struct {
		Run    []string `yaml:"run"`
		Prints string   `yaml:"prints"`
	}
	if err := n.Decode(&full); err != nil {
		return err
	}
	t.Run, t.Prints = full.Run, full.Prints
	return nil
}

// kind finds out what kind of component a file declares: exactly one.
func (f componentFile) kind(file string) (Kind, error) {
	kinds := []Kind{}
	if f.Module.value != "" || f.Version.value != "" {
		kinds = append(kinds, KindGo)
	}
	if f.Debian != nil {
		kinds = append(kinds, KindDebian)
	}
	if f.Source != nil {
		kinds = append(kinds, KindSource)
	}
	if f.Upstream != nil {
		kinds = append(kinds, KindUpstream)
	}
	switch {
	case len(kinds) == 0:
		return KindGo, nil // setVersion says what is missing
	case len(kinds) > 1:
		return "", at(file, 1, "a component is of one kind; this one is both %s and %s", kinds[0], kinds[1])
	}
	if kinds[0] != KindGo && (f.Cgo != nil || f.Tags != nil || f.LDFlags != nil || f.Binaries != nil || f.Files != nil) {
		return "", at(file, 1, "tags, ldflags, cgo, binaries and files are for Go modules, this is %s", kinds[0])
	}
	return kinds[0], nil
}

func (c *Component) setCrypto(f componentFile) error {
	c.CryptoReason = f.Reason.value
	switch Crypto(f.Crypto.value) {
	case FIPS140, BoringCrypto:
		if c.Kind != KindGo {
			return at(c.file(), f.Crypto.line, "crypto: %s is for Go modules", f.Crypto.value)
		}
		c.Crypto = Crypto(f.Crypto.value)
	case NoCrypto:
		c.Crypto = NoCrypto
	case "":
		c.Crypto = FIPS140
		if c.Kind != KindGo {
			c.Crypto = NoCrypto
		}
	default:
		return at(c.file(), f.Crypto.line, "crypto: %q is neither %s, %s nor %s", f.Crypto.value, FIPS140, BoringCrypto, NoCrypto)
	}
	if c.Crypto == NoCrypto && c.CryptoReason == "" {
		return at(c.file(), max(f.Crypto.line, 1), "crypto-reason is missing: say why %s has no certified cryptography", c.Name)
	}
	if c.Crypto != NoCrypto && c.CryptoReason != "" {
		return at(c.file(), f.Reason.line, "crypto-reason is for components without certified cryptography (crypto: %s)", NoCrypto)
	}
	return nil
}

// setSource fills in what a component has that isn't a Go module.
func (c *Component) setSource(f componentFile) error {
	switch c.Kind {
	case KindDebian:
		if len(f.Debian.Packages) == 0 {
			return at(c.file(), 1, "debian: name at least one package")
		}
		c.Debian = &Debian{Packages: sorted(f.Debian.Packages), Without: sorted(f.Debian.Without), Links: f.Debian.Links}
		for p, reason := range f.Debian.Omit {
			if reason == "" {
				return at(c.file(), 1, "debian: omit: say why %s is not needed", p)
			}
			c.Debian.Omit = append(c.Debian.Omit, Omit{Package: p, Reason: reason})
		}
		sort.Slice(c.Debian.Omit, func(i, j int) bool { return c.Debian.Omit[i].Package < c.Debian.Omit[j].Package })
	case KindSource:
		if f.Source.Package.value == "" || len(f.Source.Build) == 0 || len(f.Source.Binaries) == 0 {
			return at(c.file(), max(f.Source.Package.line, 1), "source: package, build and binaries are all needed")
		}
		for _, b := range f.Source.Build {
			if len(b) == 0 {
				return at(c.file(), f.Source.Package.line, "source: build has an empty command")
			}
		}
		c.Source = &Source{Package: f.Source.Package.value, Build: f.Source.Build, Binaries: f.Source.Binaries}
		for n := range c.Source.Binaries {
			c.Binaries = append(c.Binaries, Binary{Name: n})
		}
		sort.Slice(c.Binaries, func(i, j int) bool { return c.Binaries[i].Name < c.Binaries[j].Name })
	case KindUpstream:
		tag, err := name.NewTag(f.Upstream.Image.value, name.StrictValidation)
		if err != nil {
			return at(c.file(), max(f.Upstream.Image.line, 1), "upstream: image %q is not a full reference with a tag, such as docker.io/library/busybox:1.37: %v", f.Upstream.Image.value, err)
		}
		c.Upstream = &Upstream{Image: f.Upstream.Image.value}
		c.Version = tag.TagStr()
		if k := f.Upstream.Key.value; k != "" {
			if k != path.Base(k) {
				return at(c.file(), f.Upstream.Key.line, "upstream: key %q is not the name of a file in %s", k, c.Dir)
			}
			c.Upstream.Key = filepath.Join(c.Dir, k)
		}
	}
	return nil
}

// setFiles fills in the build contexts of files that modules ship beside Go.
func (c *Component) setFiles(mod *modfile.File, f componentFile) error {
	for context, m := range f.Files {
		line := max(m.Module.line, 1)
		if !plainName.MatchString(context) {
			return at(c.file(), line, "files: build context %q is not lower-case words joined by -", context)
		}
		if !slices.ContainsFunc(mod.Require, func(r *modfile.Require) bool { return r.Mod.Path == m.Module.value }) {
			return at(c.file(), line, "files: %s: go.mod does not require the module %q", context, m.Module.value)
		}
		files := ModuleFiles{Context: context, Module: m.Module.value, From: m.From, Paths: m.Paths, Line: line}
		for _, e := range m.Edits {
			if e.File.value == "" || e.Replace.value == "" {
				return at(c.file(), max(e.File.line, line), "files: %s: an edit needs file and replace", context)
			}
			if e.Count == 0 {
				e.Count = 1
			}
			files.Edits = append(files.Edits, Edit{File: e.File.value, Replace: e.Replace.value, With: e.With, Count: e.Count, Line: e.File.line})
		}
		c.Files = append(c.Files, files)
	}
	sort.Slice(c.Files, func(i, j int) bool { return c.Files[i].Context < c.Files[j].Context })
	return nil
}

func sorted(in []string) []string {
	out := slices.Clone(in)
	sort.Strings(out)
	return slices.Compact(out)
}
