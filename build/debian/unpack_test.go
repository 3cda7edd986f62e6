package debian

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/build/debian/debiantest"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/lock"
)

var control = debiantest.Package{Name: "p", Version: "1", Arch: "amd64"}.Control()

// deb makes a package of a data.tar.
func deb(t testing.TB, data []byte) []byte {
	t.Helper()
	return debiantest.Ar(
		debiantest.Member{Name: "debian-binary", Data: []byte("2.0\n")},
		debiantest.Member{Name: "control.tar.xz", Data: debiantest.Compress(t, "xz", debiantest.Tar(t, debiantest.File{Path: "./control", Data: control}))},
		debiantest.Member{Name: "data.tar", Data: data},
	)
}

func TestUnpackRefuses(t *testing.T) {
	files := func(f ...debiantest.File) []byte { return deb(t, debiantest.Tar(t, f...)) }
	good := files(debiantest.File{Path: "./a", Data: "content"})
	member := func(name string, data []byte) []byte {
		return debiantest.Ar(debiantest.Member{Name: "debian-binary", Data: []byte("2.0\n")}, debiantest.Member{Name: name, Data: data})
	}
	// A dictionary of 4 GiB, in what otherwise is an xz header.
	xzHeader := debiantest.Compress(t, "xz", []byte("x"))
	xzHeader[12+4] = 40
	for _, c := range []struct {
		name string
		deb  []byte
		want string
	}{
		{"empty", nil, "this is no .deb"},
		{"no ar", []byte("<html>not found</html>"), "this is no .deb"},
		{"truncated in a header", good[:30], "truncated in a member's header"},
		{"no data", good[:len(good)-2048-60], "truncated"},
		{"truncated in its data", good[:len(good)-1100], "bytes are missing"},
		{"damaged header", bytes.Replace(good, []byte("`\n"), []byte("xx"), 1), "header is damaged"},
		{"negative size", bytes.Replace(good, []byte("4         `"), []byte("-4        `"), 1), "header is damaged"},
		{"another format", bytes.Replace(good, []byte("2.0\n"), []byte("3.0\n"), 1), `format "3.0`},
		{"control missing", member("data.tar", nil), `member "data.tar" is not expected`},
		{"unknown compression", member("control.tar.lz4", nil), `compression ".lz4"`},
		{"a huge dictionary", member("control.tar.xz", xzHeader), "dictionary of"},
		{"too much control", member("control.tar.gz", debiantest.Compress(t, "gz", debiantest.Tar(t, debiantest.File{Path: "./big", Data: strings.Repeat("x", maxControl+1)}))), "unpacks to more than is sensible"},
		{"no control file", debiantest.Ar(
			debiantest.Member{Name: "debian-binary", Data: []byte("2.0\n")}, debiantest.Member{Name: "control.tar", Data: debiantest.Tar(t)},
			debiantest.Member{Name: "data.tar", Data: debiantest.Tar(t)}), "no control file"},
		{"traversal", files(debiantest.File{Path: "./../../etc/passwd", Data: "x"}), "leads out of the package"},
		{"traversal inside", files(debiantest.File{Path: "./usr/../../x", Data: "x"}), "leads out of the package"},
		{"hard link out", files(debiantest.File{Path: "./x", Type: tar.TypeLink, Link: "../etc/shadow"}), "hard link: path"},
		{"hard link to nothing", files(debiantest.File{Path: "./x", Type: tar.TypeLink, Link: "./y"}), "/x is a hard link to /y, which is no file before it"},
		{"device", files(debiantest.File{Path: "./dev/sda", Type: tar.TypeBlock}), "/dev/sda is a device"},
		{"pipe", files(debiantest.File{Path: "./run/p", Type: tar.TypeFifo}), "/run/p is a device, pipe"},
		{"twice", files(debiantest.File{Path: "./x", Data: "1"}, debiantest.File{Path: "x", Data: "2"}), "/x is in it twice"},
		{"twice through /usr", files(debiantest.File{Path: "./bin/x", Data: "1"}, debiantest.File{Path: "./usr/bin/x", Data: "2"}), "/usr/bin/x is in it twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := unpack(bytes.NewReader(c.deb), t.TempDir())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := unpack(bytes.NewReader(good), t.TempDir()); err != nil {
		t.Error(err)
	}
}

// Where dpkg-deb is, it says what a package is.
func TestUnpackWhatDpkgMade(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg-deb")
	if err != nil {
		t.Skip("dpkg-deb is not installed here: packages made by the test stand for its own")
	}
	dir := t.TempDir()
	put := func(name, data string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("DEBIAN/control", control)
	put("lib/x86_64-linux-gnu/libp.so.1", "lib")
	put("usr/share/doc/p/copyright", "free")
	for _, form := range []string{"xz", "zstd", "gzip", "none"} {
		out := filepath.Join(t.TempDir(), "p.deb")
		if msg, err := exec.Command(dpkg, "--root-owner-group", "-Z"+form, "-b", dir, out).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, msg)
		}
		f, err := os.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		tr, err := unpack(f, t.TempDir())
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		var paths []string
		for _, e := range tr.Entries {
			paths = append(paths, e.Path)
		}
		if got := strings.Join(paths, " "); !strings.Contains(got, "usr/lib/x86_64-linux-gnu/libp.so.1") || !strings.Contains(got, "usr/share/doc/p/copyright") || tr.Control != control {
			t.Errorf("%s: %s", form, got)
		}
	}
}

