package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/compile"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/images"
)

var (
	epoch = time.Unix(1_700_000_000, 0).UTC()
	host  = artifact.Platform{OS: "linux", Arch: "amd64"}
)

// programs finds buildkitd and runc where make airgap left them.
func programs(t testing.TB) Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("BuildKit is started as root")
	}
	dir, err := cache.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := images.Load(filepath.Join("..", "..", "images"))
	if err != nil {
		t.Fatal(err)
	}
	compiler, err := compile.New(t.Context(), c, tree.Product.FIPS140)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, binary := range []string{"buildkitd", "runc"} {
		component, ok := tree.Maker(binary)
		if !ok {
			t.Fatalf("no component makes %s", binary)
		}
		a, ok, err := compiler.Cached(t.Context(), component, host)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			t.Fatalf("%s is not built: make airgap, or rke2-build compile %s", binary, component.Name)
		}
		for _, b := range a.Binaries {
			found[b.Name] = b.Path
		}
	}
	return Programs{Buildkitd: found["buildkitd"], Runc: found["runc"]}
}

// builder starts a daemon when it is first needed, and sees to it that nothing is left
// of it after the test.
func builder(t *testing.T) *Builder {
	t.Helper()
	p := programs(t)
	before := census(t)
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := New(Options{Cache: c, Programs: func(context.Context) (Programs, error) { return p, nil }, Log: t.Output()})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		after := census(t)
		if !reflect.DeepEqual(before, after) {
			t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
		if left, _ := filepath.Glob(filepath.Join(c.Dir(), "buildkitd", "daemon-*")); len(left) > 0 {
			t.Errorf("%v are left", left)
		}
	})
	return b
}

// census lists what a daemon could leave on this host: mounts, processes, cgroups, and
// folders of sockets.
func census(t *testing.T) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	out := strings.Split(strings.TrimSpace(string(mounts)), "\n")
	for _, pattern := range []string{os.TempDir() + "/rke2-buildkit-*", "/sys/fs/cgroup/rke2-build-*", "/sys/fs/cgroup/*/rke2-build-*", "/run/buildkit*", "/run/runc*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range exes {
		if target, err := os.Readlink(e); err == nil && (strings.HasSuffix(target, "/buildkitd") || strings.HasSuffix(target, "/runc") || strings.HasSuffix(target, "/unshare")) {
			out = append(out, e+" "+target)
		}
	}
	return out
}

