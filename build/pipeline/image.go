package pipeline

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/images"
)

// Built is an image in the layout.
type Built struct {
	Name      string          `json:"name"`
	Reference string          `json:"reference"`
	Digest    string          `json:"digest"` // of the image index
	Role      string          `json:"role"`
	Sets      []string        `json:"sets"`
	Platforms []BuiltPlatform `json:"platforms"`
}

// BuiltPlatform is an image of one platform.
type BuiltPlatform struct {
	Platform string `json:"platform"`
	Digest   string `json:"digest"` // of the manifest
	Size     int64  `json:"size"`   // bytes of manifest, config and compressed layers
	Layers   int    `json:"layers"`
}

// piece is one image of one platform on its way.
type piece struct {
	image    images.Image
	platform artifact.Platform
	contexts []string // build contexts that its Dockerfile names
	made     image.Image
	parts    []artifact.Artifact // what it was made from
}

// Images makes the named images (none: all) for every platform and puts them into the
// layout, each as an image index. Images that are not named stay as they are there, those
// no longer declared go.
func (p *Pipeline) Images(ctx context.Context, names []string) ([]Built, error) {
	wanted, err := p.images(names)
	if err != nil {
		return nil, err
	}
	pieces, err := p.make(ctx, wanted)
	if err != nil {
		return nil, err
	}
	l, err := p.open()
	if err != nil {
		return nil, err
	}
	defer l.Close()
	var out []Built
	entries := map[string]v1.Descriptor{}
	for _, w := range wanted {
		var own []*piece
		for _, piece := range pieces {
			if piece.image.Name == w.Name {
				own = append(own, piece)
			}
		}
		d, built, err := p.store(l, w, own)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", w.Name, err)
		}
		entries[built.Reference] = d
		out = append(out, built)
	}
	if err := p.merge(l, entries); err != nil {
		return nil, err
	}
	_, err = p.s.Cache.Trim(time.Now().Add(-keepUnused))
	return out, err
}

// read parses the Dockerfiles of the images for all platforms.
func (p *Pipeline) read(wanted []images.Image) ([]*piece, error) {
	var out []*piece
	for _, w := range wanted {
		for _, platform := range p.s.Platforms {
			next := &piece{image: w, platform: platform}
			if w.Upstream == "" {
				var err error
				if next.contexts, err = p.contexts(w, platform); err != nil {
					return nil, err
				}
			}
			out = append(out, next)
		}
	}
	return out, nil
}

// contexts are the build contexts that an image's Dockerfile names, all of them known.
func (p *Pipeline) contexts(w images.Image, platform artifact.Platform) ([]string, error) {
	named, err := p.builder.Contexts(w.Dockerfile, p.args(w, platform))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range named {
		if _, ok := p.s.Tree.Maker(n.Name); !ok {
			var known []string
			for _, c := range p.s.Tree.Components {
				known = append(known, c.Contexts()...)
			}
			sort.Strings(known)
			return nil, fmt.Errorf("%s:%d: build context %q: no component makes a binary, files or packages of that name; known are: %s", w.Dockerfile, n.Line, n.Name, strings.Join(known, ", "))
		}
		out = append(out, n.Name)
	}
	return out, nil
}

// needs are the components that a piece is made of, sorted by name.
func (p *Pipeline) needs(x *piece) []images.Component {
	var out []images.Component
	if x.image.Upstream != "" {
		c, _ := p.s.Tree.Component(x.image.Upstream)
		return append(out, c)
	}
	for _, n := range x.contexts {
		c, _ := p.s.Tree.Maker(n)
		if !slices.ContainsFunc(out, func(o images.Component) bool { return o.Name == c.Name }) {
			out = append(out, c)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// users lists the images that are made of each component, by its name.
func (p *Pipeline) users() (map[string][]string, error) {
	pieces, err := p.read(p.s.Tree.Images)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, x := range pieces {
		for _, c := range p.needs(x) {
			if !slices.Contains(out[c.Name], x.image.Name) {
				out[c.Name] = append(out[c.Name], x.image.Name)
			}
		}
	}
	return out, nil
}

// pending is a component of one platform, once it is there.
type pending struct {
	component images.Component
	platform  artifact.Platform
	done      chan struct{}
	artifact  artifact.Artifact
}

type partKey struct {
	component string
	platform  artifact.Platform
}

// make makes what the images need, and each image as soon as its parts are there: layers
// are compressed while the next component compiles.
func (p *Pipeline) make(ctx context.Context, wanted []images.Image) ([]*piece, error) {
	pieces, err := p.read(wanted)
	if err != nil {
		return nil, err
	}
	parts := map[partKey]*pending{}
	var queue []*pending
	for _, x := range pieces {
		for _, c := range p.needs(x) {
			k := partKey{c.Name, x.platform}
			if parts[k] == nil {
				parts[k] = &pending{component: c, platform: x.platform, done: make(chan struct{})}
				queue = append(queue, parts[k])
			}
		}
	}
	// What is fetched first, then small ones, so that there is something to compress
	// during the large one.
	sort.SliceStable(queue, func(i, j int) bool {
		a, b := queue[i], queue[j]
		if x, y := a.component.Kind == images.KindGo, b.component.Kind == images.KindGo; x != y {
			return y
		}
		return len(a.component.Binaries) < len(b.component.Binaries)
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for _, next := range queue {
			a, err := p.component(ctx, next.component, next.platform)
			if err != nil {
				return err
			}
			next.artifact = a
			close(next.done)
		}
		return nil
	})
	for _, x := range pieces {
		g.Go(func() error {
			for _, c := range p.needs(x) {
				part := parts[partKey{c.Name, x.platform}]
				select {
				case <-part.done:
				case <-ctx.Done():
					return ctx.Err()
				}
				x.parts = append(x.parts, part.artifact)
			}
			return p.image(ctx, x)
		})
	}
	return pieces, g.Wait()
}

// args are the build arguments that every Dockerfile can ask for.
func (p *Pipeline) args(i images.Image, platform artifact.Platform) map[string]string {
	return map[string]string{
		"IMAGE_TITLE":       i.Name,
		"IMAGE_VERSION":     i.Version + "+" + p.s.Tree.Product.Release,
		"TARGETPLATFORM":    platform.String(),
		"TARGETOS":          platform.OS,
		"TARGETARCH":        platform.Arch,
		"SOURCE_DATE_EPOCH": strconv.FormatInt(p.s.Epoch.Unix(), 10),
	}
}

func (p *Pipeline) image(ctx context.Context, x *piece) error {
	start := time.Now()
	var err error
	if x.image.Upstream != "" {
		x.made, err = p.upstream(ctx, x)
	} else {
		x.made, err = p.builder.Build(ctx, p.recipe(x))
	}
	if err != nil {
		return fmt.Errorf("making image %s for %s: %w", x.image.Name, x.platform, err)
	}
	cached := true
	for _, l := range x.made.Layers {
		cached = cached && l.Cached
	}
	p.report(Event{Step: Image, Name: x.image.Name, Detail: x.image.Tag, Platform: x.platform, Done: true, Cached: cached, Elapsed: time.Since(start), Size: size(x.made)})
	return nil
}

func size(img image.Image) int64 {
	n := int64(len(img.Manifest) + len(img.Config))
	for _, l := range img.Layers {
		n += l.Size
	}
	return n
}
