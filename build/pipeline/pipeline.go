// Package pipeline takes declarations all the way to a signed OCI layout: it compiles
// the components that the wanted images need, makes the images, signs their digests and
// writes down what the release consists of.
package pipeline

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/compile"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/images"
)

// keepUnused is how long the cache keeps what nothing asks for.
const keepUnused = 30 * 24 * time.Hour

// Settings are what a run depends on besides the declarations.
type Settings struct {
	Tree     *images.Tree
	Cache    *cache.Cache
	Out      string // folder of the products; the layout is oci in it
	Naming   images.Naming
	Epoch    time.Time // SOURCE_DATE_EPOCH
	Platform compile.Platform
	Report   func(Event) // called from several goroutines, one at a time; may be nil
	Verbose  io.Writer   // the compilers' own output; may be nil
}

// Step names what an event is about.
type Step string

const (
	Compile Step = "compile"
	Image   Step = "image"
	Sign    Step = "sign"
)

// Event tells that a step ended or, if it isn't Done, that a long one begins.
type Event struct {
	Step     Step
	Name     string   // of the component, or reference of the image
	Detail   string   // version or tag
	Binaries []string // what is about to be compiled
	Done     bool
	Cached   bool // nothing had to be done
	Elapsed  time.Duration
	Size     int64 // bytes of what was made
}

// Pipeline runs the steps.
type Pipeline struct {
	s        Settings
	compiler *compile.Compiler
	layers   *layer.Builder
	mu       sync.Mutex // for Report
}

// New checks the settings and the toolchain.
func New(ctx context.Context, s Settings) (*Pipeline, error) {
	out, err := filepath.Abs(s.Out)
	if err != nil {
		return nil, fmt.Errorf("finding the output folder: %w", err)
	}
	s.Out = out
	for _, i := range s.Tree.Images {
		if _, err := s.Naming.Tag(i); err != nil {
			return nil, err
		}
	}
	c, err := compile.New(ctx, s.Cache, s.Tree.Product.FIPS140, s.Platform)
	if err != nil {
		return nil, err
	}
	return &Pipeline{s: s, compiler: c, layers: layer.NewBuilder(s.Cache, s.Epoch, runtime.GOMAXPROCS(0))}, nil
}

// Layout is the folder of the OCI layout.
func (p *Pipeline) Layout() string { return filepath.Join(p.s.Out, "oci") }

func (p *Pipeline) report(e Event) {
	if p.s.Report == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.Report(e)
}

// Components finds components by name; no names means all.
func (p *Pipeline) Components(names []string) ([]images.Component, error) {
	if len(names) == 0 {
		return p.s.Tree.Components, nil
	}
	var out []images.Component
	for _, n := range names {
		c, ok := p.s.Tree.Component(n)
		if !ok {
			var known []string
			for _, c := range p.s.Tree.Components {
				known = append(known, c.Name)
			}
			return nil, fmt.Errorf("there is no component %q; known are: %s", n, strings.Join(known, ", "))
		}
		out = append(out, c)
	}
	return out, nil
}

