// Package lock holds a component that isn't only Go modules to what it was resolved to:
// images/<name>/sources.lock pins Debian packages, Debian sources and upstream images by
// version and hash, as go.sum does modules. The file carries what it was resolved from,
// so that a declaration that changed since is an error that says what changed.
package lock

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/images/yamlfile"
)

// FileName is what a lock is called, beside image.yaml.
const FileName = "sources.lock"

const header = "# Written by `rke2-build lock`, to be committed: what this component's declaration was\n# resolved to. To take newer packages: rke2-build lock --update NAME.\n"

// Arches are the architectures that everything is locked for, by Go's names, which are
// Debian's too.
var Arches = [...]string{"amd64", "arm64"}

// Lock is the content of the file.
type Lock struct {
	Inputs   string               `yaml:"inputs"`             // sha256:<hex>, of Declared
	Declared []string             `yaml:"declared"`           // what it was resolved from
	LeftOut  []string             `yaml:"left-out,omitempty"` // dependencies that were not followed, with the reason
	Source   *Source              `yaml:"source,omitempty"`
	Packages map[string][]Package `yaml:"packages,omitempty"` // by architecture, sorted by name
	Image    *Image               `yaml:"image,omitempty"`
}

// Archive says which of the configured archives a file is in.
type Archive string

const (
	Main     Archive = "main"
	Security Archive = "security"
)

// Package is a pinned Debian package.
type Package struct {
	Name    string  `yaml:"name"`
	Version string  `yaml:"version"`
	Arch    string  `yaml:"arch"`   // of the package: amd64, arm64 or all
	Source  string  `yaml:"source"` // source package and its version: "iptables 1.8.9-2"
	Archive Archive `yaml:"archive"`
	Path    string  `yaml:"path"` // in the archive: pool/…
	Size    int64   `yaml:"size"` // bytes
	SHA256  string  `yaml:"sha256"`
}

// Source is a pinned Debian source package.
type Source struct {
	Name    string       `yaml:"name"`
	Version string       `yaml:"version"`
	Archive Archive      `yaml:"archive"`
	Files   []SourceFile `yaml:"files"` // the .dsc first
}

// SourceFile is a file of a source package.
type SourceFile struct {
	Path   string `yaml:"path"` // in the archive: pool/…
	Size   int64  `yaml:"size"` // bytes
	SHA256 string `yaml:"sha256"`
}

// Image is a pinned upstream image.
type Image struct {
	Reference string `yaml:"reference"` // with a tag, as declared
	Digest    string `yaml:"digest"`    // of what the tag stood for: an image index or a manifest
}

// Path is where a component's lock is.
func Path(c images.Component) string { return filepath.Join(c.Dir, FileName) }

// Needed tells whether a component has a lock: all kinds have but charts, and Go modules
// that need no C libraries.
func Needed(c images.Component) bool {
	return c.Kind != images.KindCharts && (c.Kind != images.KindGo || c.Cgo != nil)
}

// Declared lists what a component's pins depend on, sorted.
func Declared(c images.Component, m images.Mirrors) []string {
	var out []string
	switch c.Kind {
	case images.KindDebian:
		for _, p := range c.Debian.Packages {
			out = append(out, "package "+p)
		}
		for _, o := range c.Debian.Omit {
			out = append(out, "without package "+o.Package)
		}
	case images.KindSource:
		out = append(out, "C library", "source "+c.Source.Package)
	case images.KindUpstream:
		return []string{"image " + c.Upstream.Image}
	case images.KindGo:
		if c.Cgo == nil {
			return nil
		}
		out = append(out, "C library")
		for _, l := range c.Cgo.Libraries {
			out = append(out, "package "+l.Package)
		}
	}
	out = append(out, "suite "+m.Suite)
	sort.Strings(out)
	return slices.Compact(out)
}

