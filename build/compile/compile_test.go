package compile

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/images"
)

const fips = "v1.0.0"

var host = Platform{OS: "linux", Arch: runtime.GOARCH}

// tiny is a wrapper module of one or more commands.
func tiny(t *testing.T) images.Component {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, "go.mod", "module example.com/tiny\n\ngo 1.25.0\n\ntool example.com/tiny\n")
	put(t, dir, "main.go", `package main

import "fmt"

var version = "unknown"

func main() { fmt.Print("tiny ", version) }
`)
	return images.Component{
		Name: "tiny", Dir: dir, Module: "example.com/tiny", Version: "v0.0.1", Crypto: images.FIPS140,
		Binaries: []images.Binary{{Name: "tiny", Package: "example.com/tiny", LDFlags: []string{"-X main.version=v0.0.1"}}},
	}
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func newCompiler(t *testing.T) *Compiler {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	compiler, err := New(context.Background(), c, fips, nil)
	if err != nil {
		t.Fatal(err)
	}
	return compiler
}

// compile builds and tells which binaries the go command was started for.
func compile(t *testing.T, c *Compiler, comp images.Component) (Artifact, []string) {
	t.Helper()
	var built []string
	a, err := c.Compile(context.Background(), comp, host, Hooks{Building: func(b []string) { built = b }})
	if err != nil {
		t.Fatal(err)
	}
	if a.Cached != (len(built) == 0) {
		t.Errorf("cached %v, but %v was built", a.Cached, built)
	}
	return a, built
}

func run(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", path, err, out)
	}
	return string(out)
}

func TestSecondRunBuildsNothing(t *testing.T) {
	c, comp := newCompiler(t), tiny(t)
	if _, ok, err := c.Cached(context.Background(), comp, host); ok || err != nil {
		t.Fatalf("cached before it was built: %v, %v", ok, err)
	}
	first, built := compile(t, c, comp)
	if len(built) != 1 {
		t.Fatalf("built %v", built)
	}
	b := first.Binaries[0]
	if got := run(t, b.Path); got != "tiny v0.0.1" {
		t.Errorf("it says %q", got)
	}
	if !strings.HasPrefix(b.Crypto, "fips140 "+fips+"-") || b.Size == 0 || len(b.SHA256) != 64 {
		t.Errorf("binary %+v", b)
	}
	second, built := compile(t, c, comp)
	if len(built) != 0 || second.Binaries[0] != b {
		t.Errorf("second run built %v: %+v", built, second.Binaries[0])
	}
	if a, ok, err := c.Cached(context.Background(), comp, host); !ok || err != nil || a.Binaries[0] != b {
		t.Errorf("Cached: %+v, %v, %v", a, ok, err)
	}
}

// Each input is part of the key.
func TestWhatIsBuiltAgain(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, comp *images.Component)
		again  bool
	}{
		{"a source", func(t *testing.T, c *images.Component) { put(t, c.Dir, "more.go", "package main\n") }, true},
		{"a source in a folder", func(t *testing.T, c *images.Component) { put(t, c.Dir, "sub/sub.go", "package sub\n") }, true},
		{"go.mod", func(t *testing.T, c *images.Component) {
			put(t, c.Dir, "go.mod", "module example.com/tiny\n\ngo 1.24.0\n\ntool example.com/tiny\n")
		}, true},
		{"go.sum", func(t *testing.T, c *images.Component) { put(t, c.Dir, "go.sum", "\n") }, true},
		{"linker flags", func(_ *testing.T, c *images.Component) { c.Binaries[0].LDFlags = nil }, true},
		{"tags", func(_ *testing.T, c *images.Component) { c.Binaries[0].Tags = []string{"x"} }, true},
		{"nothing", func(*testing.T, *images.Component) {}, false},
		{"image.yaml's words", func(t *testing.T, c *images.Component) { put(t, c.Dir, "image.yaml", "description: x\n") }, false},
		{"the Dockerfile", func(t *testing.T, c *images.Component) { put(t, c.Dir, "Dockerfile", "FROM scratch\n") }, false},
		{"a file of the image", func(t *testing.T, c *images.Component) { put(t, c.Dir, "rootfs/etc/x.conf", "x\n") }, false},
		{"a file that is embedded", func(t *testing.T, c *images.Component) {
			put(t, c.Dir, "page.html", "x\n")
			put(t, c.Dir, "page.go", "package main\n\nimport _ \"embed\"\n\n//go:embed page.html\nvar page string\n")
		}, true},
		{"the lock", func(t *testing.T, c *images.Component) { put(t, c.Dir, "sources.lock", "x\n") }, false},
		{"a test", func(t *testing.T, c *images.Component) { put(t, c.Dir, "x_test.go", "package main\n") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			compiler, comp := newCompiler(t), tiny(t)
			before := key(t, compiler, comp)
			c.change(t, &comp)
			if again := key(t, compiler, comp) != before; again != c.again {
				t.Errorf("built again: %v", again)
			}
		})
	}
}

