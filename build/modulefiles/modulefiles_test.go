package modulefiles

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/images"
)

var up = module.Version{Path: "example.com/up", Version: "v1.2.3"}

// world is a module proxy in a folder, an empty module cache and a component that
// requires what the proxy has.
type world struct {
	t     *testing.T
	proxy string
	comp  images.Component
	cache *cache.Cache
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, proxy: t.TempDir(), comp: images.Component{Name: "comp", Dir: t.TempDir()}}
	var err error
	if w.cache, err = cache.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	modcache := t.TempDir()
	t.Setenv("GOPROXY", "file://"+w.proxy)
	t.Setenv("GOSUMDB", "off")
	t.Setenv("GOMODCACHE", modcache)
	t.Cleanup(func() { // the go command makes it read-only
		_ = filepath.WalkDir(modcache, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				err = os.Chmod(p, 0o755)
			}
			return err
		})
	})
	var buf bytes.Buffer
	if err := modzip.CreateFromDir(&buf, up, "testdata/module"); err != nil {
		t.Fatal(err)
	}
	gomod, err := os.ReadFile("testdata/module/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	w.serve(up, buf.Bytes(), gomod)
	w.write("go.mod", "module comp\n\nrequire "+up.Path+" "+up.Version+"\n")
	w.write("go.sum", w.sums(up))
	return w
}

func (w *world) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.comp.Dir, name), []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) file(m module.Version, suffix string) string {
	return filepath.Join(w.proxy, filepath.FromSlash(m.Path), "@v", m.Version+suffix)
}

