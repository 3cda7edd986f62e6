package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tiny is a tree that loads: one component of a module, one of our own, two images.
func tiny() map[string]string {
	return map[string]string{
		"product.yaml": `version-of: app
release: rke2r1
fips140: v1.0.0
registry: docker.io
repo: rancher
image:
  name: app-runtime
  role: runtime
  dockerfile: ../Dockerfile.runtime
  sets: [core]
`,
		"../Dockerfile.runtime": "FROM scratch\n",
		"app/go.mod": `module example.com/images/app

go 1.25.0

tool (
	example.com/app/cmd/serve
	example.com/app/v3
)

require example.com/app v1.35.4

require example.com/fork v0.0.1
`,
		"app/image.yaml": `description: an app
module: example.com/app
tags: [one]
ldflags:
  - -X main.version={{.Version}} -X main.product={{.Product}}
  - -X main.mm={{.Major}}.{{.Minor}}
binaries:
  served:
    package: example.com/app/v3
    tags: [two]
image:
  name: hardened-app
  role: app
  sets: [extra, core]
`,
		"app/Dockerfile": "FROM scratch\n",
		"own/go.mod":     "module example.com/images/own\n\ngo 1.25.0\n\ntool example.com/images/own\n",
		"own/image.yaml": "description: ours\nversion: v0.1.0\n",
	}
}

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "images")
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	tree, err := Load(write(t, tiny()))
	if err != nil {
		t.Fatal(err)
	}
	want := Product{Version: "v1.35.4+rke2r1", Kubernetes: "v1.35.4", Release: "rke2r1", FIPS140: "v1.0.0", Registry: "docker.io", Repo: "rancher"}
	if tree.Product != want {
		t.Errorf("product %+v, want %+v", tree.Product, want)
	}
	app, ok := tree.Maker("served")
	if !ok || app.Name != "app" || len(app.Binaries) != 2 {
		t.Fatalf("served is made by %+v", app)
	}
	serve, served := app.Binaries[0], app.Binaries[1]
	if serve.Name != "serve" || serve.Package != "example.com/app/cmd/serve" || strings.Join(serve.Tags, ",") != "netgo,osusergo,one" {
		t.Errorf("serve: %+v", serve)
	}
	if served.Package != "example.com/app/v3" || strings.Join(served.Tags, ",") != "netgo,osusergo,one,two" {
		t.Errorf("served: %+v", served)
	}
	flags := strings.Join(serve.LDFlags, " ")
	if flags != "-X main.version=v1.35.4 -X main.product=v1.35.4+rke2r1 -X main.mm=1.35" {
		t.Errorf("ldflags %q", flags)
	}
	img, ok := tree.Image("hardened-app")
	if !ok || img.Tag != "v1.35.4-rke2r1" || strings.Join(img.Sets, ",") != "core,extra" {
		t.Errorf("image %+v", img)
	}
	tag, err := (Naming{Registry: "registry.example.com:5000", Repo: "a/b"}).Tag(img)
	if err != nil || tag.String() != "registry.example.com:5000/a/b/hardened-app:v1.35.4-rke2r1" {
		t.Errorf("reference %v, %v", tag, err)
	}
	if _, ok := tree.Maker("own"); !ok {
		t.Error("nothing makes own")
	}
}

