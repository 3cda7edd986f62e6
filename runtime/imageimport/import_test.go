package imageimport

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/fake"
)

// store is containerd's own metadata and content store, in this process.
type store struct {
	db       *metadata.DB
	importer *Importer
	ctx      context.Context
}

func newStore(t *testing.T) *store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("unpacking layers needs root")
	}
	dir := t.TempDir()
	blobs, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	snapshotter, err := native.NewSnapshotter(filepath.Join(dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	boltDB, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = boltDB.Close() })
	db := metadata.NewDB(boltDB, blobs, map[string]snapshots.Snapshotter{"native": snapshotter})
	if err := db.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	contentStore := db.ContentStore()
	client, err := containerd.New("", containerd.WithServices(
		containerd.WithContentStore(contentStore),
		containerd.WithImageStore(metadata.NewImageStore(db)),
		containerd.WithLeasesService(collecting{metadata.NewLeaseManager(db), db}),
		containerd.WithSnapshotters(map[string]snapshots.Snapshotter{"native": db.Snapshotter("native")}),
		containerd.WithDiffService(differ{apply.NewFileSystemApplier(contentStore), walking.NewWalkingDiff(contentStore)}),
	))
	if err != nil {
		t.Fatal(err)
	}
	return &store{
		db:       db,
		ctx:      namespaces.WithNamespace(t.Context(), "k8s.io"),
		importer: &Importer{Client: client, CRI: cri{client}, Snapshotter: "native", Log: slog.New(slog.DiscardHandler)},
	}
}

type differ struct {
	diff.Applier
	diff.Comparer
}

// collecting runs the garbage collector when a lease is deleted synchronously,
// as containerd's service does.
type collecting struct {
	leases.Manager
	db *metadata.DB
}

func (c collecting) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	var o leases.DeleteOptions
	for _, opt := range opts {
		if err := opt(ctx, &o); err != nil {
			return err
		}
	}
	if err := c.Manager.Delete(ctx, l, opts...); err != nil || !o.Synchronous {
		return err
	}
	_, err := c.db.GarbageCollect(ctx)
	return err
}

// cri answers from containerd's store, as the CRI plugin does.
type cri struct{ client *containerd.Client }

func (c cri) ImageStatus(ctx context.Context, r *runtimeapi.ImageStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	image, err := c.client.ImageService().Get(ctx, r.Image.Image)
	if err != nil {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: image.Target.Digest.String()}}, nil
}