// A package that isn't the one that is locked is refused, whatever its hash.
func TestAnotherPackage(t *testing.T) {
	tr := tree{Control: control}
	for _, p := range []debiantest.Package{{Name: "q", Version: "1", Arch: "amd64"}, {Name: "p", Version: "2", Arch: "amd64"}, {Name: "p", Version: "1", Arch: "arm64"}} {
		if err := tr.of(lockOf(p)); err == nil || !strings.Contains(err.Error(), `it is package "p" "1"`) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if err := tr.of(lockOf(debiantest.Package{Name: "p", Version: "1", Arch: "amd64"})); err != nil {
		t.Error(err)
	}
}

// A library that was cut away is found when the context is made.
func TestLinked(t *testing.T) {
	a := assembly{
		files: map[string]layer.File{"usr/sbin/x": {}, "usr/lib/ld-linux.so.2": {}, "usr/lib/libc.so.6": {Link: "libc-2.so"}},
		from:  map[string]string{"usr/sbin/x": "tool"},
		elf:   map[string]entry{"usr/sbin/x": {Needed: []string{"libc.so.6", "libtirpc.so.3"}, Loader: "/lib/ld-linux.so.2"}},
	}
	if err := a.linked(); err == nil || !strings.Contains(err.Error(), "/usr/sbin/x of package tool needs libtirpc.so.3, which is not in the closure") {
		t.Errorf("got %v", err)
	}
	a.files["usr/lib/libtirpc.so.3"] = layer.File{}
	if err := a.linked(); err != nil {
		t.Error(err)
	}
	delete(a.files, "usr/lib/ld-linux.so.2")
	if err := a.linked(); err == nil || !strings.Contains(err.Error(), "needs ld-linux.so.2") {
		t.Errorf("got %v", err)
	}
}

func TestLinkage(t *testing.T) {
	f, err := os.Open("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	needed, loader := linkage(f)
	if len(needed) == 0 || !strings.Contains(needed[0], "lib") || !strings.HasPrefix(loader, "/lib") {
		t.Errorf("/bin/sh needs %v, loader %q", needed, loader)
	}
	if needed, loader := linkage(strings.NewReader("#!/bin/sh\n")); needed != nil || loader != "" {
		t.Errorf("a script needs %v, %q", needed, loader)
	}
}

// Nothing that a package says may panic, take memory without bound, or write beside its
// folder.
func FuzzUnpack(f *testing.F) {
	f.Add(deb(f, debiantest.Tar(f, debiantest.File{Path: "./a", Data: "x"}, debiantest.File{Path: "./b", Type: tar.TypeLink, Link: "a"})))
	for _, form := range []string{"gz", "xz", "zst"} {
		f.Add(debiantest.Package{Name: "p", Version: "1", Arch: "all", Form: form, Files: []debiantest.File{{Path: "./bin/x", Data: "y"}}}.Build(f))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		outer := t.TempDir()
		dir := filepath.Join(outer, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		tr, err := unpack(bytes.NewReader(data), dir)
		if entries, _ := os.ReadDir(outer); len(entries) != 1 {
			t.Fatalf("written beside the folder: %v", entries)
		}
		if err != nil {
			return
		}
		for _, e := range tr.Entries {
			if !filepath.IsLocal(e.Path) {
				t.Errorf("path %q", e.Path)
			}
		}
	})
}

func FuzzParagraphs(f *testing.F) {
	f.Add("Package: a\nDepends: b (>= 1) | c:any,\n d\n\nPackage: e\n")
	f.Add(control)
	f.Fuzz(func(t *testing.T, text string) {
		_ = paragraphs(strings.NewReader(text), nil, func(p paragraph) error {
			_, err := parseRelations(p["depends"])
			return err
		})
	})
}

func lockOf(p debiantest.Package) lock.Package {
	return lock.Package{Name: p.Name, Version: p.Version, Arch: p.Arch}
}
