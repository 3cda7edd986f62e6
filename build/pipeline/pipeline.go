// Package pipeline takes declarations all the way to a signed OCI layout: it makes the
// components that the wanted images need, makes the images of each platform, signs and
// attests their digests, and writes down what the release consists of.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/chart"
	"github.com/rancher/rke2/build/compile"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/build/modulefiles"
	"github.com/rancher/rke2/images"
)

// keepUnused is how long the cache keeps what nothing asks for.
const keepUnused = 30 * 24 * time.Hour

// Settings are what a run depends on besides the declarations.
type Settings struct {
	Tree      *images.Tree
	Cache     *cache.Cache
	Out       string // folder of the products; the layout is oci in it
	Naming    images.Naming
	Epoch     time.Time // SOURCE_DATE_EPOCH
	Platforms []artifact.Platform
	Jobs      int                            // layers compressed at a time
	Makers    map[images.Kind]artifact.Maker // of the kinds besides Go modules and charts
	Sysroots  compile.Sysroots               // for cgo; nil: this machine's libraries
	Upstream  UpstreamImages                 // of KindUpstream; may be nil
	Builder   Builder                        // nil: the daemonless one
	Report    func(Event)                    // called from several goroutines, one at a time; may be nil
	Verbose   io.Writer                      // the compilers' own output; may be nil
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
	Name     string // of the component or the image, or the image's reference
	Detail   string // version or tag
	Platform artifact.Platform
	Making   []string // what is about to be made: binaries, packages
	Done     bool
	Cached   bool // nothing had to be done
	Elapsed  time.Duration
	Size     int64 // bytes of what was made
}

// Pipeline runs the steps.
type Pipeline struct {
	s        Settings
	compiler *compile.Compiler
	files    *modulefiles.Maker
	makers   map[images.Kind]artifact.Maker
	builder  Builder
	mu       sync.Mutex // for Report
}

// New checks the settings and the toolchain.
func New(ctx context.Context, s Settings) (*Pipeline, error) {
	out, err := filepath.Abs(s.Out)
	if err != nil {
		return nil, fmt.Errorf("finding the output folder: %w", err)
	}
	s.Out = out
	if len(s.Platforms) == 0 {
		return nil, fmt.Errorf("no platform to build for")
	}
	for _, i := range s.Tree.Images {
		if _, err := s.Naming.Tag(i); err != nil {
			return nil, err
		}
	}
	c, err := compile.New(ctx, s.Cache, s.Tree.Product.FIPS140, s.Sysroots)
	if err != nil {
		return nil, err
	}
	p := &Pipeline{s: s, compiler: c, files: modulefiles.New(s.Cache), builder: s.Builder}
	if p.builder == nil {
		p.builder = daemonless{layer.NewBuilder(s.Cache, s.Epoch, s.Jobs)}
	}
	p.makers = map[images.Kind]artifact.Maker{
		images.KindGo:     goMaker{p},
		images.KindCharts: chart.New(s.Cache, p.files, s.Tree, s.Naming),
	}
	for k, m := range s.Makers {
		p.makers[k] = m
	}
	return p, nil
}

// Layout is the folder of the OCI layout.
func (p *Pipeline) Layout() string { return filepath.Join(p.s.Out, "oci") }

// open opens the layout and tidies what killed runs left beside it: whoever has the
// layout open is the only one that writes there.
func (p *Pipeline) open() (*layout.Layout, error) {
	l, err := layout.Open(p.Layout())
	if err != nil {
		return nil, err
	}
	dirs := []string{p.s.Out}
	for _, k := range statementKinds {
		dirs = append(dirs, filepath.Join(p.s.Out, k.folder))
	}
	for _, dir := range dirs {
		if err := layout.Tidy(dir); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// Tree is what is declared.
func (p *Pipeline) Tree() *images.Tree { return p.s.Tree }

// Platforms are what the pipeline builds for.
func (p *Pipeline) Platforms() []artifact.Platform { return p.s.Platforms }

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
	return named("component", names, p.s.Tree.Components, func(c images.Component) string { return c.Name })
}

// CheckImages tells whether all the names are those of declared images.
func (p *Pipeline) CheckImages(names []string) error {
	_, err := p.images(names)
	return err
}

func (p *Pipeline) images(names []string) ([]images.Image, error) {
	return named("image", names, p.s.Tree.Images, func(i images.Image) string { return i.Name })
}

// named finds declarations by name; no names means all.
func named[T any](kind string, names []string, declared []T, name func(T) string) ([]T, error) {
	if len(names) == 0 {
		return declared, nil
	}
	var known []string
	byName := map[string]T{}
	for _, d := range declared {
		known = append(known, name(d))
		byName[name(d)] = d
	}
	var out []T
	for _, n := range names {
		d, ok := byName[n]
		if !ok {
			return nil, fmt.Errorf("there is no %s %q; known are: %s", kind, n, strings.Join(known, ", "))
		}
		out = append(out, d)
	}
	return out, nil
}
