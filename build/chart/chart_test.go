package chart

import (
	"bytes"
	"context"
	"encoding/base64"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/modulefiles"
	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
)

const appChart = `# The app.
image: # ours
  registry: docker.io
  repository: ""   # filled in
  tag: ""
  digest: ""
sidecar: {image: {registry: docker.io, repository: "", tag: '', digest: ""}}
replicas: 1
`

// project is a tree of one component with two images, and a chart of them.
func project() map[string]string {
	return map[string]string{
		"images/product.yaml": "version-of: app\nrelease: r1\nfips140: v1.0.0\nregistry: docker.io\nrepo: rancher\ncharts: ../charts\n" +
			"image:\n  name: runtime\n  role: runtime\n  dockerfile: Dockerfile\n  sets: [core]\n",
		"images/Dockerfile":     "FROM scratch\nCOPY --from=charts / /charts/\n",
		"images/app/go.mod":     "module example.com/app\n\ngo 1.25.0\n\ntool example.com/app\n",
		"images/app/image.yaml": "description: app\nversion: v1.35.7\nimage:\n  name: hardened-app\n  role: app\n  sets: [core]\n",
		"images/app/Dockerfile": "FROM scratch\nCOPY --from=app / /\n",
		"charts/app/Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\nappVersion: \"0\" # the app's\n",
		"charts/app/package.yaml": "bootstrap: true\ncluster: true\ncni: net\napp: app\ntimeout: 10m\n" +
			"images:\n  image: app\n  sidecar.image: runtime\n",
		"charts/app/values.yaml":        appChart,
		"charts/app/values.schema.json": `{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {"replicas": {"type": "integer"}}}`,
		"charts/app/templates/app.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      containers:
      - name: app
        image: "{{ .Values.image.registry }}/{{ .Values.image.repository }}:{{ .Values.image.tag }}"
      - name: sidecar
        image: "{{ .Values.sidecar.image.registry }}/{{ .Values.sidecar.image.repository }}:{{ .Values.sidecar.image.tag }}"
`,
		"charts/none/Chart.yaml":              "apiVersion: v2\nname: none\nversion: 1.0.0\nappVersion: \"0\"\n",
		"charts/none/package.yaml":            "cluster: false\n",
		"charts/none/values.yaml":             "{}\n",
		"charts/none/templates/config.yaml":   "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: none}\n",
		"charts/app/templates/NOTES.txt":      "It runs.\n",
		"charts/app/tests/of-the-folder.yaml": "replicas: 2\n",
		"charts/app/.helmignore":              "tests/\n",
	}
}

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// packaged makes the charts of a tree, and gives the manifests by file name.
func packaged(t *testing.T, root, cacheDir string) (map[string]string, artifact.Artifact, error) {
	t.Helper()
	tree, err := images.Load(filepath.Join(root, "images"))
	if err != nil {
		return nil, artifact.Artifact{}, err
	}
	c, err := cache.Open(cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	component, ok := tree.Maker(images.ChartsName)
	if !ok {
		t.Fatal("nothing makes the charts")
	}
	m := New(c, modulefiles.New(c), tree, images.Naming{Registry: tree.Product.Registry, Repo: tree.Product.Repo})
	a, err := m.Make(context.Background(), component, artifact.Platform{OS: "linux", Arch: "amd64"}, nil)
	out := map[string]string{}
	for _, f := range a.Contexts[images.ChartsName] {
		text, err := os.ReadFile(f.Source)
		if err != nil {
			t.Fatal(err)
		}
		out[f.Path] = string(text)
	}
	return out, a, err
}

// manifest is a HelmChart as the helm-controller reads it.
type manifest struct {
	APIVersion, Kind string
	Metadata         struct {
		Name, Namespace string
		Annotations     map[string]string
	}
	Spec struct {
		Bootstrap                              bool
		ChartContent, TargetNamespace, Timeout string
	}
}

func decode(t *testing.T, text string) (manifest, *charts.Chart) {
	t.Helper()
	var m manifest
	if err := yaml.UnmarshalStrict([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(m.Spec.ChartContent)
	if err != nil {
		t.Fatal(err)
	}
	c, err := charts.Parse(raw, m.Metadata.Name)
	if err != nil {
		t.Fatal(err)
	}
	return m, c
}

func TestManifests(t *testing.T) {
	got, a, err := packaged(t, write(t, project()), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, []string{"app.yaml", "none.yaml"}) {
		t.Fatalf("got %q", names)
	}
	if a.Cached || a.Version != "v1.35.7+r1" || len(a.Materials) != 0 {
		t.Errorf("got %+v", a)
	}
	m, c := decode(t, got["app.yaml"])
	const refs = "docker.io/rancher/hardened-app:v1.35.7-r1,docker.io/rancher/runtime:v1.35.7-r1"
	want := map[string]string{charts.InjectAnnotation: "true", charts.CNIAnnotation: "net", charts.ImagesAnnotation: refs}
	if m.APIVersion != "helm.cattle.io/v1" || m.Kind != "HelmChart" || m.Metadata.Name != "app" || m.Metadata.Namespace != "kube-system" || !maps.Equal(m.Metadata.Annotations, want) {
		t.Errorf("got %+v", m.Metadata)
	}
	if !m.Spec.Bootstrap || m.Spec.TargetNamespace != "kube-system" || m.Spec.Timeout != "10m0s" {
		t.Errorf("bootstrap %v, namespace %s, timeout %s", m.Spec.Bootstrap, m.Spec.TargetNamespace, m.Spec.Timeout)
	}
	if c.AppVersion != "v1.35.7" || c.Version != "1.0.0" {
		t.Errorf("version %s of %s", c.Version, c.AppVersion)
	}
	objects, err := c.Render(t.Context(), charts.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, u := range charts.Images(objects) {
		used = append(used, u.Image)
	}
	if strings.Join(used, ",") != refs {
		t.Errorf("it runs %q", used)
	}
	m, c = decode(t, got["none.yaml"])
	if m.Spec.Bootstrap || len(m.Metadata.Annotations) != 0 || m.Spec.Timeout != "" || c.AppVersion != "v1.35.7+r1" {
		t.Errorf("got %+v, version of what it installs %s", m.Metadata, c.AppVersion)
	}
}

// TestReproducible: the same declarations and files give the same bytes, wherever they
// are, and nothing is made twice.
func TestReproducible(t *testing.T) {
	cacheDir, root := t.TempDir(), write(t, project())
	first, _, err := packaged(t, root, cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, _, err := packaged(t, write(t, project()), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(first, elsewhere) {
		t.Error("another folder gives other manifests")
	}
	again, a, err := packaged(t, write(t, project()), cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(first, again) || !a.Cached {
		t.Errorf("made again: cached %v", a.Cached)
	}
	// What is not in the chart changes nothing.
	if err := os.WriteFile(filepath.Join(root, "charts", "app", "tests", "more.yaml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	again, a, err = packaged(t, root, cacheDir)
	if err != nil || !maps.Equal(first, again) || !a.Cached {
		t.Errorf("a new test: cached %v, %v", a.Cached, err)
	}
	// A damaged entry is made anew.
	for _, f := range a.Contexts[images.ChartsName] {
		if err := os.WriteFile(f.Source, []byte("damaged"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if again, _, err = packaged(t, root, cacheDir); err != nil || !maps.Equal(first, again) {
		t.Errorf("after damage: %v", err)
	}
}

// TestWhatChangesWhat: a change reaches the charts that it is about, and no other.
func TestWhatChangesWhat(t *testing.T) {
	cacheDir := t.TempDir()
	first, _, err := packaged(t, write(t, project()), cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, file, old, new, changed string }{
		{"a template", "charts/app/templates/app.yaml", "name: sidecar", "name: other", "app.yaml"},
		{"a value", "charts/app/values.yaml", "replicas: 1", "replicas: 2", "app.yaml"},
		{"how it is packaged", "charts/app/package.yaml", "bootstrap: true\n", "", "app.yaml"},
		{"the other chart", "charts/none/package.yaml", "cluster: false", "cluster: true", "none.yaml"},
		{"the images' registry", "images/product.yaml", "registry: docker.io", "registry: registry.example.com:5000", "app.yaml"},
		{"the version of the app", "images/app/image.yaml", "v1.35.7", "v1.35.8", "app.yaml,none.yaml"},
	} {
		files := project()
		if !strings.Contains(files[c.file], c.old) {
			t.Fatalf("%s: no %q in %s", c.what, c.old, c.file)
		}
		files[c.file] = strings.Replace(files[c.file], c.old, c.new, 1)
		got, _, err := packaged(t, write(t, files), cacheDir)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		var changed []string
		for _, name := range slices.Sorted(maps.Keys(got)) {
			if got[name] != first[name] {
				changed = append(changed, name)
			}
		}
		if strings.Join(changed, ",") != c.changed {
			t.Errorf("%s changes %q, want %s", c.what, changed, c.changed)
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct{ what, file, old, new, want string }{
		{"an image of nobody", "charts/app/package.yaml", "image: app", "image: apple", `no image has the role "apple"`},
		{"no such value", "charts/app/package.yaml", "sidecar.image", "helper.image", "values.yaml: there is no helper, which is filled in"},
		{"a value that is half there", "charts/app/values.yaml", `tag: ''`, `tagged: ''`, "values.yaml: there is no sidecar.image.tag"},
		{"a name of its own", "charts/app/values.yaml", `repository: ""   #`, `repository: mine #`, `values.yaml:4: image.repository is filled in when the chart is packaged: write ""`},
		{"a tag of its own", "charts/app/values.yaml", `tag: ""`, `tag: latest`, `values.yaml:5: image.tag is filled in`},
		{"a version of its own", "charts/app/Chart.yaml", `"0"`, `"1.2"`, `Chart.yaml:4: appVersion is filled in when the chart is packaged: write "0"`},
		{"no version", "charts/app/Chart.yaml", `appVersion: "0"`, ``, "Chart.yaml: there is no appVersion"},
		{"another name", "charts/app/Chart.yaml", `name: app`, `name: apple`, "its Chart.yaml calls it apple, and its folder app"},
		{"values that are no YAML", "charts/app/values.yaml", "replicas: 1", "replicas: [", "values.yaml: yaml:"},
		{"a template that does not end", "charts/app/templates/app.yaml", "{{ .Values.replicas }}", "{{ .Values.replicas", "lint: "},
		{"a template of what is not there", "charts/app/templates/app.yaml", ".Values.replicas", ".Values.a.b.c", "nil pointer"},
		{"an image that is not declared", "charts/app/templates/app.yaml", `"{{ .Values.image.registry }}/`, `"quay.io/`,
			`app/templates/app.yaml: Deployment/app runs the image "quay.io/rancher/hardened-app:v1.35.7-r1" (spec.template.spec.containers[0].image), which is none of those under images in`},
		{"an old API", "charts/app/templates/app.yaml", "apps/v1", "apps/v1beta1", "lint: "},
		{"values that its schema refuses", "charts/app/values.yaml", "replicas: 1", "replicas: one", "replicas"},
		{"no object", "charts/none/templates/config.yaml", "kind: ConfigMap", "", "kind"},
		{"not a chart's version", "charts/none/Chart.yaml", "1.0.0", "one", "version"},
	} {
		t.Run(c.what, func(t *testing.T) {
			files := project()
			if !strings.Contains(files[c.file], c.old) {
				t.Fatalf("no %q in %s", c.old, c.file)
			}
			files[c.file] = strings.Replace(files[c.file], c.old, c.new, 1)
			_, _, err := packaged(t, write(t, files), t.TempDir())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %q in it", err, c.want)
			}
		})
	}
	files := project()
	delete(files, "charts/app/values.yaml")
	if _, _, err := packaged(t, write(t, files), t.TempDir()); err == nil || !strings.Contains(err.Error(), "packaging chart app: ") || !strings.Contains(err.Error(), "values.yaml") {
		t.Errorf("without values.yaml: got %v", err)
	}
}