func (s *store) names(t *testing.T) []string {
	t.Helper()
	list, err := s.importer.Client.ImageService().List(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, image := range list {
		out = append(out, image.Name)
	}
	slices.Sort(out)
	return out
}

func (s *store) blobs(t *testing.T) []string {
	t.Helper()
	var out []string
	err := s.importer.Client.ContentStore().Walk(s.ctx, func(i content.Info) error {
		out = append(out, i.Digest.String())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// bundle writes images, by reference, and returns them as admitted items.
func bundle(t *testing.T, damage func([]byte), refs ...string) []Item {
	t.Helper()
	var s fake.Store
	dir := t.TempDir()
	for n, ref := range refs {
		program := filepath.Join(dir, "program")
		if err := os.WriteFile(program, bytes.Repeat([]byte{byte('a' + n)}, 50_000), 0o755); err != nil {
			t.Fatal(err)
		}
		image, err := fake.Program("program", program, runtime.GOARCH)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Add(image, ref); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "bundle.tar")
	if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	if damage != nil {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		damage(raw)
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	archive, err := airgap.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = archive.Close() })
	return itemsOf(t, archive)
}

const ref = "docker.io/example/app:v1"

func TestImport(t *testing.T) {
	s := newStore(t)
	s.importer.Registries = []string{"registry.example.com:5000"}
	items := bundle(t, nil, ref)
	result, err := s.importer.Import(s.ctx, items...)
	if err != nil {
		t.Fatal(err)
	}
	if result.Blobs != 3 || result.Images != 4 || result.Present != 0 {
		t.Errorf("first: %+v", result)
	}
	digest := items[0].Image.Desc.Digest.String()
	want := []string{
		"docker.io/example/app:v1", "docker.io/example/app@" + digest,
		"registry.example.com:5000/example/app:v1", "registry.example.com:5000/example/app@" + digest,
	}
	if got := s.names(t); !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	image, err := s.importer.Client.ImageService().Get(s.ctx, ref)
	if err != nil || !pinned(image) {
		t.Errorf("pins: %v, %v", image.Labels, err)
	}
	info, err := s.importer.Client.ContentStore().Info(s.ctx, image.Target.Digest)
	if err != nil || info.Labels["containerd.io/distribution.source.docker.io"] != "example/app" {
		t.Errorf("source label: %v, %v", info.Labels, err)
	}
	// Nothing may keep the blobs alive but the image itself.
	if _, err := s.db.GarbageCollect(s.ctx); err != nil {
		t.Fatal(err)
	}
	if got := s.blobs(t); len(got) != 3 {
		t.Errorf("after garbage collection: %q", got)
	}

	again, err := s.importer.Import(s.ctx, items...)
	if err != nil || again != (Result{Present: 1}) {
		t.Errorf("second: %+v, %v", again, err)
	}
}

func TestImportReadsOnlyWhatIsMissing(t *testing.T) {
	s := newStore(t)
	items := bundle(t, nil, ref)
	if _, err := s.importer.Import(s.ctx, items...); err != nil {
		t.Fatal(err)
	}
	manifest, _, err := items[0].Archive.Manifest(items[0].Image.Desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	layer := descriptor(manifest.Layers[0])
	for name, c := range map[string]struct {
		harm  func() error
		blobs int
	}{
		"a layer was lost": {func() error { return s.importer.Client.ContentStore().Delete(s.ctx, layer.Digest) }, 1},
		"the name was removed": {func() error {
			return s.importer.Client.ImageService().Delete(s.ctx, ref)
		}, 0},
		"the pins were removed": {func() error {
			image, err := s.importer.Client.ImageService().Get(s.ctx, ref)
			if err != nil {
				return err
			}
			image.Labels = nil
			_, err = s.importer.Client.ImageService().Update(s.ctx, image, "labels")
			return err
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.harm(); err != nil {
				t.Fatal(err)
			}
			result, err := s.importer.Import(s.ctx, items...)
			if err != nil || result.Blobs != c.blobs || result.Present != 0 {
				t.Errorf("got %+v, %v, want %d blobs read", result, err, c.blobs)
			}
			if again, err := s.importer.Import(s.ctx, items...); err != nil || again.Present != 1 {
				t.Errorf("after that: %+v, %v", again, err)
			}
		})
	}
}

func TestImportOfADamagedImageLeavesNothing(t *testing.T) {
	s := newStore(t)
	items := bundle(t, func(raw []byte) {
		layer := bytes.Index(raw, []byte{0x1f, 0x8b}) // gzip
		raw[layer+20] ^= 1
	}, ref)
	_, err := s.importer.Import(s.ctx, items...)
	if err == nil || !strings.Contains(err.Error(), ref) || !strings.Contains(err.Error(), "bundle.tar") {
		t.Errorf("the error names neither image nor file: %v", err)
	}
	if got := append(s.names(t), s.blobs(t)...); len(got) != 0 {
		t.Errorf("left behind: %q", got)
	}
	statuses, err := s.importer.Client.ContentStore().ListStatuses(s.ctx)
	if err != nil || len(statuses) != 0 {
		t.Errorf("unfinished: %v, %v", statuses, err)
	}
}

func TestImportNeedsAdmission(t *testing.T) {
	s := newStore(t)
	items := bundle(t, nil, ref)
	items[0].Admitted = trust.Admitted{}
	if _, err := s.importer.Import(s.ctx, items...); err == nil {
		t.Error("an image that nobody admitted was imported")
	}
	other := bundle(t, nil, "docker.io/example/first:v1", "docker.io/example/other:v1")
	items[0].Admitted = other[1].Admitted
	if _, err := s.importer.Import(s.ctx, items...); err == nil {
		t.Error("an image was imported under another's admission")
	}
}

func TestUnpin(t *testing.T) {
	s := newStore(t)
	items := bundle(t, nil, ref, "docker.io/example/other:v1")
	if _, err := s.importer.Import(s.ctx, items...); err != nil {
		t.Fatal(err)
	}
	taken, err := s.importer.Unpin(s.ctx, Keep{Items: items[:1]})
	if err != nil || len(taken) != 2 {
		t.Errorf("pins taken back of %q, %v, want 2 (tag and digest)", taken, err)
	}
	for n, want := range []bool{true, false} {
		image, err := s.importer.Client.ImageService().Get(s.ctx, items[n].Image.Refs[0].String())
		if err != nil || pinned(image) != want {
			t.Errorf("%s pinned: %v, %v, want %v", image.Name, pinned(image), err, want)
		}
	}
}