// key is what the first binary is kept under.
func key(t *testing.T, c *Compiler, comp images.Component) string {
	t.Helper()
	p, err := c.plan(context.Background(), comp, host, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p.jobs[0].key
}

// The caller's Go settings must not reach the components.
func TestCallersSettings(t *testing.T) {
	comp := tiny(t)
	first, _ := compile(t, newCompiler(t), comp)
	t.Setenv("GOFLAGS", "-ldflags=-X=main.version=wrong -mod=mod -tags=x")
	t.Setenv("GOFIPS140", "off")
	t.Setenv("CGO_ENABLED", "1")
	t.Setenv("GOAMD64", "v3")
	t.Setenv("GOOS", "windows")
	t.Setenv("GOEXPERIMENT", "boringcrypto")
	t.Chdir(t.TempDir())
	second, _ := compile(t, newCompiler(t), comp)
	if first.Binaries[0].SHA256 != second.Binaries[0].SHA256 {
		t.Errorf("other bytes: %s", run(t, second.Binaries[0].Path))
	}
}

// Two commands that the go command would call the same, and one with its own flags.
func TestSeveralBinaries(t *testing.T) {
	comp := tiny(t)
	for _, n := range []string{"a/cmd/run", "b/cmd/run", "c/v2"} {
		put(t, comp.Dir, n+"/main.go", "package main\n\nfunc main() { print(`"+n+"`) }\n")
	}
	comp.Binaries = []images.Binary{
		{Name: "arun", Package: "example.com/tiny/a/cmd/run"},
		{Name: "brun", Package: "example.com/tiny/b/cmd/run"},
		{Name: "c", Package: "example.com/tiny/c/v2", Tags: []string{"x"}},
	}
	c := newCompiler(t)
	a, built := compile(t, c, comp)
	if strings.Join(built, " ") != "arun brun c" {
		t.Errorf("built %v", built)
	}
	for i, want := range []string{"a/cmd/run", "b/cmd/run", "c/v2"} {
		if got := run(t, a.Binaries[i].Path); got != want {
			t.Errorf("%s says %q, want %q", a.Binaries[i].Name, got, want)
		}
	}
	// One more binary: the others are there.
	comp.Binaries = append(comp.Binaries, images.Binary{Name: "tiny", Package: "example.com/tiny"})
	if _, built := compile(t, c, comp); strings.Join(built, " ") != "tiny" {
		t.Errorf("built %v", built)
	}
}

// An entry that somebody damaged is built again.
func TestDamagedCache(t *testing.T) {
	c, comp := newCompiler(t), tiny(t)
	for name, damage := range map[string]func(b Binary) error{
		"truncated": func(b Binary) error { return os.Truncate(b.Path, 100) },
		"removed":   func(b Binary) error { return os.Remove(b.Path) },
		"info": func(b Binary) error {
			return os.WriteFile(filepath.Join(filepath.Dir(b.Path), infoFile), []byte("{"), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := compile(t, c, comp)
			if err := damage(a.Binaries[0]); err != nil {
				t.Fatal(err)
			}
			again, built := compile(t, c, comp)
			if len(built) != 1 || again.Binaries[0].SHA256 != a.Binaries[0].SHA256 {
				t.Errorf("built %v, %+v", built, again.Binaries)
			}
		})
	}
}

func TestFailedBuild(t *testing.T) {
	c, comp := newCompiler(t), tiny(t)
	put(t, comp.Dir, "main.go", "package main\n\nfunc main() { undefined() }\n")
	_, err := c.Compile(context.Background(), comp, host, Hooks{})
	if err == nil || !strings.Contains(err.Error(), "compiling tiny") || !strings.Contains(err.Error(), "main.go:3:15: undefined") {
		t.Errorf("got %v", err)
	}
	if _, ok, err := c.Cached(context.Background(), comp, host); ok || err != nil {
		t.Errorf("cached: %v, %v", ok, err)
	}
}

// The wrapper's go.mod is read only: a missing requirement is an error, not an edit.
func TestModuleFilesAreNotChanged(t *testing.T) {
	c, comp := newCompiler(t), tiny(t)
	put(t, comp.Dir, "main.go", "package main\n\nimport _ \"golang.org/x/mod/semver\"\n\nfunc main() {}\n")
	before, err := os.ReadFile(filepath.Join(comp.Dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compile(context.Background(), comp, host, Hooks{}); err == nil || !strings.Contains(err.Error(), "golang.org/x/mod") {
		t.Errorf("got %v", err)
	}
	if after, _ := os.ReadFile(filepath.Join(comp.Dir, "go.mod")); string(after) != string(before) {
		t.Errorf("go.mod was changed:\n%s", after)
	}
}

// What is promised is asserted from the binary.
func TestCheck(t *testing.T) {
	comp := tiny(t)
	dir := t.TempDir()
	build := func(name string, env ...string) string {
		t.Helper()
		out := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-o", out, ".")
		cmd.Dir = comp.Dir
		cmd.Env = append(os.Environ(), append([]string{"GOFLAGS=", "CGO_ENABLED=0", "GOFIPS140=off"}, env...)...)
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, msg)
		}
		return out
	}
	if _, _, err := check(build("fips", "GOFIPS140="+fips), comp, fips, host); err != nil {
		t.Errorf("a good one: %v", err)
	}
	if _, _, err := check(build("plain"), comp, fips, host); err == nil || !strings.Contains(err.Error(), `GOFIPS140=""`) {
		t.Errorf("without the module: %v", err)
	}
	if _, _, err := check(build("latest", "GOFIPS140=latest"), comp, fips, host); err == nil || !strings.Contains(err.Error(), "not built with the Go Cryptographic Module v1.0.0") {
		t.Errorf("with the uncertified module: %v", err)
	}
	boring := comp
	boring.Crypto = images.BoringCrypto
	if _, _, err := check(build("fips", "GOFIPS140="+fips), boring, fips, host); err == nil || !strings.Contains(err.Error(), "boringcrypto") {
		t.Errorf("without boringcrypto: %v", err)
	}
	if _, _, err := check(build("arm64", "GOFIPS140="+fips, "GOARCH=arm64"), comp, fips, Platform{OS: "linux", Arch: "amd64"}); err == nil || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("for another platform: %v", err)
	}
	put(t, comp.Dir, "main.go", "package main\n\n// int f(void) { return 1; }\nimport \"C\"\n\nfunc main() { println(C.f()) }\n")
	dynamic := build("dynamic", "GOFIPS140="+fips, "CGO_ENABLED=1")
	if _, _, err := check(dynamic, comp, fips, host); err == nil || !strings.Contains(err.Error(), "not static") {
		t.Errorf("dynamic: %v", err)
	}
	if _, _, err := check(filepath.Join(comp.Dir, "go.mod"), comp, fips, host); err == nil {
		t.Error("a text file passed")
	}
}

