package closure

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rancher/rke2/charts"
)

const helmAPI = "helm.cattle.io/v1"

// helmChart is what is read of a HelmChart (helm.cattle.io/v1).
type helmChart struct {
	Metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		TargetNamespace string                        `json:"targetNamespace"`
		Chart           string                        `json:"chart"`
		Version         string                        `json:"version"`
		Repo            string                        `json:"repo"`
		Set             map[string]intstr.IntOrString `json:"set"`
		ValuesContent   string                        `json:"valuesContent"`
		ValuesSecrets   []secretKeys                  `json:"valuesSecrets"`
		ChartContent    string                        `json:"chartContent"`
		JobImage        string                        `json:"jobImage"`
	} `json:"spec"`
}

// helmChartConfig is what is read of a HelmChartConfig (helm.cattle.io/v1).
type helmChartConfig struct {
	Spec struct {
		ValuesContent string       `json:"valuesContent"`
		ValuesSecrets []secretKeys `json:"valuesSecrets"`
	} `json:"spec"`
	source string
}

type secretKeys struct {
	Name string   `json:"name"`
	Keys []string `json:"keys"`
}

// queued is a HelmChart that was found, and where.
type queued struct {
	chart    helmChart
	file     string
	packaged bool
	depth    int // of charts that make HelmCharts
}

// maxChartDepth bounds charts that install charts.
const maxChartDepth = 4

func decodeHelmChart(o charts.Object, q queued) (queued, error) {
	if err := json.Unmarshal(o.Raw, &q.chart); err != nil {
		return q, fmt.Errorf("%s: %s: %w", o.Source, o, err)
	}
	if q.chart.Metadata.Namespace == "" {
		q.chart.Metadata.Namespace = "default"
	}
	return q, nil
}

// rendered is a chart with what it makes.
type rendered struct {
	at      int // in prover.charts
	q       queued
	chart   *charts.Chart
	options charts.Options
}

// render renders every queued chart, and those that they make. Charts may ask which
// kinds the cluster has, and what the others bring depends on which comes first: so
// they are rendered without, and, if there are any, once more with.
func (p *prover) render(ctx context.Context) error {
	var all []rendered
	for i := 0; i < len(p.queue); i++ { // it grows
		r, ok, err := p.prepare(ctx, p.queue[i])
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := p.renderOne(ctx, r, true); err != nil {
			return err
		}
		all = append(all, r)
	}
	if len(p.apis) == 0 {
		return nil
	}
	for _, r := range all {
		r.options.APIVersions = append(r.options.APIVersions, slices.Sorted(maps.Keys(p.apis))...)
		if err := p.renderOne(ctx, r, false); err != nil {
			return err
		}
	}
	return nil
}

// prepare finds a chart and its values; ok is false where that is a fault of its own.
func (p *prover) prepare(ctx context.Context, q queued) (r rendered, ok bool, err error) {
	h := q.chart
	object := fmt.Sprintf("HelmChart %s/%s", h.Metadata.Namespace, h.Metadata.Name)
	p.step("rendering " + object)
	p.needJob(h)
	p.charts = append(p.charts, Chart{Name: h.Metadata.Name, Object: object, File: q.file})
	r = rendered{at: len(p.charts) - 1, q: q}
	r.chart, err = p.chart(ctx, h)
	if err != nil {
		if ctx.Err() != nil {
			return r, false, err
		}
		p.fault("%s (%s) cannot be rendered, so its images are not known: %v", object, q.file, err)
		return r, false, nil
	}
	info := &p.charts[r.at]
	info.Name, info.Version, info.From = r.chart.Name, r.chart.Version, r.chart.Source
	r.options = charts.Options{
		Name: h.Metadata.Name, Namespace: first(h.Spec.TargetNamespace, h.Metadata.Namespace),
		KubeVersion: p.kubeVersion(), APIVersions: []string{helmAPI, "k3s.cattle.io/v1"},
		IncludeCRDs: true, Values: p.values(q, object), Time: p.in.ChartTime,
	}
	return r, true, nil
}

func (p *prover) renderOne(ctx context.Context, r rendered, firstTime bool) error {
	objects, err := r.chart.Render(ctx, r.options)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		p.fault("%s (%s): %v", p.charts[r.at].Object, r.q.file, err)
		return nil
	}
	by := "chart " + r.chart.Name
	if r.chart.Name != r.q.chart.Metadata.Name {
		by += " (" + p.charts[r.at].Object + ")"
	}
	uses := append(charts.Images(objects), r.chart.DeclaredImages()...)
	distinct := map[string]bool{}
	for _, u := range uses {
		if u.Certainty == charts.Needed {
			distinct[u.Reference] = true
		}
		name := by
		if _, sub, ok := strings.Cut(u.Chart, "/"); ok {
			name += ", subchart " + sub
		}
		p.need(u, name)
	}
	p.charts[r.at].Images = max(p.charts[r.at].Images, len(distinct))
	for _, o := range objects {
		p.learn(o)
		if !firstTime || o.APIVersion != helmAPI || o.Kind != "HelmChart" {
			continue
		}
		if r.q.depth == maxChartDepth {
			p.fault("%s makes %s: charts that install charts are followed %d deep", p.charts[r.at].Object, o, maxChartDepth)
			continue
		}
		o.Namespace = first(o.Namespace, r.options.Namespace)
		inner, err := decodeHelmChart(o, queued{file: r.q.file + ": " + o.Source, depth: r.q.depth + 1})
		if err != nil {
			p.fault("%v", err)
			continue
		}
		inner.chart.Metadata.Namespace = o.Namespace
		p.queue = append(p.queue, inner)
	}
	return nil
}

// chart gives a HelmChart's archive: its own content, a file of the server's static
// folder, a chart in a bundle, or what the network has.
func (p *prover) chart(ctx context.Context, h helmChart) (*charts.Chart, error) {
	if h.Spec.ChartContent != "" {
		raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(h.Spec.ChartContent), ""))
		if err != nil {
			return nil, fmt.Errorf("its chartContent is not base64: %w", err)
		}
		c, err := charts.Parse(raw, "chartContent")
		if err != nil {
			return nil, fmt.Errorf("its chartContent: %w", err)
		}
		return c, nil
	}
	if h.Spec.Chart == "" {
		return nil, errors.New("it names no chart: spec.chart or spec.chartContent is needed")
	}
	if _, rest, ok := strings.Cut(h.Spec.Chart, "%{KUBERNETES_API}%/static/"); ok {
		file := filepath.Join(p.in.Settings.DataDir, "server", "static", filepath.FromSlash(path.Clean("/"+rest)))
		return charts.Load(ctx, charts.Ref{Chart: file}, nil)
	}
	ref := charts.Ref{Chart: h.Spec.Chart, Repo: h.Spec.Repo, Version: h.Spec.Version}
	if ref.Local() {
		return nil, fmt.Errorf("chart %q has no repo, and is no URL", h.Spec.Chart)
	}
	c, err := p.shelf.chart(ref)
	if c == nil && err == nil {
		err = fmt.Errorf("chart %s is in the network and in no bundle; a cluster with no network cannot get it: put it into chartContent, or serve it to the cluster and add it to a bundle", ref)
	}
	return c, err
}

func (p *prover) kubeVersion() string { return first(p.in.KubeVersion, p.in.Release.Version) }

func (p *prover) step(what string) {
	if p.in.Progress != nil {
		p.in.Progress(what, p.done, len(p.queue))
	}
	p.done++
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
