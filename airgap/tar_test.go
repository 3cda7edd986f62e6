package airgap

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
)

// makeTar writes a tar as any tool might.
func makeTar(t testing.TB, files ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range files {
		content := h.PAXRecords["test.content"]
		delete(h.PAXRecords, "test.content")
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		h.Size = int64(len(content))
		h.Mode = 0o755
		noError(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		noError(t, err)
	}
	noError(t, w.Close())
	return b.Bytes()
}

func reg(name string, content []byte) tar.Header {
	return tar.Header{Name: name, PAXRecords: map[string]string{"test.content": string(content)}}
}

// ociTar is an OCI layout in a tar as other tools write it: blobs first, folders,
// no marker.
func ociTar(t testing.TB, idx v1.IndexManifest, manifestJSON []byte, images ...partial.WithRawManifest) []tar.Header {
	t.Helper()
	out := []tar.Header{{Name: "blobs/", Typeflag: tar.TypeDir}, {Name: "blobs/sha256/", Typeflag: tar.TypeDir}}
	seen := map[string]bool{}
	blob := func(b []byte) {
		name := fmt.Sprintf("%s%x", blobPrefix, sha256.Sum256(b))
		if !seen[name] {
			out = append(out, reg(name, b))
		}
		seen[name] = true
	}
	for _, i := range images {
		raw, err := i.RawManifest()
		noError(t, err)
		blob(raw)
		img, ok := i.(v1.Image)
		if !ok {
			continue
		}
		cfg, err := img.RawConfigFile()
		noError(t, err)
		blob(cfg)
		layers, err := img.Layers()
		noError(t, err)
		for _, l := range layers {
			r, err := l.Compressed()
			noError(t, err)
			var b bytes.Buffer
			_, err = b.ReadFrom(r)
			noError(t, err)
			blob(b.Bytes())
		}
	}
	idx.SchemaVersion = 2
	raw, err := json.MarshalIndent(idx, "", "  ")
	noError(t, err)
	out = append(out, reg(indexFile, raw), reg(layoutFile, []byte("{\"imageLayoutVersion\": \"1.0.0\"}\n")))
	if manifestJSON != nil {
		out = append(out, reg(manifestFile, manifestJSON))
	}
	return out
}

func descOf(t testing.TB, img v1.Image, annotations ...string) v1.Descriptor {
	t.Helper()
	d, err := partial.Descriptor(img)
	noError(t, err)
	d.Annotations = map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		d.Annotations[annotations[i]] = annotations[i+1]
	}
	return *d
}

