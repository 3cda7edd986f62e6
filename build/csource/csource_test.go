package csource

import (
	"archive/tar"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/debian"
	"github.com/rancher/rke2/build/debian/debiantest"
	"github.com/rancher/rke2/images"
)

var ctx = context.Background()

// The program needs no C library: it exits with a number of the locked header, which
// Debian's patch adds to, and has in it what a build may leak.
const programText = `#include <answer.h>
#ifndef ADD
#define ADD 0
#endif
const char leak[] = "made in " __FILE__ " at " __DATE__;
static void leave(long code) {
#if defined(__x86_64__)
	register long n __asm__("rax") = 60, a __asm__("rdi") = code;
	__asm__ volatile("syscall" : : "r"(n), "r"(a) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
	register long n __asm__("x8") = 93, a __asm__("x0") = code;
	__asm__ volatile("svc 0" : : "r"(n), "r"(a) : "memory");
#endif
}
void _start(void) { leave(ANSWER + ADD + (leak[0] == 0)); }
`

const makefile = "prog: src/prog.c\n\t$(CC) $(CFLAGS) $(LDFLAGS) -nostdlib -o $@ $(CURDIR)/src/prog.c\n"

const patch = `Description: add to it
--- a/src/prog.c
+++ b/src/prog.c
@@ -1,4 +1,5 @@
 #include <answer.h>
+#define ADD 2
 #ifndef ADD
 #define ADD 0
 #endif
`

// sources are the parts of a source package.
type sources struct {
	format string
	orig   []debiantest.File
	debian []debiantest.File
}

func good() sources {
	return sources{
		format: "3.0 (quilt)",
		orig: []debiantest.File{
			{Path: "prog-1.0/", Type: tar.TypeDir}, {Path: "prog-1.0/Makefile", Data: makefile},
			{Path: "prog-1.0/src/prog.c", Data: programText}, {Path: "prog-1.0/debian/rules", Data: "upstream's"},
		},
		debian: []debiantest.File{
			{Path: "debian/patches/series", Data: "# in this order\nadd.patch # why\n"}, {Path: "debian/patches/add.patch", Data: patch},
		},
	}
}

func (s sources) archive(t *testing.T) *debiantest.Archive {
	t.Helper()
	a := debiantest.New(t)
	a.Add("", debiantest.Package{Name: "libc6-dev", Version: "1", Files: []debiantest.File{
		{Path: "./usr/include/answer.h", Data: "#define ANSWER 40\nconst char header[] = \"with \" __FILE__;\n"}}})
	a.AddSource(debiantest.Source{Name: "prog", Version: "1.0-1", Files: map[string][]byte{
		"prog_1.0-1.dsc":           []byte("Format: " + s.format + "\nSource: prog\n"),
		"prog_1.0.orig.tar.gz":     debiantest.Compress(t, "gz", debiantest.Tar(t, s.orig...)),
		"prog_1.0-1.debian.tar.xz": debiantest.Compress(t, "xz", debiantest.Tar(t, s.debian...)),
	}})
	a.Publish(t)
	return a
}

func component(t *testing.T) images.Component {
	t.Helper()
	return images.Component{
		Name: "prog", Dir: t.TempDir(), Kind: images.KindSource, Version: debiantest.Suite,
		Source: &images.Source{Package: "prog", Build: [][]string{{"make", "-j{{.Jobs}}", "prog"}}, Binaries: map[string]string{"answer": "prog"}},
	}
}

