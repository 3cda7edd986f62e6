package compile

import (
	"archive/zip"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/images"
)

// moduleProxy serves one version of a module from a folder, and nothing else.
func moduleProxy(t *testing.T, path, version string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	mod := "module " + path + "\n\ngo 1.25.0\n"
	put(t, dir, path+"/@v/"+version+".info", `{"Version":"`+version+`"}`)
	put(t, dir, path+"/@v/"+version+".mod", mod)
	f, err := os.Create(filepath.Join(dir, path, "@v", version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := zip.NewWriter(f)
	for name, content := range map[string]string{"go.mod": mod, "dep.go": "package dep\n\nfunc Name() string { return \"dep\" }\n"} {
		e, err := w.Create(path + "@" + version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// dependent is a component that needs the module of a proxy, with its go.sum.
func dependent(t *testing.T) (comp images.Component, proxy string) {
	t.Helper()
	comp, proxy = tiny(t), moduleProxy(t, "example.com/dep", "v1.0.0")
	mods := t.TempDir()
	t.Setenv("GOPROXY", "file://"+proxy)
	t.Setenv("GONOSUMDB", "*")
	t.Setenv("GOSUMDB", "off")
	t.Setenv("GOFLAGS", "")
	t.Setenv("GOMODCACHE", mods)
	t.Cleanup(func() { forget(t, mods) })
	put(t, comp.Dir, "go.mod", "module example.com/tiny\n\ngo 1.25.0\n\ntool example.com/tiny\n\nrequire example.com/dep v1.0.0\n")
	put(t, comp.Dir, "main.go", "package main\n\nimport \"example.com/dep\"\n\nfunc main() { print(dep.Name()) }\n")
	cmd := exec.Command("go", "mod", "tidy")
	cmd.Dir = comp.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return comp, proxy
}

// forget empties a module cache, whose files are read-only.
func forget(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o755)
		}
		return err
	})
	entries, readErr := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if err := errors.Join(err, readErr); err != nil {
		t.Fatal(err)
	}
}

// Each error names component, file and line, and what to do; then it builds.
func TestModulesThatAreNotThere(t *testing.T) {
	for _, c := range []struct {
		what   string
		breaks func(t *testing.T, comp images.Component, proxy string)
		wants  []string
	}{
		{"zip not served", func(t *testing.T, _ images.Component, proxy string) {
			if err := os.Remove(filepath.Join(proxy, "example.com/dep/@v/v1.0.0.zip")); err != nil {
				t.Fatal(err)
			}
		}, []string{"/go.mod:7: module example.com/dep@v1.0.0 is not served", "go get example.com/dep@VERSION"}},
		{"version not served", func(t *testing.T, comp images.Component, _ string) {
			replaceIn(t, comp, "go.mod", "v1.0.0", "v1.0.1")
			replaceIn(t, comp, "go.sum", "v1.0.0", "v1.0.1")
		}, []string{"/go.mod:7: module example.com/dep@v1.0.1 is not served", "go get example.com/dep@VERSION"}},
		{"replacement not served", func(t *testing.T, comp images.Component, _ string) {
			put(t, comp.Dir, "go.mod", read(t, comp, "go.mod")+"\nreplace example.com/dep => example.com/fork v1.2.3\n")
			replaceIn(t, comp, "go.sum", "example.com/dep v1.0.0", "example.com/fork v1.2.3")
		}, []string{"/go.mod:9: module example.com/fork@v1.2.3 is not served"}},
		{"proxy off", func(t *testing.T, _ images.Component, _ string) { t.Setenv("GOPROXY", "off") },
			[]string{"/go.mod:7: module example.com/dep@v1.0.0 is not served", "GOPROXY"}},
		{"proxy not reached", func(t *testing.T, _ images.Component, _ string) { t.Setenv("GOPROXY", "http://127.0.0.1:1") },
			[]string{"/go.mod:7: module example.com/dep@v1.0.0 can't be fetched", "can't be reached"}},
		{"checksum of the module", func(t *testing.T, comp images.Component, _ string) {
			replaceIn(t, comp, "go.sum", "v1.0.0 h1:", "v1.0.0 h1:AAAA")
			cut(t, comp)
		}, []string{"/go.sum:1: example.com/dep@v1.0.0 is not what is locked", "checksum"}},
		{"module that was changed", func(t *testing.T, _ images.Component, proxy string) {
			other := moduleProxy(t, "example.com/dep", "v1.0.0")
			put(t, other, "x", "")
			z, err := os.ReadFile(filepath.Join(other, "example.com/dep/@v/v1.0.0.zip"))
			if err != nil {
				t.Fatal(err)
			}
			put(t, proxy, "example.com/dep/@v/v1.0.0.zip", strings.ReplaceAll(string(z), "dep.go", "dap.go"))
		}, []string{"/go.sum:1: example.com/dep@v1.0.0 is not what is locked"}},
		{"no checksum", func(t *testing.T, comp images.Component, _ string) { put(t, comp.Dir, "go.sum", "") },
			[]string{"/go.mod:7: go.sum has no checksum", "go mod tidy"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			comp, proxy := dependent(t)
			mods := os.Getenv("GOMODCACHE")
			forget(t, mods)
			var good []string
			for _, f := range []string{"go.mod", "go.sum"} {
				good = append(good, read(t, comp, f))
			}
			zipped, err := os.ReadFile(filepath.Join(proxy, "example.com/dep/@v/v1.0.0.zip"))
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			opened, err := cache.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			try := func() error {
				compiler, err := New(context.Background(), opened, fips, nil)
				if err != nil {
					t.Fatal(err)
				}
				_, err = compiler.Compile(context.Background(), comp, host, Hooks{})
				return err
			}
			c.breaks(t, comp, proxy)
			err = try()
			if err == nil {
				t.Fatal("it was built")
			}
			for _, w := range append(c.wants, "component tiny: "+comp.Dir) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in: %v", w, err)
				}
			}
			if kept, _ := filepath.Glob(filepath.Join(dir, cacheKind, "*")); len(kept) > 0 {
				t.Errorf("the cache has %v", kept)
			}
			put(t, comp.Dir, "go.mod", good[0])
			put(t, comp.Dir, "go.sum", good[1])
			put(t, proxy, "example.com/dep/@v/v1.0.0.zip", string(zipped))
			t.Setenv("GOPROXY", "file://"+proxy)
			if err := try(); err != nil {
				t.Errorf("mended, it isn't built: %v", err)
			}
		})
	}
}

func read(t *testing.T, comp images.Component, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(comp.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func replaceIn(t *testing.T, comp images.Component, name, old, with string) {
	t.Helper()
	s := read(t, comp, name)
	if !strings.Contains(s, old) {
		t.Fatalf("no %q in %s", old, name)
	}
	put(t, comp.Dir, name, strings.ReplaceAll(s, old, with))
}

// cut makes checksums as long as they were.
func cut(t *testing.T, comp images.Component) {
	t.Helper()
	var out []string
	for _, line := range strings.Split(read(t, comp, "go.sum"), "\n") {
		if i := strings.Index(line, "AAAA"); i >= 0 {
			line = line[:i+4] + line[i+8:]
		}
		out = append(out, line)
	}
	put(t, comp.Dir, "go.sum", strings.Join(out, "\n"))
}

func TestNoSpaceInOutput(t *testing.T) {
	err := explain(images.Component{Name: "tiny"}, errors.New("exit status 1"), []byte("# tiny\ngo build tiny: copying /tmp/a to /cache/x/out: write /cache/x/out: no space left on device\n"))
	var full *fs.PathError
	if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &full) || full.Path != "/cache/x/out" {
		t.Errorf("%v", err)
	}
}
