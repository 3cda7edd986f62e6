package buildkit

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/build/layer"
)

func tarOf(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := h.Gname // not used otherwise
		h.Gname = ""
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func digestOf(data []byte) v1.Hash {
	s := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(s[:])}
}

func compressed(t *testing.T, data []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	return enc.EncodeAll(data, nil)
}

func layerOf(t *testing.T, headers ...tar.Header) layer.Layer {
	t.Helper()
	data := tarOf(t, headers...)
	blob := compressed(t, data)
	p := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(p, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	return layer.Layer{Digest: digestOf(blob), DiffID: digestOf(data), Size: int64(len(blob)), Blob: p}
}

func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Gname: content}
}

func dir(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }

func TestMergedTree(t *testing.T) {
	lower := layerOf(t, dir("etc/"), file("etc/a", "a"), file("etc/b", "b"), dir("etc/d/"), file("etc/d/x", "x"),
		dir("opq/"), file("opq/old", "old"), dir("was/"), file("was/in", "in"), file("etcetera", "e"),
		tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "etc/a"})
	upper := layerOf(t, dir("etc/"), file("etc/.wh.b", ""), file("etc/.wh.d", ""), file("opq/new", "new"), file("opq/.wh..wh..opq", ""),
		file("was", "a file now"), tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "etc/a", Mode: 0o777},
		tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666},
		tar.Header{Typeflag: tar.TypeReg, Name: "cap", Mode: 0o4755, Uid: 7, Gid: 8, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "z"}})
	entries, err := Tree([]layer.Layer{lower, upper})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %c %s %d:%d %s %v", e.Path, e.Type, e.Mode, e.UID, e.GID, e.Link, len(e.Xattrs))))
	}
	want := `cap 0 urwxr-xr-x 7:8  1
etc 5 -rwxr-xr-x 0:0  0
etc/a 0 -rw-r--r-- 0:0  0
etcetera 0 -rw-r--r-- 0:0  0
hard 0 -rw-r--r-- 0:0  0
link 2 -rwxrwxrwx 0:0 etc/a 0
null 3 -rw-rw-rw- 0:0  0
opq 5 -rwxr-xr-x 0:0  0
opq/new 0 -rw-r--r-- 0:0  0
was 0 -rw-r--r-- 0:0  0`
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	for _, e := range entries {
		if (e.Path == "hard" || e.Path == "etc/a") && e.SHA256 != digestOf([]byte("a")).Hex {
			t.Errorf("%+v", e)
		}
	}
}

func TestDamagedLayer(t *testing.T) {
	l := layerOf(t, file("a", "a"))
	other := l
	other.DiffID = digestOf([]byte("another"))
	if _, err := Tree([]layer.Layer{other}); err == nil || !strings.Contains(err.Error(), "its tar has digest") {
		t.Errorf("error %v", err)
	}
	if err := os.Truncate(l.Blob, l.Size-3); err != nil {
		t.Fatal(err)
	}
	if _, err := Tree([]layer.Layer{l}); err == nil {
		t.Error("a truncated layer was read")
	}
	if _, err := Tree([]layer.Layer{layerOf(t, tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "gone"})}); err == nil || !strings.Contains(err.Error(), "hard link to gone") {
		t.Errorf("error %v", err)
	}
}

// archive is what BuildKit exports for an image of one layer.
func archive(t *testing.T, change func(blobs map[string][]byte, index *v1.IndexManifest)) []byte {
	t.Helper()
	diff := tarOf(t, file("a", "a"))
	blob := compressed(t, diff)
	config, err := json.Marshal(v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{digestOf(diff)}}})
	if err != nil {
		t.Fatal(err)
	}
	describe := func(mt types.MediaType, data []byte) v1.Descriptor {
		return v1.Descriptor{MediaType: mt, Digest: digestOf(data), Size: int64(len(data))}
	}
	manifest, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: describe(types.OCIConfigJSON, config), Layers: []v1.Descriptor{describe(types.OCILayerZStd, blob)}})
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[string][]byte{}
	for _, b := range [][]byte{blob, config, manifest, []byte("of no use")} {
		blobs[digestOf(b).Hex] = b
	}
	index := v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{describe(types.OCIManifestSchema1, manifest)}}
	if change != nil {
		change(blobs, &index)
	}
	headers := []tar.Header{file("oci-layout", "{}")}
	for name, b := range blobs {
		headers = append(headers, file("blobs/sha256/"+name, string(b)))
	}
	data, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	return tarOf(t, append(headers, file("index.json", string(data)))...)
}

func testJob() *job {
	return &job{local: &tree{}, platform: v1.Platform{OS: "linux", Architecture: "amd64"}}
}

func TestKeep(t *testing.T) {
	j, at := testJob(), t.TempDir()
	if err := j.keep(bytes.NewReader(archive(t, nil)), at); err != nil {
		t.Fatal(err)
	}
	img, err := j.load(at, false)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := os.ReadDir(filepath.Join(at, blobsName))
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Layers) != 1 || len(img.Files) != 1 || img.Files[0].Path != "a" || len(blobs) != 3 {
		t.Errorf("%+v, %d blobs", img, len(blobs))
	}
	if _, err := (&job{local: &tree{}, platform: v1.Platform{OS: "linux", Architecture: "arm64"}}).load(at, false); err == nil || !strings.Contains(err.Error(), "made an image for linux/amd64, asked for was linux/arm64") {
		t.Errorf("error %v", err)
	}
}

func TestKeepRefuses(t *testing.T) {
	whole := archive(t, nil)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":   {nil, "index.json"},
		"truncated": {whole[:len(whole)/2], "unexpected EOF"},
		"changed blob": {archive(t, func(b map[string][]byte, _ *v1.IndexManifest) {
			for n, data := range b {
				if string(data) == "of no use" {
					b[n] = []byte("something else")
				}
			}
		}), "has digest"},
		"two images": {archive(t, func(_ map[string][]byte, i *v1.IndexManifest) {
			i.Manifests = append(i.Manifests, i.Manifests[0])
		}), "names 2 manifests"},
		"an index": {archive(t, func(_ map[string][]byte, i *v1.IndexManifest) {
			i.Manifests[0].MediaType = types.OCIImageIndex
		}), "or none of an image"},
		"missing layer": {archive(t, func(b map[string][]byte, _ *v1.IndexManifest) {
			for n, data := range b {
				if bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
					delete(b, n)
				}
			}
		}), "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := testJob().keep(bytes.NewReader(c.data), t.TempDir()); err == nil || !strings.Contains(err.Error(), "keeping BuildKit's image: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
