package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/rancher/rke2/images/yamlfile"
)

// ChartsName is the component, and the build context, that the charts are.
const ChartsName = "charts"

// Chart is a folder with a Helm chart that is packaged into the runtime image, as a
// HelmChart manifest. Its package.yaml says how.
type Chart struct {
	Name       string // the folder's
	Dir        string // absolute
	AppVersion string // of the component that it installs, or of the product
	// Bootstrap charts are needed before nodes are ready; Cluster ones get the cluster's
	// settings as values.
	Bootstrap, Cluster bool
	CNI                string // installed where `cni` names it; "": whatever that names
	IngressController  string // the same for `ingress-controller`
	Images             []ChartImage
	CRDs               *ChartCRDs    // nil: none but those in the folder
	Timeout            time.Duration // of the helm job; 0: its default
}

// ChartImage is an image that a chart runs.
type ChartImage struct {
	Path  string // of the value in values.yaml that names it: autoscaler.image
	Image string // name of the declared image
	Line  int    // of the declaration, for errors
}

// ChartCRDs are the custom resource definitions that a component's module ships, which
// become templates of the chart.
type ChartCRDs struct {
	Component string
	Files     ModuleFiles
}

// PackageFile is what says how a chart is packaged; it is not part of the chart.
const PackageFile = "package.yaml"

// File is the chart's package.yaml.
func (c Chart) File() string { return filepath.Join(c.Dir, PackageFile) }

// chartFile is the file form of package.yaml.
type chartFile struct {
	Bootstrap         bool            `yaml:"bootstrap"`
	Cluster           bool            `yaml:"cluster"`
	CNI               text            `yaml:"cni"`
	IngressController text            `yaml:"ingress-controller"`
	App               text            `yaml:"app"`
	Images            map[string]text `yaml:"images"`
	CRDs              text            `yaml:"crds"`
	Timeout           text            `yaml:"timeout"`
}

// setCharts adds the component of the charts: every folder in dir that has a Chart.yaml
// and a package.yaml. One without the other is an error.
func (t *Tree) setCharts(productPath string, dir text) error {
	if dir.value == "" {
		return nil
	}
	root := filepath.Join(filepath.Dir(productPath), filepath.FromSlash(dir.value))
	entries, err := os.ReadDir(root)
	if err != nil {
		return at(productPath, dir.line, "charts: %v", err)
	}
	c := Component{
		Name: ChartsName, Dir: root, Description: "Helm charts that a server installs", Kind: KindCharts,
		Version: t.Product.Version, Crypto: NoCrypto, CryptoReason: "no programs",
	}
	for _, e := range entries {
		chart := Chart{Name: e.Name(), Dir: filepath.Join(root, e.Name())}
		if ok, err := chart.there(); err != nil || !ok {
			if err != nil {
				return fmt.Errorf("reading chart %s: %w", chart.Name, err)
			}
			continue
		}
		if err := t.loadChart(&chart); err != nil {
			return err
		}
		c.Charts = append(c.Charts, chart)
	}
	if _, ok := t.Component(c.Name); ok {
		return at(productPath, dir.line, "charts: a component is called %s too", c.Name)
	}
	t.Components = append(t.Components, c)
	sort.Slice(t.Components, func(i, j int) bool { return t.Components[i].Name < t.Components[j].Name })
	return nil
}

// there tells whether the folder is a chart's.
func (c Chart) there() (bool, error) {
	var missing []string
	for _, name := range []string{"Chart.yaml", PackageFile} {
		st, err := os.Stat(filepath.Join(c.Dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			missing = append(missing, name)
		case err != nil:
			return false, err
		case !st.Mode().IsRegular():
			return false, fmt.Errorf("%s is no regular file", filepath.Join(c.Dir, name))
		}
	}
	switch {
	case len(missing) == 0:
		return true, nil
	case len(missing) == 2:
		return false, nil
	case missing[0] == PackageFile:
		return false, fmt.Errorf("%s is missing: it says how the chart is packaged, and may be empty", c.File())
	}
	return false, fmt.Errorf("%s is missing, though there is a %s", filepath.Join(c.Dir, missing[0]), PackageFile)
}

func (t *Tree) loadChart(c *Chart) error {
	var f chartFile
	if err := decodeFile(c.File(), &f); err != nil && !errors.Is(err, yamlfile.ErrEmpty) {
		return err
	}
	if !plainName.MatchString(c.Name) {
		return fmt.Errorf("%s: a chart's folder is named in lower-case words joined by -", c.Dir)
	}
	c.Bootstrap, c.Cluster = f.Bootstrap, f.Cluster
	c.CNI, c.IngressController = f.CNI.value, f.IngressController.value
	for _, v := range []struct {
		key string
		text
	}{{"cni", f.CNI}, {"ingress-controller", f.IngressController}} {
		if v.line > 0 && !plainName.MatchString(v.value) {
			return at(c.File(), v.line, "%s: %q is not lower-case words joined by -", v.key, v.value)
		}
	}
	if c.CNI != "" && c.IngressController != "" {
		return at(c.File(), f.IngressController.line, "a chart is chosen by cni or by ingress-controller, not by both")
	}
	c.AppVersion = t.Product.Version
	if f.App.line > 0 {
		app, ok := t.Component(f.App.value)
		if !ok {
			return at(c.File(), f.App.line, "app: there is no component %q; known are: %s", f.App.value, t.componentNames())
		}
		c.AppVersion = app.Version
	}
	if f.Timeout.line > 0 {
		d, err := time.ParseDuration(f.Timeout.value)
		if err != nil || d <= 0 {
			return at(c.File(), f.Timeout.line, "timeout: %q is not a time such as 10m", f.Timeout.value)
		}
		c.Timeout = d
	}
	if err := t.chartImages(c, f); err != nil {
		return err
	}
	return t.chartCRDs(c, f.CRDs)
}

func (t *Tree) chartImages(c *Chart, f chartFile) error {
	for path, role := range f.Images {
		i := slices.IndexFunc(t.Images, func(i Image) bool { return i.Role == role.value })
		if i < 0 {
			var roles []string
			for _, i := range t.Images {
				roles = append(roles, i.Role)
			}
			sort.Strings(roles)
			return at(c.File(), role.line, "images: %s: no image has the role %q; known are: %s", path, role.value, strings.Join(roles, ", "))
		}
		c.Images = append(c.Images, ChartImage{Path: path, Image: t.Images[i].Name, Line: role.line})
	}
	sort.Slice(c.Images, func(i, j int) bool { return c.Images[i].Path < c.Images[j].Path })
	return nil
}

func (t *Tree) chartCRDs(c *Chart, context text) error {
	if context.line == 0 {
		return nil
	}
	var known []string
	for _, maker := range t.Components {
		for _, files := range maker.Files {
			if files.Context == context.value {
				c.CRDs = &ChartCRDs{Component: maker.Name, Files: files}
				return nil
			}
			known = append(known, files.Context)
		}
	}
	sort.Strings(known)
	return at(c.File(), context.line, "crds: no component has files called %q; known are: %s", context.value, strings.Join(known, ", "))
}

func (t *Tree) componentNames() string {
	var names []string
	for _, c := range t.Components {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}
