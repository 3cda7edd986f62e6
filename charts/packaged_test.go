package charts_test

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/runtime/config"
)

var update = flag.Bool("update", false, "rewrite what charts render to")

const (
	golden   = "testdata/golden"
	registry = "registry.example.com:5000"
)

// packaged is a chart of this folder that a server installs.
type packaged struct {
	*charts.Chart
	dir     string
	declare struct {
		CNI     string            `json:"cni"`
		Cluster bool              `json:"cluster"`
		CRDs    string            `json:"crds"`
		Images  map[string]string `json:"images"`
	}
	values map[string]any // values.yaml
}

func all(t *testing.T) []packaged {
	t.Helper()
	files, err := filepath.Glob("*/package.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var out []packaged
	for _, file := range files {
		p := packaged{dir: filepath.Dir(file)}
		if _, err := os.Stat(filepath.Join(p.dir, "Chart.yaml")); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if p.Chart, err = charts.Package(p.dir); err != nil {
			t.Fatal(err)
		}
		decode(t, file, &p.declare)
		decode(t, filepath.Join(p.dir, "values.yaml"), &p.values)
		out = append(out, p)
	}
	return out
}

func decode(t *testing.T, file string, out any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, out); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// images are the values that packaging fills in, named by the images' roles.
func (p packaged) images() map[string]any {
	out := map[string]any{}
	for path, role := range p.declare.Images {
		at := out
		for _, key := range strings.Split(path, ".") {
			next, ok := at[key].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[key] = next
			}
			at = next
		}
		at["repository"], at["tag"] = "rancher/"+role, "TAG"
	}
	return out
}

// clusters are those that charts are rendered for.
func clusters() map[string]map[string]string {
	const dataDir = "/var/lib/rancher/rke2"
	four := config.Cluster{
		ClusterCIDR: []string{"10.42.0.0/16"}, ServiceCIDR: []string{"10.43.0.0/16"}, DNS: []string{"10.43.0.10"},
		Domain: "cluster.local", IngressClass: "ingress-nginx",
	}
	six := config.Cluster{
		ClusterCIDR: []string{"fd00:42::/56"}, ServiceCIDR: []string{"fd00:43::/112"}, DNS: []string{"fd00:43::a"},
		Domain: "cluster.local", IngressClass: "ingress-nginx",
	}
	both := four
	both.ClusterCIDR = append(slices.Clone(four.ClusterCIDR), six.ClusterCIDR...)
	both.ServiceCIDR = append(slices.Clone(four.ServiceCIDR), six.ServiceCIDR...)
	both.DNS = append(slices.Clone(four.DNS), six.DNS...)
	return map[string]map[string]string{
		"ipv4": four.Values(dataDir, ""), "ipv6": six.Values(dataDir, ""), "dual-stack": both.Values(dataDir, ""),
		"registry": four.Values(dataDir, registry),
	}
}

// render gives the objects for a cluster, with values of a user over all.
func (p packaged) render(t *testing.T, cluster map[string]string, user map[string]any) ([]charts.Object, error) {
	t.Helper()
	text, err := yaml.Marshal(user)
	if err != nil {
		t.Fatal(err)
	}
	opt := charts.Options{Namespace: "kube-system", IncludeCRDs: true, IncludeTests: true}
	opt.Values.Inline = p.images()
	opt.Values.Texts = []charts.Text{{Name: "user", YAML: text}}
	for _, key := range slices.Sorted(maps.Keys(cluster)) {
		opt.Values.Set = append(opt.Values.Set, key+"="+cluster[key])
	}
	return p.Render(t.Context(), opt)
}