func TestSet(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a: {b: \"\"} # é\n", "a: {b: \"v\"} # é\n"},
		{"é: 1\na:\n  b: ''\n  c: d", "é: 1\na:\n  b: \"v\"\n  c: d"},
		{"a: {ü: 'ä', b: '', b2: 1}", "a: {ü: 'ä', b: \"v\", b2: 1}"},
		{"a:\n  b: \"\"\nx: &b y\nz: *b\n", "a:\n  b: \"v\"\nx: &b y\nz: *b\n"},
	} {
		got, err := set("f", []byte(c.text), []edit{{path: []string{"a", "b"}, old: []string{""}, value: "v"}})
		if err != nil || string(got) != c.want {
			t.Errorf("%q: got %q, %v", c.text, got, err)
		}
	}
	for _, text := range []string{"", "a: 1", "a: {c: ''}", "a: {b: x}", "a: {b: []}", "a: {b: }", "a:\n  b:\n", "a: {b: !!str ''}", "a: {b: &x ''}", "a: {b: \"\\\n\"}", "- a", ":::\n-"} {
		if got, err := set("f", []byte(text), []edit{{path: []string{"a", "b"}, old: []string{""}, value: "v"}}); err == nil {
			t.Errorf("%q gives %q", text, got)
		}
	}
}

func TestDefinitionsAreTemplates(t *testing.T) {
	const crd = `# generated
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: things.example.com
  annotations: {a: b}
spec:
  description: such as {{ .Values }} or }}
---
# nothing
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: others.example.com}
`
	text, err := template([]byte(crd))
	if err != nil {
		t.Fatal(err)
	}
	c, err := charts.Pack([]charts.File{
		{Name: "Chart.yaml", Data: []byte("apiVersion: v2\nname: x\nversion: 1.0.0\n")}, {Name: "templates/crd.yaml", Data: text},
	}, "x")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := c.Render(t.Context(), charts.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 2 || objects[0].Annotations["a"] != "b" || !bytes.Contains(objects[0].Raw, []byte("such as {{ .Values }} or }}")) {
		t.Errorf("got %+v", objects)
	}
	for _, o := range objects {
		if o.Annotations[keepAnnotation] != "keep" {
			t.Errorf("%s has the annotations %v", o, o.Annotations)
		}
	}
	for _, bad := range []string{"kind: Pod\nmetadata: {}\n", "- a\n", "kind: CustomResourceDefinition\n", "a: ["} {
		if got, err := template([]byte(bad)); err == nil {
			t.Errorf("%q gives %q", bad, got)
		}
	}
}
