package imageimport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rancher/rke2/airgap"
	nodes "github.com/rancher/rke2/tests/containerd"
	"github.com/rancher/rke2/tests/fake"
)

// real is an importer into the containerd that nodes run.
type real struct {
	*nodes.Running
	importer *Importer
	cri      runtimeapi.ImageServiceClient
	ctx      context.Context
}

func startReal(t *testing.T, bin, root string) *real {
	t.Helper()
	r := &real{Running: nodes.Start(t, bin, root), ctx: namespaces.WithNamespace(t.Context(), "k8s.io")}
	client, err := containerd.New(r.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	conn, err := grpc.NewClient("unix://"+r.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r.cri = runtimeapi.NewImageServiceClient(conn)
	r.importer = &Importer{
		Client: client, CRI: r.cri, Blobs: BlobsDir(root), Snapshotter: nodes.Snapshotter, Log: slog.New(slog.DiscardHandler),
	}
	return r
}

// shared are two images with a layer in common, in one bundle.
func shared(t *testing.T, refs ...string) []Item {
	t.Helper()
	var s fake.Store
	for n, ref := range refs {
		image, err := fake.Layers(runtime.GOARCH, 1, int64(2+n))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Add(image, ref); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "bundle.tar")
	if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return itemsOf(t, openAll(t, path)[0])
}

func (r *real) importAll(t *testing.T, items []Item, want Result) {
	t.Helper()
	got, err := r.importer.Import(r.ctx, items...)
	if want.Bytes == 0 && want.Blobs > 0 {
		want.Bytes = got.Bytes
	}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// TestRealContainerd is against the containerd that nodes run.
func TestRealContainerd(t *testing.T) {
	bin := nodes.Programs(t)
	t.Run("bundles", func(t *testing.T) { importsBundles(t, bin) })
	t.Run("docker-archive", func(t *testing.T) { importsDockerArchive(t, bin) })
	t.Run("full disk", func(t *testing.T) { meetsFullDisk(t, bin) })
}

// importsBundles: what an import leaves in a real containerd, and that it brings back
// whatever is taken out of it.
func importsBundles(t *testing.T, bin string) {
	r := startReal(t, bin, filepath.Join(t.TempDir(), "root"))
	r.importer.Registries = []string{"mirror.example:5000"}
	const app, tool = "docker.io/example/app:v1", "registry.example/deep/tool:v1"
	items := shared(t, app, tool)
	digest := items[0].Image.Desc.Digest.String()
	names := []string{
		app, "docker.io/example/app@" + digest,
		"mirror.example:5000/example/app:v1", "mirror.example:5000/example/app@" + digest,
	}
	// Two manifests, two configurations, three layers; eight names.
	r.importAll(t, items, Result{Images: 8, Blobs: 7})

	t.Run("names and pins", func(t *testing.T) {
		for _, name := range names {
			image, err := r.importer.Client.ImageService().Get(r.ctx, name)
			if err != nil || image.Target.Digest.String() != digest {
				t.Errorf("%s: %v, %v", name, image.Target.Digest, err)
				continue
			}
			for _, label := range []string{"io.cri-containerd.pinned", "io.cattle.rke2.pinned"} {
				if image.Labels[label] != "pinned" {
					t.Errorf("%s: label %s is %q", name, label, image.Labels[label])
				}
			}
		}
		status, err := r.cri.ImageStatus(r.ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: names[2]}})
		if err != nil || status.Image == nil || !status.Image.Pinned {
			t.Errorf("what the kubelet sees: %+v, %v", status, err)
		}
	})
	t.Run("distribution sources", func(t *testing.T) {
		sources := map[string][]string{} // by label, the repositories on blobs
		blobs := 0
		err := r.importer.Client.ContentStore().Walk(r.ctx, func(info content.Info) error {
			blobs++
			for name, value := range info.Labels {
				if registry, ok := strings.CutPrefix(name, "containerd.io/distribution.source."); ok {
					sources[registry] = append(sources[registry], value)
				}
			}
			return nil
		})
		if err != nil || blobs != 7 {
			t.Fatalf("%d blobs, %v", blobs, err)
		}
		for _, all := range sources {
			slices.Sort(all)
		}
		want := map[string][]string{
			"docker.io":           {"example/app", "example/app", "example/app", "example/app"},
			"registry.example":    {"deep/tool", "deep/tool", "deep/tool", "deep/tool"},
			"mirror.example:5000": {"deep/tool", "deep/tool", "deep/tool", "example/app", "example/app", "example/app", "example/app,deep/tool"},
		}
		if !maps.EqualFunc(sources, want, slices.Equal) {
			t.Errorf("got %q, want %q", sources, want)
		}
	})
	t.Run("nothing is left to do", func(t *testing.T) { r.importAll(t, items, Result{Present: 2}) })

	deleted, broke := r.importer.Deleted(r.ctx)
	t.Run("a name is removed with ctr", func(t *testing.T) {
		if _, err := r.Ctr(r.ctx, "images", "rm", "--sync", app); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, deleted, 1); got[0] != app {
			t.Errorf("told of %q", got)
		}
		r.importAll(t, items, Result{Images: 1, Present: 1})
	})
	t.Run("an image is removed through the CRI", func(t *testing.T) {
		if _, err := r.cri.RemoveImage(r.ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: app}}); err != nil {
			t.Fatal(err)
		}
		var told []string
		for !slices.Equal(slices.Sorted(slices.Values(told)), slices.Sorted(slices.Values(names))) {
			for _, name := range receive(t, deleted, 1) {
				if !strings.HasPrefix(name, "sha256:") { // the CRI's own
					told = append(told, name)
				}
			}
		}
		// Its manifest, configuration and layer; the other layer is the other's too.
		r.importAll(t, items, Result{Images: 4, Present: 1, Blobs: 3})
	})
	if broke() != nil {
		t.Error(broke())
	}
	manifest, _, err := items[0].Archive.Manifest(items[0].Image.Desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(r.importer.Blobs, manifest.Layers[1].Digest.Hex)
	for what, harm := range map[string]func() error{
		"the file of a blob is gone":      func() error { return os.Remove(layer) },
		"the file of a blob is cut short": func() error { return os.Truncate(layer, 1000) },
	} {
		t.Run(what, func(t *testing.T) {
			if err := harm(); err != nil {
				t.Fatal(err)
			}
			r.importAll(t, items, Result{Present: 1, Blobs: 1})
			if info, err := os.Stat(layer); err != nil || info.Size() != manifest.Layers[1].Size {
				t.Errorf("%v, %v", info, err)
			}
			r.importAll(t, items, Result{Present: 2})
		})
	}
	t.Run("seen from outside", func(t *testing.T) {
		if _, err := r.importer.Unpin(r.ctx, Keep{Names: []string{app}}); err != nil {
			t.Fatal(err)
		}
		running, err := r.importer.Held(r.ctx)
		if err != nil || !running[names[3]].Whole || !running[names[3]].Pinned || running[tool].Pinned {
			t.Errorf("%+v, %v", running, err)
		}
		if _, err := HeldOffline(r.ctx, r.Root); err == nil {
			t.Error("a running containerd's files were read")
		}
		r.Stop()
		for range deleted { // until it is closed
		}
		if broke() == nil {
			t.Error("the end of containerd was not told")
		}
		stopped, err := HeldOffline(r.ctx, r.Root)
		if err != nil || !maps.Equal(running, stopped) {
			t.Errorf("stopped %+v, %v; running %+v", stopped, err, running)
		}
		if err := os.Remove(layer); err != nil {
			t.Fatal(err)
		}
		if stopped, err = HeldOffline(r.ctx, r.Root); err != nil || stopped[app].Whole || !stopped[tool].Whole {
			t.Errorf("with a blob gone: %+v, %v", stopped, err)
		}
	})
}

