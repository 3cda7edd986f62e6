package inventory

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/inventory/inventorytest"
	"github.com/rancher/rke2/build/layer"
)

func write(t *testing.T, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRead(t *testing.T) {
	text := write(t, "hello")
	program, sync := inventorytest.Program(t)
	files := []layer.File{
		{Path: "usr/bin", Dir: true},
		{Path: "usr/bin/link", Link: "program"},
		{Path: "usr/bin/program", Source: program},
		{Path: "etc/motd", Source: text, Package: "pkg:deb/debian/base-files@12"},
		{Path: "etc/empty", Source: write(t, "")},
		{Path: "usr/bin/c", Source: write(t, "\x7fELF and no more")},
	}
	got, err := Read(nil, files)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range got {
		paths = append(paths, f.Path)
	}
	if s := strings.Join(paths, " "); s != "etc/empty etc/motd usr/bin/c usr/bin/program" {
		t.Fatalf("files %s", s)
	}
	old, strong := sha1.Sum([]byte("hello")), sha256.Sum256([]byte("hello"))
	if m := got[1]; m.SHA1 != hex.EncodeToString(old[:]) || m.SHA256 != hex.EncodeToString(strong[:]) || m.ELF || m.Package == "" {
		t.Errorf("motd %+v", m)
	}
	if c := got[2]; !c.ELF || c.Go != nil {
		t.Errorf("what only looks like a program: %+v", c)
	}
	p := got[3].Go
	if p == nil || !got[3].ELF {
		t.Fatalf("the Go program is %+v", got[3])
	}
	if p.Main.Path != "example.com/Main" || p.GoVersion != runtime.Version() || p.Settings["GOOS"] != "linux" {
		t.Errorf("program %+v", p)
	}
	want := []Module{
		{Path: "example.com/dep", Replaces: "example.com/dep@v0.0.9", Folder: "./dep"},
		{Path: sync.Path, Version: sync.Version, Sum: sync.Sum, Replaces: sync.Path + "@v0.0.7"},
	}
	if !slices.Equal(p.Modules, want) {
		t.Errorf("modules %+v", p.Modules)
	}
}

func TestReadFromCache(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	source := write(t, "hello")
	sum := sha256.Sum256([]byte("hello"))
	files := []layer.File{{Path: "a", Source: source, SHA256: hex.EncodeToString(sum[:])}}
	first, err := Read(c, files)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(source); err != nil {
		t.Fatal(err)
	}
	again, err := Read(c, files)
	if err != nil {
		t.Fatalf("it was read again: %v", err)
	}
	if again[0].SHA1 != first[0].SHA1 || again[0].SHA1 == "" {
		t.Errorf("%+v, not %+v", again[0], first[0])
	}

	// A damaged entry is read past.
	entries, err := filepath.Glob(filepath.Join(c.Dir(), cacheKind, "*", factsFile))
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	if err := os.WriteFile(entries[0], []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	files[0].Source = write(t, "hello")
	if again, err = Read(c, files); err != nil || again[0].SHA1 != first[0].SHA1 {
		t.Errorf("after damage: %+v, %v", again, err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		files []layer.File
		want  string
	}{
		"changed": {[]layer.File{{Path: "a", Source: write(t, "x"), SHA256: strings.Repeat("0", 64)}}, "it was changed"},
		"missing": {[]layer.File{{Path: "a", Source: filepath.Join(t.TempDir(), "no")}}, "no such file"},
		"twice":   {[]layer.File{{Path: "a", Source: write(t, "x")}, {Path: "/a", Source: write(t, "y")}}, "two files /a"},
	} {
		if _, err := Read(nil, c.files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

func TestModuleReplaced(t *testing.T) {
	plain := Module{Path: "a", Version: "v1.0.0", Sum: "h1:x"}
	for name, c := range map[string]struct {
		m    debug.Module
		want Module
	}{
		"not":       {debug.Module{Path: "a", Version: "v1.0.0", Sum: "h1:x"}, plain},
		"by itself": {debug.Module{Path: "a", Version: "v1.0.0", Replace: &debug.Module{Path: "a", Version: "v1.0.0", Sum: "h1:x"}}, plain},
		"by a fork": {debug.Module{Path: "b", Version: "v2.0.0", Replace: &debug.Module{Path: "a", Version: "v1.0.0", Sum: "h1:x"}},
			Module{Path: "a", Version: "v1.0.0", Sum: "h1:x", Replaces: "b@v2.0.0"}},
		"by an older Go's folder": {debug.Module{Path: "b", Version: "v2.0.0", Replace: &debug.Module{Path: "../b"}},
			Module{Path: "b", Replaces: "b@v2.0.0", Folder: "../b"}},
	} {
		if got := module(&c.m); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestModule(t *testing.T) {
	h1 := "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	for _, c := range []struct {
		m                   Module
		purl, location, dir string
	}{
		{Module{Path: "github.com/Azure/sdk", Version: "v1.0.0+incompatible", Sum: h1},
			"pkg:golang/github.com/azure/sdk@v1.0.0%2Bincompatible",
			"https://proxy.golang.org/github.com/!azure/sdk/@v/v1.0.0+incompatible.zip",
			"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{Module{Path: "example.com/main", Version: "(devel)"}, "pkg:golang/example.com/main", "", ""},
		{Module{Path: "example.com/dep", Folder: "./dep", Replaces: "example.com/dep@v1"}, "", "", ""},
		{Program{GoVersion: "go1.26.8 X:boringcrypto"}.Standard(), "pkg:golang/stdlib@1.26.8", "", ""},
	} {
		dir, err := c.m.DirHash()
		if err != nil || c.m.PURL() != c.purl || c.m.Location() != c.location || dir != c.dir {
			t.Errorf("%+v: %q, %q, %q, %v", c.m, c.m.PURL(), c.m.Location(), dir, err)
		}
	}
	for _, bad := range []string{"sha256:x", "h1:xx", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="} {
		if _, err := DirHash(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
	if m, ok := (Program{Settings: map[string]string{"GOFIPS140": "v1.0.0-c2097c7c"}}).CryptoModule(); !ok || m.PURL() != "pkg:golang/golang.org/fips140@v1.0.0-c2097c7c" {
		t.Errorf("crypto module %+v, %v", m, ok)
	}
	if m, ok := (Program{Settings: map[string]string{"GOFIPS140": "off"}}).CryptoModule(); ok {
		t.Errorf("crypto module %+v", m)
	}
}
