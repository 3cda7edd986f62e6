package debian

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

// request is what a closure is made of.
type request struct {
	packages []string
	leave    map[string]string // dependencies that are not followed, with the reason
	pins     map[string]string // versions to stay with where the archive still has them
	settled  map[string]bool   // packages to take from the release itself, not from its security archive
}

// closure is a set of packages that needs nothing but what was left out.
type closure struct {
	packages []*binary // sorted by name
	leftOut  map[string]string
}

const essentialReason = "essential: a declaration that needs it names it"

// resolve finds the packages that the wanted ones need. It takes the pinned version of a
// package, else the newest, that fits what is known of it so far; where a pin turns out
// to be in the way of a dependency, it starts again without that pin.
//
// Essential packages (the shell, dpkg, perl …) need not be named in dependencies, and
// where they are it is for maintainer scripts, which are not run. So they come only where
// a declaration names them.
func (u *universe) resolve(r request) (closure, error) {
	pins := map[string]string{}
	for n, v := range r.pins {
		pins[n] = v
	}
	for {
		c, again, err := u.attempt(r, pins)
		if again == "" {
			return c, err
		}
		delete(pins, again)
	}
}

// selection is a closure in the making.
type selection struct {
	u        *universe
	r        request
	pins     map[string]string
	chosen   map[string]*binary
	provided map[string][]provision
	leftOut  map[string]string
	todo     []*binary
}

// attempt gives the name of a package that must be freed of its pin, if there is one.
func (u *universe) attempt(r request, pins map[string]string) (_ closure, again string, _ error) {
	s := &selection{u: u, r: r, pins: pins, chosen: map[string]*binary{}, provided: map[string][]provision{}, leftOut: map[string]string{}}
	for _, n := range r.packages {
		if s.chosen[n] != nil {
			continue
		}
		b := s.candidate(relation{name: n})
		if b == nil {
			return closure{}, "", fmt.Errorf("the archive has no package %s for %s%s", n, u.arch, u.hint(n))
		}
		if err := s.take(b); err != nil {
			return closure{}, "", err
		}
	}
	for len(s.todo) > 0 {
		b := s.todo[0]
		s.todo = s.todo[1:]
		groups, err := parseRelations(b.depends)
		if err != nil {
			return closure{}, "", fmt.Errorf("package %s: depends: %w", b.Name, err)
		}
		for _, g := range groups {
			if again, err := s.satisfy(b, g); again != "" || err != nil {
				return closure{}, again, err
			}
		}
	}
	c := closure{leftOut: s.leftOut}
	for _, b := range s.chosen {
		c.packages = append(c.packages, b)
	}
	sort.Slice(c.packages, func(i, j int) bool { return c.packages[i].Name < c.packages[j].Name })
	return c, "", s.conflicts(c.packages)
}

func (s *selection) take(b *binary) error {
	s.chosen[b.Name] = b
	s.todo = append(s.todo, b)
	groups, err := parseRelations(b.provides)
	if err != nil {
		return fmt.Errorf("package %s: provides: %w", b.Name, err)
	}
	for _, g := range groups {
		s.provided[g[0].name] = append(s.provided[g[0].name], provision{by: b, version: g[0].version})
	}
	return nil
}

// satisfy makes sure that one of the alternatives that b asks for is chosen.
func (s *selection) satisfy(b *binary, alternatives []relation) (again string, _ error) {
	for _, r := range alternatives {
		if s.has(r) {
			return "", nil
		}
	}
	for _, r := range alternatives {
		if reason, ok := s.left(r.name); ok {
			s.leftOut[r.name] = reason
			return "", nil
		}
	}
	var clash *binary // chosen already, in a version that doesn't do
	for _, r := range alternatives {
		if r.arch != "" && r.arch != "any" && r.arch != s.u.arch {
			continue
		}
		if other := s.chosen[r.name]; other != nil {
			clash = other
			continue
		}
		if c := s.candidate(r); c != nil {
			return "", s.take(c)
		}
	}
	// A pin is in the way: of what is chosen, or of the package that asks.
	if clash != nil && s.pins[clash.Name] == clash.Version {
		return clash.Name, nil
	}
	if s.pins[b.Name] == b.Version {
		return b.Name, nil
	}
	var names []string
	for _, r := range alternatives {
		names = append(names, r.String())
	}
	have := ""
	if clash != nil {
		have = fmt.Sprintf(" (%s %s is chosen)", clash.Name, clash.Version)
	}
	return "", fmt.Errorf("package %s %s needs %s, which the archive doesn't have for %s%s", b.Name, b.Version, strings.Join(names, " or "), s.u.arch, have)
}

// has tells whether what is chosen so far satisfies a relation.
func (s *selection) has(r relation) bool {
	if b := s.chosen[r.name]; b != nil && r.admits(b.Version) {
		return true
	}
	for _, p := range s.provided[r.name] {
		if r.op == "" || (p.version != "" && r.admits(p.version)) {
			return true
		}
	}
	return false
}

// left tells whether a dependency is not to be followed.
func (s *selection) left(name string) (string, bool) {
	if reason, ok := s.r.leave[name]; ok {
		return reason, true
	}
	for _, b := range s.u.packages[name] {
		if b.essential {
			return essentialReason, true
		}
	}
	return "", false
}

