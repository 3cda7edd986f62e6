package debian

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/build/debian/debiantest"
	"github.com/rancher/rke2/images"
)

func TestSysroot(t *testing.T) {
	a := debiantest.New(t)
	a.Add("",
		debiantest.Package{Name: "libc6-dev", Version: "2.36-9", Fields: "Depends: linux-libc-dev, libnsl-dev\n", Files: []debiantest.File{
			{Path: "./usr/include/stdio.h", Data: "x"}, {Path: "./usr/share/doc/libc6-dev/copyright", Data: "x"},
			{Path: "./usr/lib/x86_64-linux-gnu/libm.so", Type: tar.TypeSymlink, Link: "/lib/x86_64-linux-gnu/libm.so.6"},
			{Path: "./lib/x86_64-linux-gnu/libm.so.6", Data: "m"}}},
		debiantest.Package{Name: "libx-dev", Version: "1", Files: []debiantest.File{{Path: "./usr/lib/x86_64-linux-gnu/pkgconfig/x.pc", Data: "x"}}},
		debiantest.Package{Name: "linux-libc-dev", Version: "6.1.1-1"},
		debiantest.Package{Name: "libnsl-dev", Version: "1"})
	a.Add("security", debiantest.Package{Name: "linux-libc-dev", Version: "6.1.2-1"})
	a.Publish(t)
	archive := open(t, a, Options{})
	c := images.Component{Name: "tool", Dir: t.TempDir(), Kind: images.KindGo, Cgo: &images.Cgo{Libraries: []images.Library{{File: "libx.a", Package: "libx-dev"}}}}
	l, err := NewResolver(archive).Resolve(ctx, c, nil, keep)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(l.Packages["arm64"]); got != "libc6-dev=2.36-9 libx-dev=1 linux-libc-dev=6.1.1-1" {
		t.Errorf("locked %s", got)
	}
	if err := l.Write(c); err != nil {
		t.Fatal(err)
	}
	s, err := archive.Sysroot(ctx, c, amd64(), nil)
	if err != nil {
		t.Fatal(err)
	}
	// An absolute link stays in the sysroot.
	if data, err := os.ReadFile(filepath.Join(s.Dir, "usr/lib/x86_64-linux-gnu/libm.so")); err != nil || string(data) != "m" {
		t.Errorf("%q, %v", data, err)
	}
	for _, p := range []string{"lib/x86_64-linux-gnu/libm.so.6", "usr/include/stdio.h", strings.TrimPrefix(strings.Split(s.PkgConfig(), ":")[0], s.Dir) + "/x.pc"} {
		if _, err := os.Stat(filepath.Join(s.Dir, p)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "usr/share/doc")); err == nil {
		t.Error("documentation is in the sysroot")
	}
	if len(s.Materials) != 3 || s.ID == "" || s.Flags()[0] != "--sysroot="+s.Dir {
		t.Errorf("%+v", s)
	}
	// The same elsewhere.
	other, err := open(t, a, Options{}).Sysroot(ctx, c, amd64(), nil)
	if err != nil || other.ID != s.ID || other.Dir == s.Dir {
		t.Errorf("%+v, %v", other, err)
	}
}

// A package whose link leads out can't make the next file land there.
func TestSysrootStaysInside(t *testing.T) {
	outside := t.TempDir()
	a := debiantest.New(t)
	a.Add("",
		debiantest.Package{Name: "libc6-dev", Version: "1", Fields: "Depends: zz\n", Files: []debiantest.File{
			{Path: "./usr/lib/out", Type: tar.TypeSymlink, Link: strings.Repeat("../", 20) + outside[1:]}}},
		debiantest.Package{Name: "zz", Version: "1", Files: []debiantest.File{{Path: "./usr/lib/out/x", Data: "x"}}})
	a.Publish(t)
	archive := open(t, a, Options{})
	c := images.Component{Name: "tool", Dir: t.TempDir(), Kind: images.KindGo, Cgo: &images.Cgo{}}
	l, err := NewResolver(archive).Resolve(ctx, c, nil, keep)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Write(c); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Sysroot(ctx, c, amd64(), nil); err == nil || !strings.Contains(err.Error(), "unpacking zz") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("written outside: %v", left)
	}
}