// folder is a Dockerfile with files beside it.
func folder(t *testing.T, dockerfile string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{"Dockerfile": dockerfile}
	for n, content := range files {
		all[n] = content
	}
	for n, content := range all {
		p := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func request(dir string, contexts map[string][]layer.File) Request {
	return Request{
		Dockerfile: filepath.Join(dir, "Dockerfile"), Contexts: contexts, Local: image.Dir(dir),
		Platform: v1.Platform{OS: host.OS, Architecture: host.Arch}, Epoch: epoch,
	}
}

// share is a context with all kinds of files.
func share(t *testing.T) []layer.File {
	t.Helper()
	dir := folder(t, "", map[string]string{"a.txt": "a", "b.txt": "b", "c.conf": "c"})
	src := func(n string) string { return filepath.Join(dir, n) }
	return []layer.File{
		{Path: "doc/a.txt", Mode: 0o644, Source: src("a.txt"), Package: "pkg:generic/a@1"},
		{Path: "doc/deep/b.txt", Mode: 0o755, Source: src("b.txt")},
		{Path: "doc/deep", Mode: 0o700, Dir: true},
		{Path: "c.conf", Mode: 0o600, Source: src("c.conf")},
		{Path: "link", Link: "doc/a.txt"},
	}
}

// lines writes a tree down, a line an entry.
func lines(t *testing.T, img image.Image) string {
	t.Helper()
	entries, err := Tree(img.Layers)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if !e.ModTime.Equal(epoch) {
			t.Errorf("/%s is of %s", e.Path, e.ModTime)
		}
		out = append(out, fmt.Sprintf("%c %#o %d:%d %s %s%.6s", e.Type, e.Mode.Perm(), e.UID, e.GID, e.Path, e.Link, e.SHA256))
	}
	return strings.Join(out, "\n")
}

func TestBuild(t *testing.T) {
	b := builder(t)
	contexts := map[string][]layer.File{"share": share(t), "unused": nil}
	dir := folder(t, `FROM scratch
ARG VERSION
LABEL version=${VERSION}
COPY --from=share / /srv/
COPY sub /etc/
USER 65535:65535
CMD ["x"]
`, map[string]string{"sub/own": "own"})
	r := request(dir, contexts)
	r.Args = map[string]string{"VERSION": "v1"}
	img, err := b.Build(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	want := `5 0755 0:0 etc 
0 0644 0:0 etc/own 5b3975
5 0755 0:0 srv 
0 0600 0:0 srv/c.conf 2e7d2c
5 0755 0:0 srv/doc 
0 0644 0:0 srv/doc/a.txt ca9781
5 0700 0:0 srv/doc/deep 
0 0755 0:0 srv/doc/deep/b.txt 3e23e8
2 0777 0:0 srv/link doc/a.txt`
	if got := lines(t, img); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var c v1.ConfigFile
	if err := json.Unmarshal(img.Config, &c); err != nil {
		t.Fatal(err)
	}
	if c.Config.User != "65535:65535" || c.Config.Labels["version"] != "v1" || !c.Created.Equal(epoch) || !reflect.DeepEqual(c.Config.Cmd, []string{"x"}) {
		t.Errorf("config %+v", c)
	}
	for _, h := range c.History {
		if !h.Created.Equal(epoch) {
			t.Errorf("history %+v", h)
		}
	}
	for _, f := range img.Files {
		if f.Path == "srv/doc/a.txt" && (f.Package != "pkg:generic/a@1" || f.Source != contexts["share"][0].Source) {
			t.Errorf("%+v", f)
		}
	}
	if len(img.Files) != 9 || len(img.Layers) != 2 || img.Layers[0].Cached || img.Descriptor.Platform.Architecture != host.Arch {
		t.Errorf("%+v", img)
	}
	again, err := b.Build(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Layers[0].Cached || again.Descriptor.Digest != img.Descriptor.Digest {
		t.Errorf("%+v", again.Descriptor)
	}
	// A damaged entry is made again.
	if err := os.Truncate(img.Layers[0].Blob, 3); err != nil {
		t.Fatal(err)
	}
	if again, err = b.Build(t.Context(), r); err != nil || again.Layers[0].Cached || again.Descriptor.Digest != img.Descriptor.Digest {
		t.Errorf("%+v, %v", again.Descriptor, err)
	}
}

// What a file holds may change while size, date and name stay.
func TestSameSizeOtherContent(t *testing.T) {
	b := builder(t)
	for _, content := range []string{"one", "two"} {
		dir := folder(t, "FROM scratch\nCOPY --from=ctx / /\nCOPY own /own\n", map[string]string{"own": content, "f": content})
		img, err := b.Build(t.Context(), request(dir, map[string][]layer.File{"ctx": {{Path: "f", Mode: 0o644, Source: filepath.Join(dir, "f")}}}))
		if err != nil {
			t.Fatal(err)
		}
		sum, err := hashFile(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range img.Files {
			if f.SHA256 != sum {
				t.Errorf("/%s is not %q", f.Path, content)
			}
		}
	}
}

func TestStop(t *testing.T) {
	p := programs(t)
	before := census(t)
	dir := t.TempDir()
	d, err := Start(t.Context(), DaemonOptions{Programs: p, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if err := d.Stop(); err != nil {
		t.Error("again:", err)
	}
	// One that can't start leaves as little.
	p.Buildkitd = "/bin/false"
	if _, err = Start(t.Context(), DaemonOptions{Programs: p, Dir: dir}); err == nil || !strings.Contains(err.Error(), "starting buildkitd: it ended") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = Start(ctx, DaemonOptions{Programs: programs(t), Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if after := census(t); !reflect.DeepEqual(before, after) {
		t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	if left, _ := filepath.Glob(dir + "/daemon-*"); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}
