package closure

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/scan"
)

func TestSystemImages(t *testing.T) {
	core := system(t, nil)
	r := prove(t, Input{Bundles: []scan.File{core}})
	if !r.Complete || len(r.Gaps()) != 0 || len(r.Faults) != 0 {
		t.Errorf("gaps %q, faults %q", gaps(r), r.Faults)
	}
	if len(r.Images) != 4 {
		t.Errorf("%d images", len(r.Images))
	}
	kubernetes := find(t, r, systemImages["kubernetes"])
	if len(kubernetes.Needs) != 3 || kubernetes.Bundle != core.Path || kubernetes.Digest == "" {
		t.Errorf("got %+v", kubernetes)
	}
	if got := kubernetes.Needs[0].String(); got != "static pod, Pod kube-system/kube-apiserver, container kube-apiserver" {
		t.Errorf("got %q", got)
	}
	if len(r.Bundles) != 1 || r.Bundles[0].Images != 5 || r.Bundles[0].Used != 4 {
		t.Errorf("got %+v", r.Bundles)
	}
}

func TestNothing(t *testing.T) {
	r := prove(t, Input{})
	if r.Complete || len(r.Gaps()) != 4 || len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "which charts come with the node") {
		t.Errorf("gaps %q, faults %q", gaps(r), r.Faults)
	}
	r = prove(t, Input{Release: images.Release{Version: "none"}})
	if r.Complete || len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "without a release") {
		t.Errorf("faults %q", r.Faults)
	}
}

// TestPackagedCharts renders what the runtime image brings with the cluster's settings,
// and a HelmChartConfig of the operator's that turns a subchart on.
func TestPackagedCharts(t *testing.T) {
	shop, err := charts.Package("../../charts/testdata/charts/shop")
	must(t, err)
	core := system(t, map[string]string{
		"rke2-shop.yaml": helmChartOf(t, shop, charts.HelmChartOptions{Cluster: true}),
		"README":         "not a manifest",
	})
	config := file(t, "shop.yaml", `apiVersion: helm.cattle.io/v1
kind: HelmChartConfig
metadata: {name: shop, namespace: kube-system}
spec:
  valuesContent: |
    sessions: {enabled: true}
    image: {tag: "5.0"}
`)
	in := Input{Bundles: []scan.File{core}, Manifests: []string{config}}
	r := prove(t, in)
	server := find(t, r, "registry.example.com/shop/server:5.0")
	if server.Gap == nil || server.Needs[0].String() != "chart shop, Deployment kube-system/shop-server, container server" {
		t.Errorf("got %+v", server)
	}
	if got := server.Needs[0].Source; got != "shop/templates/deployment.yaml" {
		t.Errorf("from %q", got)
	}
	sessions := find(t, r, "registry.example.com/cache/large:7.2")
	if got := sessions.Needs[0].String(); got != "chart shop, subchart sessions, StatefulSet/shop-sessions, container cache" {
		t.Errorf("got %q", got)
	}
	find(t, r, "registry.example.com/cache/small:7.2")
	if job := find(t, r, jobImage); job.Gap != nil || job.Needs[0].String() != "helm job, HelmChart kube-system/shop, container helm" {
		t.Errorf("got %+v", job)
	}
	if !slices.ContainsFunc(r.Possible, func(i Image) bool { return i.Reference == "registry.example.com/shop/exporter:0.9" }) {
		t.Errorf("what the chart declares is not among %v", r.Possible)
	}
	if len(r.Charts) != 1 || r.Charts[0].Name != "shop" || r.Charts[0].Version != "1.2.3" || r.Charts[0].Images < 10 {
		t.Errorf("got %+v", r.Charts)
	}

	// The same, with every image that was missing.
	in.Bundles = append(in.Bundles, bundle(t, "shop.tar", "amd64", tagged(gaps(r))...))
	in.Optional = []string{"registry.example.com/shop/sidecar"} // by digest
	r = prove(t, in)
	if !r.Complete {
		t.Errorf("gaps %q, faults %q", gaps(r), r.Faults)
	}

	// The private registry's name is in the images that the chart makes, and a node
	// names what it imports so.
	in.Settings = Defaults("none")
	in.Settings.SystemDefaultRegistry = "registry.local:5000"
	r = prove(t, in)
	moved := find(t, r, "registry.local:5000/shop/server:5.0")
	if moved.Gap != nil || filepath.Base(moved.Bundle) != "shop.tar" {
		t.Errorf("got %+v, gap %+v", moved, moved.Gap)
	}
	if e := find(t, r, "registry.local:5000/rancher/hardened-etcd:v3.6.8-rke2r1"); e.Gap != nil {
		t.Errorf("got %+v", e.Gap)
	}
	if !r.Complete {
		t.Errorf("gaps %q, faults %q", gaps(r), r.Faults)
	}
}

