// Package closure proves, before anyone carries a disk across the gap, that bundles hold
// every image that a cluster will ask for: those of the node itself, of the charts that
// are packaged with it and of the operator's manifests, rendered with the operator's
// configuration as the cluster would render them.
package closure

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/scan"
)

// Input is what is proven, and with what.
type Input struct {
	Release   images.Release
	Settings  Settings
	Bundles   []scan.File // in the order in which they are asked
	Manifests []string    // files, and folders as a server's deploy folder
	Images    []string    // references that are needed whatever else says so
	// Optional are patterns of references whose absence is no gap, as path.Match has
	// them, over the full form (registry.example.com/tools/*).
	Optional []string
	Platform v1.Platform
	// KubeVersion is what charts are told; "" is the release's.
	KubeVersion string
	ChartTime   time.Duration // that one chart's templates may take; 0 is charts.DefaultTime
	// Progress is told what is done next, and how much of how many steps is; may be nil.
	Progress func(step string, done, total int)
}

// Report is what was found out.
type Report struct {
	Platform string   `json:"platform"`
	Complete bool     `json:"complete"` // no gap and no fault
	Images   []Image  `json:"images"`   // sorted by reference
	Possible []Image  `json:"possible"` // spoken of only; their absence is no gap
	Charts   []Chart  `json:"charts"`
	Bundles  []Bundle `json:"bundles"`
	// Faults are why it cannot be said that the images are all; Notes are what is not
	// known but may well be right.
	Faults []string `json:"faults"`
	Notes  []string `json:"notes"`
}

// Image is one image that is needed.
type Image struct {
	Reference string `json:"reference"` // full form; as written where that is no reference
	Bundle    string `json:"bundle"`    // the file that has it; "" is a gap
	Digest    string `json:"digest,omitempty"`
	Optional  bool   `json:"optional,omitempty"` // its absence is no gap
	Needs     []Need `json:"needs"`
	Gap       *Gap   `json:"gap,omitempty"`
}

// Need is one reason for which an image is needed.
type Need struct {
	By        string `json:"by"` // static pod, helm job, chart NAME, FILE …
	Object    string `json:"object,omitempty"`
	Container string `json:"container,omitempty"`
	Path      string `json:"path,omitempty"`
	Source    string `json:"source,omitempty"`
	Written   string `json:"written,omitempty"` // the reference, where its full form differs
}

// String is the reason in one line.
func (n Need) String() string {
	s := n.By
	if n.Object != "" {
		s += ", " + n.Object
	}
	switch {
	case n.Container != "":
		s += ", container " + n.Container
	case n.Path != "":
		s += ", " + n.Path
	}
	return s
}

// Gap says why an image counts as absent.
type Gap struct {
	Reason string `json:"reason"`
	// Near are images of the same repository that bundles have.
	Near []Near `json:"near,omitempty"`
}

// Near is an image that is almost what is wanted.
type Near struct {
	Reference string `json:"reference"`
	Bundle    string `json:"bundle"`
	Platform  string `json:"platform,omitempty"`
	Digest    string `json:"digest,omitempty"`
}

// Chart is a chart that was asked to be installed.
type Chart struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Object  string `json:"object"` // the HelmChart
	File    string `json:"file"`
	From    string `json:"from,omitempty"` // where its archive is from
	Images  int    `json:"images"`
}

// Bundle is a file that was looked into.
type Bundle struct {
	File   string `json:"file"`
	Images int    `json:"images"`
	Used   int    `json:"used"` // of them, needed ones
	Error  string `json:"error,omitempty"`
}

// Gaps are the images that are needed and in no bundle.
func (r Report) Gaps() []Image {
	var out []Image
	for _, i := range r.Images {
		if i.Gap != nil && !i.Optional {
			out = append(out, i)
		}
	}
	return out
}

