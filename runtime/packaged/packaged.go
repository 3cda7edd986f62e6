// Package packaged reads the manifests of charts that a runtime image brings to a server,
// and says which of them a server with its settings deploys.
package packaged

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/charts"
)

// maxManifest bounds a manifest: what an object of the API server may have, and more.
const maxManifest = 8 << 20

// Chart is one manifest of a runtime image's /charts: a HelmChart (helm.cattle.io/v1), or,
// without annotations, objects that are deployed as they are.
type Chart struct {
	Name        string // of the HelmChart, and of its file without the extension
	File        string // base name
	Manifest    []byte
	Annotations map[string]string
	Helm        bool   // it is a HelmChart
	Bootstrap   bool   // nodes need it to become Ready
	Namespace   string // of the HelmChart, and so of its job
}

// CNI is the network that the chart is a part of; "" for none.
func (c Chart) CNI() string { return c.Annotations[charts.CNIAnnotation] }

// Images are the references of the images that the chart needs with its own values.
func (c Chart) Images() []string { return charts.PackagedImages(c.Annotations) }

// Read reads the manifests of a folder, in the order of their names. A folder that is not
// there has none.
func Read(folder string) ([]Chart, error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("reading the packaged charts: %w", err)
	}
	var out []Chart
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !isManifest(entry.Name()) {
			continue
		}
		c, err := readFile(folder, entry)
		if err != nil {
			return nil, fmt.Errorf("reading the packaged charts: %s: %w", filepath.Join(folder, entry.Name()), err)
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Chart) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func isManifest(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(name, ".")
	}
	return false
}

func readFile(folder string, entry fs.DirEntry) (Chart, error) {
	info, err := entry.Info()
	if err != nil {
		return Chart{}, err
	}
	if info.Size() > maxManifest {
		return Chart{}, fmt.Errorf("it has %d bytes, more than %d", info.Size(), maxManifest)
	}
	raw, err := os.ReadFile(filepath.Join(folder, entry.Name()))
	if err != nil {
		return Chart{}, err
	}
	name := entry.Name()
	c := Chart{Name: strings.TrimSuffix(name, filepath.Ext(name)), File: name, Manifest: raw, Namespace: "kube-system"}
	if !bytes.Contains(raw, []byte("kind: HelmChart")) {
		return c, nil
	}
	objects, err := charts.ParseObjects(name, raw)
	if err != nil {
		return Chart{}, err
	}
	for _, o := range objects {
		if o.Kind != "HelmChart" || o.Name != c.Name {
			continue
		}
		var spec struct{ Spec struct{ Bootstrap bool } }
		if err := yaml.Unmarshal(o.Raw, &spec); err != nil {
			return Chart{}, err
		}
		c.Helm, c.Bootstrap, c.Annotations = true, spec.Spec.Bootstrap, o.Annotations
		if o.Namespace != "" {
			c.Namespace = o.Namespace
		}
	}
	if !c.Helm {
		// The deploy controller knows a chart by its file, everybody else by its name.
		return Chart{}, fmt.Errorf("none of its HelmCharts is called %s, as the file is", c.Name)
	}
	return c, nil
}

// Delivery is what a server's start did with the packaged charts.
type Delivery struct {
	Known  []Chart // all that the runtime image brings
	Chosen []Chart // those that are deployed
	// Removed are the names of manifests that the deploy controller is to take back, with
	// what they deployed.
	Removed []string
	Changed []string // names of chosen ones whose manifest is not what it was before
}

// Selection is what a server deploys of the packaged charts, and what not.
type Selection struct {
	Chosen []Chart
	Off    map[string]string // why a packaged chart is not deployed, by its name
	// Warnings are what was asked for and has no effect.
	Warnings []string
}

// Select holds a server's settings against the charts that there are. A network or an
// ingress controller of which there is no chart is an error that names those there are.
// manifests are the names of the operator's own, which may be disabled too.
func Select(all []Chart, choice charts.Choice, manifests []string) (Selection, error) {
	s := Selection{Off: map[string]string{}}
	for _, o := range []struct {
		option, annotation string
		given              []string
	}{
		{"cni", charts.CNIAnnotation, choice.CNI},
		{"ingress-controller", charts.IngressControllerAnnotation, choice.IngressController},
	} {
		if err := known(all, o.option, o.annotation, o.given); err != nil {
			return s, err
		}
	}
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
		if why := choice.Off(c.Name, c.Annotations); why != "" {
			s.Off[c.Name] = why
			continue
		}
		s.Chosen = append(s.Chosen, c)
	}
	for _, name := range choice.Disable {
		if !slices.Contains(names, name) && !slices.Contains(manifests, name) {
			s.Warnings = append(s.Warnings, fmt.Sprintf("disable: %s is no chart of this release and no manifest of this server; its charts: %s", name, strings.Join(names, ", ")))
		}
	}
	return s, nil
}

// known refuses values that no packaged chart is for.
func known(all []Chart, option, annotation string, given []string) error {
	there := map[string]bool{}
	for _, c := range all {
		if value := c.Annotations[annotation]; value != "" {
			there[value] = true
		}
	}
	for _, value := range given {
		if value == "none" || there[value] {
			continue
		}
		if len(there) == 0 {
			return fmt.Errorf("%s %q: the runtime image of this node packages no chart for it: set `%s: none`, and deploy your own", option, value, option)
		}
		return fmt.Errorf("%s %q: this release packages no such chart: must be one of %s, or none", option, value, strings.Join(slices.Sorted(maps.Keys(there)), ", "))
	}
	return nil
}
