// Package inventorytest makes Go programs for the tests of what reads them.
package inventorytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// Sync is a module that Program is linked with, in the version and with the sum that this
// project has it. Program's go.mod replaces its version v0.0.7 by it.
type Sync struct{ Path, Version, Sum string }

// Program builds a program of three modules: its own, example.com/Main; golang.org/x/sync;
// and example.com/dep, which go.mod replaces by the folder ./dep. It needs no network:
// what it is made of is what this project is made of.
func Program(t testing.TB) (path string, sync Sync) {
	t.Helper()
	sync, sums := syncModule(t)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module example.com/Main\n\ngo 1.26\n\nrequire (\n\texample.com/dep v0.0.9\n\t" + sync.Path + " v0.0.7\n)\n\n" +
			"replace example.com/dep v0.0.9 => ./dep\n\nreplace " + sync.Path + " => " + sync.Path + " " + sync.Version + "\n",
		"go.sum": sums,
		"main.go": "package main\n\nimport (\n\t\"example.com/dep\"\n\t\"" + sync.Path + "/errgroup\"\n)\n\n" +
			"func main() {\n\tvar g errgroup.Group\n\tg.Go(func() error { println(dep.Word); return nil })\n\tpanic(g.Wait())\n}\n",
		"dep/go.mod": "module example.com/dep\n\ngo 1.26\n",
		"dep/dep.go": "package dep\n\nconst Word = \"x\"\n",
	} {
		p := filepath.Join(dir, name)
		noError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		noError(t, os.WriteFile(p, []byte(content), 0o644))
	}
	path = filepath.Join(dir, "program")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", path, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "CGO_ENABLED=0", "GOWORK=off", "GOOS=linux", "GOPROXY=off", "GOFIPS140=v1.0.0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building a program: %v: %s", err, b)
	}
	return path, sync
}

// syncModule takes the module's version from the project's go.mod, and its lines from go.sum.
func syncModule(t testing.TB) (Sync, string) {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Dir(here)
	if !filepath.IsAbs(root) { // built with -trimpath: tests run in their package's folder
		var err error
		root, err = os.Getwd()
		noError(t, err)
	}
	for ; ; root = filepath.Dir(root) {
		if data, err := os.ReadFile(filepath.Join(root, "go.mod")); err == nil {
			mod, err := modfile.Parse("go.mod", data, nil)
			noError(t, err)
			sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
			noError(t, err)
			s := Sync{Path: "golang.org/x/sync"}
			for _, r := range mod.Require {
				if r.Mod.Path == s.Path {
					s.Version = r.Mod.Version
				}
			}
			var lines []string
			for line := range strings.Lines(string(sums)) {
				if rest, ok := strings.CutPrefix(line, s.Path+" "+s.Version); ok {
					lines = append(lines, line)
					if sum, ok := strings.CutPrefix(rest, " "); ok {
						s.Sum = strings.TrimSpace(sum)
					}
				}
			}
			if s.Version == "" || s.Sum == "" {
				t.Fatalf("%s is not in %s", s.Path, root)
			}
			return s, strings.Join(lines, "")
		}
		if root == filepath.Dir(root) {
			t.Fatal("no go.mod above this test")
		}
	}
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
