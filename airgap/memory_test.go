package airgap

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/airgap/trust"
)

// maxRSS is what any work on a bundle of any size may take, in bytes.
const maxRSS = 150_000_000

// TestMemory runs this test's own program on bundles of more than a gigabyte and looks at
// the most memory that it ever had.
func TestMemory(t *testing.T) {
	if work := os.Getenv("AIRGAP_MEMORY_WORK"); work != "" {
		memoryWork(t, work, os.Getenv("AIRGAP_MEMORY_FILE"))
		return
	}
	if testing.Short() {
		t.Skip("reads gigabytes of zeros")
	}
	dir := t.TempDir()
	plain, packed := filepath.Join(dir, "plain.tar"), filepath.Join(dir, "packed.tar.zst")
	hugeBundle(t, plain, 900_000_000)
	less := filepath.Join(dir, "less.tar")
	hugeBundle(t, less, 200_000_000)
	compressHuge(t, less, packed)
	many := file(t, "many.tar", manyFiles(t))
	for _, c := range []struct{ work, file string }{
		{"verify", plain}, {"contents", plain}, {"inspect", plain}, {"extract", plain}, {"diff", plain}, {"unpack", plain},
		{"verify", packed}, {"contents", packed},
		{"contents", many}, {"extract", many}, {"diff", many},
	} {
		t.Run(c.work+" "+filepath.Base(c.file), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestMemory$", "-test.v")
			cmd.Env = append(os.Environ(), "AIRGAP_MEMORY_WORK="+c.work, "AIRGAP_MEMORY_FILE="+c.file)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			_, after, ok := strings.Cut(string(out), "VmHWM:")
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.SplitN(after, "kB", 2)[0]), 10, 64)
			if !ok || err != nil {
				t.Fatalf("no figure in %s", out)
			}
			t.Logf("%.1f MB at most", float64(kib*1024)/1e6)
			if kib*1024 > maxRSS {
				t.Errorf("%d KiB at most, more than %d bytes", kib, maxRSS)
			}
		})
	}
}

// memoryWork does one thing and prints the most memory that the process had.
func memoryWork(t *testing.T, work, path string) {
	debug.SetMemoryLimit(40 << 20) // as rke2 bundle does
	a := mustOpen(t, path)
	var err error
	switch work {
	case "verify", "contents":
		var v Verification
		v, err = a.Verify(t.Context(), VerifyOptions{Unsigned: true, Contents: work == "contents"})
		if !v.OK {
			t.Fatalf("%v", v.Faults)
		}
	case "inspect":
		_, err = a.Inspect(trust.Policy{})
	case "extract":
		_, err = Extract(t.Context(), a, ExtractOptions{Dir: t.TempDir(), Paths: []string{"some"}})
	case "diff":
		_, err = Diff(t.Context(), a, renamed(a), DiffOptions{Files: true})
	case "unpack":
		err = a.Walk(t.Context(), nil, func(_ v1.Descriptor, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
	}
	noError(t, err)
	status, err := os.ReadFile("/proc/self/status")
	noError(t, err)
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM:") {
			fmt.Print(line)
		}
	}
}

// renamed is the archive with images that count as others, so that a comparison reads
// everything.
func renamed(a *Archive) *Archive {
	b := &Archive{file: a.file, f: a.f, size: a.size, comp: a.comp, format: a.format, scanned: true, listed: true,
		blobs: a.blobs, order: a.order, descs: a.descs, attached: a.attached, small: a.small, head: a.head}
	for _, img := range a.images {
		img.legacy = &legacyImage{id: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}}
		cfg, err := a.config(Image{Desc: img.Desc})
		if err != nil {
			panic(err) // a test's own archive
		}
		img.legacy.config = cfg
		layers, err := a.stored(Image{Desc: img.Desc})
		if err != nil {
			panic(err)
		}
		for _, l := range layers {
			img.legacy.layers = append(img.legacy.layers, l.entry)
		}
		b.images = append(b.images, img)
	}
	return b
}

// hugeLayer is a layer: its first bytes, then zeros up to its size, which end a tar.
type hugeLayer struct {
	start []byte
	size  int64
	diff  v1.Hash
}

func (l hugeLayer) reader() io.Reader {
	return io.MultiReader(bytes.NewReader(l.start), io.LimitReader(zeros{}, l.size-int64(len(l.start))))
}

func digestOf(t testing.TB, r io.Reader) v1.Hash {
	t.Helper()
	sum := sha256.New()
	_, err := io.Copy(sum, r)
	noError(t, err)
	return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sum.Sum(nil))}
}

// hugeBundle writes an archive of an image with two layers: so many bytes of zeros as
// they are, and 300 MB in zstd with the largest window that is read, half of it random. On
// disk it is a sparse file of less than 200 MB.
func hugeBundle(t testing.TB, path string, zeros int64) {
	t.Helper()
	small := makeTar(t, reg("some/file", []byte("x")))
	low := hugeLayer{start: small, size: zeros / blockSize * blockSize}
	low.diff = digestOf(t, low.reader())

	random := make([]byte, 150<<20)
	rand.New(rand.NewSource(1)).Read(random)
	h, err := header("random", int64(len(random)))
	noError(t, err)
	high := hugeLayer{start: append(h, random...), size: 300 << 20}
	high.diff = digestOf(t, high.reader())
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z, zstd.WithWindowSize(maxWindow), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	noError(t, err)
	_, err = io.Copy(w, high.reader())
	noError(t, errors.Join(err, w.Close()))

	config, err := json.Marshal(v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{low.diff, high.diff}}})
	noError(t, err)
	m, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: hashOf(config)},
		Layers: []v1.Descriptor{{MediaType: types.OCIUncompressedLayer, Size: low.size, Digest: low.diff}, {MediaType: types.OCILayerZStd, Size: int64(z.Len()), Digest: hashOf(z.Bytes())}}})
	noError(t, err)

	f, err := os.Create(path)
	noError(t, err)
	defer f.Close()
	end := makeTar(t)
	rest := oneManifest(t, m, config, z.Bytes())
	_, err = f.Write(rest[:len(rest)-len(end)])
	noError(t, err)
	h, err = header(blobName(low.diff), low.size)
	noError(t, err)
	_, err = f.Write(append(h, low.start...))
	noError(t, err)
	at, err := f.Seek(low.size-int64(len(low.start)), io.SeekCurrent) // a hole
	noError(t, err)
	_, err = f.WriteAt(end, at)
	noError(t, err)
}

// compressHuge compresses an archive as a whole.
func compressHuge(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	noError(t, err)
	defer in.Close()
	out, err := os.Create(to)
	noError(t, err)
	w, err := zstd.NewWriter(out, zstd.WithWindowSize(maxWindow), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	noError(t, err)
	_, err = io.Copy(w, in)
	noError(t, errors.Join(err, w.Close(), out.Close()))
}

// manyFiles is an image of 100,000 files in two layers.
func manyFiles(t testing.TB) []byte {
	t.Helper()
	var layers [][]byte
	for l := range 2 {
		files := []tar.Header{reg("some/file", []byte("x"))}
		for i := range 50_000 {
			files = append(files, reg(fmt.Sprintf("usr/share/some-folder-%d/and-a-file-%d-%d.txt", i%500, l, i), []byte("content")))
		}
		layers = append(layers, makeTar(t, files...))
	}
	return stack(t, []compression{gz, zst}, layers...)
}
