package closure

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/runtime/scan"
)

const helmChartHead = "apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: it, namespace: apps}\nspec:\n"

// TestWhereChartsAre holds the ways in which a HelmChart says which chart it means.
func TestWhereChartsAre(t *testing.T) {
	web := chartOf(t, "web", "example.com/web:1", "")
	core := system(t, nil)
	// One of the same name, and of another maker.
	imposter := chartOf(t, "web", "example.com/imposter:1", "")
	carts := chartBundle(t, "charts.tar", map[string]*charts.Chart{
		"registry.example.com/charts/web:1.0.0": web, "a.example.com/web:1.0.0": imposter, "charts.example.com/stable/web:1.0.0": chartOf(t, "web", "example.com/web:1", "other: values\n"),
	})
	data := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(data, "server/static/charts"), 0o755))
	must(t, os.WriteFile(filepath.Join(data, "server/static/charts/web.tgz"), web.Archive(), 0o644))
	file1 := chartBundle(t, "file.tar", map[string]*charts.Chart{"bundle.local/charts/web:1.0.0": web})
	for _, spec := range []string{"  chart: https://example.com/files/web-1.0.0.tgz", "  chart: web\n  repo: https://elsewhere.example.com"} {
		r := prove(t, Input{Bundles: []scan.File{core, file1}, Manifests: []string{file(t, "it.yaml", helmChartHead+spec+"\n")}})
		if g := gaps(r); !slices.Equal(g, []string{"example.com/web:1"}) {
			t.Errorf("%s: gaps %q, faults %q", spec, g, r.Faults)
		}
	}
	content := base64.StdEncoding.EncodeToString(web.Archive())
	truncated := base64.StdEncoding.EncodeToString(web.Archive()[:100])
	for _, c := range []struct{ spec, fault string }{
		{"  chartContent: " + content, ""},
		{"  chartContent: |\n    " + content[:76] + "\n    " + content[76:], ""},
		{"  chart: oci://registry.example.com/charts/web\n  version: 1.0.0", ""},
		{"  chart: oci://registry.example.com/charts/web\n  version: '>=0.9'", ""},
		{"  chart: web\n  repo: oci://registry.example.com/charts/", ""},
		{"  chart: web\n  repo: https://charts.example.com/stable/\n  version: 1.0.0", ""},
		{"  chart: https://%{KUBERNETES_API}%/static/charts/web.tgz", ""},
		{"  chart: oci://registry.example.com/charts/web\n  version: 2.0.0", "in no bundle"},
		{"  chart: oci://other.example.com/charts/web", "in no bundle"},
		{"  chart: other\n  repo: https://charts.example.com", "in no bundle"},
		{"  chart: https://%{KUBERNETES_API}%/static/charts/none.tgz", "no such file"},
		{"  chart: https://%{KUBERNETES_API}%/static/../../../web.tgz", "no such file"},
		{"  chart: web", "no repo"},
		{"  version: 1.0.0", "names no chart"},
		{"  chartContent: '!'", "not base64"},
		{"  chartContent: " + truncated, "truncated"},
		{"  chartContent: YWJj", "not a .tgz"},
		{"  chart: 7", "cannot unmarshal"},
	} {
		s := Defaults("none")
		s.DataDir = data
		r := prove(t, Input{Bundles: []scan.File{core, carts}, Settings: s, Manifests: []string{file(t, "it.yaml", helmChartHead+c.spec+"\n")}})
		if c.fault == "" {
			if g := gaps(r); !slices.Equal(g, []string{"example.com/web:1"}) || len(r.Faults) != 0 {
				t.Errorf("%s: gaps %q, faults %q", c.spec, g, r.Faults)
			}
			continue
		}
		if len(r.Faults) != 1 || !strings.Contains(r.Faults[0], c.fault) || r.Complete {
			t.Errorf("%.60s: faults %q, want %q", c.spec, r.Faults, c.fault)
		}
	}
}

// TestValues holds the order in which values are merged, and the kinds of spec.set.
func TestValues(t *testing.T) {
	image := `example.com/{{ .Values.a }}-{{ .Values.b }}-{{ .Values.c }}-{{ .Values.d }}:{{ kindOf .Values.num }}-{{ kindOf .Values.s }}-{{ kindOf .Values.t }}-{{ .Values.l | replace "," "_" }}`
	c := chartOf(t, "web", image, "a: chart\nb: chart\nc: chart\nd: chart\nnum: x\ns: x\nt: x\nl: x\n")
	manifests := helmChartHead + "  chartContent: " + base64.StdEncoding.EncodeToString(c.Archive()) + `
  valuesContent: |
    b: content
    c: content
    d: content
  set: {d: set, num: 5, s: five, t: "true", l: 'one,two\,three'}
---
apiVersion: helm.cattle.io/v1
kind: HelmChartConfig
metadata: {name: it, namespace: apps}
spec:
  valuesContent: |
    c: config
    d: config
---
apiVersion: helm.cattle.io/v1
kind: HelmChartConfig
metadata: {name: it, namespace: other}
spec:
  valuesContent: "a: another"
`
	r := prove(t, Input{Bundles: []scan.File{system(t, nil)}, Manifests: []string{file(t, "it.yaml", manifests)}})
	if want, got := "example.com/chart-content-config-set:int64-string-bool-one_two_three", gaps(r); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, faults %q; want %q", got, r.Faults, want)
	}
}

