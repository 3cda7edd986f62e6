package outdated

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

var ctx = context.Background()

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// proxy is a module proxy in a folder, asked instead of the machine's.
func proxy(t *testing.T, versions map[string][]string) {
	t.Helper()
	dir := t.TempDir()
	for module, vs := range versions {
		put(t, filepath.Join(dir, module, "@v", "list"), strings.Join(vs, "\n")+"\n")
		for _, v := range vs {
			put(t, filepath.Join(dir, module, "@v", v+".info"), fmt.Sprintf(`{"Version":%q,"Time":"2026-01-01T00:00:00Z"}`, v))
			put(t, filepath.Join(dir, module, "@v", v+".mod"), "module "+module+"\n")
		}
	}
	t.Setenv("GOPROXY", "file://"+dir)
	t.Setenv("GONOSUMDB", "*")
	t.Setenv("GONOPROXY", "")
	t.Setenv("GOPRIVATE", "")
	t.Setenv("GOMODCACHE", filepath.Join(dir, "cache"))
	t.Setenv("GOFLAGS", "-modcacherw")
}

func wrapper(t *testing.T, name, module, gomod string) images.Component {
	t.Helper()
	c := images.Component{Name: name, Dir: t.TempDir(), Kind: images.KindGo, Module: module}
	put(t, filepath.Join(c.Dir, "go.mod"), "module example.com/images/"+name+"\n\ngo 1.25.0\n\n"+gomod)
	return c
}

// archive has version 2 of everything.
type archive struct{}

func (archive) Resolve(_ context.Context, c images.Component, old *lock.Lock, move func(string) bool) (*lock.Lock, error) {
	l := lock.New(c, images.Mirrors{})
	l.Packages = map[string][]lock.Package{}
	for _, arch := range lock.Arches {
		for _, p := range old.Packages[arch] {
			if move(p.Name) && p.Name != "only-arm64" || arch == "arm64" {
				p.Version = "2"
			}
			l.Packages[arch] = append(l.Packages[arch], p)
		}
	}
	return l, nil
}

func TestFind(t *testing.T) {
	proxy(t, map[string][]string{
		"example.com/app":  {"v1.0.0", "v1.2.0", "v1.3.0-rc.1"},
		"example.com/fork": {"v0.1.0", "v0.2.0"},
		"example.com/deep": {"v1.0.0", "v9.0.0"},
		"example.com/same": {"v1.0.0"},
	})
	debs := images.Component{Name: "debs", Dir: t.TempDir(), Kind: images.KindDebian, Debian: &images.Debian{Packages: []string{"a"}}}
	l := lock.New(debs, images.Mirrors{})
	l.Packages = map[string][]lock.Package{}
	for _, arch := range lock.Arches {
		for _, n := range []string{"a", "only-arm64"} {
			l.Packages[arch] = append(l.Packages[arch], lock.Package{Name: n, Version: "1", Arch: arch, Source: "a 1", Archive: lock.Main, Path: "pool/a", Size: 1, SHA256: strings.Repeat("a", 64)})
		}
	}
	if err := l.Write(debs); err != nil {
		t.Fatal(err)
	}
	got, err := Find(ctx, []images.Component{
		wrapper(t, "tools", "example.com/app", "require (\n\texample.com/app v1.0.0 // indirect\n\texample.com/deep v1.0.0 // indirect\n)\n\ntool example.com/app/cmd/app\n"),
		wrapper(t, "forked", "example.com/original", "require (\n\texample.com/original v1.0.0\n\texample.com/same v1.0.0\n)\n\nreplace example.com/original => example.com/fork v0.1.0\n"),
		wrapper(t, "gone", "example.com/gone", "require example.com/gone v1.0.0\n"),
		wrapper(t, "own", "", ""),
		debs,
	}, lock.Options{Resolvers: map[images.Kind]lock.Resolver{images.KindDebian: archive{}}})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range got {
		problem := ""
		if e.Problem != "" {
			problem = " problem"
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %s->%s %s%s", e.Component, e.Kind, e.Name, e.Current, e.Newest, e.Arch, problem))
	}
	want := []string{
		"debs debian a 1->2 ",
		"debs debian only-arm64 1->2 arm64",
		"forked module example.com/fork v0.1.0->v0.2.0 ",
		"gone module example.com/gone v1.0.0->  problem",
		"tools module example.com/app v1.0.0->v1.2.0 ",
	}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}