// Prove works out what is needed and looks for it. That something is missing is said in
// the report; an error means that nothing can be said.
func Prove(ctx context.Context, in Input) (Report, error) {
	for _, p := range in.Optional {
		if _, err := path.Match(p, ""); err != nil {
			return Report{}, fmt.Errorf("pattern %q: %w", p, err)
		}
	}
	p := &prover{
		in: in, shelf: newShelf(in),
		needed: map[string]*Image{}, possible: map[string]*Image{},
		notes: map[string]bool{}, faults: map[string]bool{}, apis: map[string]bool{},
	}
	if err := p.run(ctx); err != nil {
		return Report{}, err
	}
	return p.report(), nil
}

// prover gathers what is needed.
type prover struct {
	in       Input
	shelf    *shelf
	configs  map[string]helmChartConfig // by namespace/name
	secrets  map[string]map[string][]byte
	queue    []queued // HelmCharts to render
	charts   []Chart
	needed   map[string]*Image
	possible map[string]*Image
	notes    map[string]bool
	faults   map[string]bool
	apis     map[string]bool // kinds that CRDs add, group/version and group/version/Kind
	done     int             // charts rendered
}

func (p *prover) run(ctx context.Context) error {
	if err := p.system(); err != nil {
		return err
	}
	for _, image := range p.in.Images {
		p.need(charts.Use{Image: image, Reference: fullReference(image), Certainty: charts.Needed}, "command line")
	}
	files, err := p.manifests(ctx)
	if err != nil {
		return err
	}
	p.read(files)
	return p.render(ctx)
}

// need notes one use of an image.
func (p *prover) need(u charts.Use, by string) {
	in := p.needed
	if u.Certainty == charts.Possible {
		in = p.possible
	}
	key := u.Reference
	if key == "" {
		key = u.Image
	}
	image := in[key]
	if image == nil {
		image = &Image{Reference: key}
		in[key] = image
	}
	need := Need{By: by, Object: u.Object, Container: u.Container, Path: u.Path, Source: u.Source}
	if u.Image != key {
		need.Written = u.Image
	}
	if u.Reference == "" {
		need.Written = u.Image
		image.Gap = &Gap{Reason: fmt.Sprintf("%q is not an image reference: the container cannot start", u.Image)}
	}
	if !slices.Contains(image.Needs, need) {
		image.Needs = append(image.Needs, need)
	}
}

func (p *prover) note(format string, args ...any)  { p.notes[fmt.Sprintf(format, args...)] = true }
func (p *prover) fault(format string, args ...any) { p.faults[fmt.Sprintf(format, args...)] = true }

// report looks for everything that is needed.
func (p *prover) report() Report {
	r := Report{ // no null in JSON
		Platform: p.in.Platform.String(), Images: []Image{}, Possible: []Image{}, Charts: append([]Chart{}, p.charts...),
		Faults: append([]string{}, slices.Sorted(maps.Keys(p.faults))...), Notes: append([]string{}, slices.Sorted(maps.Keys(p.notes))...),
	}
	for _, key := range slices.Sorted(maps.Keys(p.needed)) {
		image := *p.needed[key]
		image.Optional = p.optional(key)
		p.shelf.find(&image, true)
		r.Images = append(r.Images, image)
	}
	for _, key := range slices.Sorted(maps.Keys(p.possible)) {
		if p.needed[key] == nil {
			image := *p.possible[key]
			p.shelf.find(&image, false)
			r.Possible = append(r.Possible, image)
		}
	}
	r.Bundles = p.shelf.bundles()
	r.Complete = len(r.Gaps()) == 0 && len(r.Faults) == 0
	return r
}

func (p *prover) optional(reference string) bool {
	forms := []string{reference}
	// A pattern without a tag or digest means every one.
	if repository, _, ok := strings.Cut(reference, "@"); ok {
		forms = append(forms, repository)
	} else if i := strings.LastIndex(reference, ":"); i > strings.LastIndex(reference, "/") {
		forms = append(forms, reference[:i])
	}
	for _, pattern := range p.in.Optional {
		for _, form := range forms {
			if ok, err := path.Match(pattern, form); ok && err == nil {
				return true
			}
		}
	}
	return false
}