func TestValuesSecrets(t *testing.T) {
	c := chartOf(t, "web", "example.com/web:{{ .Values.tag }}", "tag: one\n")
	chart := helmChartHead + "  chartContent: " + base64.StdEncoding.EncodeToString(c.Archive()) + "\n  valuesSecrets: [{name: hidden, keys: [values.yaml]}]\n"
	secret := "---\napiVersion: v1\nkind: Secret\nmetadata: {name: hidden, namespace: apps}\n"
	for extra, want := range map[string]struct{ tag, note string }{
		"": {"one", "Secret apps/hidden"},
		secret + "stringData: {values.yaml: 'tag: two'}\n":                                                        {"two", ""},
		secret + "data: {values.yaml: " + base64.StdEncoding.EncodeToString([]byte("tag: three")) + "}\n":         {"three", ""},
		strings.Replace(secret, "namespace: apps", "namespace: x", 1) + "stringData: {values.yaml: 'tag: two'}\n": {"one", "Secret apps/hidden"},
	} {
		r := prove(t, Input{Bundles: []scan.File{system(t, nil)}, Manifests: []string{file(t, "it.yaml", chart+extra)}})
		if g := gaps(r); !slices.Equal(g, []string{"example.com/web:" + want.tag}) || len(r.Faults) != 0 {
			t.Errorf("gaps %q, faults %q; want %s", g, r.Faults, want.tag)
		}
		if notes := strings.Join(r.Notes, "\n"); !strings.Contains(notes, want.note) || (want.note == "") != (notes == "") {
			t.Errorf("notes %q, want %q", notes, want.note)
		}
	}
}

// TestKindsOfOtherCharts: what a chart makes only where another's CRDs are is needed
// too, and so is what it makes only where they are not.
func TestKindsOfOtherCharts(t *testing.T) {
	asks := chartOf(t, "asks", `example.com/{{ if .Capabilities.APIVersions.Has "example.com/v1/Monitor" }}with{{ else }}without{{ end }}:1`, "")
	crd := `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: monitors.example.com}
spec: {group: example.com, names: {kind: Monitor}, versions: [{name: v1, served: true}, {name: v0, served: false}]}
`
	core := system(t, map[string]string{"asks.yaml": helmChartOf(t, asks, charts.HelmChartOptions{})})
	in := Input{Bundles: []scan.File{core}}
	if got := gaps(prove(t, in)); !slices.Equal(got, []string{"example.com/without:1"}) {
		t.Errorf("got %q", got)
	}
	in.Manifests = []string{file(t, "crd.yaml", crd)}
	if got := gaps(prove(t, in)); !slices.Equal(got, []string{"example.com/with:1", "example.com/without:1"}) {
		t.Errorf("got %q", got)
	}
}

// TestChartsThatInstallCharts follows HelmCharts that charts make, but not for ever.
func TestChartsThatInstallCharts(t *testing.T) {
	inner := chartOf(t, "inner", "example.com/inner:1", "")
	outer := func(depth int) *charts.Chart {
		c := inner
		for i := range depth {
			text := helmChartOf(t, c, charts.HelmChartOptions{Name: fmt.Sprintf("level-%d", i)})
			dir := filepath.Join(t.TempDir(), "outer")
			must(t, os.MkdirAll(filepath.Join(dir, "templates"), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "Chart.yaml"), []byte("apiVersion: v2\nname: outer\nversion: 1.0.0\n"), 0o644))
			must(t, os.WriteFile(filepath.Join(dir, "templates/chart.yaml"), []byte(text), 0o644))
			var err error
			c, err = charts.Package(dir)
			must(t, err)
		}
		return c
	}
	core := system(t, nil)
	manifest := file(t, "outer.yaml", helmChartOf(t, outer(2), charts.HelmChartOptions{}))
	r := prove(t, Input{Bundles: []scan.File{core}, Manifests: []string{manifest}})
	if g := gaps(r); !slices.Equal(g, []string{"example.com/inner:1"}) || len(r.Charts) != 3 || len(r.Faults) != 0 {
		t.Errorf("gaps %q, %d charts, faults %q", g, len(r.Charts), r.Faults)
	}
	manifest = file(t, "outer.yaml", helmChartOf(t, outer(7), charts.HelmChartOptions{}))
	r = prove(t, Input{Bundles: []scan.File{core}, Manifests: []string{manifest}})
	if len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "charts that install charts") {
		t.Errorf("faults %q", r.Faults)
	}
}

// TestChartThatCannotBeRendered is a fault with the template's own reason, and the rest
// is looked at all the same.
func TestChartThatCannotBeRendered(t *testing.T) {
	bad := chartOf(t, "bad", `{{ required "set .Values.host" .Values.host }}`, "")
	good := chartOf(t, "good", "example.com/good:1", "")
	core := system(t, map[string]string{
		"bad.yaml":  helmChartOf(t, bad, charts.HelmChartOptions{}),
		"good.yaml": helmChartOf(t, good, charts.HelmChartOptions{}),
	})
	r := prove(t, Input{Bundles: []scan.File{core}})
	if len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "set .Values.host") || !strings.Contains(r.Faults[0], "bad.yaml") {
		t.Errorf("faults %q", r.Faults)
	}
	find(t, r, "example.com/good:1")
	if r.Complete {
		t.Error("it is said to be complete")
	}
}
