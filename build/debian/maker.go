package debian

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

// parallel is how many packages are fetched at a time.
const parallel = 4

// Maker makes build contexts of locked packages.
type Maker struct{ archive *Archive }

var _ artifact.Maker = (*Maker)(nil)

// New makes a maker of an archive.
func New(a *Archive) *Maker { return &Maker{archive: a} }

// Make gives one context, named as the component: what its packages install, /usr
// merged, without documentation and what the declaration leaves out; the declared links; the licences
// (/usr/share/doc/*/copyright); and var/lib/dpkg/status.d/<package>, by which scanners
// know what is in an image.
func (m *Maker) Make(ctx context.Context, c images.Component, p artifact.Platform, building func(what []string)) (artifact.Artifact, error) {
	start := time.Now()
	l, err := lock.Read(c, m.archive.mirrors)
	if err != nil {
		return artifact.Artifact{}, err
	}
	trees, cached, err := m.archive.trees(ctx, c, l.Packages[p.Arch], building)
	if err != nil {
		return artifact.Artifact{}, fmt.Errorf("component %s: %w", c.Name, err)
	}
	files, size, err := assemble(c, l.Packages[p.Arch], trees)
	if err != nil {
		return artifact.Artifact{}, fmt.Errorf("component %s (%s): %w", c.Name, p, err)
	}
	a := artifact.Artifact{
		Component: c.Name, Version: c.Version, Platform: p, Cached: cached, Size: size,
		Contexts: map[string][]layer.File{c.Name: files},
	}
	for i, pkg := range l.Packages[p.Arch] {
		made := material(pkg, m.archive.mirrors.Suite)
		made.License = trees[i].license(pkg.Name)
		a.Materials = append(a.Materials, made)
	}
	a.Materials = artifact.SortMaterials(a.Materials)
	a.Elapsed = time.Since(start)
	return a, nil
}