// Whatever is wrong is said with the file, and with the line where there is one.
func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct {
		name, file, old, new, want string
	}{
		{"unknown key", "app/image.yaml", "tags: [one]", "tagz: [one]", `app/image.yaml:3: unknown key "tagz"`},
		{"unknown nested key", "app/image.yaml", "    tags: [two]", "    flags: [two]", `app/image.yaml:10: unknown key "flags"`},
		{"unknown key of an image", "app/image.yaml", "  role: app", "  rule: app", `app/image.yaml:13: unknown key "rule"`},
		{"unknown product key", "product.yaml", "release: rke2r1", "release: rke2r1\nrelase: x", `product.yaml:3: unknown key "relase"`},
		{"key twice", "app/image.yaml", "module: example.com/app", "module: example.com/app\nmodule: b", "app/image.yaml:3: mapping key"},
		{"wrong type", "app/image.yaml", "tags: [one]", "tags: one", "app/image.yaml:3: cannot unmarshal"},
		{"not yaml", "app/image.yaml", "tags: [one]", "tags: [one", "app/image.yaml:"},
		{"two documents", "own/image.yaml", "version: v0.1.0\n", "version: v0.1.0\n---\na: b\n", "own/image.yaml:3: a second document"},
		{"empty", "own/image.yaml", "description: ours\nversion: v0.1.0\n", "", "own/image.yaml: it is empty"},
		{"no description", "own/image.yaml", "description: ours\n", "", "own/image.yaml:1: description is missing"},
		{"module and version", "app/image.yaml", "module: example.com/app", "module: example.com/app\nversion: v1.2.3", "app/image.yaml:3: version is declared in go.mod already"},
		{"two kinds", "own/image.yaml", "version: v0.1.0", "version: v0.1.0\ndebian: {packages: [x]}", "own/image.yaml:1: a component is of one kind"},
		{"no certified cryptography", "app/image.yaml", "tags: [one]", "crypto: none", "app/image.yaml:3: crypto-reason is missing"},
		{"a reason for nothing", "app/image.yaml", "tags: [one]", "crypto-reason: x", "app/image.yaml:3: crypto-reason is for"},
		{"Debian without mirrors", "own/image.yaml", "version: v0.1.0", "crypto-reason: x\ndebian: {packages: [x]}", "product.yaml: debian is missing"},
		{"no packages", "own/image.yaml", "version: v0.1.0", "crypto-reason: x\ndebian: {packages: []}", "own/image.yaml:1: debian: name at least one package"},
		{"an empty command", "own/image.yaml", "version: v0.1.0", "crypto-reason: x\nsource: {package: x, build: [[]], binaries: {x: x}}", "build has an empty command"},
		{"upstream without a tag", "own/image.yaml", "version: v0.1.0", "crypto-reason: x\nupstream: {image: busybox}", "own/image.yaml:3: upstream: image \"busybox\""},
		{"upstream's key elsewhere", "own/image.yaml", "version: v0.1.0", "crypto-reason: x\nupstream: {image: 'docker.io/library/x:1', key: ../k.pub}", "upstream: key"},
		{"files of an unknown module", "app/image.yaml", "tags: [one]", "files: {f: {module: x}}", "app/image.yaml:3: files: f: go.mod does not require"},
		{"an edit of nothing", "app/image.yaml", "tags: [one]", "files: {f: {module: example.com/app, edits: [{file: a}]}}", "an edit needs file and replace"},
		{"neither", "own/image.yaml", "version: v0.1.0", "tags: []", "own/image.yaml:1: module (its"},
		{"bad version", "own/image.yaml", "v0.1.0", "latest", `own/image.yaml:2: version: "latest"`},
		{"module not required", "app/image.yaml", "module: example.com/app", "module: example.com/apple", "app/image.yaml:2: module:"},
		{"replaced by a folder", "app/go.mod", "require example.com/fork v0.0.1", "replace example.com/app => ../x", "app/go.mod:12: example.com/app is replaced by a folder"},
		{"broken go.mod", "app/go.mod", "require example.com/fork v0.0.1", "wish example.com/fork v0.0.1", "app/go.mod:12"},
		{"binary without tool", "app/image.yaml", "package: example.com/app/v3", "package: example.com/app/v4", "app/image.yaml:9: binary served: go.mod has no tool directive"},
		{"binary of nothing", "app/image.yaml", "  served:", "  other:\n    tags: [x]\n  served:", `app/image.yaml: binary "other"`},
		{"no tool", "own/go.mod", "tool example.com/images/own\n", "", "own/go.mod: no tool directive"},
		{"two commands of one name", "app/go.mod", "	example.com/app/v3", "	example.com/app/v3\n	example.com/fork/cmd/serve", "app/go.mod:8: two commands are called serve"},
		{"binary of two components", "own/go.mod", "tool example.com/images/own", "tool example.com/serve", `build context "serve"`},
		{"template", "app/image.yaml", "{{.Major}}", "{{.Mayor}}", "app/image.yaml:6: ldflags:"},
		{"template syntax", "app/image.yaml", "{{.Major}}", "{{.Major", "app/image.yaml:6: ldflags:"},
		{"crypto", "app/image.yaml", "tags: [one]", "crypto: rot13", `app/image.yaml:3: crypto: "rot13"`},
		{"library", "app/image.yaml", "tags: [one]", "cgo: {libraries: [{file: a/b.a, package: x}]}", `cgo library "a/b.a"`},
		{"image name", "app/image.yaml", "name: hardened-app", "name: Hardened", `app/image.yaml:12: image name "Hardened"`},
		{"no role", "app/image.yaml", "  role: app\n", "", "app/image.yaml:12: image hardened-app needs a role"},
		{"no set", "app/image.yaml", "  sets: [extra, core]\n", "", "app/image.yaml:12: image hardened-app is in no set"},
		{"bad set", "app/image.yaml", "extra, core", "\"a,b\"", "app/image.yaml:12: image hardened-app: set"},
		{"no Dockerfile", "app/image.yaml", "  role: app", "  role: app\n  dockerfile: x/Dockerfile", "app/image.yaml:14: image hardened-app: there is no file"},
		{"name taken", "app/image.yaml", "name: hardened-app", "name: app-runtime", "app/image.yaml:12: image app-runtime"},
		{"role taken", "app/image.yaml", "role: app", "role: runtime", "name or role is taken"},
		{"product of nothing", "product.yaml", "version-of: app", "version-of: kubernetes", `product.yaml:1: version-of: there is no component "kubernetes"`},
		{"release", "product.yaml", "release: rke2r1", "release: rke2+r1", "product.yaml:2: release:"},
		{"fips", "product.yaml", "fips140: v1.0.0", "fips140: latest", "product.yaml:3: fips140:"},
		{"registry", "product.yaml", "registry: docker.io", "registry: 'a b'", "product.yaml:4: registry:"},
		{"repo", "product.yaml", "repo: rancher", "repo: UPPER", "product.yaml:5: repo:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := tiny()
			if !strings.Contains(files[c.file], c.old) {
				t.Fatalf("%s has no %q", c.file, c.old)
			}
			files[c.file] = strings.Replace(files[c.file], c.old, c.new, 1)
			_, err := Load(write(t, files))
			if err == nil {
				t.Fatal("loaded")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q\nwant %q in it", err, c.want)
			}
		})
	}
}

