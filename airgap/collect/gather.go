// Package collect gathers what a bundle is declared to hold, from layouts, archives,
// registries, charts and files, into a source that the bundle is written from. What comes
// from the network goes into a cache by its digest, whole or in part, so that a gathering
// that was broken off goes on with the byte that comes next.
package collect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/manifest"
	"github.com/rancher/rke2/airgap/mirrors"
	"github.com/rancher/rke2/airgap/trust"
)

// Options say how things are gathered.
type Options struct {
	Cache *Cache
	// Door reaches registries; nil: nothing may be dialled.
	Door *mirrors.Door
	// Lock holds names to what they meant before; nil: they are resolved.
	Lock     *manifest.Lock
	LockFile string // for messages
	// Jobs is how many requests are made at a time; 0 means 4.
	Jobs int
	// Trust, with RequireSigned, is whom signatures must be of.
	Trust         trust.Policy
	RequireSigned bool
	// KubeVersion is what charts are rendered for that don't say it themselves.
	KubeVersion string
	// Resolved is told how many of the references are resolved; may be nil.
	Resolved func(done, total int)
	// Fetched is told how many bytes of all that is fetched are there; may be nil.
	Fetched func(done, total int64)
}

// Found is an image that came from a registry.
type Found struct {
	Image  string `json:"image"`
	Digest string `json:"digest"` // what the reference means: a manifest, or an image index
	// Manifests has the digest for each platform.
	Manifests  map[string]string `json:"manifests"`
	From       string            `json:"from,omitempty"` // address that had it; "" if a lock said what it is
	Signatures int               `json:"signatures"`     // manifests of signatures
	Statements int               `json:"attestations"`   // manifests of attestations
	Referrers  int               `json:"referrers"`      // of anything else
	Why        []string          `json:"why"`            // who asked for it
}

// Collection is what was gathered.
type Collection struct {
	Images []Found
	Charts []FoundChart
	// Lock is what everything meant.
	Lock *manifest.Lock

	platforms []v1.Platform
	sources   []*source // one a platform
	signed    map[string]bool
	pool      *pool
	close     []func() error
}

// Close closes the archives that bundles are written from.
func (c *Collection) Close() error {
	var err error
	for _, f := range c.close {
		err = errors.Join(err, f())
	}
	return err
}

// gatherer is a gathering under way.
type gatherer struct {
	Options
	bundle *manifest.Bundle
	out    *Collection
	pool   *pool
	wants  wants

	mu      sync.Mutex
	entries map[string][]v1.Descriptor // by platform; "": of every one
	content []manifest.LockedDigest
	charts  []manifest.LockedChart
}

// Gather finds out what everything means, and fetches what is small: after it, it is known
// what the bundles will be, and nothing is missing but layers. The caller closes the
// Collection.
func Gather(ctx context.Context, b *manifest.Bundle, opt Options) (_ *Collection, err error) {
	if opt.Jobs <= 0 {
		opt.Jobs = 4
	}
	g := &gatherer{Options: opt, bundle: b, pool: newPool(opt.Cache), entries: map[string][]v1.Descriptor{}}
	g.out = &Collection{pool: g.pool, signed: map[string]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.out.Close())
		}
	}()
	for _, s := range b.Platforms {
		p, err := manifest.ParsePlatform(s)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(g.out.platforms, func(o v1.Platform) bool { return o.Equals(p) }) {
			g.out.platforms = append(g.out.platforms, p)
		}
	}
	for _, step := range []func(context.Context) error{g.layouts, g.archives, g.plainFiles, g.takeCharts, g.images} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	for _, p := range g.out.platforms {
		g.out.sources = append(g.out.sources, &source{ctx: ctx, pool: g.pool, entries: slices.Concat(g.entries[""], g.entries[p.String()])})
	}
	return g.out, g.check(ctx)
}

// add lists something for a platform; "" for all.
func (g *gatherer) add(platform string, d ...v1.Descriptor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.entries[platform] = append(g.entries[platform], d...)
}

