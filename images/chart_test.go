package images

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// charted is a tree with charts: two that count, and what is passed over.
func charted() map[string]string {
	files := tiny()
	files["product.yaml"] += "charts: ../charts\n"
	maps.Copy(files, map[string]string{
		"../charts/README.md":           "not a folder",
		"../charts/notes.go":            "package charts\n",
		"../charts/testdata/values.txt": "not a chart",
		"../charts/b-dns/package.yaml": `bootstrap: true
cluster: true
app: own
images:
  image: app
  scaler.image: runtime
timeout: 10m
`,
		"../charts/b-dns/Chart.yaml":     "name: b-dns\n",
		"../charts/a-net-crd/Chart.yaml": "name: a-net-crd\n",
		"../charts/a-net-crd/package.yaml": `cni: net
crds: app-files
`,
	})
	files["app/image.yaml"] += "files:\n  app-files: {module: example.com/app, paths: ['*.yaml']}\n"
	return files
}

func TestLoadCharts(t *testing.T) {
	tree, err := Load(write(t, charted()))
	if err != nil {
		t.Fatal(err)
	}
	c, ok := tree.Maker(ChartsName)
	if !ok || c.Kind != KindCharts || c.Version != "v1.35.4+rke2r1" || len(c.Charts) != 2 {
		t.Fatalf("got %+v", c)
	}
	crds, dns := c.Charts[0], c.Charts[1]
	if crds.Name != "a-net-crd" || crds.CNI != "net" || crds.CRDs == nil || crds.CRDs.Component != "app" || crds.AppVersion != tree.Product.Version {
		t.Errorf("got %+v", crds)
	}
	if !dns.Bootstrap || !dns.Cluster || dns.AppVersion != "v0.1.0" || dns.Timeout != 10*time.Minute || dns.CRDs != nil {
		t.Errorf("got %+v", dns)
	}
	if len(dns.Images) != 2 || dns.Images[0].Path != "image" || dns.Images[0].Image != "hardened-app" || dns.Images[1].Image != "app-runtime" {
		t.Errorf("images %+v", dns.Images)
	}
}

// A chart of which nothing is to be said may say so in an empty file.
func TestEmptyPackageFile(t *testing.T) {
	files := charted()
	files["../charts/b-dns/package.yaml"] = "# nothing of note\n"
	tree, err := Load(write(t, files))
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := tree.Maker(ChartsName); len(c.Charts) != 2 {
		t.Errorf("got %+v", c.Charts)
	}
}

func TestLoadRefusesCharts(t *testing.T) {
	for _, c := range []struct{ name, file, old, new, want string }{
		{"unknown key", "b-dns", "bootstrap: true", "bootstrapped: true", `package.yaml:1: unknown key "bootstrapped"`},
		{"key twice", "b-dns", "cluster: true", "bootstrap: true", "package.yaml:2: mapping key"},
		{"wrong type", "b-dns", "bootstrap: true", "bootstrap: often", "package.yaml:1: cannot unmarshal"},
		{"unknown image", "b-dns", "image: app", "image: apple", `package.yaml:5: images: image: no image has the role "apple"; known are: app, runtime`},
		{"unknown component", "b-dns", "app: own", "app: other", `package.yaml:3: app: there is no component "other"; known are: app, own`},
		{"bad time", "b-dns", "10m", "soon", `package.yaml:7: timeout: "soon"`},
		{"no time", "b-dns", "10m", "-1s", `package.yaml:7: timeout: "-1s"`},
		{"unknown definitions", "a-net-crd", "app-files", "files", `package.yaml:2: crds: no component has files called "files"; known are: app-files`},
		{"bad network", "a-net-crd", "cni: net", "cni: a,b", `package.yaml:1: cni: "a,b"`},
		{"chosen twice", "a-net-crd", "crds: app-files", "ingress-controller: x", "package.yaml:2: a chart is chosen by cni or by ingress-controller"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := charted()
			file := "../charts/" + c.file + "/package.yaml"
			if !strings.Contains(files[file], c.old) {
				t.Fatalf("%s has no %q", file, c.old)
			}
			files[file] = strings.Replace(files[file], c.old, c.new, 1)
			_, err := Load(write(t, files))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %q in it", err, c.want)
			}
		})
	}
	files := charted()
	files["product.yaml"] = strings.Replace(files["product.yaml"], "../charts", "../nowhere", 1)
	if _, err := Load(write(t, files)); err == nil || !strings.Contains(err.Error(), "product.yaml:11: charts: ") {
		t.Errorf("no folder: got %v", err)
	}
	files = charted()
	files["../charts/Up/Chart.yaml"], files["../charts/Up/package.yaml"] = "name: Up\n", "cluster: true\n"
	if _, err := Load(write(t, files)); err == nil || !strings.Contains(err.Error(), "lower-case words") {
		t.Errorf("upper case: got %v", err)
	}
	for missing, lone := range map[string]string{PackageFile: "Chart.yaml", "Chart.yaml": PackageFile} {
		files = charted()
		files["../charts/half/"+lone] = ""
		if _, err := Load(write(t, files)); err == nil || !strings.Contains(err.Error(), "reading chart half: ") || !strings.Contains(err.Error(), "charts/half/"+missing+" is missing") {
			t.Errorf("only %s: got %v", lone, err)
		}
	}
	dir := write(t, charted())
	if err := os.MkdirAll(filepath.Join(dir, "..", "charts", "x", "package.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "..", "charts", "x", "Chart.yaml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a folder: got %v", err)
	}
}

func TestImagesOfTestsAreNotReleased(t *testing.T) {
	for sets, want := range map[string]bool{"core": true, "test": false, "core,test": true} {
		if got := (Image{Sets: strings.Split(sets, ",")}).Released(); got != want {
			t.Errorf("%s: %v", sets, got)
		}
	}
}
