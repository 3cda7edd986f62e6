package buildkit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/compile"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
)

var epoch = time.Unix(1_700_000_000, 0).UTC()

// programs finds buildkitd and runc in the cache, or builds them: nothing that make airgap
// makes needs buildkitd, so the first test on a machine builds it.
func programs(t testing.TB) Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("BuildKit is started as root")
	}
	dist := os.Getenv("RKE2_DIST")
	if dist == "" {
		dist = filepath.Join("..", "..", "dist")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dist, "rke2-build"), "compile", "buildkit", "runc", "-o", "json")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("building buildkitd and runc: %v\n%s", err, said.Bytes())
	}
	var artifacts []struct{ Binaries []compile.Binary }
	if err := json.Unmarshal(out, &artifacts); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, a := range artifacts {
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
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := New(Options{Cache: c, Programs: func(context.Context) (Programs, error) { return p, nil }, Log: t.Output()})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		nothingLeft(t, filepath.Join(c.Dir(), "buildkitd"))
	})
	return b
}

// traces lists what daemons with their state in dir have on this host: folders, of state
// and of sockets, mounts, processes and cgroups. Other programs' are not counted.
func traces(t *testing.T, dir string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, "daemon-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range out {
		if socket, err := os.ReadFile(filepath.Join(d, nameFile)); err == nil {
			out = append(out, string(socket))
		}
		name := "rke2-build-" + filepath.Base(d)
		for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
			groups, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, groups...)
		}
	}
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		for _, name := range []string{"cmdline", "mountinfo"} {
			data, err := os.ReadFile(filepath.Join(p, name))
			if err == nil && bytes.Contains(data, []byte(dir+"/daemon-")) {
				out = append(out, filepath.Join(p, name))
			}
		}
	}
	return out
}

func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left := traces(t, dir); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
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
		Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, Epoch: epoch,
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
	if len(img.Files) != 9 || len(img.Layers) != 2 || img.Layers[0].Cached || img.Descriptor.Platform.Architecture != runtime.GOARCH {
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
	for _, copied := range []string{"COPY --from=ctx / /", "COPY f /"} {
		for _, content := range []string{"one", "two"} {
			dir := folder(t, "FROM scratch\n"+copied+"\n", map[string]string{"f": content})
			img, err := b.Build(t.Context(), request(dir, map[string][]layer.File{"ctx": {{Path: "f", Mode: 0o644, Source: filepath.Join(dir, "f")}}}))
			if err != nil {
				t.Fatal(err)
			}
			sum, err := cache.Sum(filepath.Join(dir, "f"))
			if err != nil {
				t.Fatal(err)
			}
			if len(img.Files) != 1 || img.Files[0].SHA256 != sum {
				t.Errorf("%s: %+v is not %q", copied, img.Files, content)
			}
		}
	}
}

func TestStop(t *testing.T) {
	p := programs(t)
	dir := t.TempDir()
	d, err := Start(t.Context(), DaemonOptions{Programs: p, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	socket := d.socket
	if len(traces(t, dir)) < 3 {
		t.Fatalf("a running daemon has only %v: the test can't see it", traces(t, dir))
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if err := d.Stop(); err != nil {
		t.Error("again:", err)
	}
	nothingLeft(t, dir)
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", socket, err)
	}
	// One that can't start leaves as little.
	if _, err = Start(t.Context(), DaemonOptions{Programs: Programs{Buildkitd: "/bin/false", Runc: p.Runc}, Dir: dir}); err == nil || !strings.Contains(err.Error(), "starting buildkitd: it ended: exit status 1") {
		t.Errorf("error %v", err)
	}
	if _, err = Start(t.Context(), DaemonOptions{Programs: Programs{Buildkitd: p.Buildkitd, Runc: "/nowhere/runc"}, Dir: dir}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = Start(ctx, DaemonOptions{Programs: p, Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	nothingLeft(t, dir)
}

// helper, in the environment, makes this program one that starts a daemon and waits to
// be killed: it has the folder for its state.
const helper = "RKE2_TEST_BUILDKIT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helper); dir != "" {
		_, err := Start(context.Background(), DaemonOptions{Programs: Programs{Buildkitd: os.Args[1], Runc: os.Args[2]}, Dir: dir})
		fmt.Println("started:", err)
		select {}
	}
	os.Exit(m.Run())
}

// A daemon ends with whoever started it, even if that is killed, and the next one clears
// up.
func TestOwnerKilled(t *testing.T) {
	p := programs(t)
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", p.Buildkitd, p.Runc)
	cmd.Env = append(os.Environ(), helper+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "started: <nil>\n" {
		t.Fatalf("%q, %v", line, err)
	}
	processes := func() (n int) {
		for _, s := range traces(t, dir) {
			if strings.HasPrefix(s, "/proc/") {
				n++
			}
		}
		return n
	}
	if processes() == 0 {
		t.Fatal("no daemon runs: the test can't see it")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for deadline := time.Now().Add(20 * time.Second); processes() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%v are left", traces(t, dir))
		}
	}
	if len(traces(t, dir)) < 2 {
		t.Fatalf("only %v are left: there is nothing to clear up", traces(t, dir))
	}
	d, err := Start(t.Context(), DaemonOptions{Programs: p, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(dir + "/daemon-*"); len(left) != 1 {
		t.Errorf("%v", left)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, dir)
}
