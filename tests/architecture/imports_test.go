// Package architecture tests what may import what.
package architecture

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/rancher/rke2/"

// forbidden says which packages (by prefix) must not reach which, at any depth
// within the module.
var forbidden = []struct{ from, to, why string }{
	{"cmd/rke2", "build/", "the node binary must not carry the build pipeline"},
	{"runtime/", "build/", "the node binary must not carry the build pipeline"},
	{"cmd/rke2-build", "runtime/", "the build tool must not carry the engine"},
	{"build/", "runtime/", "the build tool must not carry the engine"},
	{"airgap", "runtime/", "bundles are read and written without a node"},
	{"airgap", "build/", "bundles are read and written without a build"},
	{"charts", "runtime/", "charts are read and packaged without a node"},
	{"charts", "build/", "the node binary carries charts"},
	{"install", "runtime/", "a release is laid out without a node"},
	{"install", "build/", "what is laid out is handed over"},
	{"images", "airgap", "declarations depend on nothing of the project"},
	{"images", "build/", "declarations depend on nothing of the project"},
	{"images", "runtime/", "declarations depend on nothing of the project"},
	{"cmd/", "tests/", "products contain no test code"},
	{"runtime/", "tests/", "products contain no test code"},
}

type pkg struct {
	ImportPath, Dir string
	Imports, Deps   []string
	GoFiles         []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,Deps,GoFiles", module+"...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
		// go test knows of the files that a test itself looks at: it must not take the
		// result from its cache when a source has changed.
		for _, f := range p.GoFiles {
			if _, err := os.Stat(filepath.Join(p.Dir, f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages were found", len(all))
	}
	return all
}

// covers reports whether a package is one that a rule's prefix means:
// cmd/rke2 does not mean cmd/rke2-build.
func covers(prefix, importPath string) bool {
	rel, ok := strings.CutPrefix(importPath, module)
	if !ok {
		return false
	}
	return rel == prefix || strings.HasPrefix(rel, strings.TrimSuffix(prefix, "/")+"/")
}

func TestDirection(t *testing.T) {
	for _, p := range packages(t) {
		for _, rule := range forbidden {
			if !covers(rule.from, p.ImportPath) {
				continue
			}
			for _, dep := range p.Deps {
				if covers(rule.to, dep) {
					t.Errorf("%s reaches %s: %s", p.ImportPath, dep, rule.why)
				}
			}
		}
	}
}

// TestOneDoorToTheEngine: K3s is imported by runtime/engine and nothing else of ours; the
// peer of the benchmarks is K3s itself.
func TestOneDoorToTheEngine(t *testing.T) {
	found := false
	for _, p := range packages(t) {
		for _, dep := range p.Imports {
			if strings.HasPrefix(dep, "github.com/k3s-io/k3s/") {
				if p.ImportPath != module+"runtime/engine" && p.ImportPath != module+"tests/bench/peer" {
					t.Errorf("%s imports %s: only runtime/engine may", p.ImportPath, dep)
				}
				found = true
			}
		}
	}
	if !found {
		t.Error("nobody imports the engine: this test has lost its subject")
	}
}

// TestNoPackageAtARoot: build and runtime are folders of packages.
func TestNoPackageAtARoot(t *testing.T) {
	for _, p := range packages(t) {
		switch strings.TrimPrefix(p.ImportPath, module) {
		case "build", "runtime", "cmd":
			t.Errorf("%s is a package", p.ImportPath)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		prefix, path string
		want         bool
	}{
		{"cmd/rke2", "cmd/rke2", true},
		{"cmd/rke2", "cmd/rke2-build", false},
		{"build/", "build/image", true},
		{"images", "images", true},
		{"airgap", "airgap/trust", true},
	} {
		if got := covers(c.prefix, module+c.path); got != c.want {
			t.Errorf("%s covers %s: %v", c.prefix, c.path, got)
		}
	}
}
