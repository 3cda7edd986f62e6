package chart

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/modulefiles"
	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
)

const (
	cacheKind    = "chart"
	manifestFile = "manifest.yaml"
	sumFile      = "manifest.sha256"
	// scheme is part of every key: raise it when this package makes other manifests, or
	// finds faults that it did not find.
	scheme = 1
	// namespace is where releases are installed.
	namespace = "kube-system"
)

// Maker makes the component of the charts.
type Maker struct {
	cache  *cache.Cache
	files  *modulefiles.Maker
	tree   *images.Tree
	naming images.Naming
}

var _ artifact.Maker = (*Maker)(nil)

// New makes a Maker. Charts name the images of the tree as naming does.
func New(c *cache.Cache, files *modulefiles.Maker, tree *images.Tree, naming images.Naming) *Maker {
	return &Maker{cache: c, files: files, tree: tree, naming: naming}
}

// Make gives one build context: a manifest for each chart, by the chart's name.
func (m *Maker) Make(ctx context.Context, c images.Component, p artifact.Platform, building func([]string)) (artifact.Artifact, error) {
	start := time.Now()
	out := artifact.Artifact{Component: c.Name, Version: c.Version, Platform: p, Contexts: map[string][]layer.File{c.Name: {}}, Cached: true}
	for _, ch := range c.Charts {
		made, err := m.chart(ctx, ch, building)
		if err != nil {
			return artifact.Artifact{}, fmt.Errorf("packaging chart %s: %w", ch.Name, err)
		}
		out.Contexts[c.Name] = append(out.Contexts[c.Name], made.file)
		out.Materials = append(out.Materials, made.materials...)
		out.Cached = out.Cached && made.cached
		out.Size += made.size
	}
	out.Materials = artifact.SortMaterials(out.Materials)
	out.Elapsed = time.Since(start)
	return out, nil
}

// made is a chart's manifest.
type made struct {
	file      layer.File
	materials []artifact.Material
	cached    bool
	size      int64
}

func (m *Maker) chart(ctx context.Context, ch images.Chart, building func([]string)) (made, error) {
	s, err := m.gather(ctx, ch)
	if err != nil {
		return made{}, err
	}
	key, err := s.key()
	if err != nil {
		return made{}, err
	}
	for {
		dir, hit, err := m.cache.Fill(cacheKind, key, func(dir string) error {
			if building != nil {
				building([]string{ch.Name})
			}
			return s.fill(ctx, dir)
		})
		if err != nil {
			return made{}, err
		}
		sum, size, err := read(dir)
		if err == nil {
			file := layer.File{Path: ch.Name + ".yaml", Mode: 0o644, Source: filepath.Join(dir, manifestFile), SHA256: sum}
			if len(s.materials) > 0 {
				file.Package = s.materials[0].PURL
			}
			return made{file: file, materials: s.materials, cached: hit, size: size}, nil
		}
		if !hit {
			return made{}, err
		}
		if err := m.cache.Drop(cacheKind, key); err != nil {
			return made{}, err
		}
	}
}

