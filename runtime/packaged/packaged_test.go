package packaged

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rancher/rke2/charts"
)

func chart(name, annotations, spec string) string {
	return "apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata:\n  name: " + name + "\n  namespace: kube-system\n  annotations: {" + annotations + "}\nspec: {" + spec + "}\n"
}

// folder is a runtime image's /charts.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func release(t *testing.T) []Chart {
	t.Helper()
	all, err := Read(folder(t, map[string]string{
		"rke2-canal.yaml":         chart("rke2-canal", "rke2.cattle.io/cni: canal, rke2.cattle.io/images: 'a/calico:1,a/flannel:1'", "bootstrap: true"),
		"rke2-canal-crd.yaml":     chart("rke2-canal-crd", "rke2.cattle.io/cni: canal", "bootstrap: true"),
		"rke2-flannel.yaml":       chart("rke2-flannel", "rke2.cattle.io/cni: flannel", "bootstrap: true"),
		"rke2-kube-proxy.yaml":    chart("rke2-kube-proxy", "", "bootstrap: true"),
		"rke2-coredns.yaml":       chart("rke2-coredns", "", "bootstrap: true"),
		"rke2-ingress-nginx.yaml": chart("rke2-ingress-nginx", "rke2.cattle.io/ingress-controller: ingress-nginx", ""),
		"classes.yaml":            "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: x}\nhandler: x\n",
		"notes.txt":               "kind: HelmChart", ".hidden.yaml": "kind: HelmChart",
	}))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRead(t *testing.T) {
	all := release(t)
	names := []string{"classes", "rke2-canal", "rke2-canal-crd", "rke2-coredns", "rke2-flannel", "rke2-ingress-nginx", "rke2-kube-proxy"}
	if got := namesOf(all); !slices.Equal(got, slices.Sorted(slices.Values(names))) {
		t.Fatalf("got %q", got)
	}
	at := func(name string) Chart {
		return all[slices.IndexFunc(all, func(c Chart) bool { return c.Name == name })]
	}
	if c := at("classes"); c.Helm || c.Bootstrap || c.File != "classes.yaml" {
		t.Errorf("what is no chart: %+v", c)
	}
	if c := at("rke2-canal"); !c.Helm || !c.Bootstrap || c.CNI() != "canal" || !slices.Equal(c.Images(), []string{"a/calico:1", "a/flannel:1"}) || c.Namespace != "kube-system" {
		t.Errorf("a network: %+v", c)
	}
	if at("rke2-ingress-nginx").Bootstrap {
		t.Error("what nodes do not need is said to be needed")
	}
	if none, err := Read(filepath.Join(t.TempDir(), "none")); err != nil || none != nil {
		t.Errorf("no folder: %v, %v", none, err)
	}
	for name, text := range map[string]string{
		"other.yaml": chart("rke2-canal", "", ""), "broken.yaml": "kind: HelmChart\nmetadata: [\n",
		"large.yaml": strings.Repeat("#", maxManifest+1),
	} {
		if _, err := Read(folder(t, map[string]string{name: text})); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func namesOf(all []Chart) []string {
	var out []string
	for _, c := range all {
		out = append(out, c.Name)
	}
	return out
}

func TestSelect(t *testing.T) {
	all := release(t)
	for _, c := range []struct {
		what   string
		choice charts.Choice
		want   string // chosen
		says   string // in the warning or the error
	}{
		{"the default", charts.Choice{CNI: []string{"canal"}, IngressController: []string{"ingress-nginx"}},
			"classes rke2-canal rke2-canal-crd rke2-coredns rke2-ingress-nginx rke2-kube-proxy", ""},
		{"another network, less", charts.Choice{CNI: []string{"flannel"}, IngressController: []string{"none"}, Disable: []string{"rke2-coredns", "classes"}, NoKubeProxy: true},
			"rke2-flannel", ""},
		{"none at all", charts.Choice{CNI: []string{"none"}, IngressController: []string{"none"}, Disable: []string{"rke2-coredns", "rke2-canal", "classes"}, NoKubeProxy: true}, "", ""},
		{"names that nobody has", charts.Choice{CNI: []string{"none"}, IngressController: []string{"none"}, Disable: []string{"traefik", "mine"}},
			"classes rke2-coredns rke2-kube-proxy", "disable: traefik is no chart of this release"},
		{"a network without a chart", charts.Choice{CNI: []string{"cilium"}, IngressController: []string{"none"}}, "", "must be one of canal, flannel, or none"},
		{"a plugin without a chart, before one that has", charts.Choice{CNI: []string{"multus", "canal"}, IngressController: []string{"none"}}, "", `cni "multus"`},
		{"an ingress controller without a chart", charts.Choice{CNI: []string{"none"}, IngressController: []string{"traefik"}}, "", "must be one of ingress-nginx, or none"},
	} {
		s, err := Select(all, c.choice, []string{"mine"})
		said := strings.Join(s.Warnings, "\n")
		if err != nil {
			said = err.Error()
		}
		if !strings.Contains(said, c.says) || (said != "") != (c.says != "") {
			t.Errorf("%s: says %q, want %q", c.what, said, c.says)
		}
		if got := strings.Join(namesOf(s.Chosen), " "); err == nil && got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
		if err == nil && len(s.Chosen)+len(s.Off) != len(all) {
			t.Errorf("%s: %d chosen and %d off of %d", c.what, len(s.Chosen), len(s.Off), len(all))
		}
	}
	if _, err := Select(nil, charts.Choice{CNI: []string{"canal"}}, nil); err == nil || !strings.Contains(err.Error(), "`cni: none`") {
		t.Errorf("a runtime image without charts: %v", err)
	}
}
