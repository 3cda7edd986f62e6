package node

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/tests/fake"
)

// bzip2 uses the host's, because the standard library has only the reader.
func bzip2(t *testing.T, b []byte) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bzip2", "-c")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func through(t *testing.T, b []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := open(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestPrepareFromEveryCompression: the archive's name may end in each way that the contract
// has, in any case and in a folder of its own.
func TestPrepareFromEveryCompression(t *testing.T) {
	plain := func(b []byte) []byte { return b }
	zst := func(b []byte) []byte {
		return through(t, b, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
	}
	gz := func(b []byte) []byte {
		return through(t, b, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	}
	lz := func(b []byte) []byte {
		return through(t, b, func(w io.Writer) (io.WriteCloser, error) { return lz4.NewWriter(w), nil })
	}
	bz := func(b []byte) []byte { return bzip2(t, b) }
	for file, pack := range map[string]func([]byte) []byte{
		"core.tar": plain, "core.TAR": plain, "site/2024/core.tar": plain,
		"core.tar.zst": zst, "core.tzst": zst, "CORE.TAR.ZST": zst,
		"core.tar.gz": gz, "core.tgz": gz, "sub/Core.Tgz": gz,
		"core.tar.lz4": lz, "core.Tar.Lz4": lz,
		"core.tar.bz2": bz, "core.tbz": bz, "core.TBZ": bz,
	} {
		t.Run(file, func(t *testing.T) {
			w, whole := layeredWorld(t, "core.tar", 1, 2)
			raw, err := os.ReadFile(whole)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(w.config.ImagesDir(), file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, pack(raw), 0o644); err != nil {
				t.Fatal(err)
			}
			content, err := w.prepare(t)
			if err != nil {
				t.Fatal(err)
			}
			w.staged(t, content, 1, 2)
		})
	}
}

// TestPrepareRefusesCompressed: what is wrong inside of a compressed bundle leaves nothing
// behind either.
func TestPrepareRefusesCompressed(t *testing.T) {
	w, whole := layeredWorld(t, "core.tar", 1, 2)
	damage(t, whole)
	raw, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	packed := through(t, raw, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
	if err := os.WriteFile(filepath.Join(w.config.ImagesDir(), "core.tar.zst"), packed, 0o644); err != nil {
		t.Fatal(err)
	}
	before := files(t, w.config.DataDir)
	if _, err := w.prepare(t); err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "core.tar.zst") {
		t.Errorf("got %v", err)
	}
	if after := files(t, w.config.DataDir); len(before) != len(after) {
		t.Errorf("left behind: %q", after)
	}
}

func TestPreparePassesHiddenFilesOver(t *testing.T) {
	for _, file := range []string{".core.tar", ".old/core.tar", "a/.b/core.tar", "core.tar.part", "core"} {
		w, whole := layeredWorld(t, "core.tar", 1)
		path := filepath.Join(w.config.ImagesDir(), file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		copyTo(t, whole, path)
		if _, err := w.prepare(t); err == nil || !strings.Contains(err.Error(), "no bundle has the image "+runtimeRef) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// tarOf writes a folder's files as a tar.
func tarOf(t *testing.T, dir, to string) {
	t.Helper()
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPrepareFromForeignLayouts: what skopeo, crane or BuildKit write, with cosign's
// signature beside the image, by tag or in an image index of several platforms.
func TestPrepareFromForeignLayouts(t *testing.T) {
	w, _ := layeredWorld(t, "core.tar", 1, 2)
	digest := mustDigest(t, w.runtime)
	var s fake.Store
	if err := signed(&s, w.runtime, runtimeRef, &w.key, runtimeRef); err != nil {
		t.Fatal(err)
	}
	signature := signatureImage(t, &s, digest)
	other, err := fake.Layers("s390x", 8)
	if err != nil {
		t.Fatal(err)
	}
	for what, image := range map[string]func(layout.Path) error{
		"alone": func(l layout.Path) error { return l.AppendImage(w.runtime, named(runtimeRef)) },
		// The other platform's image has the same name, and comes first.
		"beside another platform's": func(l layout.Path) error {
			for _, i := range []struct {
				image v1.Image
				arch  string
			}{{other, "s390x"}, {w.runtime, goarch}} {
				p := layout.WithPlatform(v1.Platform{OS: "linux", Architecture: i.arch})
				if err := l.AppendImage(i.image, named(runtimeRef), p); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			l, err := layout.Write(dir, empty.Index)
			if err != nil {
				t.Fatal(err)
			}
			if err := image(l); err != nil {
				t.Fatal(err)
			}
			if err := l.AppendImage(signature, named(fmt.Sprintf("docker.io/rancher/rke2-runtime:sha256-%s.sig", digest.Hex))); err != nil {
				t.Fatal(err)
			}
			w.config.DataDir = filepath.Join(t.TempDir(), "data")
			w.drop(t)
			tarOf(t, dir, filepath.Join(w.config.ImagesDir(), "foreign.tar"))
			content, err := w.prepare(t)
			if err != nil {
				t.Fatal(err)
			}
			w.staged(t, content, 1, 2)
		})
	}
}

func named(ref string) layout.Option {
	return layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref})
}

// TestPrepareFromDockerArchive: it cannot carry a signature, so it is taken only where none
// is asked for.
func TestPrepareFromDockerArchive(t *testing.T) {
	w, _ := layeredWorld(t, "core.tar", 1, 2)
	tag, err := name.NewTag(runtimeRef)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(w.config.ImagesDir(), "saved.tar"), tag, w.runtime); err != nil {
		t.Fatal(err)
	}
	before := files(t, w.config.DataDir)
	if _, err := w.prepare(t); err == nil || !strings.Contains(err.Error(), "saved.tar is refused: a legacy docker-archive has no digests or signatures: save it as an OCI archive") {
		t.Errorf("got %v", err)
	}
	if after := files(t, w.config.DataDir); len(after) != len(before) {
		t.Errorf("left behind: %q", after)
	}
	w.config.Verification = trust.ModeOff
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	w.staged(t, content, 1, 2)
	if left, _ := filepath.Glob(filepath.Join(w.config.DataDir, "data", unpackedPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestPrepareByDigest: an override names the image, or the index that it is of, by digest.
// What is staged goes on without the bundle, by the signatures that were kept.
func TestPrepareByDigest(t *testing.T) {
	w, whole := layeredWorld(t, "core.tar", 1, 2)
	w.drop(t, whole)
	const repository = "docker.io/rancher/rke2-runtime@"
	w.config.ImageOverrides = map[string]string{config.RoleRuntime: repository + mustDigest(t, w.runtime).String()}
	content, err := w.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	w.staged(t, content, 1, 2)
	if want := "sha256-" + mustDigest(t, w.runtime).Hex[:12]; filepath.Base(content.root.Dir) != want {
		t.Errorf("staged in %s, want %s", content.root.Dir, want)
	}

	w.drop(t)
	if again, err := w.prepare(t); err != nil || again.Bin() != content.Bin() {
		t.Errorf("without the bundle: %v", err)
	}
	w.config.ImageOverrides[config.RoleRuntime] = repository + "sha256:" + strings.Repeat("0", 64)
	w.drop(t, whole)
	_, err = w.prepare(t)
	if err == nil || !strings.Contains(err.Error(), "core.tar: has "+runtimeRef+" (another digest, sha256:") {
		t.Errorf("another digest: %v", err)
	}

	// An index, as cosign signs it, found under a tag.
	const ref = "registry.example/own/runtime:v1"
	var index v1.Hash
	w.bundle(t, "own.tar", func(s *fake.Store) error {
		if index, err = s.AddIndex(w.runtime, goarch, ref); err != nil {
			return err
		}
		return s.Sign(w.key, ref, index)
	})
	w.config.ImageOverrides[config.RoleRuntime] = "registry.example/own/runtime@" + index.String()
	if content, err = w.prepare(t); err != nil {
		t.Fatal(err)
	}
	w.drop(t)
	if again, err := w.prepare(t); err != nil || again.Bin() != content.Bin() {
		t.Errorf("an index, without the bundle: %v", err)
	}
}

// TestPrepareSearchesBothNames: the release's own name first, then that of
// system-default-registry.
func TestPrepareSearchesBothNames(t *testing.T) {
	const there = "registry.example:5000/rancher/rke2-runtime:v9.8.7-rke2r6"
	for _, ref := range []string{runtimeRef, there} {
		w := newWorld(t)
		w.config.SystemDefaultRegistry = "registry.example:5000"
		w.bundle(t, "core.tar", func(s *fake.Store) error { return signed(s, w.runtime, ref, &w.key, runtimeRef) })
		if _, err := w.prepare(t); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	w := newWorld(t)
	w.bundle(t, "core.tar", func(s *fake.Store) error { return signed(s, w.runtime, there, &w.key, runtimeRef) })
	if _, err := w.prepare(t); err == nil || !strings.Contains(err.Error(), "core.tar: has "+there+" (another registry)") {
		t.Errorf("a registry that is not configured: %v", err)
	}
}