// images finds what comes from registries.
func (g *gatherer) images(ctx context.Context) error {
	for _, ref := range g.bundle.Images {
		if err := g.wants.add(ref, "asked for by name"); err != nil {
			return err
		}
	}
	for _, file := range g.bundle.ImageLists {
		if err := g.wants.list(file); err != nil {
			return err
		}
	}
	all := g.wants.sorted()
	lock, err := g.heldTo(all)
	if err != nil {
		return err
	}
	r := &resolver{pool: g.pool, door: g.Door, platforms: g.out.platforms}
	g.out.Images = make([]Found, len(all))
	var mu sync.Mutex
	done := 0
	err = parallel(ctx, len(all), g.Jobs, func(ctx context.Context, i int) error {
		w := all[i]
		l, locked := lock.Image(w.ref)
		var from mirrors.Endpoint
		var err error
		switch {
		case locked:
			err = r.locked(ctx, w, l)
		case g.Door == nil:
			err = errors.New("no registry may be asked what it is: make a lock of it online (--lock FILE --update-lock), then use that with --offline")
		default:
			l, from, err = r.image(ctx, w)
		}
		if err != nil {
			return fmt.Errorf("image %s (%s): %w", w.ref, strings.Join(w.why, "; "), err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, p := range g.out.platforms {
			g.add(p.String(), entries(w, l, p.String())...)
		}
		g.out.Images[i] = found(w, l, from, locked)
		g.out.Lock.Images = append(g.out.Lock.Images, l)
		if done++; g.Resolved != nil {
			g.Resolved(done, len(all))
		}
		return nil
	})
	return err
}

// heldTo gives the lock, after holding everything that is known by now to it; without a
// lock it is empty.
func (g *gatherer) heldTo(all []*wanted) (*manifest.Lock, error) {
	now := &manifest.Lock{Charts: g.charts, Content: g.content}
	var asked []string
	for _, w := range all {
		asked = append(asked, w.ref)
	}
	for _, p := range g.out.platforms {
		now.Platforms = append(now.Platforms, p.String())
	}
	sort.Strings(now.Platforms)
	now.Inputs = manifest.InputsDigest(now.Platforms, asked)
	g.out.Lock = now
	if g.Lock == nil {
		return &manifest.Lock{}, nil
	}
	held := *now
	for _, w := range all {
		l, ok := g.Lock.Image(w.ref)
		if !ok {
			l = manifest.LockedImage{Image: w.ref}
		}
		held.Images = append(held.Images, l)
	}
	if changes := g.Lock.Changes(&held); len(changes) > 0 {
		return nil, &manifest.StaleError{File: g.LockFile, Changes: changes}
	}
	return g.Lock, nil
}

func found(w *wanted, l manifest.LockedImage, from mirrors.Endpoint, locked bool) Found {
	f := Found{Image: w.ref, Digest: l.Root.Digest.String(), Manifests: map[string]string{}, Why: w.why}
	if !locked {
		f.From = from.String()
	}
	for p, m := range l.Manifests {
		f.Manifests[p] = m.Digest.String()
	}
	for _, a := range l.Attached {
		switch a.Kind {
		case airgap.KindSignatures:
			f.Signatures++
		case airgap.KindAttestations:
			f.Statements++
		default:
			f.Referrers++
		}
	}
	return f
}

// Orders are the bundles to make, one a platform: name is their base name, without
// platform and extension.
func (c *Collection) Orders(name string) []airgap.Order {
	var out []airgap.Order
	for i, p := range c.platforms {
		out = append(out, airgap.Order{Name: airgap.PlatformName(name, p), Source: c.sources[i], Selection: c.selection(p)})
	}
	return out
}

func (c *Collection) selection(p v1.Platform) airgap.Selection {
	return airgap.Selection{Platform: p, AllowUnsigned: true, SignedOnly: c.signed}
}

// check plans the bundles, which finds what contradicts itself or is missing, and holds
// them to the signatures that are required.
func (g *gatherer) check(ctx context.Context) error {
	taken := map[string]bool{}
	for i, p := range g.out.platforms {
		plan, err := airgap.NewPlan(g.out.sources[i], g.out.selection(p))
		if err != nil {
			return fmt.Errorf("for %s: %w", p, err)
		}
		for _, ref := range plan.References() {
			taken[ref] = true
		}
		if !g.RequireSigned {
			continue
		}
		if err := g.requireSigned(ctx, plan, g.out.sources[i]); err != nil {
			return fmt.Errorf("for %s: %w", p, err)
		}
	}
	return g.leftOut(taken)
}

// leftOut finds images of layouts and archives that are in none of the bundles, because
// they are made for other platforms.
func (g *gatherer) leftOut(taken map[string]bool) error {
	var out []string
	for _, d := range g.entries[""] {
		if d.Annotations[airgap.AnnotationKind] != airgap.KindImage {
			continue
		}
		w, err := parseWanted(d.Annotations[airgap.AnnotationImageName], "")
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(w.names(), func(n string) bool { return taken[n] }) {
			out = append(out, w.ref)
		}
	}
	if len(out) == 0 {
		return nil
	}
	slices.Sort(out)
	return fmt.Errorf("not made for %s: %s", strings.Join(g.bundle.Platforms, " or "), strings.Join(slices.Compact(out), ", "))
}

// Fetch brings what the bundles need and is not on this machine into the cache, several
// blobs at a time, the largest first.
func (c *Collection) Fetch(ctx context.Context, opt Options) error {
	need := map[v1.Hash]remote{}
	for i, p := range c.platforms {
		plan, err := airgap.NewPlan(c.sources[i], c.selection(p))
		if err != nil {
			return err
		}
		for _, d := range plan.Blobs() {
			if r, ok := c.pool.missing(d); ok {
				need[d.Digest] = r
			}
		}
	}
	var all []remote
	total := int64(0)
	for _, r := range need {
		all = append(all, r)
		total += r.desc.Size
	}
	sort.Slice(all, func(i, j int) bool {
		if all[i].desc.Size != all[j].desc.Size {
			return all[i].desc.Size > all[j].desc.Size
		}
		return all[i].desc.Digest.Hex < all[j].desc.Digest.Hex
	})
	if err := c.pool.cache.room(total); err != nil {
		return err
	}
	var mu sync.Mutex
	done := int64(0)
	moved := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		if done += n; opt.Fetched != nil {
			opt.Fetched(done, total)
		}
	}
	return parallel(ctx, len(all), opt.Jobs, func(ctx context.Context, i int) error {
		return c.pool.fetch(ctx, all[i], moved)
	})
}

// missing tells whether a blob has to be fetched, and from where.
func (p *pool) missing(d v1.Descriptor) (remote, bool) {
	f, err := p.open(d.Digest)
	if err == nil {
		_ = f.Close() // only read
		return remote{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.remote[d.Digest]
	return r, ok && errors.Is(err, fs.ErrNotExist)
}

// Scrub checks the cached blobs of the bundles, removes those that are damaged, and
// returns them. It is for after a bundle could not be written because a blob was damaged.
func (c *Collection) Scrub(ctx context.Context) ([]v1.Hash, error) {
	var all []v1.Hash
	for i, p := range c.platforms {
		plan, err := airgap.NewPlan(c.sources[i], c.selection(p))
		if err != nil {
			return nil, err
		}
		for _, d := range plan.Blobs() {
			all = append(all, d.Digest)
		}
	}
	return c.pool.cache.Scrub(ctx, all)
}