// maker has an empty cache of its own.
func maker(t *testing.T, a *debiantest.Archive, c images.Component) *Maker {
	t.Helper()
	store, err := cache.Open(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	archive := debian.NewArchive(store, a.Mirrors(), debian.Options{Keyring: a.Keyring, Now: debiantest.Now})
	l, err := debian.NewResolver(archive).Resolve(ctx, c, nil, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Write(c); err != nil {
		t.Fatal(err)
	}
	return New(store, archive, a.Mirrors(), nil)
}

func host() artifact.Platform { return artifact.Platform{OS: "linux", Arch: runtime.GOARCH} }

func exitCode(t *testing.T, program string) int {
	t.Helper()
	cmd := exec.Command(program)
	if err := cmd.Run(); err == nil {
		return 0
	}
	return cmd.ProcessState.ExitCode()
}

// Two machines: other caches, another time zone, another locale. The same bytes.
func TestMake(t *testing.T) {
	a, c := good().archive(t), component(t)
	first, err := maker(t, a, c).Make(ctx, c, host(), nil)
	if err != nil {
		t.Fatal(err)
	}
	f := first.Contexts["answer"][0]
	if code := exitCode(t, f.Source); code != 42 {
		t.Errorf("the program exits with %d: 40 is in the locked header, 2 in Debian's patch", code)
	}
	if first.Cached || first.Version != "1.0-1" || f.Path != "answer" || f.Mode != 0o755 || f.Package != "pkg:deb/debian/prog@1.0-1?arch=source&distro=bookworm" {
		t.Errorf("%+v", first)
	}
	var purls []string
	for _, m := range first.Materials {
		purls = append(purls, strings.Split(m.PURL, "?")[0])
	}
	if got := strings.Join(purls, " "); got != "pkg:deb/debian/libc6-dev@1 pkg:deb/debian/prog@1.0-1 pkg:generic/prog_1.0-1.debian.tar.xz pkg:generic/prog_1.0.orig.tar.gz" {
		t.Errorf("materials %s", got)
	}
	data, err := os.ReadFile(f.Source)
	for _, want := range []string{"made in " + mappedTo + "/src/prog.c at Jan  1 1970\x00", "with /usr/include/answer.h\x00"} {
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("the program doesn't say %q (%v)", want, err)
		}
	}
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("LC_ALL", "tr_TR.UTF-8")
	t.Setenv("CFLAGS", "-O0 -g")
	m := maker(t, a, c)
	second, err := m.Make(ctx, c, host(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if g := second.Contexts["answer"][0]; g.SHA256 != f.SHA256 || g.Source == f.Source {
		t.Errorf("%s and %s", f.SHA256, g.SHA256)
	}
	again, err := m.Make(ctx, c, host(), func(what []string) { t.Errorf("built %v again", what) })
	if err != nil || !again.Cached {
		t.Errorf("cached %v, %v", again.Cached, err)
	}
	// What is declared is part of the key.
	c.Source.Build = append(c.Source.Build, []string{"true"})
	if other, err := m.Make(ctx, c, host(), nil); err != nil || other.Cached {
		t.Errorf("other commands: cached %v, %v", other.Cached, err)
	}
	if left, _ := filepath.Glob(filepath.Join(m.cache.Dir(), "work", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// The other architecture, where its compiler is.
func TestCross(t *testing.T) {
	other := artifact.Platform{OS: "linux", Arch: map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]}
	c := component(t)
	m := maker(t, good().archive(t), c)
	got, err := m.Make(ctx, c, other, nil)
	if err != nil {
		if strings.Contains(err.Error(), "apt-get install gcc-") {
			t.Skipf("no cross compiler here: %v", err)
		}
		t.Fatal(err)
	}
	if err := check(got.Contexts["answer"][0].Source, other); err != nil {
		t.Error(err)
	}
	if err := check(got.Contexts["answer"][0].Source, host()); err == nil || !strings.Contains(err.Error(), "not a program for "+host().String()) {
		t.Errorf("taken for the host's: %v", err)
	}
	qemu, err := exec.LookPath(map[string]string{"arm64": "qemu-aarch64-static", "amd64": "qemu-x86_64-static"}[other.Arch])
	if err != nil {
		return
	}
	cmd := exec.Command(qemu, got.Contexts["answer"][0].Source)
	_ = cmd.Run() // its exit code is what counts
	if cmd.ProcessState.ExitCode() != 42 {
		t.Errorf("under qemu it exits with %d", cmd.ProcessState.ExitCode())
	}
}

func TestMakeRefuses(t *testing.T) {
	file := func(s *sources, path, data string) {
		for i := range s.orig {
			if s.orig[i].Path == path {
				s.orig[i].Data = data
			}
		}
	}
	for _, r := range []struct {
		name string
		do   func(s *sources, c *images.Component)
		want []string
	}{
		{"format", func(s *sources, _ *images.Component) { s.format = "1.0" }, []string{"prog_1.0-1.dsc has format \"1.0\""}},
		{"patch that does not fit", func(s *sources, _ *images.Component) { file(s, "prog-1.0/src/prog.c", "int x;\n") },
			[]string{"applying debian/patches/add.patch", "FAILED"}},
		{"patch out of the tree", func(s *sources, _ *images.Component) { s.debian[0].Data = "../../add.patch\n" },
			[]string{`"../../add.patch" is not the plain name of a patch`}},
		{"does not compile", func(s *sources, _ *images.Component) { file(s, "prog-1.0/Makefile", "prog:\n\techo no; false\n") },
			[]string{"running make", "Error 1", "component prog (linux/"}},
		{"no program", func(_ *sources, c *images.Component) { c.Source.Binaries = map[string]string{"answer": "other"} },
			[]string{"binary answer: the build made no program"}},
		{"not a program", func(s *sources, _ *images.Component) { file(s, "prog-1.0/Makefile", "prog:\n\techo hello > prog\n") },
			[]string{"binary answer: the build made no program"}},
		{"path out of the tree", func(_ *sources, c *images.Component) { c.Source.Binaries = map[string]string{"answer": "../../prog"} },
			[]string{`binary answer: path "../../prog" leads out of the source tree`}},
		{"object", func(s *sources, _ *images.Component) {
			file(s, "prog-1.0/Makefile", "prog:\n\t$(CC) $(CFLAGS) -c -o prog src/prog.c\n")
		},
			[]string{"it is ET_REL"}},
		{"dynamic", func(s *sources, _ *images.Component) {
			file(s, "prog-1.0/Makefile", "prog:\n\t$(CC) $(CFLAGS) -shared -Wl,-soname,x -o libx.so src/prog.c -nostdlib\n\t$(CC) -nostdlib -o prog src/prog.c libx.so\n")
		}, []string{"it is not static"}},
		{"leak", func(s *sources, _ *images.Component) {
			file(s, "prog-1.0/Makefile", "prog:\n\t$(CC) -static -nostdlib -DHERE='\"$(CURDIR)\"' -o prog src/prog.c -s\n")
			file(s, "prog-1.0/src/prog.c", strings.Replace(programText, "__DATE__", "HERE", 1))
		}, []string{"has the folder", "so it would differ elsewhere"}},
		{"template", func(_ *sources, c *images.Component) { c.Source.Build = [][]string{{"make", "{{.Hosts}}"}} }, []string{"image.yaml: build:"}},
		{"traversal", func(s *sources, _ *images.Component) {
			s.orig = append(s.orig, debiantest.File{Path: "prog-1.0/../../evil", Data: "x"})
		}, []string{"unpacking prog_1.0.orig.tar.gz"}},
		{"link out", func(s *sources, _ *images.Component) {
			s.orig = append(s.orig, debiantest.File{Path: "prog-1.0/out", Type: tar.TypeSymlink, Link: "/tmp"}, debiantest.File{Path: "prog-1.0/out/evil", Data: "x"})
		}, []string{"unpacking prog_1.0.orig.tar.gz: prog-1.0/out/evil"}},
		{"device", func(s *sources, _ *images.Component) {
			s.orig = append(s.orig, debiantest.File{Path: "prog-1.0/dev", Type: tar.TypeChar})
		}, []string{"has no place in a source package"}},
	} {
		t.Run(r.name, func(t *testing.T) {
			s, c := good(), component(t)
			r.do(&s, &c)
			m := maker(t, s.archive(t), c)
			_, err := m.Make(ctx, c, host(), nil)
			if err == nil {
				t.Fatal("it was made")
			}
			for _, w := range r.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in: %v", w, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(m.cache.Dir(), cacheKind, "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestNoCompiler(t *testing.T) {
	a, c := good().archive(t), component(t)
	m := maker(t, a, c)
	t.Setenv("PATH", t.TempDir())
	_, err := m.Make(ctx, c, artifact.Platform{OS: "linux", Arch: "arm64"}, nil)
	if err == nil || !strings.Contains(err.Error(), "aarch64-linux-gnu-gcc is not installed; on Debian: apt-get install gcc-aarch64-linux-gnu") {
		t.Errorf("got %v", err)
	}
}