// tagged leaves out what a bundle cannot have by that name.
func tagged(refs []string) []string {
	return slices.DeleteFunc(slices.Clone(refs), func(r string) bool { return strings.Contains(r, "@") })
}

func TestChoiceOfCharts(t *testing.T) {
	packaged := map[string]string{}
	for _, name := range []string{"rke2-canal", "rke2-calico", "rke2-calico-crd", "rke2-multus", "rke2-coredns", "rke2-ingress-nginx", "rke2-traefik", "harvester-csi-driver"} {
		packaged[name+".yaml"] = helmChartOf(t, chartOf(t, name, "example.com/"+name+":1", ""), charts.HelmChartOptions{})
	}
	core := system(t, packaged)
	for _, c := range []struct {
		config string
		want   string
	}{
		{"", "rke2-coredns rke2-ingress-nginx"},
		{"cni: canal", "rke2-canal rke2-coredns rke2-ingress-nginx"},
		{"cni: [multus, calico]\ndisable: rke2-coredns", "rke2-calico rke2-calico-crd rke2-ingress-nginx rke2-multus"},
		{"cni: multus,canal\ningress-controller: traefik\ndisable: [rke2-coredns]", "rke2-canal rke2-multus rke2-traefik"},
		{"ingress-controller: none\ncloud-provider-name: harvester", "harvester-csi-driver rke2-coredns"},
	} {
		s, err := ReadSettings(file(t, "config.yaml", c.config), Defaults("none"))
		must(t, err)
		r := prove(t, Input{Bundles: []scan.File{core}, Settings: s})
		var got []string
		for _, ch := range r.Charts {
			got = append(got, ch.Name)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q: got %q, want %q", c.config, got, c.want)
		}
	}
}

// TestAnnotatedCharts: what a chart is chosen by stands in its manifest.
func TestAnnotatedCharts(t *testing.T) {
	packaged := map[string]string{}
	for name, annotations := range map[string]map[string]string{
		"net": {charts.CNIAnnotation: "n"}, "net-crd": {charts.CNIAnnotation: "n"}, "other-net": {charts.CNIAnnotation: "o"},
		"front": {charts.IngressControllerAnnotation: "f"}, "rke2-kube-proxy": nil, "always": nil,
		"rke2-canal": {charts.CNIAnnotation: "n"}, // whatever its name says
	} {
		packaged[name+".yaml"] = helmChartOf(t, chartOf(t, name, "example.com/"+name+":1", ""), charts.HelmChartOptions{Annotations: annotations})
	}
	core := system(t, packaged)
	for _, c := range []struct {
		config string
		every  bool
		want   string
	}{
		{"", false, "always rke2-kube-proxy"},
		{"cni: n\ndisable-kube-proxy: true", false, "always net net-crd rke2-canal"},
		{"cni: [o]\ningress-controller: f\ndisable: always", false, "front other-net rke2-kube-proxy"},
		{"cni: o\ndisable: [always]", true, "always front net net-crd other-net rke2-canal rke2-kube-proxy"},
	} {
		s, err := ReadSettings(file(t, "config.yaml", c.config), Defaults("none"))
		must(t, err)
		s.AllCharts = c.every
		var got []string
		for _, ch := range prove(t, Input{Bundles: []scan.File{core}, Settings: s}).Charts {
			got = append(got, ch.Name)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q: got %q, want %q", c.config, got, c.want)
		}
	}
}

