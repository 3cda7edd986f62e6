package charts

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"time"

	"sigs.k8s.io/yaml"
)

// Package makes a chart of a folder. Its archive depends only on the names and contents
// of the files: not on when, where and by whom it is made.
func Package(dir string) (*Chart, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("packaging chart %s: %w", dir, err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("packaging chart %s: %w: not a folder", dir, ErrNotChart)
	}
	c, err := fromFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("packaging chart %s: %w", dir, err)
	}
	return c, nil
}

// HelmChartOptions say how a chart is to be installed.
type HelmChartOptions struct {
	Name            string // of the object and the release; "" is the chart's
	Namespace       string // of the object; "" is kube-system
	TargetNamespace string // of the release; "" is the object's
	Bootstrap       bool   // it is needed before nodes are ready, such as their network
	// Cluster asks for the cluster's settings as values: global.clusterCIDR,
	// global.systemDefaultRegistry and so on.
	Cluster       bool
	Annotations   map[string]string
	Set           map[string]string
	ValuesContent string        // YAML
	Timeout       time.Duration // that the job's helm may take; 0 is the helm-controller's default
}

// InjectAnnotation marks a HelmChart that wants the cluster's settings as values.
const InjectAnnotation = "rke2.cattle.io/inject-cluster-config"

// maxContent is what fits into an object of the API server in base64, with room for the
// rest of the object.
const maxContent = 1 << 20

// HelmChart is a manifest (helm.cattle.io/v1, YAML) that carries the chart with it, for
// the deploy folder of a server. The same chart and options give the same bytes.
func (c *Chart) HelmChart(opt HelmChartOptions) ([]byte, error) {
	if !c.Installable() {
		return nil, fmt.Errorf("chart %s: %w: it is a %s chart, which cannot be installed", c.Name, ErrNotChart, c.metadata.Type)
	}
	content := base64.StdEncoding.EncodeToString(c.archive)
	if len(content) > maxContent {
		return nil, fmt.Errorf("chart %s: %w: it has %d bytes, and at most %d fit into a HelmChart", c.Name, ErrRefused, len(c.archive), maxContent/4*3)
	}
	annotations := map[string]any{}
	for k, v := range opt.Annotations {
		annotations[k] = v
	}
	if opt.Cluster {
		annotations[InjectAnnotation] = "true"
	}
	meta := map[string]any{"name": or(opt.Name, c.Name), "namespace": or(opt.Namespace, "kube-system")}
	if len(annotations) > 0 {
		meta["annotations"] = annotations
	}
	spec := map[string]any{"chartContent": content}
	if opt.TargetNamespace != "" {
		spec["targetNamespace"] = opt.TargetNamespace
	}
	if opt.Bootstrap {
		spec["bootstrap"] = true
	}
	if len(opt.Set) > 0 {
		spec["set"] = maps.Clone(opt.Set)
	}
	if opt.ValuesContent != "" {
		spec["valuesContent"] = opt.ValuesContent
	}
	if opt.Timeout != 0 {
		spec["timeout"] = opt.Timeout.String()
	}
	// Keys come out sorted, so nothing depends on the order of a map.
	text, err := yaml.Marshal(map[string]any{"apiVersion": "helm.cattle.io/v1", "kind": "HelmChart", "metadata": meta, "spec": spec})
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Name, err)
	}
	return append(bytes.TrimRight(text, "\n"), '\n'), nil
}