// Compile compiles the components one after the other: the go command uses all cores
// by itself, and linking Kubernetes twice at a time needs more memory than many have.
func (p *Pipeline) Compile(ctx context.Context, components []images.Component) ([]compile.Artifact, error) {
	var out []compile.Artifact
	for _, c := range components {
		a, err := p.compile(ctx, c)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func (p *Pipeline) compile(ctx context.Context, c images.Component) (compile.Artifact, error) {
	a, err := p.compiler.Compile(ctx, c, compile.Hooks{
		Verbose: p.s.Verbose,
		Building: func(binaries []string) {
			p.report(Event{Step: Compile, Name: c.Name, Detail: c.Version, Binaries: binaries})
		},
	})
	if err != nil {
		return a, err
	}
	var size int64
	for _, b := range a.Binaries {
		size += b.Size
	}
	p.report(Event{Step: Compile, Name: c.Name, Detail: c.Version, Done: true, Cached: a.Cached, Elapsed: a.Elapsed, Size: size})
	return a, nil
}

// Listed is a component with what is known of its binaries without building them.
type Listed struct {
	Component images.Component
	Built     bool // all binaries are in the cache
	Artifact  compile.Artifact
}

// List gives all components.
func (p *Pipeline) List(ctx context.Context) ([]Listed, error) {
	var out []Listed
	for _, c := range p.s.Tree.Components {
		a, ok, err := p.compiler.Cached(ctx, c)
		if err != nil {
			return nil, err
		}
		out = append(out, Listed{Component: c, Built: ok, Artifact: a})
	}
	return out, nil
}

// Built is an image in the layout.
type Built struct {
	Name      string   `json:"name"`
	Reference string   `json:"reference"`
	Digest    string   `json:"digest"`
	Role      string   `json:"role"`
	Sets      []string `json:"sets"`
	Size      int64    `json:"size"` // bytes of manifest, config and compressed layers
	Layers    int      `json:"layers"`
}

// Images makes the named images (none: all) and puts them into the layout. Images that
// are not named stay as they are there, those no longer declared go.
func (p *Pipeline) Images(ctx context.Context, names []string) ([]Built, error) {
	wanted, err := p.images(names)
	if err != nil {
		return nil, err
	}
	made, err := p.make(ctx, wanted)
	if err != nil {
		return nil, err
	}
	l, err := layout.Open(p.Layout())
	if err != nil {
		return nil, err
	}
	defer l.Close()
	var out []Built
	entries := map[string]v1.Descriptor{}
	for i, w := range wanted {
		d, err := p.store(l, w, made[i])
		if err != nil {
			return nil, err
		}
		entries[d.Annotations[layout.RefName]] = d
		out = append(out, describe(w, d, made[i]))
	}
	if err := p.merge(l, entries); err != nil {
		return nil, err
	}
	_, err = p.s.Cache.Trim(time.Now().Add(-keepUnused))
	return out, err
}

// CheckImages tells whether all the names are those of declared images.
func (p *Pipeline) CheckImages(names []string) error {
	_, err := p.images(names)
	return err
}

func (p *Pipeline) images(names []string) ([]images.Image, error) {
	if len(names) == 0 {
		return p.s.Tree.Images, nil
	}
	var out []images.Image
	for _, n := range names {
		i, ok := p.s.Tree.Image(n)
		if !ok {
			var known []string
			for _, i := range p.s.Tree.Images {
				known = append(known, i.Name)
			}
			return nil, fmt.Errorf("there is no image %q; known are: %s", n, strings.Join(known, ", "))
		}
		out = append(out, i)
	}
	return out, nil
}

// make compiles what the images need and makes each image as soon as its parts are
// there: layers are compressed while the next component compiles.
func (p *Pipeline) make(ctx context.Context, wanted []images.Image) ([]image.Image, error) {
	files := make([]*image.Dockerfile, len(wanted))
	contexts := map[string]*componentContext{}
	var components []images.Component
	for i, w := range wanted {
		f, err := image.Read(w.Dockerfile, p.args(w))
		if err != nil {
			return nil, err
		}
		files[i] = f
		for _, n := range f.Contexts() {
			c, ok := p.s.Tree.Maker(n)
			if !ok {
				return nil, fmt.Errorf("%s: --from=%s: no component makes a binary of that name", w.Dockerfile, n)
			}
			if contexts[c.Name] == nil {
				contexts[c.Name] = &componentContext{done: make(chan struct{})}
				components = append(components, c)
			}
		}
	}
	// Small ones first, so that there is something to compress during the large one.
	sort.SliceStable(components, func(i, j int) bool { return len(components[i].Binaries) < len(components[j].Binaries) })
	made := make([]image.Image, len(wanted))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for _, c := range components {
			a, err := p.compile(ctx, c)
			if err != nil {
				return err
			}
			contexts[c.Name].set(a)
		}
		return nil
	})
	for i := range wanted {
		g.Go(func() (err error) {
			made[i], err = p.image(ctx, wanted[i], files[i], contexts)
			return err
		})
	}
	return made, g.Wait()
}

// args are the build arguments that every Dockerfile can ask for.
func (p *Pipeline) args(i images.Image) map[string]string {
	return map[string]string{
		"IMAGE_TITLE":       i.Name,
		"IMAGE_VERSION":     i.Version + "+" + p.s.Tree.Product.Release,
		"TARGETPLATFORM":    p.s.Platform.String(),
		"TARGETOS":          p.s.Platform.OS,
		"TARGETARCH":        p.s.Platform.Arch,
		"SOURCE_DATE_EPOCH": strconv.FormatInt(p.s.Epoch.Unix(), 10),
	}
}

func (p *Pipeline) image(ctx context.Context, w images.Image, f *image.Dockerfile, parts map[string]*componentContext) (image.Image, error) {
	named := map[string]image.Context{}
	for _, n := range f.Contexts() {
		c, _ := p.s.Tree.Maker(n)
		select {
		case <-parts[c.Name].done:
		case <-ctx.Done():
			return image.Image{}, ctx.Err()
		}
		named[n] = parts[c.Name].binary(n)
	}
	start := time.Now()
	img, err := f.Build(image.Options{
		Contexts: named,
		Local:    image.Dir(filepath.Dir(w.Dockerfile)),
		Platform: v1.Platform{OS: p.s.Platform.OS, Architecture: p.s.Platform.Arch},
		Epoch:    p.s.Epoch,
		Layers:   p.layers,
	})
	if err != nil {
		return img, fmt.Errorf("making image %s: %w", w.Name, err)
	}
	cached := true
	for _, l := range img.Layers {
		cached = cached && l.Cached
	}
	p.report(Event{Step: Image, Name: w.Name, Detail: w.Tag, Done: true, Cached: cached, Elapsed: time.Since(start), Size: size(img)})
	return img, nil
}

func size(img image.Image) int64 {
	n := int64(len(img.Manifest) + len(img.Config))
	for _, l := range img.Layers {
		n += l.Size
	}
	return n
}

// componentContext is a component's binaries, once they are there.
type componentContext struct {
	done     chan struct{}
	artifact compile.Artifact
}

func (c *componentContext) set(a compile.Artifact) {
	c.artifact = a
	close(c.done)
}

// binary is the build context of one binary: the program at its root.
func (c *componentContext) binary(name string) image.Context {
	for _, b := range c.artifact.Binaries {
		if b.Name == name {
			return image.Files{{Path: b.Name, Mode: 0o755, Source: b.Path, SHA256: b.SHA256}}
		}
	}
	return image.Files{}
}
