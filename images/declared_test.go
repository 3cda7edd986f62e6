package images

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// The declarations of this repository.
func declared(t *testing.T) *Tree {
	t.Helper()
	tree, err := Load(".")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestDeclaredTree(t *testing.T) {
	tree := declared(t)
	for _, role := range []string{"runtime", "kubernetes", "etcd", "pause"} {
		found := false
		for _, i := range tree.Images {
			found = found || i.Role == role
		}
		if !found {
			t.Errorf("no image has the role %s, which the node looks for", role)
		}
	}
	for _, c := range tree.Components {
		if c.Kind == KindGo && c.Crypto != FIPS140 {
			t.Errorf("%s is built with %s", c.Name, c.Crypto)
		}
	}
}

// What is committed must trust nothing: only a release build may carry keys and digests.
func TestCommittedReleaseIsEmpty(t *testing.T) {
	data, err := os.ReadFile("release.json")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(data)) != "{}" {
		t.Errorf("images/release.json is %s, not {}", data)
	}
}

// A component's version is its wrapper's require line, and nowhere else: a bump there
// is a bump. Looked at is everything that declares or builds; not the engine's own
// libraries (the root go.mod), tests, and documents.
func TestVersionsAreDeclaredOnce(t *testing.T) {
	tree := declared(t)
	root := filepath.Dir(tree.Dir)
	var files []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if rel == ".git" || rel == "dist" || d.Name() == "testdata" || rel == "tests" {
				return filepath.SkipDir
			}
			return nil
		}
		switch {
		case rel == "go.mod", strings.HasSuffix(rel, "go.sum"), strings.HasSuffix(rel, "_test.go"), strings.HasSuffix(rel, ".md"), !d.Type().IsRegular():
			return nil
		case strings.HasSuffix(rel, ".lock"):
			return nil // pins of other people's packages
		}
		if st, err := d.Info(); err != nil || st.Size() > 1<<20 {
			return err // somebody's binary, not a declaration
		}
		files = append(files, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 30 {
		t.Fatalf("only %d files found in %s", len(files), root)
	}
	declares := map[string]string{}
	for _, c := range tree.Components {
		declares[c.Dir] = c.Version
	}
	for _, c := range tree.Components {
		if c.Kind != KindGo {
			continue // its versions are in its lock, which nobody writes by hand
		}
		places := 0
		literal := regexp.MustCompile(`\bv?` + regexp.QuoteMeta(strings.TrimPrefix(c.Version, "v")) + `\b`)
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for i, line := range strings.Split(string(data), "\n") {
				if !literal.MatchString(line) {
					continue
				}
				if filepath.Base(file) == "go.mod" && (!sameProject(line, c, file) || !builds(t, file, c)) {
					continue // another module that happens to have that version, or a library
				}
				// Two may happen to have the same version, and each declares its own.
				if declares[filepath.Dir(file)] != c.Version {
					t.Errorf("%s:%d: %s of %s is declared in %s/go.mod: %s", file, i+1, c.Version, c.Name, c.Name, line)
				}
				places++
			}
		}
		if places == 0 {
			t.Errorf("%s %s was found nowhere, so this test looks in the wrong place", c.Name, c.Version)
		}
	}
	once(t, root, files, tree.Product.Release)
}

// sameProject tells whether a go.mod line is about the component's module, or one that
// is released together with it (which Go wants listed one by one).
func sameProject(line string, c Component, gomod string) bool {
	mod := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
	if len(mod) == 0 {
		return false
	}
	return mod[0] == c.Module || filepath.Dir(gomod) == c.Dir || project(mod[0]) == project(c.Module)
}

// builds tells whether a wrapper builds a command of the component's module. One that
// only links it decides for itself which version its other modules ask for.
func builds(t *testing.T, gomod string, c Component) bool {
	t.Helper()
	data, err := os.ReadFile(gomod)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse(gomod, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range mod.Tool {
		if project(tool.Path) == project(c.Module) {
			return true
		}
	}
	return filepath.Dir(gomod) == c.Dir
}

func project(module string) string {
	parts := strings.SplitN(module, "/", 4)
	return strings.Join(parts[:min(len(parts), 3)], "/")
}

// once makes sure that the release suffix is written in one place of one file.
func once(t *testing.T, root string, files []string, literal string) {
	t.Helper()
	quoted := regexp.MustCompile(`\b` + regexp.QuoteMeta(literal) + `\b`)
	comment := regexp.MustCompile(`^\s*(#|//)|//.*`)
	var found []string
	for _, file := range files {
		if !strings.HasSuffix(file, ".yaml") && !strings.HasSuffix(file, "Makefile") && !strings.Contains(filepath.Base(file), "Dockerfile") && !strings.HasSuffix(file, ".go") {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(data), "\n") {
			if quoted.MatchString(comment.ReplaceAllString(line, "")) {
				rel, _ := filepath.Rel(root, file)
				found = append(found, rel+": "+line)
			}
		}
	}
	if len(found) != 1 {
		t.Errorf("the release %s is written %d times:\n%s", literal, len(found), strings.Join(found, "\n"))
	}
}

// Every wrapper is complete: go can build from it read-only, and go.sum has the sum of
// the component's module.
func TestWrappersAreLocked(t *testing.T) {
	for _, c := range declared(t).Components {
		if c.Kind != KindGo {
			continue
		}
		gomod := filepath.Join(c.Dir, "go.mod")
		data, err := os.ReadFile(gomod)
		if err != nil {
			t.Fatal(err)
		}
		mod, err := modfile.Parse(gomod, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(mod.Require) == 0 {
			continue // our own program, without dependencies
		}
		cmd := exec.Command("go", "list", "-mod=readonly", "-f", "{{.ImportPath}}", "tool")
		cmd.Dir = c.Dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOENV=off", "GOWORK=off")
		var said bytes.Buffer
		cmd.Stderr = &said // downloads too
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v\n%s", c.Name, err, &said)
			continue
		}
		if got := len(strings.Fields(string(out))); got != len(c.Binaries) {
			t.Errorf("%s: go lists %d tools, image.yaml leads to %d binaries", c.Name, got, len(c.Binaries))
		}
		sums, err := os.ReadFile(filepath.Join(c.Dir, "go.sum"))
		ours := c.Module == mod.Module.Mod.Path
		if err != nil || !ours && !strings.Contains(string(sums), c.ModuleVersion+" h1:") {
			t.Errorf("%s: go.sum has no sum of version %s (%v)", c.Name, c.ModuleVersion, err)
		}
	}
}