// TestHostile: each archive that is refused for its structure, with what it says.
func TestHostile(t *testing.T) {
	img := image(t, 1, 50, 1, amd64)
	idx := v1.IndexManifest{Manifests: []v1.Descriptor{descOf(t, img, AnnotationImageName, "docker.io/x/y:z")}}
	sound := func() []tar.Header { return ociTar(t, idx, nil, img) }
	noError(t, readAll(file(t, "sound.tar", makeTar(t, sound()...))))
	with := func(h ...tar.Header) []byte { return makeTar(t, append(sound(), h...)...) }
	without := func(name string) []byte {
		var out []tar.Header
		for _, h := range sound() {
			if h.Name != name {
				out = append(out, h)
			}
		}
		return makeTar(t, out...)
	}
	m, err := img.Manifest()
	noError(t, err)
	bigIndex := v1.IndexManifest{SchemaVersion: 2, Annotations: map[string]string{"x": strings.Repeat("x", maxIndex)}}
	big, err := json.Marshal(bigIndex)
	noError(t, err)
	bundle := simple(t, 300).bytes(core())

	for _, c := range []struct {
		what string
		b    []byte
		is   error
		says string
	}{
		{"nothing", nil, ErrTruncated, "the file is empty"},
		{"a few bytes", []byte("hello"), ErrNotArchive, "5 bytes"},
		{"text", bytes.Repeat([]byte("hello "), 200), ErrNotArchive, "no tar header at its start"},
		{"a web page", []byte("<!DOCTYPE html><html>"), ErrNotArchive, "a web page"},
		{"xz", append([]byte("\xfd7zXZ\x00"), make([]byte, 600)...), ErrDamaged, "in the xz header"},
		{"a zip", append([]byte("PK\x03\x04"), make([]byte, 600)...), ErrNotArchive, "a zip archive"},
		{"a program", append([]byte("\x7fELF"), make([]byte, 600)...), ErrNotArchive, "a program"},
		{"an empty tar", make([]byte, 1024), ErrNotArchive, "without oci-layout and index.json"},
		{"a tar of something else", makeTar(t, reg("etc/passwd", []byte("x"))), ErrNotArchive, "without oci-layout and index.json"},
		{"a path that climbs", with(reg("../../etc/cron.d/x", []byte("x"))), ErrRefusedContent, "leads outside"},
		{"a path that climbs in its middle", with(reg("blobs/../../x", []byte("x"))), ErrRefusedContent, "leads outside"},
		{"an absolute path", with(reg("/etc/passwd", []byte("x"))), ErrRefusedContent, "leads outside"},
		{"a backslash path", with(reg(`..\x`, []byte("x"))), ErrRefusedContent, "leads outside"},
		{"a symlink", with(tar.Header{Name: "blobs/sha256/x", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}), ErrRefusedContent, "is a link"},
		{"a hard link", with(tar.Header{Name: "x", Linkname: indexFile, Typeflag: tar.TypeLink}), ErrRefusedContent, "not a regular file"},
		{"a device", with(tar.Header{Name: "x", Typeflag: tar.TypeBlock}), ErrRefusedContent, "not a regular file"},
		{"a fifo", with(tar.Header{Name: "x", Typeflag: tar.TypeFifo}), ErrRefusedContent, "not a regular file"},
		{"a duplicate", with(reg(indexFile, []byte("{}"))), ErrRefusedContent, "index.json is in it twice"},
		{"a duplicate by another path", with(reg("./x/../"+indexFile, []byte("{}"))), ErrRefusedContent, "index.json is in it twice"},
		{"an index that is too large", makeTar(t, reg(layoutFile, []byte(layoutContent)), reg(indexFile, big)), ErrRefusedContent, "index.json has"},
		{"a large oci-layout", makeTar(t, reg(layoutFile, make([]byte, 5000))), ErrRefusedContent, "oci-layout has"},
		{"a huge pax header", hugePax(t), ErrRefusedContent, "header"},
		{"many pax headers", bytes.Repeat(paxHeader(t), 4000), ErrRefusedContent, "headers of more than"},
		{"a size of exabytes", hugeSize(t), ErrRefusedContent, "claims"},
		{"a sparse file", sparse(t), ErrRefusedContent, "sparse"},
		{"two archives after each other", append(makeTar(t, sound()...), makeTar(t, sound()...)...), ErrDamaged, "something other than zeros"},
		{"zeros without end", append(makeTar(t, sound()...), make([]byte, 2<<20)...), ErrRefusedContent, "more follows"},
		{"no end", bytes.TrimRight(makeTar(t, sound()...), "\x00"), ErrTruncated, ""},
		{"index.json that is no JSON", replace(t, sound(), indexFile, "{"), ErrDamaged, "index.json"},
		{"index.json of another version", replace(t, sound(), indexFile, `{"schemaVersion":1,"manifests":[]}`), ErrDamaged, "schema version 1"},
		{"index.json with a negative size", replace(t, sound(), indexFile, strings.Replace(string(find(sound(), indexFile)), `"size": `, `"size": -`, 1)), ErrDamaged, "without digest or size"},
		{"index.json without images", replace(t, sound(), indexFile, `{"schemaVersion":2,"manifests":[]}`), ErrNotArchive, "no images"},
		{"oci-layout of another version", replace(t, sound(), layoutFile, `{"imageLayoutVersion":"9"}`), ErrDamaged, `version "9"`},
		{"no oci-layout", without(layoutFile), ErrNotArchive, "without oci-layout"},
		{"no index.json", without(indexFile), ErrNotArchive, "without oci-layout and index.json"},
		{"no config", without(blobName(m.Config.Digest)), ErrDamaged, "image docker.io/x/y:z: its config, blob " + m.Config.Digest.String()},
		{"no layer", without(blobName(m.Layers[0].Digest)), ErrDamaged, "image docker.io/x/y:z: its layer 1 of 1, blob " + m.Layers[0].Digest.String()},
		{"a layer of another size", replace(t, sound(), blobName(m.Layers[0].Digest), "short"), ErrDamaged, "has 5 bytes instead of"},
		{"a manifest that was changed", replace(t, sound(), blobName(idx.Manifests[0].Digest), strings.Replace(string(find(sound(), blobName(idx.Manifests[0].Digest))), "sha256:", "sha256;", 1)), ErrDamaged, "has the digest"},
		{"manifest.json with another image by the name", with(reg(manifestFile, []byte(`[{"Config":"`+strings.Repeat("a", 64)+`.json","RepoTags":["docker.io/x/y:z"]}]`))), ErrDamaged, "mean different images by docker.io/x/y:z"},
		{"manifest.json with a name of its own", with(reg(manifestFile, []byte(`[{"Config":"`+strings.Repeat("a", 64)+`.json","RepoTags":["other:v1"]}]`))), ErrDamaged, "docker.io/library/other:v1, whose image is not in index.json"},
		{"manifest.json that is no JSON", with(reg(manifestFile, []byte(`[`))), ErrDamaged, "manifest.json"},
		{"a name that is none", replace(t, sound(), indexFile, strings.Replace(string(find(sound(), indexFile)), "docker.io/x/y:z", "docker.io/X!/y:z", 1)), ErrDamaged, "image reference"},
		{"our bundle, folders added", retar(t, bundle, func(h []tar.Header) []tar.Header {
			return append([]tar.Header{{Name: "blobs/", Typeflag: tar.TypeDir}}, h...)
		}), ErrDamaged, "not as it was written"},
		{"our bundle, order changed", retar(t, bundle, func(h []tar.Header) []tar.Header { h[3], h[4] = h[4], h[3]; return h }), ErrDamaged, "not"},
		{"our bundle, a blob more", retar(t, bundle, func(h []tar.Header) []tar.Header {
			return append(h, reg(blobPrefix+strings.Repeat("f", 64), []byte("x")))
		}), ErrDamaged, "belongs to no image"},
		{"our bundle, a blob less", retar(t, bundle, func(h []tar.Header) []tar.Header { return h[:len(h)-1] }), ErrDamaged, "is missing"},
		{"our bundle, manifest.json of its own", retar(t, bundle, func(h []tar.Header) []tar.Header {
			h[2] = reg(manifestFile, []byte("[]"))
			return h
		}), ErrDamaged, "manifest.json is not what index.json implies"},
		{"our bundle of a later format", laterFormat(t, bundle), nil, `bundle format "2" is not known`},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := file(t, "x.tar", c.b)
			_, err := Open(p)
			if err == nil {
				t.Fatal("accepted")
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), p) {
				t.Errorf("error: %v", err)
			}
			// Compressed, it must be refused as well (by the first read at the latest).
			if len(c.b) > 1024 && !errors.Is(c.is, ErrNotArchive) && c.what != "our bundle of a later format" {
				if err := readAll(file(t, "x.tar.zst", compress(t, c.b, zst))); err == nil {
					t.Error("accepted when compressed")
				}
			}
		})
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNotArchive) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := Open("/nonexistent/x.tar"); err == nil || strings.Count(err.Error(), "/nonexistent/x.tar") != 1 {
		t.Errorf("no file: %v", err)
	}
}

