package images

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sort"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

var majorSuffix = regexp.MustCompile(`^v[0-9]+$`)

// loadComponent reads one folder: go.mod says which commands are built and at which
// version, image.yaml how.
func loadComponent(dir string) (Component, componentFile, error) {
	c := Component{Name: filepath.Base(dir), Dir: dir}
	var f componentFile
	if err := decodeFile(c.file(), &f); err != nil {
		return c, f, err
	}
	if !plainName.MatchString(c.Name) {
		return c, f, fmt.Errorf("%s: a component's folder is named in lower-case words joined by -", dir)
	}
	c.Description = f.Description
	if c.Description == "" {
		return c, f, at(c.file(), 1, "description is missing: say in a few words what %s is", c.Name)
	}
	kind, err := f.kind(c.file())
	if err != nil {
		return c, f, err
	}
	c.Kind = kind
	if err := c.setCrypto(f); err != nil {
		return c, f, err
	}
	if kind != KindGo {
		return c, f, c.setSource(f)
	}
	gomod := filepath.Join(dir, "go.mod")
	data, err := os.ReadFile(gomod)
	if err != nil {
		return c, f, fmt.Errorf("component %s has no wrapper module: %w", c.Name, err)
	}
	mod, err := modfile.Parse(gomod, data, nil)
	if err != nil {
		return c, f, fmt.Errorf("component %s: %w", c.Name, err)
	}
	if err := c.setVersion(mod, f); err != nil {
		return c, f, err
	}
	if f.Cgo != nil {
		c.Cgo = f.Cgo
		for _, l := range f.Cgo.Libraries {
			if l.File == "" || l.Package == "" || l.File != path.Base(l.File) {
				return c, f, fmt.Errorf("%s: cgo library %q of package %q: both are needed, and file is a bare name", c.file(), l.File, l.Package)
			}
		}
	}
	if err := c.setFiles(mod, f); err != nil {
		return c, f, err
	}
	return c, f, c.setBinaries(mod, f)
}

// setVersion takes the version from the require line of the named module, or from the
// version that replaces it. Our own programs declare theirs.
func (c *Component) setVersion(mod *modfile.File, f componentFile) error {
	gomod := mod.Syntax.Name
	if f.Module.value == "" && f.Version.value == "" {
		return at(c.file(), 1, "module (its version in go.mod is the component's) or version is needed")
	}
	if f.Version.value != "" && !semver.IsValid(f.Version.value) {
		return at(c.file(), f.Version.line, "version: %q is not a version such as v1.2.3", f.Version.value)
	}
	if f.Module.value == "" {
		c.Module, c.Version, c.ModuleVersion = mod.Module.Mod.Path, f.Version.value, f.Version.value
		return nil
	}
	c.Module = f.Module.value
	for _, r := range mod.Require {
		if r.Mod.Path == c.Module {
			c.Version = r.Mod.Version
		}
	}
	if c.Version == "" {
		return at(c.file(), f.Module.line, "module: %s does not require %s", gomod, c.Module)
	}
	for _, r := range mod.Replace {
		if r.Old.Path != c.Module || (r.Old.Version != "" && r.Old.Version != c.Version) {
			continue
		}
		if r.New.Version == "" {
			return at(gomod, r.Syntax.Start.Line, "%s is replaced by a folder, which has no version", c.Module)
		}
		c.Version = r.New.Version
	}
	c.ModuleVersion = c.Version
	if f.Version.value != "" {
		// A release by its commit alone: only a person can say what it is called.
		if !module.IsPseudoVersion(c.Version) {
			return at(c.file(), f.Version.line, "version is declared in go.mod already: %s %s", c.Module, c.Version)
		}
		c.Version = f.Version.value
	}
	return nil
}

func (c *Component) setBinaries(mod *modfile.File, f componentFile) error {
	named := map[string]string{} // package -> binary
	for n, b := range f.Binaries {
		if b.Package.value == "" {
			continue
		}
		if other, ok := named[b.Package.value]; ok {
			return at(c.file(), b.Package.line, "package %s is named by %s too", b.Package.value, other)
		}
		named[b.Package.value] = n
	}
	for _, t := range mod.Tool {
		n, ok := named[t.Path]
		if !ok {
			n = CommandName(t.Path)
		}
		delete(named, t.Path)
		if c.has(n) {
			return at(mod.Syntax.Name, t.Syntax.Start.Line, "two commands are called %s: name one in image.yaml under binaries", n)
		}
		c.Binaries = append(c.Binaries, Binary{Name: n, Package: t.Path})
	}
	if len(c.Binaries) == 0 {
		return fmt.Errorf("%s: no tool directive: add the commands with go get -tool", mod.Syntax.Name)
	}
	for pkg, n := range named {
		return at(c.file(), f.Binaries[n].Package.line, "binary %s: go.mod has no tool directive for %s", n, pkg)
	}
	for n := range f.Binaries {
		if !c.has(n) {
			return fmt.Errorf("%s: binary %q: go.mod has no tool directive that makes it", c.file(), n)
		}
	}
	sort.Slice(c.Binaries, func(i, j int) bool { return c.Binaries[i].Name < c.Binaries[j].Name })
	return nil
}

func (c *Component) has(binary string) bool {
	return slices.ContainsFunc(c.Binaries, func(b Binary) bool { return b.Name == binary })
}

// CommandName is what the go command calls a package's program: its last path element,
// not counting a major version.
func CommandName(pkg string) string {
	base := path.Base(pkg)
	if majorSuffix.MatchString(base) {
		base = path.Base(path.Dir(pkg))
	}
	return base
}

func (c *Component) file() string { return filepath.Join(c.Dir, "image.yaml") }
