package rebuild

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/layout"
)

const ref = "docker.io/rancher/tiny:v1"

var amd64 = artifact.Platform{OS: "linux", Arch: "amd64"}

// spec is an image to put into a layout. Each difference changes one thing of it.
type spec struct {
	files     []tar.Header // of the second layer; the first is always the same
	content   map[string][]byte
	level     zstd.EncoderLevel
	gzip      bool
	trailer   int // extra zero blocks at the end of the tar
	label     string
	layers    int // how many times the second layer is there
	annotate  string
	indent    bool // of the manifest
	sets      string
	platforms []artifact.Platform
}

func tiny() spec {
	random := make([]byte, 300_000)
	rand.New(rand.NewSource(1)).Read(random)
	return spec{
		files: []tar.Header{
			{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "bin/one", Typeflag: tar.TypeReg, Mode: 0o755},
			{Name: "bin/two", Typeflag: tar.TypeReg, Mode: 0o755},
			{Name: "bin/uno", Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "one"},
		},
		content:   map[string][]byte{"bin/one": random, "bin/two": []byte("#!two\n")},
		level:     zstd.SpeedDefault,
		label:     "v1",
		layers:    1,
		sets:      "core",
		platforms: []artifact.Platform{amd64},
	}
}

func packed(t *testing.T, s spec, files []tar.Header) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for _, h := range files {
		h.Size = int64(len(s.content[h.Name]))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(0, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(s.content[h.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	raw.Write(make([]byte, 512*s.trailer))
	var out bytes.Buffer
	if s.gzip {
		z := gzip.NewWriter(&out)
		_, _ = z.Write(raw.Bytes())
		_ = z.Close()
		return out.Bytes()
	}
	z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(s.level), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = z.Write(raw.Bytes())
	_ = z.Close()
	return out.Bytes()
}

// lay makes a layout of the image.
func lay(t *testing.T, s spec) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "oci")
	l, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	put := func(data []byte, kind types.MediaType) v1.Descriptor {
		h, err := l.Put(data)
		if err != nil {
			t.Fatal(err)
		}
		return v1.Descriptor{MediaType: kind, Digest: h, Size: int64(len(data))}
	}
	encode := func(v any, indent bool) []byte {
		data, err := json.Marshal(v)
		if indent {
			data, err = json.MarshalIndent(v, "", " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	kind := types.OCILayerZStd
	if s.gzip {
		kind = types.OCILayer
	}
	base := spec{level: zstd.SpeedDefault, content: map[string][]byte{}}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, p := range s.platforms {
		m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
		m.Layers = append(m.Layers, put(packed(t, base, []tar.Header{{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}}), types.OCILayerZStd))
		for range s.layers {
			m.Layers = append(m.Layers, put(packed(t, s, s.files), kind))
		}
		m.Config = put(encode(v1.ConfigFile{
			OS: p.OS, Architecture: p.Arch, Config: v1.Config{Labels: map[string]string{"version": s.label}},
			History: []v1.History{{CreatedBy: "WORKDIR /etc"}, {CreatedBy: "LABEL version", EmptyLayer: true}, {CreatedBy: "COPY --from=tiny / /bin/"}},
		}, false), types.OCIConfigJSON)
		if s.annotate != "" {
			m.Annotations = map[string]string{"note": s.annotate}
		}
		d := put(encode(m, s.indent), types.OCIManifestSchema1)
		d.Platform = &v1.Platform{OS: p.OS, Architecture: p.Arch}
		index.Manifests = append(index.Manifests, d)
	}
	entry := put(encode(index, false), types.OCIImageIndex)
	entry.Annotations = map[string]string{layout.RefName: ref, layout.Kind: layout.KindImage, layout.Sets: s.sets}
	if err := l.Commit([]v1.Descriptor{entry}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func changed(in []byte, at int, to byte) []byte {
	out := bytes.Clone(in)
	out[at] = to
	return out
}

// Each kind of difference is found and named, and is the first one.
func TestExplains(t *testing.T) {
	first := tiny()
	was := first.content["bin/one"][123456]
	for _, c := range []struct {
		name   string
		change func(s *spec)
		want   []string // lines, or parts of them, of the explanation
	}{
		{"nothing", func(*spec) {}, nil},
		{"a byte", func(s *spec) { s.content["bin/one"] = changed(s.content["bin/one"], 123456, was+1) }, []string{
			"layer 2 (COPY --from=tiny / /bin/), file /bin/one: content at byte 123456",
			"  built:   0001e230  ", "  rebuilt: 0001e230  ", fmt.Sprintf("\n           0001e240  %02x ", was), fmt.Sprintf("\n           0001e240  %02x ", was+1),
		}},
		{"the first byte", func(s *spec) { s.content["bin/two"] = []byte("?!two\n") }, []string{
			"file /bin/two: content at byte 0", "built:   00000000  23 21 74 77 6f 0a                                |#!two.|", "rebuilt: 00000000  3f 21",
		}},
		{"a longer file", func(s *spec) { s.content["bin/two"] = []byte("#!two\nand more\n") }, []string{
			"file /bin/two: content at byte 6", "built:   6 bytes", "rebuilt: 15 bytes",
		}},
		{"mode", func(s *spec) { s.files[2].Mode = 0o750 }, []string{"file /bin/two: mode", "built:   0755", "rebuilt: 0750"}},
		{"owner", func(s *spec) { s.files[1].Uid = 1000 }, []string{"file /bin/one: owner", "1000:0"}},
		{"time", func(s *spec) { s.files[0].ModTime = time.Unix(1700000000, 0) }, []string{"file /bin: modification time", "1970-01-01T00:00:00Z", "2023-11-14T22:13:20Z"}},
		{"link", func(s *spec) { s.files[3].Linkname = "two" }, []string{"file /bin/uno: link target", "built:   one", "rebuilt: two"}},
		{"type", func(s *spec) { s.files[3].Typeflag = tar.TypeLink }, []string{"file /bin/uno: type", "built:   2", "rebuilt: 1"}},
		{"attributes", func(s *spec) { s.files[1].PAXRecords = map[string]string{"SCHILY.xattr.user.x": "y"} }, []string{"file /bin/one: extended attributes", "SCHILY.xattr.user.x"}},
		{"a file more", func(s *spec) {
			s.files = append(s.files[:2:2], append([]tar.Header{{Name: "bin/three", Typeflag: tar.TypeReg, Mode: 0o644}}, s.files[2:]...)...)
		}, []string{"file /bin/three: file", "built:   missing", "rebuilt: there"}},
		{"a file less", func(s *spec) { s.files = append(s.files[:1:1], s.files[2:]...) }, []string{"file /bin/one: file", "built:   there", "rebuilt: missing"}},
		{"the last file", func(s *spec) { s.files = s.files[:3] }, []string{"file /bin/uno: file", "rebuilt: missing"}},
		{"padding of the tar", func(s *spec) { s.trailer = 2 }, []string{"layer 2", "tar (all entries are equal) at byte"}},
		{"compression level", func(s *spec) { s.level = zstd.SpeedBestCompression }, []string{"layer 2", "compression (the tars are equal) at byte"}},
		{"compression", func(s *spec) { s.gzip = true }, []string{"compression (the tars are equal)", "layer.v1.tar+zstd", "layer.v1.tar+gzip"}},
		{"label", func(s *spec) { s.label = "v2" }, []string{"config: .config.Labels.version", `built:   "v1"`, `rebuilt: "v2"`}},
		{"number of layers", func(s *spec) { s.layers = 2 }, []string{"manifest: number of layers", "built:   2", "rebuilt: 3"}},
		{"annotation", func(s *spec) { s.annotate = "x" }, []string{"manifest: .annotations", "built:   (missing)", `rebuilt: {"note":"x"}`}},
		{"encoding of the manifest", func(s *spec) { s.indent = true }, []string{"manifest: encoding (the values are equal) at byte 1"}},
		{"set of the image", func(s *spec) { s.sets = "extra" }, []string{"entry in the layout's index.json: .annotations.io.rancher.rke2.sets", `"core"`, `"extra"`}},
		{"a platform less", func(s *spec) { s.platforms = []artifact.Platform{{OS: "linux", Arch: "arm64"}} }, []string{"index: platform linux/amd64", "built:   there", "rebuilt: missing"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			second := tiny()
			c.change(&second)
			results, err := Compare(lay(t, first), lay(t, second), []string{ref}, []artifact.Platform{amd64, {OS: "linux", Arch: "arm64"}})
			if err != nil {
				t.Fatal(err)
			}
			var said []string
			for _, r := range results {
				if r.Equal != (r.Difference == nil) {
					t.Errorf("%+v", r)
				}
				if r.Difference != nil {
					said = append(said, r.Difference.String())
				}
			}
			if (len(said) == 0) != (c.want == nil) {
				t.Fatalf("%d results, said %q", len(results), said)
			}
			for _, w := range c.want {
				if !strings.Contains(said[0], w) {
					t.Errorf("no %q in\n%s", w, said[0])
				}
			}
		})
	}
}

// A blob that was damaged where it lies is no equal image, whatever its name says.
func TestDamagedBlob(t *testing.T) {
	built := lay(t, tiny())
	var largest string
	var size int64
	err := filepath.WalkDir(built, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if st, err := d.Info(); err == nil && st.Size() > size {
			largest, size = p, st.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(largest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(largest, changed(data, len(data)/2, data[len(data)/2]+1), 0o644); err != nil {
		t.Fatal(err)
	}
	results, err := Compare(built, lay(t, tiny()), []string{ref}, []artifact.Platform{amd64})
	if err != nil || len(results) != 1 || results[0].Equal || !strings.Contains(results[0].Difference.String(), "blob 2: content") {
		t.Errorf("%v, %+v", err, results)
	}
}

func TestNoLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oci")
	if _, err := Platforms(dir, []string{ref}); err == nil || !strings.Contains(err.Error(), "make it with rke2-build image") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("looking made a layout")
	}
	if _, err := Platforms(lay(t, tiny()), []string{"docker.io/rancher/other:v1"}); err == nil || !strings.Contains(err.Error(), "other:v1 is not in the layout") {
		t.Errorf("got %v", err)
	}
	two := tiny()
	two.platforms = append(two.platforms, artifact.Platform{OS: "linux", Arch: "arm64"})
	if p, err := Platforms(lay(t, two), []string{ref}); err != nil || fmt.Sprint(p) != "[linux/amd64 linux/arm64]" {
		t.Errorf("%v, %v", p, err)
	}
}

// The first byte that differs is found wherever it is, however the streams come.
func TestFirstBytes(t *testing.T) {
	data := make([]byte, 5*chunk+7)
	rand.New(rand.NewSource(2)).Read(data)
	equal, err := firstBytes(bytes.NewReader(data), iotest.HalfReader(bytes.NewReader(data)))
	if equal != nil || err != nil {
		t.Fatalf("%+v, %v", equal, err)
	}
	for _, at := range []int{0, 1, 15, 16, 31, 32, 33, chunk - 33, chunk - 1, chunk, chunk + 1, 2*chunk - 32, 3 * chunk, len(data) - 1} {
		w, err := firstBytes(bytes.NewReader(data), iotest.OneByteReader(bytes.NewReader(changed(data, at, data[at]+1))))
		if err != nil || w == nil || w.Offset != int64(at) {
			t.Fatalf("at %d: %+v, %v", at, w, err)
		}
		line := fmt.Sprintf("%08x", at/16*16)
		if !strings.Contains(strings.Join(w.Built, "\n"), line) || strings.Join(w.Built, "\n") == strings.Join(w.Rebuilt, "\n") {
			t.Errorf("at %d is shown:\n%s", at, strings.Join(w.Built, "\n"))
		}
		// Cut off there.
		if w, err = firstBytes(bytes.NewReader(data), bytes.NewReader(data[:at])); err != nil || w == nil || w.Offset != int64(at) {
			t.Fatalf("cut at %d: %+v, %v", at, w, err)
		}
	}
	if w, err := firstBytes(bytes.NewReader(data), iotest.TimeoutReader(bytes.NewReader(data))); err == nil {
		t.Errorf("a reader that fails gives %+v", w)
	}
}