func TestCgoIsStaticToo(t *testing.T) {
	c, comp := newCompiler(t), tiny(t)
	put(t, comp.Dir, "main.go", "package main\n\n// int f(void) { return 41; }\nimport \"C\"\n\nfunc main() { print(C.f() + 1) }\n")
	comp.Cgo = &images.Cgo{}
	a, _ := compile(t, c, comp)
	if got := run(t, a.Binaries[0].Path); got != "42" {
		t.Errorf("it says %q", got)
	}
	comp.Cgo.Libraries = []images.Library{{File: "libnowhere.a", Package: "libnowhere-dev"}}
	_, err := c.Compile(context.Background(), comp, host, Hooks{})
	if err == nil || !strings.Contains(err.Error(), "apt-get install libnowhere-dev") {
		t.Errorf("a missing library: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	c, comp := newCompiler(t), tiny(t)
	ctx, cancel := context.WithCancel(context.Background())
	_, err := c.Compile(ctx, comp, host, Hooks{Building: func([]string) { cancel() }})
	if err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("got %v", err)
	}
}

func TestBoringCrypto(t *testing.T) {
	c, comp := newCompiler(t), tiny(t)
	put(t, comp.Dir, "main.go", "package main\n\nimport \"crypto/sha256\"\n\nfunc main() { print(sha256.Sum256(nil)[0]) }\n")
	comp.Crypto = images.BoringCrypto
	a, _ := compile(t, c, comp)
	if got := run(t, a.Binaries[0].Path); got != "227" || a.Binaries[0].Crypto != "boringcrypto" {
		t.Errorf("it says %q and is built with %q", got, a.Binaries[0].Crypto)
	}
}