func receive(t *testing.T, from <-chan string, n int) (got []string) {
	t.Helper()
	for len(got) < n {
		select {
		case s, ok := <-from:
			if !ok {
				t.Fatal("the events ended")
			}
			got = append(got, s)
		case <-time.After(20 * time.Second):
			t.Fatalf("only told of %q", got)
		}
	}
	return got
}

// importsDockerArchive: an archive without digests gets the same names, pins and labels, is
// not read twice, and lets its pins go when it is another file.
func importsDockerArchive(t *testing.T, bin string) {
	r := startReal(t, bin, filepath.Join(t.TempDir(), "root"))
	r.importer.Registries = []string{"mirror.example:5000"}
	const ref = "docker.io/example/saved:v1"
	path := filepath.Join(t.TempDir(), "saved.tar")
	image, err := fake.Layers(runtime.GOARCH, 1)
	if err != nil {
		t.Fatal(err)
	}
	writeDockerArchive(t, path, ref, image)
	a := openAll(t, path)[0]
	result, err := r.importer.ImportDockerArchive(r.ctx, a)
	if err != nil || result.Images != 4 {
		t.Fatalf("%+v, %v", result, err)
	}
	if again, err := r.importer.ImportDockerArchive(r.ctx, a); err != nil || again != (Result{Present: 1}) {
		t.Errorf("again: %+v, %v", again, err)
	}
	held, err := r.importer.Held(r.ctx)
	if err != nil || !held["mirror.example:5000/example/saved:v1"].Pinned {
		t.Errorf("%+v, %v", held, err)
	}
	source, err := Source(path)
	if err != nil {
		t.Fatal(err)
	}
	if taken, err := r.importer.Unpin(r.ctx, Keep{Sources: []string{source}}); err != nil || len(taken) > 0 {
		t.Errorf("unpinned %q, %v", taken, err)
	}
	if taken, err := r.importer.Unpin(r.ctx, Keep{}); err != nil || len(taken) != 4 {
		t.Errorf("unpinned %q, %v", taken, err)
	}
}