func find(files []tar.Header, name string) []byte {
	for _, h := range files {
		if h.Name == name {
			return []byte(h.PAXRecords["test.content"])
		}
	}
	return nil
}

func replace(t testing.TB, files []tar.Header, name, content string) []byte {
	t.Helper()
	done := false
	for i, h := range files {
		if h.Name == name {
			files[i] = reg(name, []byte(content))
			done = true
		}
	}
	if !done {
		t.Fatalf("no %s", name)
	}
	return makeTar(t, files...)
}

// retar changes the entries of a bundle, with its headers' form kept.
func retar(t testing.TB, bundle []byte, change func([]tar.Header) []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range change(entries(t, bundle)) {
		content := h.PAXRecords["test.content"]
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		h.PAXRecords, h.Mode, h.ModTime, h.Size = nil, 0o644, epoch(), int64(len(content))
		noError(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		noError(t, err)
	}
	noError(t, w.Close())
	return b.Bytes()
}

func entries(t testing.TB, b []byte) []tar.Header {
	t.Helper()
	var out []tar.Header
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err != nil {
			return out
		}
		var c bytes.Buffer
		_, err = c.ReadFrom(r)
		noError(t, err)
		out = append(out, reg(h.Name, c.Bytes()))
	}
}

// laterFormat is a sound bundle of a format that does not exist yet.
func laterFormat(t testing.TB, bundle []byte) []byte {
	return retar(t, bundle, func(h []tar.Header) []tar.Header {
		idx, err := parseIndex(find(h, indexFile))
		noError(t, err)
		b, err := sealWith(*idx, map[string]string{annotationFormat: "2"})
		noError(t, err)
		h[1] = reg(indexFile, b)
		return h
	})
}

// paxHeader is an extended header without the entry that must follow it.
func paxHeader(t testing.TB) []byte {
	b := makeTar(t, tar.Header{Name: "x", PAXRecords: map[string]string{"a.b": strings.Repeat("x", 700)}})
	return b[:len(b)-3*blockSize] // the entry's header and the end
}

// hugePax is an extended header of three mebibytes.
func hugePax(t testing.TB) []byte {
	h, err := header("x", 3<<20)
	noError(t, err)
	h[156] = tar.TypeXHeader
	fixChecksum(h)
	return append(h, bytes.Repeat([]byte("30 a.b=xxxxxxxxxxxxxxxxxxxxxx\n"), 3<<20/30+1)...)
}

// hugeSize is an entry whose size is written in base 256.
func hugeSize(t testing.TB) []byte {
	b := makeTar(t, reg("x", nil))
	size := b[124:136]
	clear(size)
	size[0] = 0x80
	binary.BigEndian.PutUint64(size[4:], 1<<60)
	fixChecksum(b)
	return b
}

// sparse is an old GNU sparse file: a few bytes that unpack to many.
func sparse(t testing.TB) []byte {
	b := makeTar(t, reg("x", nil))
	b[156] = tar.TypeGNUSparse
	copy(b[257:265], "ustar  \x00")
	clear(b[345:500])
	copy(b[386:398], "00000000000\x00")
	copy(b[483:495], "77777777777\x00") // real size
	fixChecksum(b)
	return b
}

func fixChecksum(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h[:blockSize] {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}
