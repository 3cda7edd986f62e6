package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/rancher/rke2/images"
)

// Resolver finds what a declaration stands for now. It keeps what old, which may be nil,
// has pinned, as long as that still fits and move doesn't name it. The result is new:
// made by [New] and filled in.
type Resolver interface {
	Resolve(ctx context.Context, c images.Component, old *Lock, move func(name string) bool) (*Lock, error)
}

// Options say what Update does.
type Options struct {
	Mirrors   images.Mirrors
	Resolvers map[images.Kind]Resolver
	// Update names what may move to a newer version: components, packages, source
	// packages; "all" is everything. Nothing else moves, unless what it depends on does.
	Update    []string
	Resolving func(component string) // may be nil
}

// All is the name of everything, for Options.Update.
const All = "all"

// Change is a pin that differs from before.
type Change struct {
	Component string `json:"component"`
	Arch      string `json:"arch,omitempty"` // "" for what is the same on all
	Name      string `json:"name"`
	Before    string `json:"before,omitempty"` // version or digest; "" if it is new
	After     string `json:"after,omitempty"`  // "" if it went
}

func (c Change) String() string {
	name := c.Name
	if c.Arch != "" {
		name += " (" + c.Arch + ")"
	}
	switch {
	case c.Before == "":
		return name + " " + c.After + " is new"
	case c.After == "":
		return name + " " + c.Before + " went"
	case c.Before == c.After:
		return name + " " + c.After + " has other bytes"
	}
	return name + " " + c.Before + " -> " + c.After
}

// Updated is what happened to a component's lock.
type Updated struct {
	Component string   `json:"component"`
	Path      string   `json:"path"`
	Written   bool     `json:"written"` // false: it was as it should be
	Changes   []Change `json:"changes"`
}

// Update brings the locks of these components up to date: those that are missing, stale,
// or have something that Options.Update names. The others are not looked up at all.
func Update(ctx context.Context, components []images.Component, o Options) ([]Updated, error) {
	known := map[string]bool{All: true}
	var out []Updated
	for _, c := range components {
		if !Needed(c) {
			continue
		}
		known[c.Name] = true
		old, err := Read(c, o.Mirrors)
		var stale *StaleError
		if err != nil && !errors.As(err, &stale) {
			return out, err
		}
		move := func(name string) bool {
			return slices.Contains(o.Update, All) || slices.Contains(o.Update, c.Name) || slices.Contains(o.Update, name)
		}
		wanted := stale != nil
		for _, n := range old.names() {
			known[n] = true
			wanted = wanted || move(n)
		}
		if !wanted && !move(c.Name) {
			out = append(out, Updated{Component: c.Name, Path: Path(c)})
			continue
		}
		u, err := update(ctx, c, old, move, o)
		if err != nil {
			return out, err
		}
		out = append(out, u)
	}
	for _, n := range o.Update {
		if !known[n] {
			return out, fmt.Errorf("--update %s: no lock has a component, package or source of that name", n)
		}
	}
	return out, nil
}

// Newer tells what would change if everything might move. Nothing is written.
func Newer(ctx context.Context, components []images.Component, o Options) ([]Change, error) {
	var out []Change
	for _, c := range components {
		if !Needed(c) {
			continue
		}
		old, err := Read(c, o.Mirrors)
		if err != nil {
			return nil, err
		}
		l, err := resolve(ctx, c, old, func(string) bool { return true }, o)
		if err != nil {
			return nil, err
		}
		out = append(out, diff(c.Name, old, l)...)
	}
	return out, nil
}

func resolve(ctx context.Context, c images.Component, old *Lock, move func(string) bool, o Options) (*Lock, error) {
	r := o.Resolvers[c.Kind]
	if r == nil {
		return nil, fmt.Errorf("component %s: nothing resolves components of kind %s", c.Name, c.Kind)
	}
	if o.Resolving != nil {
		o.Resolving(c.Name)
	}
	l, err := r.Resolve(ctx, c, old, move)
	if err != nil {
		return nil, err
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("component %s: what was resolved can't be locked: %w", c.Name, err)
	}
	return l, nil
}

func update(ctx context.Context, c images.Component, old *Lock, move func(string) bool, o Options) (Updated, error) {
	l, err := resolve(ctx, c, old, move, o)
	if err != nil {
		return Updated{}, err
	}
	if err := l.Write(c); err != nil {
		return Updated{}, err
	}
	return Updated{Component: c.Name, Path: Path(c), Written: true, Changes: diff(c.Name, old, l)}, nil
}

// names lists what is pinned.
func (l *Lock) names() []string {
	var out []string
	for k := range l.pinned() {
		_, name, _ := strings.Cut(k, "/")
		out = append(out, name)
	}
	sort.Strings(out)
	return slices.Compact(out)
}

type pin struct{ version, bytes string }

// pinned gives version and hash by arch/name.
func (l *Lock) pinned() map[string]pin {
	out := map[string]pin{}
	if l == nil {
		return out
	}
	for arch, pkgs := range l.Packages {
		for _, p := range pkgs {
			out[arch+"/"+p.Name] = pin{p.Version, p.SHA256}
		}
	}
	if l.Source != nil {
		out["/"+l.Source.Name] = pin{l.Source.Version, l.Source.Files[0].SHA256}
	}
	if l.Image != nil {
		out["/"+l.Image.Reference] = pin{l.Image.Digest, l.Image.Digest}
	}
	return out
}

func diff(component string, old, now *Lock) []Change {
	before, after := old.pinned(), now.pinned()
	keys := map[string]bool{}
	for k := range before {
		keys[k] = true
	}
	for k := range after {
		keys[k] = true
	}
	var out []Change
	for k := range keys {
		if before[k] == after[k] {
			continue
		}
		arch, name, _ := strings.Cut(k, "/")
		out = append(out, Change{Component: component, Arch: arch, Name: name, Before: before[k].version, After: after[k].version})
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].Name+"\x00"+out[i].Arch < out[j].Name+"\x00"+out[j].Arch
	})
	return out
}