// read gives sum and size of a cached manifest, or an error if somebody damaged it.
func read(dir string) (sum string, size int64, err error) {
	want, err := os.ReadFile(filepath.Join(dir, sumFile))
	if err != nil {
		return "", 0, fmt.Errorf("reading cached manifest: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return "", 0, fmt.Errorf("reading cached manifest: %w", err)
	}
	if sum = hash(text); sum != string(want) {
		return "", 0, fmt.Errorf("cached manifest %s has sha256 %s, expected %s", dir, sum, want)
	}
	return sum, int64(len(text)), nil
}

// source is all that a manifest is made of.
type source struct {
	chart     images.Chart
	files     []charts.File // with everything filled in
	images    map[string]string
	kube      string // version that the chart is rendered for
	materials []artifact.Material
}

// gather reads the chart's folder and fills in what the declarations say.
func (m *Maker) gather(ctx context.Context, ch images.Chart) (source, error) {
	s := source{chart: ch, kube: m.tree.Product.Version, images: map[string]string{}}
	files, err := charts.ReadFolder(ch.Dir)
	if err != nil {
		return s, err
	}
	s.files = slices.DeleteFunc(files, func(f charts.File) bool { return f.Name == images.PackageFile })
	if err := s.fillIn("Chart.yaml", []edit{{path: []string{"appVersion"}, old: []string{"0"}, value: ch.AppVersion}}); err != nil {
		return s, err
	}
	if err := m.imageValues(&s); err != nil || ch.CRDs == nil {
		return s, err
	}
	from, _ := m.tree.Component(ch.CRDs.Component)
	definitions, material, err := m.files.Files(ctx, from, ch.CRDs.Files)
	if err != nil {
		return s, err
	}
	s.materials = append(s.materials, material)
	made, err := templates(definitions)
	if err != nil {
		return s, fmt.Errorf("definitions %s of component %s: %w", ch.CRDs.Files.Context, from.Name, err)
	}
	for _, f := range made {
		if slices.ContainsFunc(s.files, func(o charts.File) bool { return o.Name == f.Name }) {
			return s, fmt.Errorf("%s is both in its folder and among the definitions %s", f.Name, ch.CRDs.Files.Context)
		}
		s.files = append(s.files, f)
	}
	return s, nil
}

// imageValues fills in values.yaml.
func (m *Maker) imageValues(s *source) error {
	var edits []edit
	for _, i := range s.chart.Images {
		image, _ := m.tree.Image(i.Image)
		tag, err := m.naming.Tag(image)
		if err != nil {
			return err
		}
		path := strings.Split(i.Path, ".")
		s.images[tag.String()] = i.Path
		edits = append(edits,
			edit{path: add(path, "registry"), old: []string{"docker.io"}, value: m.naming.Registry},
			edit{path: add(path, "repository"), old: []string{""}, value: m.naming.Repo + "/" + image.Name},
			edit{path: add(path, "tag"), old: []string{""}, value: image.Tag})
	}
	if len(edits) == 0 {
		return nil
	}
	return s.fillIn("values.yaml", edits)
}

func add(path []string, key string) []string { return append(slices.Clone(path), key) }

// fillIn edits one of the chart's files.
func (s *source) fillIn(name string, edits []edit) error {
	at := slices.IndexFunc(s.files, func(f charts.File) bool { return f.Name == name })
	if at < 0 {
		return fmt.Errorf("reading %s: %w", filepath.Join(s.chart.Dir, name), fs.ErrNotExist)
	}
	text, err := set(filepath.Join(s.chart.Dir, name), s.files[at].Data, edits)
	if err != nil {
		return err
	}
	s.files[at].Data = text
	return nil
}

func (s *source) key() (string, error) {
	sums := map[string]string{}
	for _, f := range s.files {
		sums[f.Name] = hash(f.Data)
	}
	c := s.chart
	return cache.Key(struct {
		Scheme                 int
		Helm, Kube             string
		Name                   string
		Files                  map[string]string
		Images                 []string
		Bootstrap, Cluster     bool
		CNI, IngressController string
		Timeout                time.Duration
	}{scheme, helm(), s.kube, c.Name, sums, slices.Sorted(maps.Keys(s.images)), c.Bootstrap, c.Cluster, c.CNI, c.IngressController, c.Timeout})
}

// helm names the versions of what checks, renders and packs charts in this program.
func helm() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, d := range info.Deps {
		if d.Path == "helm.sh/helm/v3" {
			return d.Version + " " + info.GoVersion
		}
	}
	return info.GoVersion
}

// fill checks the chart and writes its manifest.
func (s *source) fill(ctx context.Context, dir string) error {
	if err := s.lint(); err != nil {
		return err
	}
	c, err := charts.Pack(s.files, s.chart.Dir)
	if err != nil {
		return err
	}
	if c.Name != s.chart.Name {
		return fmt.Errorf("its Chart.yaml calls it %s, and its folder %s", c.Name, s.chart.Name)
	}
	used, err := s.used(ctx, c)
	if err != nil {
		return err
	}
	text, err := c.HelmChart(charts.HelmChartOptions{
		TargetNamespace: namespace, Bootstrap: s.chart.Bootstrap, Cluster: s.chart.Cluster,
		Timeout: s.chart.Timeout, Annotations: s.annotations(used),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, manifestFile), text, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, sumFile), []byte(hash(text)), 0o644)
}

// used lists the images that the chart runs with its default values. All are declared.
func (s *source) used(ctx context.Context, c *charts.Chart) ([]string, error) {
	objects, err := c.Render(ctx, charts.Options{Name: c.Name, Namespace: namespace, KubeVersion: s.kube, IncludeCRDs: true})
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, u := range charts.Images(objects) {
		if u.Certainty != charts.Needed {
			continue
		}
		if _, ok := s.images[u.Image]; !ok {
			return nil, fmt.Errorf("%s: %s runs the image %q (%s), which is none of those under images in %s: %s",
				u.Source, u.Object, u.Image, u.Path, s.chart.File(), strings.Join(slices.Sorted(maps.Keys(s.images)), ", "))
		}
		used[u.Image] = true
	}
	return slices.Sorted(maps.Keys(used)), nil
}

func (s *source) annotations(used []string) map[string]string {
	out := map[string]string{}
	for key, value := range map[string]string{
		charts.CNIAnnotation:               s.chart.CNI,
		charts.IngressControllerAnnotation: s.chart.IngressController,
		charts.ImagesAnnotation:            strings.Join(used, ","),
	} {
		if value != "" {
			out[key] = value
		}
	}
	return out
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
