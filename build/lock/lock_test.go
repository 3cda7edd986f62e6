package lock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/images"
)

var (
	ctx     = context.Background()
	mirrors = images.Mirrors{Suite: "bookworm", Main: "http://example.com/debian", Security: "http://example.com/security"}
)

const sum = "9827d60b60c1b5673e97f34db48d9db79e9f9ef807ee998320f6dafc80711e82"

func tools(t *testing.T) images.Component {
	t.Helper()
	return images.Component{Name: "tools", Dir: t.TempDir(), Kind: images.KindDebian, Debian: &images.Debian{Packages: []string{"a", "b"}}}
}

// archive resolves to fixed versions, of which pins stay if they may.
type archive struct {
	versions map[string]string
	asked    int
}

func (a *archive) Resolve(_ context.Context, c images.Component, old *Lock, move func(string) bool) (*Lock, error) {
	a.asked++
	l := New(c, mirrors)
	l.Packages = map[string][]Package{}
	before := old.pinned()
	for _, arch := range Arches {
		for _, n := range c.Debian.Packages {
			v := a.versions[n]
			if p, ok := before[arch+"/"+n]; ok && !move(n) {
				v = p.version
			}
			l.Packages[arch] = append(l.Packages[arch], Package{
				Name: n, Version: v, Arch: arch, Source: n + " " + v, Archive: Main, Path: "pool/" + n + "_" + v + ".deb", Size: 1, SHA256: sum,
			})
		}
	}
	return l, nil
}

func run(t *testing.T, a *archive, c images.Component, update ...string) Updated {
	t.Helper()
	out, err := Update(ctx, []images.Component{c}, Options{Mirrors: mirrors, Resolvers: map[images.Kind]Resolver{images.KindDebian: a}, Update: update})
	if err != nil || len(out) != 1 {
		t.Fatalf("%v, %v", out, err)
	}
	return out[0]
}

func said(u Updated) string {
	var out []string
	for _, c := range u.Changes {
		out = append(out, c.String())
	}
	return strings.Join(out, "; ")
}

