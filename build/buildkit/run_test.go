package buildkit

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
)

// tool is a context with a program to RUN.
func tool(t *testing.T) []layer.File {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "tool")
	cmd := exec.Command("go", "build", "-o", bin, "./testdata/tool")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return []layer.File{{Path: "tool", Mode: 0o755, Source: bin, Package: "pkg:generic/tool@1"}}
}

func content(t *testing.T, img image.Image, path string) string {
	t.Helper()
	for _, f := range img.Files {
		if f.Path == path {
			data, err := os.ReadFile(f.Source)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
	}
	t.Fatalf("there is no /%s in %+v", path, img.Files)
	return ""
}

func TestRun(t *testing.T) {
	b := builder(t)
	contexts := map[string][]layer.File{"tool": tool(t), "share": share(t)}
	dir := folder(t, `FROM tool AS first
COPY --from=share / /
RUN ["/tool", "write", "/made", "by the first stage"]

FROM first
RUN ["/tool", "write", "/doc/new", "by RUN"]
RUN ["/tool", "remove", "/doc/deep"]
RUN ["/tool", "remove", "/link"]
RUN ["/tool", "network", "/network"]
COPY --from=first /made /copied
`, nil)
	img, err := b.Build(t.Context(), request(dir, contexts))
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, img, "doc/new") + ", " + content(t, img, "copied"); got != "by RUN, by the first stage" {
		t.Error(got)
	}
	// No interface at all, or its own loopback.
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if network := strings.Fields(content(t, img, "network")); network[0] == ours || len(network) > 2 || len(network) == 2 && network[1] != "lo" {
		t.Errorf("RUN has the network %v", network)
	}
	var paths []string
	for _, f := range img.Files {
		if strings.HasPrefix(f.Path, "doc") || f.Path == "link" || f.Path == "tool" {
			paths = append(paths, f.Path+f.Package)
		}
	}
	if got := strings.Join(paths, " "); got != "doc doc/a.txtpkg:generic/a@1 doc/new toolpkg:generic/tool@1" {
		t.Error(got)
	}
	// Every file's origin is on this machine, also after a hit in the cache.
	again, err := b.Build(t.Context(), request(dir, contexts))
	if err != nil || !again.Layers[0].Cached {
		t.Fatalf("%+v, %v", again.Layers, err)
	}
	for _, f := range again.Files {
		if f.Dir || f.Link != "" {
			continue
		}
		if sum, err := cache.Sum(f.Source); err != nil || sum != f.SHA256 {
			t.Errorf("/%s: %s, %v", f.Path, sum, err)
		}
	}
}

func TestRunWithTheHostsNetwork(t *testing.T) {
	b := builder(t)
	dir := folder(t, "FROM tool\nRUN --network=host [\"/tool\", \"network\", \"/network\"]\n", nil)
	img, err := b.Build(t.Context(), request(dir, map[string][]layer.File{"tool": tool(t)}))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if network := content(t, img, "network"); !strings.HasPrefix(network, ours+" ") {
		t.Errorf("RUN --network=host has the network %s, this host has %s", network, ours)
	}
}