// TestPackagedCharts holds every chart that a server installs against what all of them
// are to do. What they render to is in testdata/golden: the objects of a plain cluster,
// and of others, or of the values in the chart's tests folder, those that differ.
func TestPackagedCharts(t *testing.T) {
	found := all(t)
	if len(found) == 0 {
		t.Fatal("no chart was found")
	}
	for _, p := range found {
		t.Run(p.dir, func(t *testing.T) {
			p.checkMetadata(t)
			p.checkLint(t)
			p.checkSchema(t)
			plain := p.mustRender(t, clusters()["ipv4"], nil)
			p.checkObjects(t, plain, "docker.io/")
			p.checkObjects(t, p.mustRender(t, clusters()["registry"], nil), registry+"/")
			want := map[string][]charts.Object{p.dir: plain}
			for _, name := range []string{"dual-stack", "ipv6"} {
				other := p.mustRender(t, clusters()[name], nil)
				p.checkObjects(t, other, "docker.io/")
				want[p.dir+"."+name] = different(plain, other)
			}
			for name, values := range p.cases(t) {
				other := p.mustRender(t, clusters()["ipv4"], values)
				p.checkObjects(t, other, "docker.io/")
				want[p.dir+"."+name] = different(plain, other)
				if len(want[p.dir+"."+name]) == 0 {
					t.Errorf("tests/%s.yaml changes no object", name)
				}
			}
			p.compare(t, want)
		})
	}
	t.Run("goldens of no chart", func(t *testing.T) {
		files, err := filepath.Glob(filepath.Join(golden, "*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			name, _, _ := strings.Cut(filepath.Base(file), ".")
			if !slices.ContainsFunc(found, func(p packaged) bool { return p.dir == name }) {
				t.Errorf("%s is of no chart: remove it", file)
			}
		}
	})
}

// cases are the values in tests/NAME.yaml. Those of refused-NAME.yaml must be refused.
func (p packaged) cases(t *testing.T) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, "tests", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]any{}
	for _, file := range files {
		var values map[string]any
		decode(t, file, &values)
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		if !strings.HasPrefix(name, "refused-") {
			out[name] = values
			continue
		}
		if _, err := p.render(t, clusters()["ipv4"], values); err == nil {
			t.Errorf("%s is taken", file)
		}
	}
	return out
}