func TestUpdate(t *testing.T) {
	c, a := tools(t), &archive{versions: map[string]string{"a": "1", "b": "1", "c": "1"}}
	if u := run(t, a, c); !u.Written || said(u) != "a (amd64) 1 is new; a (arm64) 1 is new; b (amd64) 1 is new; b (arm64) 1 is new" {
		t.Errorf("first: %+v", u)
	}
	first, err := os.ReadFile(Path(c))
	if err != nil {
		t.Fatal(err)
	}
	// Newer versions alone change nothing, and nobody is asked.
	a.versions = map[string]string{"a": "2", "b": "2", "c": "2"}
	if u := run(t, a, c); u.Written || a.asked != 1 {
		t.Errorf("again: %+v, asked %d times", u, a.asked)
	}
	newer, err := Newer(ctx, []images.Component{c}, Options{Mirrors: mirrors, Resolvers: map[images.Kind]Resolver{images.KindDebian: a}})
	if err != nil || said(Updated{Changes: newer}) != "a (amd64) 1 -> 2; a (arm64) 1 -> 2; b (amd64) 1 -> 2; b (arm64) 1 -> 2" {
		t.Errorf("newer: %v, %v", newer, err)
	}
	if data, _ := os.ReadFile(Path(c)); string(data) != string(first) {
		t.Error("asking what is newer changed the lock")
	}
	// Only what may move moves.
	if u := run(t, a, c, "b"); said(u) != "b (amd64) 1 -> 2; b (arm64) 1 -> 2" {
		t.Errorf("update of b: %+v", u)
	}
	// Another declaration: what still is declared stays.
	c.Debian = &images.Debian{Packages: []string{"a", "c"}}
	_, err = Read(c, mirrors)
	var stale *StaleError
	if !errors.As(err, &stale) || stale.Missing || !strings.Contains(err.Error(), "package c is new; package b is no longer declared") || !strings.Contains(err.Error(), "rke2-build lock tools") {
		t.Errorf("stale: %v", err)
	}
	if u := run(t, a, c); said(u) != "b (amd64) 2 went; b (arm64) 2 went; c (amd64) 2 is new; c (arm64) 2 is new" {
		t.Errorf("redeclared: %+v", u)
	}
	for _, n := range []string{"tools", All} {
		if u := run(t, a, c, n); !u.Written {
			t.Errorf("--update %s did nothing", n)
		}
	}
	if l, err := Read(c, mirrors); err != nil || l.Packages["arm64"][0].Version != "2" {
		t.Errorf("%+v, %v", l, err)
	}
	// Another suite is another declaration, another mirror isn't.
	if _, err := Read(c, images.Mirrors{Suite: "trixie"}); !errors.As(err, &stale) || !strings.Contains(err.Error(), "suite trixie is new") {
		t.Errorf("another suite: %v", err)
	}
	if _, err := Read(c, images.Mirrors{Suite: "bookworm", Main: "http://mirror.example.com"}); err != nil {
		t.Errorf("another mirror: %v", err)
	}
	// The same declarations, the same bytes.
	other := tools(t)
	run(t, &archive{versions: map[string]string{"a": "1", "b": "1"}}, other)
	if data, _ := os.ReadFile(Path(other)); string(data) != string(first) {
		t.Errorf("the same declaration gives other bytes:\n%s\n%s", first, data)
	}
	_, err = Update(ctx, []images.Component{c}, Options{Mirrors: mirrors, Resolvers: map[images.Kind]Resolver{images.KindDebian: a}, Update: []string{"nothing"}})
	if err == nil || !strings.Contains(err.Error(), "--update nothing: no lock has") {
		t.Errorf("unknown name: %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	c := tools(t)
	run(t, &archive{versions: map[string]string{"a": "1", "b": "1"}}, c)
	good, err := os.ReadFile(Path(c))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct{ name, old, with, want string }{
		{"unknown key", "inputs:", "wishes: x\ninputs:", `unknown key "wishes"`},
		{"no yaml", "inputs:", "\tinputs:", "sources.lock:3: found character"},
		{"edited hash", "inputs: sha256:", "inputs: sha256:00", "its inputs line was edited"},
		{"edited declaration", "- package b", "- package z", "package b is new"},
		{"another architecture", "arm64:", "riscv64:", `architecture "riscv64"`},
		{"a package of another", "arch: amd64", "arch: arm64", `of architecture "arm64" under amd64`},
		{"path", "pool/a_1.deb", "../pool/a_1.deb", `path "../pool/a_1.deb" is not one in an archive`},
		{"absolute path", "pool/a_1.deb", "/etc/passwd", "is not one in an archive"},
		{"archive", "archive: main", "archive: evil", `archive "evil"`},
		{"size", "size: 1", "size: 0", "has size 0"},
		{"hash", sum, "9827", `"9827" is no sha256`},
		{"name", "name: a", "name: ../a", `package "../a"`},
		{"order", "name: a", "name: z", "package b is out of order"},
		{"digest", "\npackages:", "\nimage:\n  reference: x\n  digest: sha256:12\npackages:", `image "x": "sha256:12" is no digest`},
		{"two documents", "inputs:", "inputs: x\n---\ninputs:", "a second document"},
	} {
		t.Run(r.name, func(t *testing.T) {
			bad := strings.Replace(string(good), r.old, r.with, 1)
			if bad == string(good) {
				t.Fatalf("no %q in the lock", r.old)
			}
			if err := os.WriteFile(Path(c), []byte(bad), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := Read(c, mirrors)
			if err == nil || !strings.Contains(err.Error(), r.want) || !strings.Contains(err.Error(), filepath.Base(Path(c))) {
				t.Errorf("got %v, want %q", err, r.want)
			}
		})
	}
}

func TestNeeded(t *testing.T) {
	for _, c := range []struct {
		c    images.Component
		want string
	}{
		{images.Component{Kind: images.KindGo}, ""},
		{images.Component{Kind: images.KindGo, Cgo: &images.Cgo{Libraries: []images.Library{{Package: "libx-dev"}}}}, "C library, package libx-dev, suite bookworm"},
		{images.Component{Kind: images.KindSource, Source: &images.Source{Package: "s"}}, "C library, source s, suite bookworm"},
		{images.Component{Kind: images.KindUpstream, Upstream: &images.Upstream{Image: "docker.io/library/x:1"}}, "image docker.io/library/x:1"},
	} {
		if got := strings.Join(Declared(c.c, mirrors), ", "); got != c.want || Needed(c.c) != (c.want != "") {
			t.Errorf("%s: %q, needed %v; want %q", c.c.Kind, got, Needed(c.c), c.want)
		}
	}
}

// The committed locks belong to the committed declarations, and have both architectures.
func TestCommitted(t *testing.T) {
	tree, err := images.Load("../../images")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range tree.Components {
		if !Needed(c) {
			continue
		}
		n++
		l, err := Read(c, tree.Product.Debian)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, arch := range Arches {
			if c.Kind != images.KindUpstream && len(l.Packages[arch]) == 0 {
				t.Errorf("%s has no packages for %s", Path(c), arch)
			}
		}
		if c.Kind == images.KindSource && l.Source == nil {
			t.Errorf("%s has no source", Path(c))
		}
	}
	if n < 3 {
		t.Errorf("only %d components have a lock", n)
	}
}
