package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/debian/debiantest"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

var ctx = context.Background()

func keep(string) bool { return false }

// archive has a small distribution: a tool, what it depends on, and what it doesn't.
func newArchive(t *testing.T) *debiantest.Archive {
	t.Helper()
	a := debiantest.New(t)
	dir := func(p string) debiantest.File { return debiantest.File{Path: p, Type: tar.TypeDir} }
	a.Add("",
		debiantest.Package{Name: "tool", Version: "1.0-1", Form: "xz",
			Fields: "Depends: libtool2 (>= 1.0), perl-base, other | libtool2, virtual-config, setup\nPre-Depends: data:any\n",
			Files: []debiantest.File{
				dir("./"), dir("./sbin/"), {Path: "./sbin/tool-nft", Data: "program", Mode: 0o4755},
				{Path: "./sbin/tool-alias", Type: tar.TypeLink, Link: "./sbin/tool-nft"},
				{Path: "./usr/share/man/man8/tool.8.gz", Data: "page"},
				{Path: "./usr/share/doc/tool/copyright", Data: "GPL"},
				{Path: "./usr/share/doc/tool/changelog.gz", Data: "log"},
				dir("./etc/"), dir("./etc/tool.d/"), {Path: "./etc/default/tool", Data: "x"},
			}},
		debiantest.Package{Name: "libtool2", Version: "1.0-1", Fields: "Source: tool-src (1:1.0-1)\n", Form: "zst",
			Files: []debiantest.File{
				dir("./lib/"), {Path: "./lib/libtool.so.2.0", Data: "old library"},
				{Path: "./lib/libtool.so.2", Type: tar.TypeSymlink, Link: "libtool.so.2.0"},
			}},
		debiantest.Package{Name: "data", Version: "7", Arch: "all", Files: []debiantest.File{{Path: "./usr/share/data", Data: "data"}}},
		debiantest.Package{Name: "perl-base", Version: "5", Fields: "Essential: yes\n"},
		debiantest.Package{Name: "config-b", Version: "1", Fields: "Provides: virtual-config (= 1)\n"},
		debiantest.Package{Name: "config-a", Version: "1", Fields: "Provides: virtual-config\n"},
		debiantest.Package{Name: "setup", Version: "1"},
		debiantest.Package{Name: "loner", Version: "1", Fields: "Conflicts: config-a\n"},
		debiantest.Package{Name: "needy", Version: "1", Fields: "Depends: tool (>= 2)\n"},
		debiantest.Package{Name: "odd", Version: "1", Fields: "Depends: tool [what is this\n"},
	)
	a.Publish(t)
	return a
}