func (p packaged) mustRender(t *testing.T, cluster map[string]string, user map[string]any) []charts.Object {
	t.Helper()
	objects, err := p.render(t, cluster, user)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// checkMetadata: what packaging fills in is left open, and nothing of the project is in
// the chart.
func (p packaged) checkMetadata(t *testing.T) {
	t.Helper()
	if p.Name != p.dir || p.AppVersion != "0" || p.Annotations()["artifacthub.io/images"] != "" {
		t.Errorf("Chart.yaml says name %s, appVersion %q, annotations %v: want the folder's name, \"0\" and no images", p.Name, p.AppVersion, p.Annotations())
	}
	files, err := charts.ReadFolder(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name == "package.yaml" || strings.HasPrefix(f.Name, "tests/") || strings.HasPrefix(f.Name, "crds/") {
			t.Errorf("%s is in the chart: .helmignore names package.yaml and tests/, and crds/ would not be upgraded", f.Name)
		}
	}
	// Without what a node gives it can be looked at too.
	if _, err := p.render(t, nil, nil); err != nil {
		t.Errorf("with default values: %v", err)
	}
}

func (p packaged) checkLint(t *testing.T) {
	t.Helper()
	for _, m := range lint.All(p.dir, p.images(), "kube-system", false).Messages {
		if p.declare.CRDs != "" && m.Path == "templates/" {
			continue // its templates are made when it is packaged
		}
		if m.Severity >= support.WarningSev {
			t.Errorf("lint: %s: %v", m.Path, m.Err)
		}
	}
}

// checkSchema: a value that the chart does not know is refused, and so is one of the
// wrong type.
func (p packaged) checkSchema(t *testing.T) {
	t.Helper()
	f, err := os.Open(filepath.Join(p.dir, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parsed, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatalf("values.schema.json: %v", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("file:///schema", parsed); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("file:///schema")
	if err != nil {
		t.Fatal(err)
	}
	with := func(key string, value any) error {
		values := maps.Clone(p.values)
		if values == nil {
			values = map[string]any{}
		}
		if key != "" {
			values[key] = value
		}
		return schema.Validate(plain(t, values))
	}
	if err := with("", nil); err != nil {
		t.Errorf("the schema refuses the default values: %v", err)
	}
	if with("noSuchValue", 1) == nil {
		t.Error("the schema takes a value that the chart does not know: additionalProperties")
	}
	if _, err := p.render(t, nil, map[string]any{"noSuchValue": 1}); err == nil || !strings.Contains(err.Error(), "schema") {
		t.Errorf("the chart takes a value that it does not know: %v", err)
	}
	for key, value := range p.values {
		wrong := any([]any{map[string]any{"wrong": "type"}})
		if _, ok := value.([]any); ok {
			wrong = "wrong type"
		}
		if with(key, wrong) == nil {
			t.Errorf("the schema takes %v for %s", wrong, key)
		}
	}
	for path := range p.declare.Images {
		top, _, _ := strings.Cut(path, ".")
		value := p.values
		for _, key := range strings.Split(path, ".") {
			value, _ = value[key].(map[string]any)
		}
		for _, key := range []string{"registry", "repository", "tag", "digest"} {
			if _, ok := value[key].(string); !ok {
				t.Errorf("values.yaml has no %s.%s", path, key)
			}
		}
		if p.values[top] == nil {
			t.Errorf("values.yaml has no %s", top)
		}
	}
}

// plain is a value as a JSON decoder gives it.
func plain(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkObjects: images are those that are declared, from the registry and pulled only if
// they are not there; definitions are in charts of their own; objects have no field that
// their kind does not know.
func (p packaged) checkObjects(t *testing.T, objects []charts.Object, from string) {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, o := range objects {
		if crd, own := o.Kind == "CustomResourceDefinition", strings.HasSuffix(p.Name, "-crd"); crd != own {
			t.Errorf("%s: %s: definitions are in charts called …-crd, and nothing else is", o.Source, o)
		}
		if o.Namespace != "" && o.Namespace != "kube-system" && o.Kind != "Namespace" {
			t.Errorf("%s: %s is in another namespace", o.Source, o)
		}
		if group, version, ok := strings.Cut(o.APIVersion, "/"); !ok || scheme.Scheme.IsGroupRegistered(group) && version != "" {
			if _, _, err := decoder.Decode(o.Raw, nil, nil); err != nil {
				t.Errorf("%s: %s: %v", o.Source, o, err)
			}
		}
		if strings.Count(string(o.Raw), `"image":`) != strings.Count(string(o.Raw), `"imagePullPolicy":"IfNotPresent"`) {
			t.Errorf("%s: %s: imagePullPolicy is IfNotPresent for every container", o.Source, o)
		}
	}
	declared := map[string]bool{}
	for _, role := range p.declare.Images {
		declared[from+"rancher/"+role+":TAG"] = true
	}
	for _, u := range charts.Images(objects) {
		if !declared[u.Image] {
			t.Errorf("%s: %s: image %q (%s): want one of %q", u.Source, u.Object, u.Image, u.Path, slices.Sorted(maps.Keys(declared)))
		}
	}
}

// different are the objects of b that a does not have so, and the names of those that b
// has not.
func different(a, b []charts.Object) []charts.Object {
	var out []charts.Object
	for _, o := range b {
		if !slices.ContainsFunc(a, func(x charts.Object) bool { return string(x.Raw) == string(o.Raw) }) {
			out = append(out, o)
		}
	}
	for _, o := range a {
		if !slices.ContainsFunc(b, func(x charts.Object) bool { return x.Kind == o.Kind && x.Name == o.Name }) {
			out = append(out, charts.Object{Source: o.Source, Raw: json.RawMessage(`"` + o.String() + ` is not there"`)})
		}
	}
	return out
}

// compare holds what was rendered against the golden files, or rewrites them.
func (p packaged) compare(t *testing.T, want map[string][]charts.Object) {
	t.Helper()
	have, err := filepath.Glob(filepath.Join(golden, p.dir+".*yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range have {
		if len(want[strings.TrimSuffix(filepath.Base(file), ".yaml")]) > 0 {
			continue
		}
		if *update {
			err := os.Remove(file)
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		t.Errorf("%s is what nothing renders to: run make generate", file)
	}
	for name, objects := range want {
		if len(objects) == 0 {
			continue
		}
		file := filepath.Join(golden, name+".yaml")
		text := textOf(t, objects)
		if *update {
			if err := os.MkdirAll(golden, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		before, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%v: run make generate, and read what it wrote", err)
			continue
		}
		if string(before) != text {
			t.Errorf("%s: %s\nrun make generate, and read what it changed", file, firstDifference(string(before), text))
		}
	}
}

// textOf is YAML with sorted keys, in the order of the templates' names.
func textOf(t *testing.T, objects []charts.Object) string {
	t.Helper()
	var out strings.Builder
	for _, o := range objects {
		text, err := yaml.JSONToYAML(o.Raw)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n# " + o.Source + "\n" + string(text))
	}
	return out.String()
}

func firstDifference(a, b string) string {
	left, right := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(left), len(right)) {
		if left[i] != right[i] {
			return "line " + left[i] + " is " + right[i]
		}
	}
	return "it has more lines, or fewer"
}