func TestLoadRefusesWrapperWithoutDeclaration(t *testing.T) {
	files := tiny()
	delete(files, "own/image.yaml")
	if _, err := Load(write(t, files)); err == nil || !strings.Contains(err.Error(), "own: a wrapper module without an image.yaml") {
		t.Errorf("got %v", err)
	}
}

func TestReplacedVersion(t *testing.T) {
	files := tiny()
	files["app/go.mod"] += "\nreplace example.com/app => example.com/fork v1.36.0\n"
	tree, err := Load(write(t, files))
	if err != nil {
		t.Fatal(err)
	}
	if tree.Product.Version != "v1.36.0+rke2r1" {
		t.Errorf("version %s: a replaced module's version is its replacement's", tree.Product.Version)
	}
}

func TestParseRelease(t *testing.T) {
	r, err := ParseRelease([]byte(`{"version":"v1+r","images":[{"name":"a","reference":"r/a:t","digests":{"linux/amd64":"sha256:00"},"role":"etcd","sets":["core"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if i, ok := r.Image("etcd"); !ok || i.Name != "a" {
		t.Errorf("image of role etcd: %+v", i)
	}
	if _, ok := r.Image("runtime"); ok {
		t.Error("there is no image of role runtime")
	}
	for _, bad := range []string{``, `[]`, `{"unknown":"x"}`, `{} {}`} {
		if _, err := ParseRelease([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
