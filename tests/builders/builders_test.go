package builders

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/buildkit"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/layout"
)

// limit is for one run of rke2-build with all components made before.
const limit = 8 * time.Minute

// tool runs the rke2-build of the products.
type tool struct {
	program string
	cache   string
}

// newTool finds the program. Components are taken from the cache that make airgap filled,
// but nothing that BuildKit made: it has to build.
func newTool(t *testing.T) tool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("BuildKit is started as root")
	}
	dist := os.Getenv("RKE2_DIST")
	if dist == "" {
		dist = filepath.Join("..", "..", "dist")
	}
	program, err := filepath.Abs(filepath.Join(dist, "rke2-build"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("run make airgap first: %v", err)
	}
	filled, err := cache.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := os.ReadDir(filled)
	if err != nil {
		t.Fatalf("run make airgap first: %v", err)
	}
	own := t.TempDir()
	for _, k := range kinds {
		if strings.HasPrefix(k.Name(), "buildkit") || k.Name() == "work" {
			continue
		}
		if err := os.Symlink(filepath.Join(filled, k.Name()), filepath.Join(own, k.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return tool{program, own}
}

func (x tool) run(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, x.program, append(args, "--cache", x.cache)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, said.Bytes())
	}
	return out.Bytes()
}

// images makes images and gives what is in them, by reference.
func (x tool) images(t *testing.T, args ...string) map[string]built {
	t.Helper()
	dist := t.TempDir()
	start := time.Now()
	x.run(t, append([]string{"image", "--dist", dist, "--platform", "linux/" + runtime.GOARCH}, args...)...)
	t.Logf("%v: %s", args, time.Since(start).Round(time.Second))
	l, err := layout.Open(filepath.Join(dist, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	index, err := l.Index()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]built{}
	for _, d := range index.Manifests {
		if d.Annotations[layout.Kind] != layout.KindImage {
			continue
		}
		var platforms v1.IndexManifest
		read(t, l, d.Digest, &platforms)
		if len(platforms.Manifests) != 1 {
			t.Fatalf("%s is of %d platforms", d.Annotations[layout.RefName], len(platforms.Manifests))
		}
		out[d.Annotations[layout.RefName]] = open(t, l, filepath.Join(dist, "oci", "blobs", "sha256"), platforms.Manifests[0].Digest)
	}
	return out
}

// built is an image in a layout.
type built struct {
	digest v1.Hash
	config v1.ConfigFile
	layers []layer.Layer
}

func open(t *testing.T, l *layout.Layout, blobs string, digest v1.Hash) built {
	t.Helper()
	b := built{digest: digest}
	var m v1.Manifest
	read(t, l, digest, &m)
	read(t, l, m.Config.Digest, &b.config)
	if len(b.config.RootFS.DiffIDs) != len(m.Layers) {
		t.Fatalf("manifest %s has %d layers, its config %d", digest, len(m.Layers), len(b.config.RootFS.DiffIDs))
	}
	for i, d := range m.Layers {
		b.layers = append(b.layers, layer.Layer{Digest: d.Digest, DiffID: b.config.RootFS.DiffIDs[i], Size: d.Size, Blob: filepath.Join(blobs, d.Digest.Hex)})
	}
	return b
}

func read(t *testing.T, l *layout.Layout, digest v1.Hash, into any) {
	t.Helper()
	data, err := l.Read(digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// agreed is the part of a configuration that the builders must agree on. They differ in
// how they cut layers and word the history. ArgsEscaped is deprecated, of meaning on
// Windows alone, and set by BuildKit wherever there is a CMD.
func (b built) agreed(t *testing.T) string {
	t.Helper()
	c := b.config
	c.RootFS, c.History, c.Config.ArgsEscaped = v1.RootFS{}, nil, false
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (b built) tree(t *testing.T) []string {
	t.Helper()
	entries, err := buildkit.Tree(b.layers)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		var xattrs []string
		for k, v := range e.Xattrs {
			xattrs = append(xattrs, fmt.Sprintf("%s=%q", k, v))
		}
		sort.Strings(xattrs)
		out = append(out, fmt.Sprintf("/%s: type %c, mode %s, owner %d:%d, %d bytes, dated %d, sha256 %s, link %q, %v",
			e.Path, e.Type, e.Mode, e.UID, e.GID, e.Size, e.ModTime.Unix(), e.SHA256, e.Link, xattrs))
	}
	return out
}

// difference lists what only one of them has, a few lines of it.
func difference(a, b []string) string {
	var out []string
	for _, only := range []struct {
		sign     string
		in, from []string
	}{{"- ", a, b}, {"+ ", b, a}} {
		have := map[string]bool{}
		for _, l := range only.from {
			have[l] = true
		}
		for _, l := range only.in {
			if !have[l] {
				out = append(out, only.sign+l)
			}
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i][2:] < out[j][2:] })
	if more := len(out) - 20; more > 0 {
		out = append(out[:20], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, "\n")
}

func TestEveryImageBothWays(t *testing.T) {
	x := newTool(t)
	ours := x.images(t)
	theirs := x.images(t, "--builder", "buildkit")
	if len(ours) < 4 || len(theirs) != len(ours) {
		t.Fatalf("%d images without a daemon, %d with BuildKit", len(ours), len(theirs))
	}
	for ref, a := range ours {
		t.Run(ref, func(t *testing.T) {
			b, ok := theirs[ref]
			if !ok {
				t.Fatal("BuildKit did not make it")
			}
			if x, y := a.agreed(t), b.agreed(t); x != y {
				t.Errorf("configuration without a daemon\n%s\nwith BuildKit\n%s", x, y)
			}
			files := a.tree(t)
			if d := difference(files, b.tree(t)); d != "" {
				t.Errorf("files (- without a daemon, + with BuildKit):\n%s", d)
			}
			t.Logf("%d entries in %d layers, with BuildKit in %d", len(files), len(a.layers), len(b.layers))
		})
	}
}

// Another daemon, another cache: the same digests.
func TestBuildKitTwice(t *testing.T) {
	names := []string{"mirrored-pause", "hardened-etcd"}
	first := newTool(t).images(t, append(names, "--builder", "buildkit")...)
	second := newTool(t).images(t, append(names, "--builder", "buildkit")...)
	if len(first) != len(names) {
		t.Fatalf("%d images, want %d", len(first), len(names))
	}
	for ref, a := range first {
		if b := second[ref]; a.digest != b.digest {
			t.Errorf("%s: %s, then %s\n%s", ref, a.digest, b.digest, difference(a.tree(t), b.tree(t)))
		}
	}
}

// docker buildx gets the contexts that BuildKit is given here: the same names, and the
// same files.
func TestBuildxContexts(t *testing.T) {
	x := newTool(t)
	dir := filepath.Join(t.TempDir(), "export")
	var said buildkit.Buildx
	if err := json.Unmarshal(x.run(t, "buildx-args", "hardened-etcd", "--dist", t.TempDir(), "--export", dir, "-o", "json"), &said); err != nil {
		t.Fatal(err)
	}
	uses, err := buildkit.Contexts(said.Dockerfile, said.Args)
	if err != nil {
		t.Fatal(err)
	}
	if len(uses) != len(said.Contexts) || !slices.Contains(said.Argv, "--build-context") {
		t.Errorf("%v, want the contexts of %v", said.Argv, uses)
	}
	for _, u := range uses {
		files, err := image.Dir(said.Contexts[u.Name]).List("")
		if err != nil || len(files) == 0 {
			t.Errorf("context %s has %d files, %v", u.Name, len(files), err)
		}
	}
}

// The comparison sees what it is for.
func TestDifference(t *testing.T) {
	same := []string{"/a: mode 0755", "/b: mode 0644"}
	if d := difference(same, slices.Clone(same)); d != "" {
		t.Errorf("got %s", d)
	}
	if d := difference(same, []string{"/a: mode 0700", "/b: mode 0644", "/c: mode 0644"}); d != "+ /a: mode 0700\n- /a: mode 0755\n+ /c: mode 0644" {
		t.Errorf("got\n%s", d)
	}
	var many []string
	for i := range 30 {
		many = append(many, fmt.Sprintf("/%02d", i))
	}
	if d := difference(many, nil); !strings.HasSuffix(d, "- /19\nand 10 more") {
		t.Errorf("got\n%s", d)
	}
}
