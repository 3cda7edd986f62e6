package pipeline

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/images"
)

// Recipe is all that an image of one platform is made from.
type Recipe struct {
	Image      images.Image
	Reference  string
	Dockerfile string // path
	Args       map[string]string
	Contexts   map[string][]layer.File
	Platform   artifact.Platform
	Epoch      time.Time
}

// Builder makes an image of a Dockerfile. It is used by several goroutines.
type Builder interface {
	// Name is what provenance calls it.
	Name() string
	// Contexts lists the named build contexts that the Dockerfile uses.
	Contexts(dockerfile string, args map[string]string) ([]image.Use, error)
	Build(ctx context.Context, r Recipe) (image.Image, error)
}

// daemonless is this project's own builder.
type daemonless struct{ layers *layer.Builder }

func (daemonless) Name() string { return "daemonless" }

func (daemonless) Contexts(dockerfile string, args map[string]string) ([]image.Use, error) {
	f, err := image.Read(dockerfile, args)
	if err != nil {
		return nil, err
	}
	return f.Uses(), nil
}

func (d daemonless) Build(_ context.Context, r Recipe) (image.Image, error) {
	f, err := image.Read(r.Dockerfile, r.Args)
	if err != nil {
		return image.Image{}, err
	}
	named := map[string]image.Context{}
	for n, files := range r.Contexts {
		named[n] = image.Files(files)
	}
	return f.Build(image.Options{
		Contexts: named,
		Local:    image.Dir(filepath.Dir(r.Dockerfile)),
		Platform: v1.Platform{OS: r.Platform.OS, Architecture: r.Platform.Arch},
		Epoch:    r.Epoch,
		Layers:   d.layers,
	})
}

func (p *Pipeline) recipe(x *piece) Recipe {
	r := Recipe{
		Image: x.image, Dockerfile: x.image.Dockerfile, Args: p.args(x.image, x.platform),
		Contexts: map[string][]layer.File{}, Platform: x.platform, Epoch: p.s.Epoch,
	}
	if tag, err := p.s.Naming.Tag(x.image); err == nil {
		r.Reference = tag.String()
	}
	for _, a := range x.parts {
		for n, files := range a.Contexts {
			if slices.Contains(x.contexts, n) {
				r.Contexts[n] = files
			}
		}
	}
	return r
}

// Recipe makes the components that an image needs and gives what it is built from,
// without building it.
func (p *Pipeline) Recipe(ctx context.Context, name string, platform artifact.Platform) (Recipe, error) {
	wanted, err := p.images([]string{name})
	if err != nil {
		return Recipe{}, err
	}
	if wanted[0].Upstream != "" {
		return Recipe{}, fmt.Errorf("image %s is a copy of an upstream image: nothing is built", name)
	}
	x := &piece{image: wanted[0], platform: platform}
	if x.contexts, err = p.contexts(x.image, platform); err != nil {
		return Recipe{}, err
	}
	for _, c := range p.needs(x) {
		a, err := p.component(ctx, c, platform)
		if err != nil {
			return Recipe{}, err
		}
		x.parts = append(x.parts, a)
	}
	return p.recipe(x), nil
}

// UpstreamImages gives upstream's images as they are.
type UpstreamImages interface {
	Image(ctx context.Context, c images.Component, p artifact.Platform) (image.Image, error)
}

func (p *Pipeline) upstream(ctx context.Context, x *piece) (image.Image, error) {
	c, _ := p.s.Tree.Component(x.image.Upstream)
	if p.s.Upstream == nil {
		return image.Image{}, fmt.Errorf("component %s: this program cannot copy upstream images", c.Name)
	}
	return p.s.Upstream.Image(ctx, c, x.platform)
}