func TestManifests(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": `# several documents
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: apps}
spec:
  containers: [{name: c, image: example.com/one:1}]
--- # a list
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: two}
  spec: {containers: [{name: c, image: "example.com/two:1"}]}
- apiVersion: apps/v1
  kind: DaemonSetList
  items:
  - metadata: {name: three}
    spec: {template: {spec: {initContainers: [{name: i, image: "example.com/three:1"}]}}}
`,
		"sub/b.json":         `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"four"},"spec":{"containers":[{"name":"c","image":"four"}]}}`,
		"skipped.yaml":       "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: skipped}]}\n",
		"skipped.yaml.skip":  "",
		"disabled.yml":       "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: disabled}]}\n",
		"off/deep/x.yaml":    "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: off}]}\n",
		".hidden.yaml":       "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: hidden}]}\n",
		"notes.txt":          "image: notes",
		"broken.yaml":        "apiVersion: v1\nkind: [",
		"unnameable.yaml":    "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: c, image: 'Example.com/BAD:1'}]}\n",
		"rke2-coredns.yaml":  "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: delivered}]}\n",
		"customresource.yml": "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: t}\nspec: {image: 'example.com/thing:1'}\n",
	} {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	s := Defaults("none")
	s.Disable = []string{"disabled", "off/deep"}
	core := system(t, map[string]string{"rke2-coredns.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: dns}\nspec: {containers: [{name: c, image: example.com/dns}]}\n"})
	r := prove(t, Input{Bundles: []scan.File{core}, Manifests: []string{dir}, Settings: s})
	want := []string{"Example.com/BAD:1", "docker.io/library/four:latest", "example.com/dns:latest", "example.com/one:1", "example.com/thing:1", "example.com/three:1", "example.com/two:1"}
	if got := gaps(r); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "broken.yaml") {
		t.Errorf("faults %q", r.Faults)
	}
	if got := find(t, r, "example.com/three:1").Needs[0].String(); got != "manifest "+dir+"/a.yaml, DaemonSet/three, container i" {
		t.Errorf("got %q", got)
	}
	if g := find(t, r, "Example.com/BAD:1").Gap; !strings.Contains(g.Reason, "cannot start") {
		t.Errorf("got %q", g.Reason)
	}
	if n := find(t, r, "docker.io/library/four:latest").Needs[0]; n.Written != "four" {
		t.Errorf("got %+v", n)
	}
}

func TestGapsAndNearMisses(t *testing.T) {
	core := system(t, nil)
	apps := bundle(t, "apps.tar", "amd64", "example.com/app:1", "mirror.example.com/tools/kit:2")
	arm := bundle(t, "arm.tar", "arm64", "example.com/armed:1")
	digest := apps.Archive.Images()[0].Desc.Digest.String()
	broken := scan.File{Path: "/x/broken.tar", Err: fmt.Errorf("reading bundle broken.tar: truncated")}
	in := Input{Bundles: []scan.File{core, apps, arm, broken}, Optional: []string{"example.com/extra/*"}}
	for _, c := range []struct {
		image, reason, near string
	}{
		{"example.com/app:1", "", ""},
		{"example.com/app@" + digest, "", ""},
		{"example.com/app:9@" + digest, "", ""}, // the digest counts
		{"example.com/app:2", "other tags of the repository are there", "apps.tar example.com/app:1 linux/amd64"},
		{"example.com/app@sha256:" + strings.Repeat("0", 64), "by digest, and the repository's images in bundles have others", "apps.tar example.com/app:1 linux/amd64"},
		{"example.com/tools/kit:2", "under the name of another registry", "apps.tar mirror.example.com/tools/kit:2 linux/amd64"},
		{"example.com/armed:1", "for another platform only", "arm.tar example.com/armed:1 linux/arm64"},
		{"example.com/other:1", "no bundle has an image of that repository", ""},
	} {
		in.Images = []string{c.image}
		r := prove(t, in)
		image := find(t, r, fullReference(c.image))
		if c.reason == "" {
			if image.Gap != nil || image.Bundle != apps.Path || !r.Complete {
				t.Errorf("%s: got %+v, %+v", c.image, image, image.Gap)
			}
			continue
		}
		if image.Gap == nil || !strings.Contains(image.Gap.Reason, c.reason) || r.Complete {
			t.Errorf("%s: got %+v", c.image, image.Gap)
			continue
		}
		var near string
		for _, n := range image.Gap.Near {
			near += filepath.Base(n.Bundle) + " " + n.Reference + " " + n.Platform
		}
		if near != c.near {
			t.Errorf("%s: near is %q, not %q", c.image, near, c.near)
		}
	}
	in.Images = []string{"example.com/extra/one:1"}
	if r := prove(t, in); !r.Complete || !find(t, r, "example.com/extra/one:1").Optional || r.Bundles[3].Error == "" {
		t.Errorf("an optional image is a gap: %q", gaps(r))
	}
	in.Images, in.Platform = nil, v1.Platform{OS: "linux", Architecture: "arm64"}
	if r := prove(t, in); len(r.Gaps()) != 4 {
		t.Errorf("gaps on arm64: %q", gaps(r))
	}
	in.Optional = []string{"["}
	if _, err := Prove(t.Context(), in); err == nil {
		t.Error("a pattern that is none was taken")
	}
}

// TestImageNamedByItsIndex: pods name images by the digest of the index over several
// platforms, of which a bundle has one. It counts if the bundle names it so.
func TestImageNamedByItsIndex(t *testing.T) {
	core := system(t, nil)
	for _, named := range []bool{true, false} {
		apps, index := indexed(t, "example.com/app", named)
		digest := apps.Archive.Images()[0].Desc.Digest.String()
		in := Input{Bundles: []scan.File{core, apps}, Images: []string{"example.com/app:1@" + index, "example.com/app@" + digest}}
		r := prove(t, in)
		image := find(t, r, "example.com/app@"+index)
		if named != (image.Gap == nil) || !named && !strings.Contains(image.Gap.Reason, "it is asked for by") {
			t.Errorf("named %v: got %+v", named, image.Gap)
		}
		if g := find(t, r, "example.com/app@"+digest).Gap; g != nil {
			t.Errorf("named %v: by the manifest's digest: %+v", named, g)
		}
		in.Settings = Defaults("none")
		in.Settings.AirgapExtraRegistries = []string{"registry.local"}
		in.Images = []string{"registry.local/app@" + index}
		if g := find(t, prove(t, in), in.Images[0]).Gap; named != (g == nil) {
			t.Errorf("named %v, in another registry: got %+v", named, g)
		}
	}
}

func TestOverrides(t *testing.T) {
	s, err := ReadSettings(file(t, "config.yaml", `
kube-apiserver-image: example.com/apiserver:1
runtime-image: example.com/runtime:1
helm-job-image: example.com/job:1
pause-image: example.com/pause:1
`), Defaults("none"))
	must(t, err)
	chart := file(t, "c.yaml", helmChartOf(t, chartOf(t, "c", "example.com/c:1", ""), charts.HelmChartOptions{}))
	r := prove(t, Input{Bundles: []scan.File{system(t, nil)}, Settings: s, Manifests: []string{chart}})
	want := []string{"example.com/apiserver:1", "example.com/c:1", "example.com/job:1", "example.com/pause:1", "example.com/runtime:1"}
	if got := gaps(r); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := ReadSettings(file(t, "config.yaml", "etcd-image: 'A B'"), s); err == nil || !strings.Contains(err.Error(), "etcd-image") {
		t.Errorf("got %v", err)
	}
}