func (w *world) serve(m module.Version, zipped, gomod []byte) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.file(m, "")), 0o755); err != nil {
		w.t.Fatal(err)
	}
	for suffix, data := range map[string][]byte{
		".zip":  zipped,
		".mod":  gomod,
		".info": fmt.Appendf(nil, `{"Version":%q}`, m.Version),
	} {
		if err := os.WriteFile(w.file(m, suffix), data, 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// sums gives the lines of go.sum for a module that the proxy serves.
func (w *world) sums(m module.Version) string {
	w.t.Helper()
	h1, err := dirhash.HashZip(w.file(m, ".zip"), dirhash.Hash1)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf("%s %s %s\n", m.Path, m.Version, h1)
}

func (w *world) files(f images.ModuleFiles) ([]layer.File, error) {
	w.t.Helper()
	if f.Context == "" {
		f.Context = "up-files"
	}
	f.Module = up.Path
	files, material, err := New(w.cache).Files(context.Background(), w.comp, f)
	if err == nil && !strings.Contains(w.read("go.sum"), material.H1) {
		w.t.Errorf("the material's sum is %s, go.sum has\n%s", material.H1, w.read("go.sum"))
	}
	return files, err
}

func (w *world) read(name string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.comp.Dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// tree shows files as "path mode" and gives their content.
func tree(t *testing.T, files []layer.File) (list []string, content map[string]string) {
	t.Helper()
	content = map[string]string{}
	for _, f := range files {
		data, err := os.ReadFile(f.Source)
		if err != nil {
			t.Fatal(err)
		}
		if sum(data) != f.SHA256 {
			t.Errorf("%s: sha256 is not the file's", f.Path)
		}
		if f.Package != "pkg:golang/example.com/up@v1.2.3" {
			t.Errorf("%s: package %s", f.Path, f.Package)
		}
		list = append(list, fmt.Sprintf("%s %o", f.Path, f.Mode))
		content[f.Path] = string(data)
	}
	return list, content
}

func TestFiles(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		name  string
		files images.ModuleFiles
		want  []string
	}{
		{"all", images.ModuleFiles{}, []string{"docs/README 644", "go.mod 644", "rootfs/etc/app/app.conf 644", "rootfs/etc/app/lua/one.lua 644", "rootfs/etc/app/lua/two.lua 644", "rootfs/start 755", "up.go 644"}},
		{"folder", images.ModuleFiles{From: "rootfs/etc"}, []string{"app/app.conf 644", "app/lua/one.lua 644", "app/lua/two.lua 644"}},
		{"globs", images.ModuleFiles{From: "rootfs", Paths: []string{"etc/**/o*.lua", "start"}}, []string{"etc/app/lua/one.lua 644", "start 755"}},
		{"alternatives", images.ModuleFiles{From: "rootfs", Paths: []string{"etc/app/{app.conf,lua/two.lua}"}}, []string{"etc/app/app.conf 644", "etc/app/lua/two.lua 644"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files, err := w.files(tt.files)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := tree(t, files); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got\n%q, want\n%q", got, tt.want)
			}
		})
	}
	if got := w.read("go.sum"); got != w.sums(up) {
		t.Errorf("the wrapper's go.sum was changed to\n%s", got)
	}
}

func TestEdits(t *testing.T) {
	w := newWorld(t)
	f := images.ModuleFiles{From: "rootfs/etc/app", Paths: []string{"app.conf"}, Edits: []images.Edit{
		{File: "app.conf", Replace: "stream {\n    server b;\n    server c;\n}\n", Count: 1},
		{File: "app.conf", Replace: "server", With: "serve", Count: 1}, // of three that were there
	}}
	files, err := w.files(f)
	if err != nil {
		t.Fatal(err)
	}
	if _, content := tree(t, files); content["app.conf"] != "listen 80;\nhttp {\n    serve a;\n}\n" {
		t.Errorf("edited to %q", content["app.conf"])
	}
	f.Edits[1].With = "other"
	again, err := w.files(f)
	if err != nil {
		t.Fatal(err)
	}
	if again[0].SHA256 == files[0].SHA256 || again[0].Source == files[0].Source {
		t.Error("another edit gave the same file")
	}
}

// Every mistake in a declaration, and everything wrong with a module, has an error that
// says where and what.
func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		files  images.ModuleFiles
		damage func(w *world)
		want   []string
	}{
		{"edit found nowhere", images.ModuleFiles{From: "rootfs/etc/app", Edits: []images.Edit{{File: "app.conf", Replace: "udp {", Count: 1, Line: 7}}}, nil,
			[]string{"image.yaml:7: files: up-files: edit of app.conf", `"udp {" is there 0 times, expected 1`}},
		{"edit found too often", images.ModuleFiles{From: "rootfs/etc/app", Edits: []images.Edit{{File: "app.conf", Replace: "server", Count: 1, Line: 7}}}, nil,
			[]string{"image.yaml:7:", "3 times (line 3, 6, 7), expected 1"}},
		{"edit of a changed block", images.ModuleFiles{From: "rootfs/etc/app", Edits: []images.Edit{{File: "app.conf", Replace: "stream {\n    server b;\n    server d;\n", Count: 1, Line: 7}}}, nil,
			[]string{"0 times (its first 2 lines are, but line 7 is \"    server c;\", not \"    server d;\")"}},
		{"edit with other white space", images.ModuleFiles{From: "rootfs/etc/app", Edits: []images.Edit{{File: "app.conf", Replace: "\tserver a;\n}", Count: 1, Line: 7}}}, nil,
			[]string{`(line 3 is "    server a;": other white space)`}},
		{"edit of a file that is not taken", images.ModuleFiles{From: "rootfs", Paths: []string{"start"}, Edits: []images.Edit{{File: "etc/app/app.conf", Replace: "x", Count: 1, Line: 9}}}, nil,
			[]string{"image.yaml:9:", "etc/app/app.conf is not among the 1 files"}},
		{"edit outside", images.ModuleFiles{Edits: []images.Edit{{File: "../x", Replace: "x", Count: 1, Line: 9}}}, nil, []string{"image.yaml:9:", `"../x" is not the path of a file`}},
		{"no such folder", images.ModuleFiles{From: "config", Line: 4}, nil, []string{"image.yaml:4:", "example.com/up@v1.2.3 has no folder /config"}},
		{"folder outside", images.ModuleFiles{From: "../x", Line: 4}, nil, []string{"image.yaml:4:", `from: "../x" is not a folder of the module`}},
		{"glob that is nothing", images.ModuleFiles{Paths: []string{"docs", "**"}, Line: 4}, nil, []string{"image.yaml:4:", `paths: "docs" is none of the 7 files`, "FOLDER/**"}},
		{"bad glob", images.ModuleFiles{Paths: []string{"a["}, Line: 4}, nil, []string{`paths: "a[" is not a glob`}},
		{"not required", images.ModuleFiles{Line: 4}, func(w *world) { w.write("go.mod", "module comp\n") }, []string{"image.yaml:4:", "does not require example.com/up"}},
		{"no sum", images.ModuleFiles{Line: 4}, func(w *world) { w.write("go.sum", "") }, []string{"image.yaml:4:", "has no sum of example.com/up@v1.2.3", "go mod tidy"}},
		{"replaced by a folder", images.ModuleFiles{Line: 4}, func(w *world) { w.write("go.mod", w.read("go.mod")+"replace example.com/up => ../up\n") },
			[]string{"go.mod:4: example.com/up is replaced by a folder"}},
		{"another sum", images.ModuleFiles{Line: 4}, func(w *world) {
			w.write("go.sum", "example.com/up v1.2.3 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
		}, []string{"image.yaml:4:", "checksum mismatch", "h1:AAAA"}},
		{"not served", images.ModuleFiles{Line: 4}, func(w *world) {
			if err := os.Remove(w.file(up, ".zip")); err != nil {
				w.t.Fatal(err)
			}
		}, []string{"image.yaml:4:", "downloading example.com/up@v1.2.3"}},
		{"symbolic link", images.ModuleFiles{Line: 4}, func(w *world) {
			w.craft(func(z *zip.Writer) {
				h := &zip.FileHeader{Name: up.String() + "/link"}
				h.SetMode(fs.ModeSymlink | 0o777)
				entry(w.t, z, h, "/etc/passwd")
			})
		}, []string{"link in example.com/up@v1.2.3 is no regular file"}},
		{"path out of the module", images.ModuleFiles{Line: 4}, func(w *world) {
			w.craft(func(z *zip.Writer) { entry(w.t, z, &zip.FileHeader{Name: up.String() + "/../../x"}, "x") })
		}, []string{"example.com/up@v1.2.3"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			if tt.damage != nil {
				tt.damage(w)
			}
			files, err := w.files(tt.files)
			if err == nil {
				t.Fatalf("accepted, giving %d files", len(files))
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error is\n%v\nwhich doesn't have %q", err, want)
				}
			}
			left, globErr := filepath.Glob(filepath.Join(w.cache.Dir(), "*", "*"))
			if globErr != nil || len(left) > 0 {
				t.Errorf("left in the cache: %v (%v)", left, globErr)
			}
		})
	}
}