func open(t *testing.T, a *debiantest.Archive, o Options) *Archive {
	t.Helper()
	c, err := cache.Open(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	if o.Keyring == "" {
		o.Keyring = a.Keyring
	}
	if o.Now == nil {
		o.Now = debiantest.Now
	}
	return NewArchive(c, a.Mirrors(), o)
}

func component(t *testing.T, d images.Debian) images.Component {
	t.Helper()
	return images.Component{Name: "tools", Dir: t.TempDir(), Kind: images.KindDebian, Version: debiantest.Suite, Debian: &d}
}

func amd64() artifact.Platform { return artifact.Platform{OS: "linux", Arch: "amd64"} }

func names(pkgs []lock.Package) string {
	var out []string
	for _, p := range pkgs {
		out = append(out, p.Name+"="+p.Version)
	}
	return strings.Join(out, " ")
}

var tool = images.Debian{Packages: []string{"tool"}, Omit: []images.Omit{{Package: "setup", Reason: "not needed"}}}

func TestResolve(t *testing.T) {
	a := newArchive(t)
	a.Add("security", debiantest.Package{Name: "libtool2", Version: "1.0-1+deb12u1", Files: []debiantest.File{{Path: "./lib/libtool.so.2.0", Data: "mended library"}}})
	a.Publish(t)
	r := NewResolver(open(t, a, Options{}))
	c := component(t, tool)
	l, err := r.Resolve(ctx, c, nil, keep)
	if err != nil {
		t.Fatal(err)
	}
	want := "config-a=1 data=7 libtool2=1.0-1+deb12u1 tool=1.0-1"
	for _, arch := range lock.Arches {
		if got := names(l.Packages[arch]); got != want {
			t.Errorf("%s: %s, want %s", arch, got, want)
		}
	}
	if got := strings.Join(l.LeftOut, "; "); got != "perl-base: "+essentialReason+"; setup: not needed" {
		t.Errorf("left out: %s", got)
	}
	lib := l.Packages["arm64"][2]
	if lib.Archive != lock.Security || lib.Arch != "arm64" || !strings.HasPrefix(lib.Path, "pool/updates/main/") || lib.Source != "libtool2 1.0-1+deb12u1" {
		t.Errorf("%+v", lib)
	}
	if err := l.Write(c); err != nil {
		t.Fatal(err)
	}
	if again, err := lock.Read(c, a.Mirrors()); err != nil || names(again.Packages["amd64"]) != want {
		t.Errorf("read back: %+v, %v", again, err)
	}
	// Pins stay while the archive has them, and move when they may.
	old := &lock.Lock{Packages: map[string][]lock.Package{"amd64": {{Name: "libtool2", Version: "1.0-1"}, {Name: "tool", Version: "0.1"}}}}
	if l, err = r.Resolve(ctx, c, old, keep); err != nil || names(l.Packages["amd64"]) != "config-a=1 data=7 libtool2=1.0-1 tool=1.0-1" {
		t.Errorf("with pins: %s, %v", names(l.Packages["amd64"]), err)
	}
	if l, err = r.Resolve(ctx, c, old, func(n string) bool { return n == "libtool2" }); err != nil || names(l.Packages["amd64"]) != want {
		t.Errorf("moved: %s, %v", names(l.Packages["amd64"]), err)
	}
}

// A server that is overloaded for a moment is asked again; one that stays so is named.
func TestOverloaded(t *testing.T) {
	a := newArchive(t)
	a.Overload(1)
	if _, err := NewResolver(open(t, a, Options{})).Resolve(ctx, component(t, tool), nil, keep); err != nil {
		t.Error(err)
	}
	a.Overload(1000)
	_, err := NewResolver(open(t, a, Options{})).Resolve(ctx, component(t, tool), nil, keep)
	if err == nil || !strings.Contains(err.Error(), "InRelease: the mirror answers 503") {
		t.Errorf("got %v", err)
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if _, err := NewResolver(open(t, a, Options{})).Resolve(stopped, component(t, tool), nil, keep); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A pin that a newer package doesn't admit gives way.
func TestPinGivesWay(t *testing.T) {
	a := newArchive(t)
	a.Add("updates",
		debiantest.Package{Name: "libtool2", Version: "3"},
		debiantest.Package{Name: "tool", Version: "3", Fields: "Depends: front, libtool2 (= 3)\n"},
		debiantest.Package{Name: "front", Version: "1", Fields: "Depends: libtool2\n"})
	a.Publish(t)
	r := NewResolver(open(t, a, Options{}))
	old := &lock.Lock{Packages: map[string][]lock.Package{"amd64": {{Name: "libtool2", Version: "1.0-1"}}}}
	// libtool2 is named first, so its pin is taken before tool asks for another version.
	l, err := r.Resolve(ctx, component(t, images.Debian{Packages: []string{"libtool2", "tool"}}), old, keep)
	if err != nil || names(l.Packages["amd64"]) != "front=1 libtool2=3 tool=3" {
		t.Errorf("%v, %v", l, err)
	}
	// So does that of a package which needs what isn't there any more.
	a = debiantest.New(t)
	a.Add("", debiantest.Package{Name: "tool", Version: "1", Fields: "Depends: lib (= 1)\n"})
	a.Add("updates", debiantest.Package{Name: "tool", Version: "2", Fields: "Depends: lib (= 2)\n"}, debiantest.Package{Name: "lib", Version: "2"})
	a.Publish(t)
	old = &lock.Lock{Packages: map[string][]lock.Package{"amd64": {{Name: "tool", Version: "1"}}}}
	l, err = NewResolver(open(t, a, Options{})).Resolve(ctx, component(t, images.Debian{Packages: []string{"tool"}}), old, keep)
	if err != nil || names(l.Packages["amd64"]) != "lib=2 tool=2" {
		t.Errorf("%v, %v", l, err)
	}
}

func TestResolveRefuses(t *testing.T) {
	a := newArchive(t)
	r := NewResolver(open(t, a, Options{}))
	for _, c := range []struct {
		name string
		d    images.Debian
		want string
	}{
		{"unknown", images.Debian{Packages: []string{"nothing"}}, "the archive has no package nothing for amd64"},
		{"needs a newer one", images.Debian{Packages: []string{"needy"}}, "package needy 1 needs tool (>= 2), which the archive doesn't have"},
		{"clash", images.Debian{Packages: []string{"needy", "tool"}}, "tool 1.0-1 is chosen"},
		{"conflict", images.Debian{Packages: []string{"loner", "tool"}}, "packages loner 1 and config-a 1 can't be together"},
		{"damaged field", images.Debian{Packages: []string{"odd"}}, `package odd: depends: "tool [what is this" is no relation`},
		{"idle omit", images.Debian{Packages: []string{"tool"}, Omit: []images.Omit{{Package: "loner", Reason: "x"}}}, "omit: nothing depends on loner"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.Resolve(ctx, component(t, c.d), nil, keep)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "component tools: ") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func inRelease(which string) string {
	base := "/debian"
	if which == "security" {
		base = "/debian-security"
	}
	return base + "/dists/" + strings.TrimSuffix(debiantest.Suite+"-"+which, "-") + "/InRelease"
}

// What a mirror can do wrong, by accident or not.
func TestMirrorRefused(t *testing.T) {
	resign := func(t *testing.T, a *debiantest.Archive, old, with string) {
		text := string(a.File(inRelease("")))
		text = text[strings.Index(text, "Origin:"):strings.Index(text, "-----BEGIN PGP SIGNATURE")]
		if !strings.Contains(text, old) {
			t.Fatalf("no %q in %s", old, text)
		}
		a.Replace(inRelease(""), a.Sign(t, a.Key(), strings.Replace(text, old, with, 1)))
	}
	packages := func(a *debiantest.Archive) []string {
		return append(a.Paths("bookworm/main/binary-amd64/by-hash"), a.Paths("bookworm/main/binary-amd64/Packages")...)
	}
	for _, c := range []struct {
		name string
		o    Options
		do   func(*testing.T, *debiantest.Archive)
		want []string
	}{
		{"no signature", Options{}, func(t *testing.T, a *debiantest.Archive) { a.Replace(inRelease(""), []byte("Suite: bookworm\n")) },
			[]string{"InRelease: this is no signed Release file"}},
		{"a page instead", Options{}, func(t *testing.T, a *debiantest.Archive) {
			a.Replace(inRelease(""), []byte("<html>please log in</html>"))
		},
			[]string{"captive portal"}},
		{"another key", Options{}, func(t *testing.T, a *debiantest.Archive) {
			a.Replace(inRelease(""), a.Sign(t, debiantest.NewKey(t), "Suite: bookworm\n"))
		}, []string{"the signature does not verify with the keys of"}},
		{"changed after signing", Options{}, func(t *testing.T, a *debiantest.Archive) {
			a.Replace(inRelease(""), bytes.Replace(a.File(inRelease("")), []byte("Origin: Debian"), []byte("Origin: debian"), 1))
		}, []string{"the signature does not verify"}},
		{"truncated", Options{}, func(t *testing.T, a *debiantest.Archive) {
			f := a.File(inRelease(""))
			a.Replace(inRelease(""), f[:len(f)-200])
		}, []string{"damaged or truncated"}},
		{"text behind it", Options{}, func(t *testing.T, a *debiantest.Archive) {
			a.Replace(inRelease(""), append(a.File(inRelease("")), "Package: evil\n"...))
		}, []string{"there is text behind the signature"}},
		{"expired", Options{Now: func() time.Time { return debiantest.Now().Add(8 * 24 * time.Hour) }}, func(*testing.T, *debiantest.Archive) {},
			[]string{"it expired at 2026-07-18T12:00:00Z", MirrorEnv, "--allow-expired"}},
		{"from the future", Options{Now: func() time.Time { return debiantest.Now().Add(-48 * time.Hour) }}, func(*testing.T, *debiantest.Archive) {},
			[]string{"made in the future", "set the clock"}},
		{"another suite", Options{}, func(t *testing.T, a *debiantest.Archive) { a.Replace(inRelease(""), a.File(inRelease("updates"))) },
			[]string{"this is the Release file of bookworm-updates", "not of bookworm"}},
		{"no date", Options{}, func(t *testing.T, a *debiantest.Archive) { resign(t, a, "Date: Sat, 11", "Date: Someday 11") },
			[]string{"date: ", "is not a time such as"}},
		{"a path out of the archive", Options{}, func(t *testing.T, a *debiantest.Archive) {
			resign(t, a, " main/source", " ../../main/source")
		}, []string{"is no line of hash, size and path"}},
		{"no suite", Options{}, func(t *testing.T, a *debiantest.Archive) { a.Replace(inRelease("security"), nil) },
			[]string{"/debian-security/dists/bookworm-security/InRelease is not there (404)"}},
		{"changed Packages", Options{}, func(t *testing.T, a *debiantest.Archive) {
			for _, p := range packages(a) {
				f := a.File(p)
				f[len(f)-1] ^= 1
				a.Replace(p, f)
			}
		}, []string{"by-hash/SHA256/", "has sha256", "expected", "by the signed", "the mirror serves a changed file"}},
		{"truncated Packages", Options{}, func(t *testing.T, a *debiantest.Archive) {
			for _, p := range packages(a) {
				f := a.File(p)
				a.Replace(p, f[:len(f)/2])
			}
		}, []string{"bytes, expected", "another or a truncated file"}},
		{"endless Packages", Options{}, func(t *testing.T, a *debiantest.Archive) {
			for _, p := range packages(a) {
				a.Replace(p, append(a.File(p), bytes.Repeat([]byte("x"), 1<<20)...))
			}
		}, []string{"is larger, expected"}},
		{"no Packages", Options{}, func(t *testing.T, a *debiantest.Archive) {
			for _, p := range packages(a) {
				a.Replace(p, nil)
			}
		}, []string{"Packages.gz is not there (404)"}},
		{"no keys", Options{Keyring: "/nonexistent/keys.gpg"}, func(*testing.T, *debiantest.Archive) {},
			[]string{"reading the Debian archive's keys", "apt-get install debian-archive-keyring", KeyringEnv}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newArchive(t)
			c.do(t, a)
			archive := open(t, a, c.o)
			_, err := NewResolver(archive).Resolve(ctx, component(t, tool), nil, keep)
			if err == nil {
				t.Fatal("it was taken")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in: %v", w, err)
				}
			}
			// Nothing of a refused file stays.
			left, _ := os.ReadDir(filepath.Join(archive.cache.Dir(), fileKind))
			for _, e := range left {
				if strings.HasPrefix(e.Name(), ".tmp") {
					t.Errorf("left behind: %s", e.Name())
				}
			}
		})
	}
}

// A mirror without by-hash files is used by their names.
func TestWithoutByHash(t *testing.T) {
	a := newArchive(t)
	for _, p := range a.Paths("/by-hash/") {
		a.Replace(p, nil)
	}
	if _, err := NewResolver(open(t, a, Options{})).Resolve(ctx, component(t, tool), nil, keep); err != nil {
		t.Error(err)
	}
	expired := Options{AllowExpired: true, Now: func() time.Time { return debiantest.Now().Add(365 * 24 * time.Hour) }}
	if _, err := NewResolver(open(t, a, expired)).Resolve(ctx, component(t, tool), nil, keep); err != nil {
		t.Errorf("a snapshot that may be old: %v", err)
	}
}

// locked resolves and writes the lock.
func locked(t *testing.T, archive *Archive, d images.Debian) images.Component {
	t.Helper()
	c := component(t, d)
	l, err := NewResolver(archive).Resolve(ctx, c, nil, keep)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Write(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func listing(files []layer.File) string {
	var out []string
	for _, f := range files {
		s := f.Path
		switch {
		case f.Dir:
			s += "/"
		case f.Link != "":
			s += " -> " + f.Link
		}
		out = append(out, s)
	}
	return strings.Join(out, "\n")
}

func TestMake(t *testing.T) {
	a := newArchive(t)
	archive := open(t, a, Options{})
	d := tool
	d.Without = []string{"etc/default/**"}
	d.Links = map[string]string{"usr/sbin/tool": "tool-nft", "bin/t": "/usr/sbin/tool"}
	c := locked(t, archive, d)
	a.Requests()
	var building []string
	got, err := New(archive).Make(ctx, c, amd64(), func(what []string) { building = what })
	if err != nil {
		t.Fatal(err)
	}
	want := `bin/t -> /usr/sbin/tool
etc/
etc/tool.d/
lib -> usr/lib
sbin -> usr/sbin
usr/lib/
usr/lib/libtool.so.2 -> libtool.so.2.0
usr/lib/libtool.so.2.0
usr/sbin/
usr/sbin/tool -> tool-nft
usr/sbin/tool-alias
usr/sbin/tool-nft
usr/share/data
usr/share/doc/tool/copyright
var/lib/dpkg/status.d/config-a
var/lib/dpkg/status.d/data
var/lib/dpkg/status.d/libtool2
var/lib/dpkg/status.d/tool`
	want = strings.Replace(want, "bin/t ->", "usr/bin/t ->", 1)
	lines := strings.Split(want, "\n")
	sort.Strings(lines)
	files := strings.Split(listing(got.Contexts["tools"]), "\n")
	sort.Strings(files)
	if !slices.Equal(lines, files) {
		t.Errorf("context:\n%s\nwant:\n%s", strings.Join(files, "\n"), strings.Join(lines, "\n"))
	}
	for _, f := range got.Contexts["tools"] {
		if f.Path != "usr/sbin/tool-alias" {
			continue
		}
		data, err := os.ReadFile(f.Source)
		if err != nil || string(data) != "program" || f.Mode != 0o755 || f.Package != "pkg:deb/debian/tool@1.0-1?arch=amd64&distro=bookworm" {
			t.Errorf("%+v: %q, %v", f, data, err)
		}
	}
	if got.Size != int64(len("program")*2+len("GPL")+len("old library")+len("data")) {
		t.Errorf("size %d", got.Size)
	}
	if got.Cached || len(building) != 4 || len(got.Materials) != 4 {
		t.Errorf("cached %v, building %v, %d materials", got.Cached, building, len(got.Materials))
	}
	m := got.Materials[2]
	if m.PURL != "pkg:deb/debian/libtool2@1.0-1?arch=amd64&distro=bookworm" || m.Source != "tool-src 1:1.0-1" || len(m.SHA256) != 64 ||
		m.URI != "http://deb.debian.org/debian/pool/main/l/libtool2/libtool2_1.0-1_amd64.deb" {
		t.Errorf("%+v", m)
	}
	// Again: nothing is asked for, and the result is the same.
	a.Requests()
	again, err := New(archive).Make(ctx, c, amd64(), func(what []string) { t.Errorf("building %v", what) })
	if err != nil || !again.Cached || listing(again.Contexts["tools"]) != listing(got.Contexts["tools"]) {
		t.Errorf("cached %v, %v", again.Cached, err)
	}
	if asked := a.Requests(); len(asked) != 0 {
		t.Errorf("asked for %v", asked)
	}
}

func TestMakeRefuses(t *testing.T) {
	deb := func(a *debiantest.Archive) string { return a.Paths("/tool_1.0-1_amd64.deb")[0] }
	for _, c := range []struct {
		name string
		d    images.Debian
		do   func(*testing.T, *debiantest.Archive, *images.Component)
		want []string
	}{
		{"changed package", tool, func(t *testing.T, a *debiantest.Archive, _ *images.Component) {
			f := a.File(deb(a))
			f[len(f)/2] ^= 1
			a.Replace(deb(a), f)
		}, []string{"package tool 1.0-1 (amd64)", "has sha256", "expected", "by sources.lock"}},
		{"truncated package", tool, func(t *testing.T, a *debiantest.Archive, _ *images.Component) {
			a.Replace(deb(a), a.File(deb(a))[:100])
		}, []string{"tool_1.0-1_amd64.deb is 100 bytes, expected"}},
		{"vanished package", tool, func(t *testing.T, a *debiantest.Archive, _ *images.Component) { a.Replace(deb(a), nil) },
			[]string{"package tool 1.0-1 (amd64) is no longer in the archive", "404", "rke2-build lock --update tool"}},
		{"no lock", tool, func(t *testing.T, a *debiantest.Archive, c *images.Component) {
			if err := os.Remove(lock.Path(*c)); err != nil {
				t.Fatal(err)
			}
		}, []string{"sources.lock is missing", "rke2-build lock tools"}},
		{"stale lock", tool, func(t *testing.T, a *debiantest.Archive, c *images.Component) {
			c.Debian = &images.Debian{Packages: []string{"loner"}}
		}, []string{"package loner is new", "package tool is no longer declared", "without package setup is no longer declared", "rke2-build lock tools"}},
		{"link to nothing", images.Debian{Packages: []string{"tool"}, Links: map[string]string{"usr/sbin/x": "tool-legacy"}}, nil,
			[]string{"links: /usr/sbin/x leads to /usr/sbin/tool-legacy, which no package has"}},
		{"link in the way", images.Debian{Packages: []string{"tool"}, Links: map[string]string{"sbin/tool-nft": "tool-alias"}}, nil,
			[]string{"links: /usr/sbin/tool-nft is there already, by package tool"}},
		{"glob", images.Debian{Packages: []string{"tool"}, Without: []string{"usr/[sbin"}}, nil, []string{`without: glob "usr/[sbin"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newArchive(t)
			archive := open(t, a, Options{})
			comp := locked(t, archive, c.d)
			if c.do != nil {
				c.do(t, a, &comp)
			}
			_, err := New(archive).Make(ctx, comp, amd64(), nil)
			if err == nil {
				t.Fatal("it was made")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in: %v", w, err)
				}
			}
		})
	}
}

// Callers can tell a mirror that serves something else from one that has nothing.
func TestMismatchIsTyped(t *testing.T) {
	a := newArchive(t)
	archive := open(t, a, Options{})
	c := locked(t, archive, tool)
	p := a.Paths("/libtool2_1.0-1_amd64.deb")[0]
	a.Replace(p, []byte("other"))
	_, err := New(archive).Make(ctx, c, amd64(), nil)
	var m *MismatchError
	if !errors.As(err, &m) || m.GotBytes != 5 || !strings.HasSuffix(m.URL, p) {
		t.Errorf("got %v", err)
	}
}

// Files of two packages at one path must be the same.
func TestOverlap(t *testing.T) {
	a := debiantest.New(t)
	file := func(data string) []debiantest.File { return []debiantest.File{{Path: "./usr/share/x", Data: data}} }
	a.Add("", debiantest.Package{Name: "a", Version: "1", Files: file("same")}, debiantest.Package{Name: "b", Version: "1", Files: file("same")},
		debiantest.Package{Name: "c", Version: "1", Files: file("other")})
	a.Publish(t)
	archive := open(t, a, Options{})
	if _, err := New(archive).Make(ctx, locked(t, archive, images.Debian{Packages: []string{"a", "b"}}), amd64(), nil); err != nil {
		t.Error(err)
	}
	_, err := New(archive).Make(ctx, locked(t, archive, images.Debian{Packages: []string{"a", "c"}}), amd64(), nil)
	if err == nil || !strings.Contains(err.Error(), "packages a and c both have /usr/share/x, with different content") {
		t.Errorf("got %v", err)
	}
}
