package charts

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const shop = "testdata/charts/shop"

func mustLoad(t *testing.T, path string) *Chart {
	t.Helper()
	c, err := Load(t.Context(), Ref{Chart: path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lines are uses in one line each, for comparison.
func lines(uses []Use) []string {
	var out []string
	for _, u := range uses {
		out = append(out, fmt.Sprintf("%s %s %s %s %s", u.Reference, u.Chart, u.Object, u.Container, u.Certainty))
	}
	slices.Sort(out)
	return out
}

func TestImagesOfAChart(t *testing.T) {
	c := mustLoad(t, shop)
	if c.Name != "shop" || c.Version != "1.2.3" || c.AppVersion != "4.5" {
		t.Fatalf("got %s %s %s", c.Name, c.Version, c.AppVersion)
	}
	objects, err := c.Render(t.Context(), Options{Name: "web", Namespace: "shops", KubeVersion: "v1.35.4+rke2r1", IncludeCRDs: true})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(`
docker.io/library/busybox:1.37 shop ConfigMap/helper helper needed
docker.io/library/busybox:latest shop Deployment shops/web-server wait needed
quay.io/example/reloader:v3 shop Deployment shops/web-server server possible
quay.io/example/solver:v2 shop Deployment shops/web-server server needed
registry.example.com/cache/small:7.2 shop/cache StatefulSet/web-cache cache needed
registry.example.com/shop/agent:7 shop Queue/orders agent needed
registry.example.com/shop/migrate:1 shop Job/migrate migrate needed
registry.example.com/shop/queue:7 shop Queue/orders  needed
registry.example.com/shop/server:4.5 shop Deployment shops/web-server server needed
registry.example.com/shop/sidecar@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef shop Deployment shops/web-server server needed
registry.example.com/shop/site:1 shop Deployment shops/web-server  needed
registry.example.com/shop/tidy:1 shop CronJob/tidy tidy needed
registry.example.com/shop/worker:4.5 shop Deployment shops/web-server worker needed
`), "\n")
	got := lines(Images(objects))
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestValuesChangeWhatIsMade turns a subchart on, another off, and names other images.
func TestValuesChangeWhatIsMade(t *testing.T) {
	c := mustLoad(t, shop)
	path := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(path, []byte("cache: {enabled: false}\nimage: {tag: file}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	images := func(opt Options) string {
		t.Helper()
		opt.KubeVersion = "1.35.4"
		objects, err := c.Render(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, u := range Images(objects) {
			all = append(all, u.Reference)
		}
		return strings.Join(all, " ")
	}
	for _, c := range []struct {
		opt      Options
		has, not string
	}{
		{Options{}, "cache/small:7.2", "cache/large"},
		{Options{Values: Values{Files: []string{path}}}, "server:file", "cache/"},
		{Options{Values: Values{Files: []string{path}, Texts: []Text{{"t", []byte("image: {tag: text}")}}}}, "server:text", "cache/"},
		{Options{Values: Values{Texts: []Text{{"t", []byte("image: {tag: text}")}}, Inline: map[string]any{"image": map[string]any{"tag": "inline"}}}}, "server:inline", ":text"},
		{Options{Values: Values{Inline: map[string]any{"image": map[string]any{"tag": "inline"}}, Set: []string{"image.tag=set"}}}, "server:set", ":inline"},
		{Options{Values: Values{Set: []string{"image.tag=set"}, SetString: []string{"image.tag=7"}}}, "server:7", ":set"},
		{Options{Values: Values{Set: []string{"sessions.enabled=true,cache.enabled=false"}}}, "cache/large:7.2", "cache/small"},
		{Options{Values: Values{Set: []string{"sessions.enabled=true,sessions.size=huge"}}}, "cache/huge:7.2", "cache/large"},
		{Options{Values: Values{Set: []string{"global.systemDefaultRegistry=reg.local:5000"}}}, "reg.local:5000/shop/server:4.5", "example.com/shop/server"},
		{Options{APIVersions: []string{"monitoring.coreos.com/v1"}}, "quay.io/example/prometheus:v3", "shop/ping"},
		{Options{IncludeTests: true}, "shop/ping:1", "prometheus"},
	} {
		if got := images(c.opt); !strings.Contains(got, c.has) || strings.Contains(got, c.not) {
			t.Errorf("%+v: %q wanted and %q not, got %s", c.opt, c.has, c.not, got)
		}
	}
	if _, err := c.Render(t.Context(), Options{KubeVersion: "v1.20.0"}); err == nil || !strings.Contains(err.Error(), "wants Kubernetes >= 1.28") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Render(t.Context(), Options{KubeVersion: "new"}); err == nil || !strings.Contains(err.Error(), `"new"`) {
		t.Errorf("got %v", err)
	}
}

// TestCRDs come first, and nothing of their schemas is taken for an image.
func TestCRDs(t *testing.T) {
	c := mustLoad(t, shop)
	for _, with := range []bool{true, false} {
		objects, err := c.Render(t.Context(), Options{KubeVersion: "v1.35.4", IncludeCRDs: with})
		if err != nil {
			t.Fatal(err)
		}
		if is := objects[0].Kind == "CustomResourceDefinition"; is != with {
			t.Errorf("with CRDs %v: first is %s of %s", with, objects[0], objects[0].Source)
		}
	}
}

func TestMissingSubchart(t *testing.T) {
	c, err := Parse(tgz(t, entry{name: "x/Chart.yaml", data: minimal + "dependencies: [{name: dep, version: 1.x.x, repository: 'https://example.com'}]\n"}), "it")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Render(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "lacks the charts that it depends on (dep)") {
		t.Errorf("got %v", err)
	}
}

// TestDeclaredImages reads what maintainers say, which may be anything.
func TestDeclaredImages(t *testing.T) {
	var got []string
	for _, u := range mustLoad(t, shop).DeclaredImages() {
		got = append(got, string(u.Certainty)+" "+u.Reference)
	}
	if want := []string{"possible registry.example.com/shop/server:4.5", "possible registry.example.com/shop/exporter:0.9"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	c, err := Parse(tgz(t, entry{name: "x/Chart.yaml", data: minimal + "annotations: {artifacthub.io/images: 'see the README'}\n"}), "it")
	if err != nil || c.DeclaredImages() != nil {
		t.Errorf("got %v, %v", c.DeclaredImages(), err)
	}
}

func TestParseObjects(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\n"
	doc := func(name string) string { return fmt.Sprintf(pod, name) }
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"one":                 {doc("a"), "Pod/a"},
		"two":                 {doc("a") + "---\n" + doc("b"), "Pod/a Pod/b"},
		"Windows":             {strings.ReplaceAll("\xef\xbb\xbf---\n"+doc("a")+"---\n"+doc("b"), "\n", "\r\n"), "Pod/a Pod/b"},
		"comments":            {"# first\n--- # second\n" + doc("a") + "---\n# last\n", "Pod/a"},
		"directive and end":   {"%YAML 1.1\n---\n" + doc("a") + "...\n---\n" + doc("b"), "Pod/a Pod/b"},
		"content on the line": {"--- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n", "Pod/a"},
		"dashes in text":      {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: |\n    ---\n    y\n", "ConfigMap/a"},
		"flow":                {"{apiVersion: v1, kind: Pod, metadata: {name: a}}\n", "Pod/a"},
		"JSON":                {`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}} {"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}`, "Pod/a Pod/b"},
		"a generated name":    {"apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-, namespace: ns}\n", "Pod ns/a-"},
		"an empty list":       {"apiVersion: v1\nkind: List\nitems: []\n", ""},
		"no list":             {"apiVersion: v1\nkind: AllowList\nmetadata: {name: a}\n", "AllowList/a"},
		"nothing":             {"\n---\n\n---\n", ""},
		"no kind":             {"apiVersion: v1\n", "error"},
		"a list":              {"- a\n", "error"},
		"a word":              {"hello\n", "error"},
		"not YAML":            {"a: b: c\n", "error"},
	} {
		objects, err := ParseObjects("it", []byte(c.text))
		var names []string
		for _, o := range objects {
			names = append(names, o.String())
		}
		got := strings.Join(names, " ")
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, c.want)
		}
	}
}