// trees fetches and unpacks packages, in their order.
func (a *Archive) trees(ctx context.Context, c images.Component, pkgs []lock.Package, building func([]string)) ([]tree, bool, error) {
	if len(pkgs) == 0 {
		return nil, false, fmt.Errorf("its lock has no packages for this architecture; resolve it with: rke2-build lock --update %s", c.Name)
	}
	var missing []string
	for _, p := range pkgs {
		key, err := treeKey(p)
		if err != nil {
			return nil, false, err
		}
		if _, ok := a.cache.Lookup(treeKind, key); !ok {
			missing = append(missing, p.Name)
		}
	}
	if len(missing) > 0 && building != nil {
		building(missing)
	}
	out := make([]tree, len(pkgs))
	hits := make([]bool, len(pkgs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, p := range pkgs {
		g.Go(func() (err error) {
			out[i], hits[i], err = a.unpacked(ctx, p)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, false, err
	}
	cached := true
	for _, h := range hits {
		cached = cached && h
	}
	return out, cached, nil
}

// assembly is a component's tree in the making.
type assembly struct {
	files map[string]layer.File
	from  map[string]string // package by path
	elf   map[string]entry  // dynamic files by path
	empty map[string]bool   // folders that a package installs with nothing in them
	size  int64             // bytes of regular files
}

func assemble(c images.Component, pkgs []lock.Package, trees []tree) ([]layer.File, int64, error) {
	a := assembly{files: map[string]layer.File{}, from: map[string]string{}, elf: map[string]entry{}, empty: map[string]bool{}}
	for i, t := range trees {
		if err := a.add(pkgs[i], c.Version, t, c.Debian.Without); err != nil {
			return nil, 0, err
		}
	}
	a.prune()
	if err := a.merge(c.Debian.Links); err != nil {
		return nil, 0, err
	}
	if err := a.linked(); err != nil {
		return nil, 0, err
	}
	out := make([]layer.File, 0, len(a.files))
	for _, f := range a.files {
		out = append(out, f)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, a.size, nil
}

func (a *assembly) add(p lock.Package, suite string, t tree, without []string) error {
	purl := PURL(p, suite)
	children := map[string]bool{}
	for _, e := range t.Entries {
		children[path.Dir(e.Path)] = true
	}
	for _, e := range t.Entries {
		drop, err := dropped(e.Path, without)
		if err != nil {
			return err
		}
		if drop {
			continue
		}
		f := layer.File{Path: e.Path, Mode: e.Mode, Dir: e.Dir, Link: e.Link, SHA256: e.SHA256, Package: purl}
		if e.File != "" {
			f.Source = filepath.Join(t.dir, e.File)
		}
		if e.Dir {
			f.Package = "" // folders are shared
			if !children[e.Path] {
				a.empty[e.Path] = true
			}
		}
		if other, ok := a.files[e.Path]; ok {
			if other.Dir && e.Dir {
				continue
			}
			if other.Dir || e.Dir || other.Link != f.Link || other.SHA256 != f.SHA256 {
				return fmt.Errorf("packages %s and %s both have /%s, with different content: leave it out of one under without, or drop a package", a.from[e.Path], p.Name, e.Path)
			}
			continue
		}
		a.files[e.Path], a.from[e.Path] = f, p.Name
		a.size += e.Size
		if e.Needed != nil {
			a.elf[e.Path] = e
		}
	}
	status := "var/lib/dpkg/status.d/" + p.Name
	a.files[status] = layer.File{Path: status, Mode: 0o644, Source: filepath.Join(t.dir, controlFile), SHA256: t.ControlSHA256, Package: purl}
	a.from[status] = p.Name
	return nil
}

// documentation is what is for people and their shells: no image has it.
var documentation = []string{
	"usr/share/{bash-completion,bug,doc,doc-base,info,lintian,locale,man,zsh}/**",
}

// dropped tells whether a path is left out: documentation always, and what a declaration
// names. Licences stay: they must go where the software goes.
func dropped(p string, without []string) (bool, error) {
	if ok, _ := path.Match("usr/share/doc/*/copyright", p); ok {
		return false, nil
	}
	for _, g := range append(documentation[:len(documentation):len(documentation)], without...) {
		ok, err := doublestar.Match(strings.Trim(g, "/"), p)
		if err != nil {
			return false, fmt.Errorf("without: glob %q: %w", g, err)
		}
		if ok {
			return true, nil
		}
	}
	return false, nil
}

// prune drops folders that nothing is left in.
func (a *assembly) prune() {
	used := map[string]bool{}
	for p, f := range a.files {
		if f.Dir && !a.empty[p] {
			continue
		}
		for ; p != "."; p = path.Dir(p) {
			used[p] = true
		}
	}
	for p := range a.files {
		if !used[p] {
			delete(a.files, p)
		}
	}
}

// merge adds the links of a merged /usr, and the declared ones.
func (a *assembly) merge(links map[string]string) error {
	for _, m := range merged {
		if f, ok := a.files["usr/"+m]; ok && f.Dir {
			a.files[m] = layer.File{Path: m, Mode: 0o777, Link: "usr/" + m}
		}
	}
	for at, to := range links {
		p, err := place(at)
		if err != nil {
			return fmt.Errorf("links: %w", err)
		}
		if from, ok := a.from[p]; ok {
			return fmt.Errorf("links: /%s is there already, by package %s", p, from)
		}
		target := path.Join(path.Dir("/"+p), to)
		if path.IsAbs(to) {
			target = path.Clean(to)
		}
		owner, ok := a.resolve(target, links)
		if !ok {
			return fmt.Errorf("links: /%s leads to %s, which no package has", p, target)
		}
		a.files[p] = layer.File{Path: p, Mode: 0o777, Link: to, Package: owner}
	}
	return nil
}

// resolve tells whether a path is there, and whose it is. Links may lead to each other.
func (a *assembly) resolve(target string, links map[string]string) (owner string, ok bool) {
	p, err := place(target)
	if err != nil {
		return "", false
	}
	if f, ok := a.files[p]; ok {
		return f.Package, true
	}
	for at := range links {
		if q, err := place(at); err == nil && q == p {
			return "", true
		}
	}
	return "", false
}

// linked makes sure that every library that a program or library asks for is in the
// context: a closure that was cut too far is found here, not on a node.
func (a *assembly) linked() error {
	have := map[string]bool{}
	for p, f := range a.files {
		if !f.Dir {
			have[path.Base(p)] = true
		}
	}
	var paths []string
	for p := range a.elf {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	for _, p := range paths {
		e := a.elf[p]
		wanted := e.Needed
		if e.Loader != "" {
			wanted = append([]string{path.Base(e.Loader)}, wanted...)
		}
		for _, w := range wanted {
			if !have[path.Base(w)] {
				return fmt.Errorf("/%s of package %s needs %s, which is not in the closure: leave the file out too (without), or don't omit the package that has it", p, a.from[p], w)
			}
		}
	}
	return nil
}

// PURL names a package as the package-url specification does for Debian.
func PURL(p lock.Package, suite string) string {
	return fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s&distro=%s", escape(p.Name), escape(p.Version), p.Arch, suite)
}

// SourcePURL names a source package.
func SourcePURL(s lock.Source, suite string) string {
	return fmt.Sprintf("pkg:deb/debian/%s@%s?arch=source&distro=%s", escape(s.Name), escape(s.Version), suite)
}

// escape writes a component of a package URL: all but letters, digits and .-_~: in
// percent form.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if isDigit(c) || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte(".-_~:", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func material(p lock.Package, suite string) artifact.Material {
	return artifact.Material{
		PURL: PURL(p, suite), URI: public(p.Archive, p.Path), SHA256: p.SHA256,
		Name: p.Name, Version: p.Version, Arch: p.Arch, Source: p.Source,
	}
}

// SourceMaterials lists the files of a source package.
func SourceMaterials(s lock.Source, suite string) []artifact.Material {
	var out []artifact.Material
	for i, f := range s.Files {
		m := artifact.Material{
			PURL: SourcePURL(s, suite), URI: public(s.Archive, f.Path), SHA256: f.SHA256,
			Name: s.Name, Version: s.Version, Arch: "source", Source: s.Name + " " + s.Version,
		}
		if i > 0 { // the .dsc stands for the package, its tarballs for themselves
			m.PURL = fmt.Sprintf("pkg:generic/%s?checksum=sha256:%s", escape(path.Base(f.Path)), f.SHA256)
			m.Name = path.Base(f.Path)
		}
		out = append(out, m)
	}
	return out
}