// candidate finds the package to take for a relation, nil if there is none: a real one
// before those that provide the name.
func (s *selection) candidate(r relation) *binary {
	versions := s.u.packages[r.name]
	for _, b := range versions {
		if s.pins[r.name] == b.Version && r.admits(b.Version) {
			return b
		}
	}
	for _, settled := range []bool{true, false} {
		for _, b := range versions {
			if r.admits(b.Version) && (!settled || !s.r.settled[b.Name] || b.Archive == lock.Main) {
				return b
			}
		}
	}
	var first *binary
	for _, p := range s.u.provides[r.name] {
		if r.op != "" && (p.version == "" || !r.admits(p.version)) {
			continue
		}
		if s.chosen[p.by.Name] != nil {
			continue // another version of it is, which doesn't provide the name
		}
		if _, out := s.left(p.by.Name); out {
			continue
		}
		if s.pins[p.by.Name] == p.by.Version {
			return p.by
		}
		if first == nil {
			first = p.by
		}
	}
	return first
}

// conflicts refuses packages that their makers say don't go together.
func (s *selection) conflicts(all []*binary) error {
	for _, b := range all {
		groups, err := parseRelations(b.conflicts)
		if err != nil {
			return fmt.Errorf("package %s: conflicts: %w", b.Name, err)
		}
		for _, g := range groups {
			r := g[0]
			if other := s.chosen[r.name]; other != nil && other != b && r.admits(other.Version) {
				return fmt.Errorf("packages %s %s and %s %s can't be together: the first conflicts with %s", b.Name, b.Version, other.Name, other.Version, r)
			}
			for _, p := range s.provided[r.name] {
				if p.by != b && (r.op == "" || (p.version != "" && r.admits(p.version))) {
					return fmt.Errorf("packages %s %s and %s %s can't be together: the first conflicts with %s, which the second provides", b.Name, b.Version, p.by.Name, p.by.Version, r)
				}
			}
		}
	}
	return nil
}

// hint names what provides a name that isn't a package.
func (u *universe) hint(name string) string {
	var by []string
	for _, p := range u.provides[name] {
		if len(by) == 0 || by[len(by)-1] != p.by.Name {
			by = append(by, p.by.Name)
		}
	}
	if len(by) == 0 {
		return ""
	}
	return "; it is provided by " + strings.Join(by, ", ")
}

// Resolve pins what a component's declaration asks for. Pins of old, which may be nil,
// stay where they still fit, unless move says that a name may move.
func (r *Resolver) Resolve(ctx context.Context, c images.Component, old *lock.Lock, move func(name string) bool) (*lock.Lock, error) {
	l := lock.New(c, r.archive.mirrors)
	q, err := requested(c)
	if err != nil {
		return nil, fmt.Errorf("component %s: %w", c.Name, err)
	}
	left := map[string]string{}
	l.Packages = map[string][]lock.Package{}
	for _, arch := range lock.Arches {
		u, err := r.universe(ctx, arch)
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", c.Name, err)
		}
		q.pins = pins(old, arch, move)
		found, err := u.resolve(q)
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", c.Name, err)
		}
		for _, b := range found.packages {
			l.Packages[arch] = append(l.Packages[arch], b.Package)
		}
		for n, reason := range found.leftOut {
			left[n] = reason
		}
	}
	for n, reason := range left {
		l.LeftOut = append(l.LeftOut, n+": "+reason)
	}
	sort.Strings(l.LeftOut)
	if c.Kind == images.KindDebian {
		for _, o := range c.Debian.Omit {
			if left[o.Package] == "" {
				return nil, fmt.Errorf("component %s: omit: nothing depends on %s: remove the line", c.Name, o.Package)
			}
		}
	}
	if c.Kind == images.KindSource {
		if l.Source, err = r.pinSource(ctx, c.Source.Package, old, move); err != nil {
			return nil, fmt.Errorf("component %s: %w", c.Name, err)
		}
	}
	return l, nil
}

// requested gives the packages that a component is made of, or built with.
func requested(c images.Component) (request, error) {
	switch {
	case c.Kind == images.KindDebian:
		q := request{packages: c.Debian.Packages, leave: map[string]string{}}
		for _, o := range c.Debian.Omit {
			q.leave[o.Package] = o.Reason
		}
		return q, nil
	case c.Kind == images.KindSource, c.Kind == images.KindGo && c.Cgo != nil:
		return sysrootRequest(c), nil
	}
	return request{}, errors.New("it is made of no Debian packages")
}

func pins(old *lock.Lock, arch string, move func(string) bool) map[string]string {
	out := map[string]string{}
	if old == nil {
		return out
	}
	for _, p := range old.Packages[arch] {
		if !move(p.Name) {
			out[p.Name] = p.Version
		}
	}
	return out
}

func (r *Resolver) pinSource(ctx context.Context, name string, old *lock.Lock, move func(string) bool) (*lock.Source, error) {
	found, err := r.source(ctx, name)
	if err != nil {
		return nil, err
	}
	if old != nil && old.Source != nil && old.Source.Name == name && !move(name) {
		for _, s := range found {
			if s.Version == old.Source.Version {
				return &s, nil
			}
		}
	}
	return &found[0], nil
}