func hash(declared []string) string {
	sum := sha256.Sum256([]byte(strings.Join(declared, "\n") + "\n"))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// New starts the lock of a component.
func New(c images.Component, m images.Mirrors) *Lock {
	d := Declared(c, m)
	return &Lock{Inputs: hash(d), Declared: d}
}

// StaleError says that a lock is missing, or was resolved from something else than what
// is declared now.
type StaleError struct {
	Component string
	Path      string
	Missing   bool
	Changes   []string // "package x is new", …
}

func (e *StaleError) Error() string {
	what := "was resolved from another declaration (" + strings.Join(e.Changes, "; ") + ")"
	if e.Missing {
		what = "is missing"
	}
	return fmt.Sprintf("component %s: %s %s; resolve it with: rke2-build lock %s", e.Component, e.Path, what, e.Component)
}

// Read gives the component's lock. One that is missing or stale is a *StaleError.
func Read(c images.Component, m images.Mirrors) (*Lock, error) {
	l, err := parse(Path(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &StaleError{Component: c.Name, Path: Path(c), Missing: true}
	}
	if err != nil {
		return nil, fmt.Errorf("component %s: %w", c.Name, err)
	}
	now := Declared(c, m)
	if l.Inputs != hash(now) || l.Inputs != hash(l.Declared) {
		return l, &StaleError{Component: c.Name, Path: Path(c), Changes: changes(l.Declared, now)}
	}
	return l, nil
}

func changes(before, now []string) []string {
	var out []string
	for _, d := range now {
		if !slices.Contains(before, d) {
			out = append(out, d+" is new")
		}
	}
	for _, d := range before {
		if !slices.Contains(now, d) {
			out = append(out, d+" is no longer declared")
		}
	}
	if len(out) == 0 {
		out = append(out, "its inputs line was edited")
	}
	return out
}

// Write puts the lock in its place, whole.
func (l *Lock) Write(c images.Component) error {
	var b bytes.Buffer
	b.WriteString(header)
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(l); err != nil {
		return fmt.Errorf("writing %s: %w", Path(c), err)
	}
	if err := enc.Close(); err != nil {
		return fmt.Errorf("writing %s: %w", Path(c), err)
	}
	return layout.WriteFile(Path(c), b.Bytes(), 0o644)
}

func parse(file string) (*Lock, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading lock: %w", err)
	}
	var l Lock
	if err := yamlfile.Decode(file, data, &l); err != nil {
		return nil, fmt.Errorf("%w; it is written by rke2-build lock, not by hand", err)
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("%s: %w; it is written by rke2-build lock, not by hand", file, err)
	}
	return &l, nil
}

var (
	sha256Form  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*$`)
)

// check refuses what could lead a fetch or a path astray.
func (l *Lock) check() error {
	for arch, pkgs := range l.Packages {
		if !slices.Contains(Arches[:], arch) {
			return fmt.Errorf("packages for architecture %q", arch)
		}
		for i, p := range pkgs {
			if !packageName.MatchString(p.Name) || p.Version == "" || (p.Arch != arch && p.Arch != "all") {
				return fmt.Errorf("package %q, version %q, of architecture %q under %s", p.Name, p.Version, p.Arch, arch)
			}
			if i > 0 && pkgs[i-1].Name >= p.Name {
				return fmt.Errorf("package %s is out of order", p.Name)
			}
			if err := checkFile(p.Archive, p.Path, p.Size, p.SHA256); err != nil {
				return fmt.Errorf("package %s: %w", p.Name, err)
			}
		}
	}
	if s := l.Source; s != nil {
		if !packageName.MatchString(s.Name) || s.Version == "" || len(s.Files) == 0 {
			return fmt.Errorf("source package %q, version %q, with %d files", s.Name, s.Version, len(s.Files))
		}
		for _, f := range s.Files {
			if err := checkFile(s.Archive, f.Path, f.Size, f.SHA256); err != nil {
				return fmt.Errorf("source package %s: %w", s.Name, err)
			}
		}
	}
	if i := l.Image; i != nil && (i.Reference == "" || !sha256Form.MatchString(strings.TrimPrefix(i.Digest, "sha256:")) || !strings.HasPrefix(i.Digest, "sha256:")) {
		return fmt.Errorf("image %q: %q is no digest", i.Reference, i.Digest)
	}
	return nil
}

func checkFile(a Archive, p string, size int64, sum string) error {
	switch {
	case a != Main && a != Security:
		return fmt.Errorf("archive %q is neither %s nor %s", a, Main, Security)
	case p == "" || path.Clean("/"+p) != "/"+p:
		return fmt.Errorf("path %q is not one in an archive", p)
	case size <= 0:
		return fmt.Errorf("%s has size %d", p, size)
	case !sha256Form.MatchString(sum):
		return fmt.Errorf("%s: %q is no sha256", p, sum)
	}
	return nil
}
