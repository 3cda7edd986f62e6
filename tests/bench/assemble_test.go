package bench

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/layout"
)

var epoch = time.Unix(0, 0)

// zstd as hard as layers are compressed here: level 11 is what the encoder's best level
// is made after; one thread, a window of 16 MiB.
var zstd = []string{"zstd", "-q", "-11", "--long=24", "--single-thread"}

func layers(b *testing.B, dir string) *layer.Builder {
	b.Helper()
	c, err := cache.Open(filepath.Join(dir, "cache"))
	if err != nil {
		b.Fatal(err)
	}
	return layer.NewBuilder(c, epoch, runtime.GOMAXPROCS(0))
}

// BenchmarkLayer assembles one layer of a component's programs, hashed, checked and in
// the cache; tar and zstd in a pipe write the same files to a file.
func BenchmarkLayer(b *testing.B) {
	rootfs := b.TempDir()
	var files []layer.File
	for _, f := range binaries(b, "etcd") {
		files = append(files, layer.File{Path: f.Name, Mode: 0o755, Source: f.Path, SHA256: f.SHA256})
		copyFile(b, f.Path, filepath.Join(rootfs, f.Name))
	}
	installed(b, "zstd")
	versus(b, func(dir string) int64 {
		l, err := layers(b, dir).Build(files)
		if err != nil {
			b.Fatal(err)
		}
		return l.Size
	}, func(dir string) int64 {
		return tarZstd(b, rootfs, filepath.Join(dir, "layer.tar.zst"))
	})
}

// tarZstd makes a reproducible tar of a folder, as far as tar can.
func tarZstd(b *testing.B, rootfs, to string) int64 {
	b.Helper()
	script := `tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf - . | ` + zstd[0] + ` "${@:3}" -o "$2"`
	run(b, "", nil, "bash", append([]string{"-o", "pipefail", "-c", script, "-", rootfs, to}, zstd[1:]...)...)
	info, err := os.Stat(to)
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}

// rootfs is programs, and some thousand small files: Go's own sources.
func rootfs(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	for _, f := range binaries(b, "etcd") {
		copyFile(b, f.Path, filepath.Join(dir, "usr", "local", "bin", f.Name))
	}
	goroot := string(run(b, "", nil, "go", "env", "GOROOT"))
	from := filepath.Join(goroot[:len(goroot)-1], "src")
	for _, sub := range []string{"crypto", "net", "runtime", "cmd/compile"} {
		if err := os.CopyFS(filepath.Join(dir, "usr", "src", sub), os.DirFS(filepath.Join(from, sub))); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func copyFile(b *testing.B, from, to string) {
	b.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		b.Fatal(err)
	}
}

// assemble makes an image of one layer of the tree, in an OCI layout.
func assemble(b *testing.B, tree, dir string) int64 {
	b.Helper()
	file := filepath.Join(dir, "Dockerfile")
	if err := os.WriteFile(file, []byte("FROM rootfs\nCMD [\"etcd\"]\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	d, err := image.Read(file, nil)
	if err != nil {
		b.Fatal(err)
	}
	img, err := d.Build(image.Options{
		Contexts: map[string]image.Context{"rootfs": image.Dir(tree)}, Local: image.Dir(dir),
		Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, Epoch: epoch, Layers: layers(b, dir),
	})
	if err != nil {
		b.Fatal(err)
	}
	l, err := layout.Open(filepath.Join(dir, "oci"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for _, ly := range img.Layers {
		if err := l.PutFile(ly.Descriptor(), ly.Blob); err != nil {
			b.Fatal(err)
		}
	}
	for _, data := range [][]byte{img.Config, img.Manifest} {
		if _, err := l.Put(data); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Commit([]v1.Descriptor{img.Descriptor}); err != nil {
		b.Fatal(err)
	}
	return bytesIn(b, filepath.Join(dir, "oci"))
}

// BenchmarkImageCrane: crane append wants a layer, which tar and zstd make for it as
// above, and writes a docker archive.
func BenchmarkImageCrane(b *testing.B) {
	tree, crane := rootfs(b), crane(b)
	installed(b, "zstd")
	versus(b, func(dir string) int64 { return assemble(b, tree, dir) }, func(dir string) int64 {
		tarZstd(b, tree, filepath.Join(dir, "layer.tar.zst"))
		run(b, dir, nil, crane, "append", "--oci-empty-base", "-f", "layer.tar.zst", "-t", "bench.local/image:v1", "-o", "image.tar")
		info, err := os.Stat(filepath.Join(dir, "image.tar"))
		if err != nil {
			b.Fatal(err)
		}
		return info.Size()
	})
}

// BenchmarkImageCraneGzip: crane append as it is usually called, with a plain tar, which
// it compresses with its fastest gzip: it is quick, and the layer is larger.
func BenchmarkImageCraneGzip(b *testing.B) {
	tree, crane := rootfs(b), crane(b)
	versus(b, func(dir string) int64 { return assemble(b, tree, dir) }, func(dir string) int64 {
		run(b, dir, nil, "tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-C", tree, "-cf", "layer.tar", ".")
		run(b, dir, nil, crane, "append", "--oci-empty-base", "-f", "layer.tar", "-t", "bench.local/image:v1", "-o", "image.tar")
		info, err := os.Stat(filepath.Join(dir, "image.tar"))
		if err != nil {
			b.Fatal(err)
		}
		return info.Size()
	})
}

// BenchmarkImageUmoci: umoci inserts the folder into an empty image of an OCI layout. It
// can only compress with gzip (its default level, on all cores).
func BenchmarkImageUmoci(b *testing.B) {
	tree, umoci := rootfs(b), installed(b, "umoci")
	versus(b, func(dir string) int64 { return assemble(b, tree, dir) }, func(dir string) int64 {
		run(b, dir, nil, umoci, "init", "--layout", "oci")
		run(b, dir, nil, umoci, "new", "--image", "oci:v1")
		run(b, dir, nil, umoci, "insert", "--image", "oci:v1", tree, "/")
		return bytesIn(b, filepath.Join(dir, "oci"))
	})
}