// meetsFullDisk: a disk with too little room is named, nothing half of an image is left,
// and there is no harm in trying again when there is room.
func meetsFullDisk(t *testing.T, bin string) {
	root := t.TempDir()
	const small = 24 << 20
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("size=%d", small)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	r := startReal(t, bin, root)
	image, err := fake.Large(runtime.GOARCH, 20<<20)
	if err != nil {
		t.Fatal(err)
	}
	var s fake.Store
	if _, err := s.Add(image, ref); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bundle.tar")
	if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	items := itemsOf(t, openAll(t, path)[0])
	nothing := func() {
		t.Helper()
		if held, err := r.importer.Held(r.ctx); err != nil || len(held) > 0 {
			t.Errorf("left: %+v, %v", held, err)
		}
		if left, err := os.ReadDir(BlobsDir(root)); err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}

	var space *SpaceError
	_, err = r.importer.Import(r.ctx, items...)
	if !errors.As(err, &space) || space.Free > small || space.Need < Reserve || !strings.Contains(err.Error(), root) {
		t.Errorf("before: %v", err)
	}
	nothing()
	r.importer.Blobs = "" // then it is only known when it is full
	_, err = r.importer.Import(r.ctx, items...)
	if !errors.As(err, &space) || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("while writing: %v", err)
	}
	nothing()
	if err := syscall.Mount("tmpfs", root, "tmpfs", syscall.MS_REMOUNT, "size=200m"); err != nil {
		t.Fatal(err)
	}
	r.importer.Blobs = BlobsDir(root)
	r.importAll(t, items, Result{Images: 2, Blobs: 3})
	r.Stop()
}

// TestOneBadImage: an image with a damaged layer does not keep the others out, whatever
// way the bundle is read.
func TestOneBadImage(t *testing.T) {
	s := newStore(t)
	refs := []string{"docker.io/example/a:v1", "docker.io/example/b:v1", "docker.io/example/c:v1"}
	items := bundle(t, nil, refs...)
	manifest, _, err := items[1].Archive.Manifest(items[1].Image.Desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(items[1].Archive.Path())
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, []byte(manifest.Layers[0].Digest.Hex+"\x00"))
	raw[at+512+30] ^= 1 // after its header
	if err := os.WriteFile(items[1].Archive.Path(), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	result, err := s.importer.Import(s.ctx, items...)
	var failures Failures
	if !errors.As(err, &failures) || len(failures) != 1 || failures[0].Item.Admitted.Name() != refs[1] || !errors.Is(err, airgap.ErrDamaged) {
		t.Errorf("%v", err)
	}
	if result.Images != 4 {
		t.Errorf("%+v", result)
	}
	for _, name := range s.names(t) {
		if strings.Contains(name, "example/b") {
			t.Errorf("%s is there", name)
		}
	}
	if got := s.blobs(t); len(got) != 6 {
		t.Errorf("%d blobs, want those of two images", len(got))
	}
}

// TestProgress: what was read adds up to what was said at the start.
func TestProgress(t *testing.T) {
	s := newStore(t)
	items := shared(t, ref, "docker.io/example/other:v1")
	var last Progress
	s.importer.Progress = func(p Progress) {
		if p.Done < last.Done || p.Images < last.Images || p.Total != last.Total && last.Total != 0 {
			t.Errorf("%+v after %+v", p, last)
		}
		last = p
	}
	result, err := s.importer.Import(s.ctx, items...)
	if err != nil {
		t.Fatal(err)
	}
	if last.Total != result.Bytes || last.Of != 2 || last.Image == "" {
		t.Errorf("%+v of %+v", last, result)
	}
}