// craft serves another zip, and gives the component its sum.
func (w *world) craft(add func(z *zip.Writer)) {
	w.t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	entry(w.t, z, &zip.FileHeader{Name: up.String() + "/go.mod"}, "module example.com/up\n")
	add(z)
	if err := z.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.serve(up, buf.Bytes(), []byte("module example.com/up\n"))
	w.write("go.sum", w.sums(up))
}

func entry(t *testing.T, z *zip.Writer, h *zip.FileHeader, content string) {
	t.Helper()
	f, err := z.CreateHeader(h)
	if err == nil {
		_, err = f.Write([]byte(content))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A replacement's version and sum are what counts.
func TestReplaced(t *testing.T) {
	w := newWorld(t)
	fork := module.Version{Path: "example.com/fork/v2", Version: "v2.0.1"}
	dir := t.TempDir()
	for name, content := range map[string]string{"go.mod": "module example.com/fork/v2\n", "a.txt": "fork\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	if err := modzip.CreateFromDir(&buf, fork, dir); err != nil {
		t.Fatal(err)
	}
	w.serve(fork, buf.Bytes(), []byte("module example.com/fork/v2\n"))
	w.write("go.mod", w.read("go.mod")+"replace example.com/up => example.com/fork/v2 v2.0.1\n")
	w.write("go.sum", w.sums(up)+w.sums(fork))
	files, material, err := New(w.cache).Files(context.Background(), w.comp, images.ModuleFiles{Context: "x", Module: up.Path, Paths: []string{"*.txt"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 || material.PURL != "pkg:golang/example.com/fork/v2@v2.0.1" || material.URI != "https://proxy.golang.org/example.com/fork/v2/@v/v2.0.1.zip" {
		t.Errorf("got %d files of %+v", len(files), material)
	}
	if !strings.Contains(w.sums(fork), material.H1) {
		t.Errorf("sum %s is not the replacement's", material.H1)
	}
}

// What was taken once needs neither proxy nor module cache again; what was damaged in
// the build cache is made again.
func TestCached(t *testing.T) {
	w := newWorld(t)
	f := images.ModuleFiles{From: "rootfs"}
	first, err := w.files(f)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "clean", "-modcache").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	zipFile := w.file(up, ".zip")
	if err := os.Rename(zipFile, zipFile+".away"); err != nil {
		t.Fatal(err)
	}
	again, err := w.files(f)
	if err != nil {
		t.Fatalf("with everything cached: %v", err)
	}
	if !reflect.DeepEqual(first, again) {
		t.Errorf("got %v, then %v", first, again)
	}
	if err := os.WriteFile(first[0].Source, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := w.files(f); err == nil {
		t.Fatal("damaged files were given with no module to mend them from")
	}
	if err := os.Rename(zipFile+".away", zipFile); err != nil {
		t.Fatal(err)
	}
	mended, err := w.files(f)
	if err != nil {
		t.Fatal(err)
	}
	tree(t, mended)
}

// A zip that was changed in the module cache, where the go command trusts it, is not used.
func TestChangedInModuleCache(t *testing.T) {
	w := newWorld(t)
	if _, err := w.files(images.ModuleFiles{From: "rootfs"}); err != nil {
		t.Fatal(err)
	}
	cached := filepath.Join(os.Getenv("GOMODCACHE"), "cache", "download", "example.com", "up", "@v", "v1.2.3.zip")
	if err := os.Remove(cached); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(w.file(up, ".zip"))
	if err != nil {
		t.Fatal(err)
	}
	w.craft(func(z *zip.Writer) { entry(t, z, &zip.FileHeader{Name: up.String() + "/evil"}, "evil") })
	evil, err := os.ReadFile(w.file(up, ".zip"))
	if err != nil {
		t.Fatal(err)
	}
	w.serve(up, good, []byte("module example.com/up\n"))
	w.write("go.sum", w.sums(up))
	if err := os.WriteFile(cached, evil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = w.files(images.ModuleFiles{})
	if err == nil || !strings.Contains(err.Error(), "it was changed") {
		t.Errorf("error is %v", err)
	}
}