// A daemon that is running anyway has the host's network; what it runs hasn't. And it may
// have kept other contexts of the same names.
func TestRunningDaemon(t *testing.T) {
	p := programs(t)
	state := t.TempDir()
	d, err := Start(t.Context(), DaemonOptions{Programs: p, Dir: state, Network: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		nothingLeft(t, state)
	})
	contexts := map[string][]layer.File{"tool": tool(t)}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var digests []string
	for range 2 {
		c, err := cache.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		b := New(Options{Cache: c, Addr: d.address(), Log: t.Output()})
		dir := folder(t, "FROM tool\nRUN [\"/tool\", \"network\", \"/network\", \""+ours+"\"]\nRUN [\"/tool\", \"write\", \"/network\", \"\"]\n", nil)
		img, err := b.Build(t.Context(), request(dir, contexts))
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, img.Descriptor.Digest.String())
		entries, err := Tree(img.Layers[:2])
		if err != nil {
			t.Fatal(err)
		}
		alone, loopback := digestOf([]byte("another")), digestOf([]byte("another lo"))
		for _, e := range entries {
			if e.Path == "network" && e.SHA256 != alone.Hex && e.SHA256 != loopback.Hex {
				t.Errorf("RUN wrote %d bytes of interfaces", e.Size)
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("digests %v", digests)
	}
	b := New(Options{Addr: "unix:///nowhere/buildkitd.sock"})
	_, err = b.Build(t.Context(), request(folder(t, "FROM scratch\n", nil), nil))
	if err == nil || !strings.Contains(err.Error(), "connecting to BuildKit at unix:///nowhere/buildkitd.sock (--buildkit-addr") {
		t.Errorf("error %v", err)
	}
}

// Errors name the Dockerfile and the line, and leave nothing in the cache.
func TestErrorsOfBuildKit(t *testing.T) {
	b := builder(t)
	contexts := map[string][]layer.File{"tool": tool(t), "share": share(t)}
	for name, c := range map[string]struct{ dockerfile, want string }{
		"RUN":             {"FROM tool\n\nRUN [\"/tool\", \"fail\"]\n", "Dockerfile:3: process \"/tool fail\" did not complete successfully: exit code: 3:\nsaid before failing"},
		"no such program": {"FROM tool\nRUN echo\n", "Dockerfile:2: process \"/bin/sh -c echo\" did not complete"},
		"no such file":    {"FROM scratch\nCOPY --from=share /doc /\nCOPY --from=share /nothing /\n", "Dockerfile:3: \"/nothing\": not found"},
		"instruction":     {"FROM scratch\nNONSENSE\n", "Dockerfile:2: dockerfile parse error on line 2: unknown instruction: NONSENSE"},
		"bad user":        {"FROM tool\nUSER nobody\nRUN [\"/tool\"]\n", "Dockerfile:3: "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, c.dockerfile, nil)
			_, err := b.Build(t.Context(), request(dir, contexts))
			if err == nil || !strings.HasPrefix(err.Error(), dir) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(b.o.Cache.Dir(), cacheKind, "*")); len(left) > 0 {
		t.Errorf("%v are in the cache", left)
	}
}

// BuildKit itself is told to fetch nothing, should reading a Dockerfile miss something.
func TestNothingIsFetched(t *testing.T) {
	b := builder(t)
	for _, line := range []string{"FROM docker.io/library/debian:12", "FROM scratch\nADD https://deb.debian.org/debian/README /", "FROM scratch\nADD https://github.com/moby/buildkit.git#v0.25.2 /"} {
		j, err := b.plan(t.Context(), request(folder(t, "FROM scratch\n", nil), nil))
		if err != nil {
			t.Fatal(err)
		}
		j.file.data = []byte(line + "\n")
		if err := b.solve(t.Context(), j, t.TempDir()); err == nil || !strings.Contains(err.Error(), "denied by policy") {
			t.Errorf("%s: error %v", line, err)
		}
	}
}

// A file of a context that is not what its sum says, or is gone, is never built into an
// image.
func TestChangedContext(t *testing.T) {
	b := builder(t)
	for name, change := range map[string]func(path string) error{
		"has sha256 ":  func(p string) error { return os.WriteFile(p, []byte("X"), 0o644) },
		"no such file": os.Remove,
	} {
		// The job has seen the file before it changes.
		dir := folder(t, "FROM scratch\nCOPY --from=share / /\n", nil)
		files := share(t)
		j, err := b.plan(t.Context(), request(dir, map[string][]layer.File{"share": files}))
		if err != nil {
			t.Fatal(err)
		}
		if err := change(files[0].Source); err != nil {
			t.Fatal(err)
		}
		err = b.solve(t.Context(), j, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), "context share: ") || !strings.Contains(err.Error(), files[0].Source) || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v", err)
		}
	}
}

// A build that is given up ends at once; the daemon can be used again.
func TestCancelled(t *testing.T) {
	contexts := map[string][]layer.File{"tool": tool(t)}
	b := builder(t)
	r, w := io.Pipe()
	log := b.o.Log
	b.o.Log = io.MultiWriter(log, w)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := b.Build(ctx, request(folder(t, "FROM tool\nRUN [\"/tool\", \"wait\"]\n", nil), contexts))
		done <- err
	}()
	seen := ""
	for buf := make([]byte, 1<<10); !strings.Contains(seen, "waiting\n"); {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		seen += string(buf[:n])
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	start := time.Now()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if _, err := b.Build(t.Context(), request(folder(t, "FROM tool\n", nil), contexts)); err != nil {
		t.Error(err)
	}
}

// A daemon that ended is replaced.
func TestDaemonKilled(t *testing.T) {
	b := builder(t)
	contexts := map[string][]layer.File{"share": share(t)}
	if _, err := b.Build(t.Context(), request(folder(t, "FROM share\n", nil), contexts)); err != nil {
		t.Fatal(err)
	}
	if err := b.daemons[false].kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Build(t.Context(), request(folder(t, "FROM share\nWORKDIR /x\n", nil), contexts)); err != nil {
		t.Error(err)
	}
}
