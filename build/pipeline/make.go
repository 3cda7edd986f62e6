package pipeline

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/compile"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/images"
)

// goMaker makes components of Go modules: their binaries, each a build context, and the
// files that the module ships beside its code.
type goMaker struct{ p *Pipeline }

var _ artifact.Maker = goMaker{}

func (g goMaker) Make(ctx context.Context, c images.Component, platform artifact.Platform, building func([]string)) (artifact.Artifact, error) {
	a, err := g.p.compiler.Compile(ctx, c, platform, compile.Hooks{Verbose: g.p.s.Verbose, Building: building})
	if err != nil {
		return artifact.Artifact{}, err
	}
	out := artifact.Artifact{
		Component: c.Name, Version: c.Version, Platform: platform,
		Contexts: map[string][]layer.File{}, Materials: a.Materials, Compiler: a.Compiler, Cached: a.Cached, Elapsed: a.Elapsed,
	}
	for _, b := range a.Binaries {
		out.Contexts[b.Name] = []layer.File{{Path: b.Name, Mode: 0o755, Source: b.Path, SHA256: b.SHA256}}
		out.Size += b.Size
	}
	for _, f := range c.Files {
		files, material, err := g.p.files.Files(ctx, c, f)
		if err != nil {
			return artifact.Artifact{}, err
		}
		out.Contexts[f.Context] = files
		out.Materials = append(out.Materials, material)
	}
	out.Materials = artifact.SortMaterials(out.Materials)
	return out, nil
}

// Made is a component that was made, with what is known of its programs, if it is made
// of such.
type Made struct {
	artifact.Artifact
	Binaries []compile.Binary
}

// Make makes components one after the other, for every platform: the go command uses all
// cores by itself, and linking Kubernetes twice at a time needs more memory than many have.
func (p *Pipeline) Make(ctx context.Context, components []images.Component) ([]Made, error) {
	var out []Made
	for _, platform := range p.s.Platforms {
		for _, c := range components {
			a, err := p.component(ctx, c, platform)
			if err != nil {
				return nil, err
			}
			m := Made{Artifact: a}
			switch c.Kind {
			case images.KindGo:
				if b, ok, err := p.compiler.Cached(ctx, c, platform); err != nil {
					return nil, err
				} else if ok {
					m.Binaries = b.Binaries
				}
			case images.KindSource:
				if m.Binaries, err = programs(a); err != nil {
					return nil, err
				}
			}
			out = append(out, m)
		}
	}
	return out, nil
}

// programs lists an artifact whose build contexts are a program each.
func programs(a artifact.Artifact) ([]compile.Binary, error) {
	var out []compile.Binary
	for _, name := range slices.Sorted(maps.Keys(a.Contexts)) {
		for _, f := range a.Contexts[name] {
			if f.Source == "" {
				continue
			}
			st, err := os.Stat(f.Source)
			if err != nil {
				return nil, fmt.Errorf("component %s: %w", a.Component, err)
			}
			out = append(out, compile.Binary{Name: name, Path: f.Source, SHA256: f.SHA256, Size: st.Size(), Crypto: string(images.NoCrypto)})
		}
	}
	return out, nil
}

func (p *Pipeline) component(ctx context.Context, c images.Component, platform artifact.Platform) (artifact.Artifact, error) {
	maker, ok := p.makers[c.Kind]
	if !ok {
		return artifact.Artifact{}, fmt.Errorf("component %s: this program cannot make components of kind %s", c.Name, c.Kind)
	}
	a, err := maker.Make(ctx, c, platform, func(what []string) {
		p.report(Event{Step: Compile, Name: c.Name, Detail: c.Version, Platform: platform, Making: what})
	})
	if err != nil {
		return a, err
	}
	p.report(Event{Step: Compile, Name: c.Name, Detail: a.Version, Platform: platform, Done: true, Cached: a.Cached, Elapsed: a.Elapsed, Size: a.Size})
	return a, nil
}

// Listed is a component with what is known of it without making it.
type Listed struct {
	Component images.Component
	Platform  artifact.Platform
	Built     bool // all binaries are in the cache
	Artifact  compile.Artifact
	Images    []string // that are made of it
}

// List gives all components, for the first of the platforms.
func (p *Pipeline) List(ctx context.Context) ([]Listed, error) {
	users, err := p.users()
	if err != nil {
		return nil, err
	}
	platform := p.s.Platforms[0]
	var out []Listed
	for _, c := range p.s.Tree.Components {
		l := Listed{Component: c, Platform: platform, Images: users[c.Name]}
		if c.Kind == images.KindGo {
			if l.Artifact, l.Built, err = p.compiler.Cached(ctx, c, platform); err != nil {
				return nil, err
			}
		}
		out = append(out, l)
	}
	return out, nil
}
