package bench

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
)

var platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

// products is the folder that make airgap wrote.
func products(b *testing.B) string {
	b.Helper()
	return filepath.Dir(program(b))
}

// node is the rke2 that make airgap made: its bundle commands are what is measured.
func node(b *testing.B) string {
	b.Helper()
	p := filepath.Join(products(b), "rke2")
	if _, err := os.Stat(p); err != nil {
		b.Fatalf("run make airgap first: %v", err)
	}
	return p
}

// core is the bundle of the core set.
func core(b *testing.B) string {
	b.Helper()
	return filepath.Join(products(b), airgap.BundleName("core", platform)+".tar")
}

// blobs are the files of the layout that a bundle holds.
func blobs(b *testing.B, bundle string) []string {
	b.Helper()
	a, err := airgap.Open(bundle)
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	var files []string
	err = a.Walk(b.Context(), nil, func(d v1.Descriptor, _ io.Reader) error {
		files = append(files, filepath.Join(products(b), "oci", "blobs", d.Digest.Algorithm, d.Digest.Hex))
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return files
}

func references(b *testing.B, bundle string) []string {
	b.Helper()
	text, err := os.ReadFile(strings.TrimSuffix(bundle, ".tar") + ".txt")
	if err != nil {
		b.Fatal(err)
	}
	return strings.Fields(string(text))
}

func sizeOf(b *testing.B, file string) int64 {
	b.Helper()
	info, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}

// write makes the bundle of the core set.
func write(b *testing.B, dir string) int64 {
	b.Helper()
	run(b, dir, nil, node(b), "bundle", "airgap", "--layout", filepath.Join(products(b), "oci"), "--set", "core", "--output-dir", dir)
	return sizeOf(b, filepath.Join(dir, filepath.Base(core(b))))
}

// BenchmarkBundleWrite: one command that reads the layout, checks every blob, and writes
// and syncs bundle and sums, against cp and sha256sum of the same blobs, not synced.
func BenchmarkBundleWrite(b *testing.B) {
	files := blobs(b, core(b))
	versus(b, func(dir string) int64 { return write(b, dir) }, func(dir string) int64 {
		run(b, dir, nil, "cp", append(files[:len(files):len(files)], dir)...)
		n := bytesIn(b, dir)
		run(b, dir, nil, "bash", "-c", "sha256sum * >SHA256SUMS")
		return n
	})
}

// BenchmarkBundleWriteSkopeo: skopeo writes each image of the set as a docker-archive,
// the way that images are saved for hosts without network; it has no signatures in it.
// It is given the images with gzip layers, which is not timed: it can't write a
// docker-archive of zstd layers.
func BenchmarkBundleWriteSkopeo(b *testing.B) {
	skopeo, refs := installed(b, "skopeo"), references(b, core(b))
	gzip := b.TempDir()
	for _, ref := range refs {
		run(b, gzip, nil, skopeo, "--insecure-policy", "copy", "-q", "--dest-compress-format", "gzip",
			"oci:"+filepath.Join(products(b), "oci")+":"+ref, "oci:oci:"+ref)
	}
	versus(b, func(dir string) int64 { return write(b, dir) }, func(dir string) int64 {
		for i, ref := range refs {
			run(b, dir, nil, skopeo, "--insecure-policy", "copy", "-q",
				"oci:"+filepath.Join(gzip, "oci")+":"+ref, fmt.Sprintf("docker-archive:%d.tar:%s", i, ref))
		}
		return bytesIn(b, dir)
	})
}

// BenchmarkBundleWriteStoreAndSave: every image is copied into a store, which is saved as
// one .tar.zst: what Hauler does, with skopeo, tar and zstd for its parts (Hauler itself
// can't be built from the module proxy). zstd is at its default level, on all cores.
func BenchmarkBundleWriteStoreAndSave(b *testing.B) {
	skopeo, refs := installed(b, "skopeo"), references(b, core(b))
	installed(b, "zstd")
	versus(b, func(dir string) int64 { return write(b, dir) }, func(dir string) int64 {
		for _, ref := range refs {
			run(b, dir, nil, skopeo, "--insecure-policy", "copy", "-q", "--preserve-digests",
				"oci:"+filepath.Join(products(b), "oci")+":"+ref, "oci:store:"+ref)
		}
		run(b, dir, nil, "bash", "-o", "pipefail", "-c", "tar -C store -cf - . | zstd -q -T0 -o haul.tar.zst")
		return sizeOf(b, filepath.Join(dir, "haul.tar.zst"))
	})
}

// BenchmarkBundleVerify: every digest and signature, against sha256sum of the same blobs
// on all cores, which checks no signature. Both read from the page cache.
func BenchmarkBundleVerify(b *testing.B) {
	files := blobs(b, core(b))
	list := filepath.Join(b.TempDir(), "blobs")
	if err := os.WriteFile(list, []byte(strings.Join(files, "\n")+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	sum := fmt.Sprintf("xargs -a %s -P %d -n 1 sha256sum >SHA256SUMS", list, runtime.NumCPU())
	versus(b, func(string) int64 {
		run(b, "", nil, node(b), "bundle", "verify", core(b))
		return 0
	}, func(dir string) int64 {
		run(b, dir, nil, "bash", "-c", sum)
		return 0
	})
}

// BenchmarkBundleFind opens a bundle of 10 GB and finds one image in it, with its
// manifest and signatures, in this process. The limit is 50 ms: "of-limit" is the share
// of it that is used. GNU tar lists the same file for comparison ("ratio").
func BenchmarkBundleFind(b *testing.B) {
	file := filepath.Join(b.TempDir(), "large.tar")
	src := newZeros(10, 1<<30)
	sparse(b, file, src)
	var a, p time.Duration
	for b.Loop() {
		start := time.Now()
		found(b, file, src.refs[len(src.refs)/2])
		a += time.Since(start)
		start = time.Now()
		run(b, "", nil, "tar", "-tf", file)
		p += time.Since(start)
	}
	b.ReportMetric(a.Seconds()/float64(b.N)*1000, "ours-ms")
	b.ReportMetric(a.Seconds()/float64(b.N)/0.050, "of-limit")
	b.ReportMetric(a.Seconds()/p.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

func found(b *testing.B, file, ref string) {
	b.Helper()
	a, err := airgap.Open(file)
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	tag, err := airgap.ParseTag(ref)
	if err != nil {
		b.Fatal(err)
	}
	for _, img := range a.Images() {
		if !img.Has(tag) {
			continue
		}
		if _, _, err := a.Manifest(img.Desc.Digest); err != nil {
			b.Fatal(err)
		}
		if _, err := a.Signatures(img.Desc.Digest); err != nil {
			b.Fatal(err)
		}
		return
	}
	b.Fatalf("%s is not in %s", ref, file)
}

// BenchmarkBundleGrowth writes bundles of 10 and of 100 images of 8 MB. "time-ratio" and
// "memory-ratio" say how many times the small one's time and peak memory the large one
// takes, which has "size-ratio" times its bytes: the first is to be no more than that,
// the second 1.
func BenchmarkBundleGrowth(b *testing.B) {
	type use struct {
		clock time.Duration
		rss   int64 // KiB
		size  int64
	}
	layouts := map[int]string{}
	for _, n := range []int{10, 100} {
		layouts[n] = filepath.Join(b.TempDir(), fmt.Sprint(n))
		spread(b, newZeros(n, 8<<20), layouts[n])
	}
	measured := map[int]use{}
	for b.Loop() {
		for n, layout := range layouts {
			dir := filepath.Join(b.TempDir(), "out")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				b.Fatal(err)
			}
			syscall.Sync()
			cmd := exec.CommandContext(b.Context(), node(b), "bundle", "airgap", "--layout", layout,
				"--set", "zeros", "--allow-unsigned", "--platform", platform.String(), "--output-dir", dir)
			start := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			u := measured[n]
			u.clock += time.Since(start)
			u.rss = max(u.rss, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
			u.size = sizeOf(b, filepath.Join(dir, airgap.BundleName("zeros", platform)+".tar"))
			measured[n] = u
			if err := os.RemoveAll(dir); err != nil {
				b.Fatal(err)
			}
		}
	}
	small, large := measured[10], measured[100]
	b.ReportMetric(float64(large.size)/float64(small.size), "size-ratio")
	b.ReportMetric(large.clock.Seconds()/small.clock.Seconds(), "time-ratio")
	b.ReportMetric(float64(large.rss)/float64(small.rss), "memory-ratio")
	b.ReportMetric(float64(large.rss)/1024, "peak-MiB")
	b.ReportMetric(0, "ns/op")
}

// zeros is a source of images, each of one layer: a number, then zeros. They cost no
// disk in a sparse file, and hash like any other bytes.
type zeros struct {
	size   int64
	index  v1.IndexManifest
	layers map[v1.Hash]int64 // its number
	small  map[v1.Hash][]byte
	refs   []string
}

func newZeros(n int, size int64) *zeros {
	z := &zeros{size: size, layers: map[v1.Hash]int64{}, small: map[v1.Hash][]byte{}}
	z.index.SchemaVersion = 2
	z.index.MediaType = "application/vnd.oci.image.index.v1+json"
	for i := range int64(n) {
		h := sha256.New()
		if _, err := io.Copy(h, z.layer(i)); err != nil {
			panic(err) // neither a hash nor zeros fail
		}
		layer := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", h.Sum(nil))}
		z.layers[layer] = i
		config := fmt.Appendf(nil, `{"architecture":%q,"os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, platform.Architecture, layer)
		manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
			`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
			`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
			z.put(config), len(config), layer, size)
		ref := fmt.Sprintf("bench.local/zeros/image-%03d:v1", i)
		z.refs = append(z.refs, ref)
		z.index.Manifests = append(z.index.Manifests, v1.Descriptor{
			MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: z.put(manifest), Size: int64(len(manifest)),
			Annotations: map[string]string{
				airgap.AnnotationKind: airgap.KindImage, airgap.AnnotationImageName: ref,
				airgap.AnnotationRefName: ref, airgap.AnnotationSets: "zeros",
			},
		})
	}
	return z
}

func (z *zeros) put(b []byte) v1.Hash {
	h := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(b))}
	z.small[h] = b
	return h
}

type nothing struct{}

func (nothing) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (z *zeros) layer(i int64) io.Reader {
	number := binary.BigEndian.AppendUint64(nil, uint64(i))
	return io.MultiReader(strings.NewReader(string(number)), io.LimitReader(nothing{}, z.size-int64(len(number))))
}

func (z *zeros) Index() (*v1.IndexManifest, error) { return &z.index, nil }

func (z *zeros) Blob(h v1.Hash) (io.ReadCloser, error) {
	if b, ok := z.small[h]; ok {
		return io.NopCloser(strings.NewReader(string(b))), nil
	}
	i, ok := z.layers[h]
	if !ok {
		return nil, airgap.ErrNotFound
	}
	return io.NopCloser(z.layer(i)), nil
}

// sparse writes a bundle with holes where there are only zeros.
func sparse(b *testing.B, file string, z *zeros) {
	b.Helper()
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	w := &holes{f: f}
	if err := airgap.Write(context.Background(), w, z, airgap.Selection{Platform: platform, AllowUnsigned: true}); err != nil {
		b.Fatal(err)
	}
	if err := f.Truncate(w.at); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

type holes struct {
	f  *os.File
	at int64
}

func (h *holes) Write(p []byte) (int, error) {
	if len(p) < 64<<10 || strings.Trim(string(p), "\x00") != "" {
		if _, err := h.f.WriteAt(p, h.at); err != nil {
			return 0, err
		}
	}
	h.at += int64(len(p))
	return len(p), nil
}

// spread writes a source as an OCI layout.
func spread(b *testing.B, z *zeros, dir string) {
	b.Helper()
	file := filepath.Join(b.TempDir(), "spread.tar")
	sparse(b, file, z)
	run(b, "", nil, "tar", "-C", mkdir(b, dir), "-xf", file)
}

func mkdir(b *testing.B, dir string) string {
	b.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	return dir
}
