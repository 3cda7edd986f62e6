package layer

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/build/cache"
)

var epoch = time.Unix(1_700_000_000, 0)

func builder(t *testing.T, at time.Time) *Builder {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return NewBuilder(c, at, 2)
}

// sources writes some files, one of them larger than the encoder's window.
func sources(t *testing.T) []File {
	t.Helper()
	dir := t.TempDir()
	part := make([]byte, 64<<10)
	rand.New(rand.NewSource(1)).Read(part) // the same bytes each time
	big := bytes.Repeat(part, window/len(part)+3)
	var files []File
	for name, data := range map[string][]byte{"kubelet": big, "runc": []byte("runc"), "empty": nil} {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, File{Path: "usr/local/bin/" + name, Mode: 0o755, Source: p})
	}
	return append(files,
		File{Path: "/usr/bin", Dir: true, Mode: 0o700},
		File{Path: "./etc/link", Link: "../usr/local/bin/runc"},
	)
}

func blob(t *testing.T, l Layer) []byte {
	t.Helper()
	data, err := os.ReadFile(l.Blob)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if hex.EncodeToString(sum[:]) != l.Digest.Hex || int64(len(data)) != l.Size {
		t.Errorf("blob is not what its descriptor says: %s, %d bytes", l.Digest, l.Size)
	}
	return data
}

// unpack gives the headers and the digest of the uncompressed tar.
func unpack(t *testing.T, data []byte) (headers []*tar.Header, diffID string) {
	t.Helper()
	// Decoders in the field refuse larger windows.
	dec, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderMaxWindow(32<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	h := sha256.New()
	all := io.TeeReader(dec, h)
	r := tar.NewReader(all)
	for {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, hdr)
	}
	if _, err := io.Copy(io.Discard, all); err != nil {
		t.Fatal(err)
	}
	return headers, "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func TestLayer(t *testing.T) {
	l, err := builder(t, epoch).Build(sources(t))
	if err != nil {
		t.Fatal(err)
	}
	if l.Descriptor().MediaType != "application/vnd.oci.image.layer.v1.tar+zstd" {
		t.Errorf("media type %s", l.Descriptor().MediaType)
	}
	headers, diffID := unpack(t, blob(t, l))
	if diffID != l.DiffID.String() {
		t.Errorf("diff id %s, want %s", l.DiffID, diffID)
	}
	var got []string
	for _, h := range headers {
		got = append(got, h.FileInfo().Mode().String()+" "+h.Name)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s belongs to %d:%d %s:%s", h.Name, h.Uid, h.Gid, h.Uname, h.Gname)
		}
		if !h.ModTime.Equal(epoch) {
			t.Errorf("%s is of %s", h.Name, h.ModTime)
		}
		if len(h.PAXRecords) != 0 {
			t.Errorf("%s has records %v", h.Name, h.PAXRecords)
		}
	}
	want := []string{
		"drwxr-xr-x etc/", "Lrwxrwxrwx etc/link", "drwxr-xr-x usr/", "drwx------ usr/bin/", "drwxr-xr-x usr/local/",
		"drwxr-xr-x usr/local/bin/", "-rwxr-xr-x usr/local/bin/empty", "-rwxr-xr-x usr/local/bin/kubelet", "-rwxr-xr-x usr/local/bin/runc",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("entries:\n%s", strings.Join(got, "\n"))
	}
}

// Twice, in other circumstances: the same bytes.
func TestDeterministic(t *testing.T) {
	files := sources(t)
	first, err := builder(t, epoch).Build(files)
	if err != nil {
		t.Fatal(err)
	}
	reversed := make([]File, 0, len(files))
	for i := len(files) - 1; i >= 0; i-- {
		reversed = append(reversed, files[i])
	}
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	t.Setenv("TZ", "Asia/Kathmandu")
	t.Chdir(t.TempDir())
	// The sources' own dates, modes and places are of no importance.
	for i, f := range reversed {
		if f.Source == "" {
			continue
		}
		data, err := os.ReadFile(f.Source)
		if err != nil {
			t.Fatal(err)
		}
		reversed[i].Source = filepath.Join(t.TempDir(), "other")
		if err := os.WriteFile(reversed[i].Source, data, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	second, err := builder(t, epoch.In(time.FixedZone("x", 3600)).Add(300*time.Millisecond)).Build(reversed)
	if err != nil {
		t.Fatal(err)
	}
	if second.Cached {
		t.Fatal("another cache had it already, so nothing was compared")
	}
	if !bytes.Equal(blob(t, first), blob(t, second)) {
		t.Errorf("%s and %s", first.Digest, second.Digest)
	}
	third, err := builder(t, epoch.Add(time.Second)).Build(files)
	if err != nil {
		t.Fatal(err)
	}
	if third.Digest == first.Digest {
		t.Error("another date, the same digest: this test can't fail")
	}
}

func TestCompressedOnce(t *testing.T) {
	b, files := builder(t, epoch), sources(t)
	first, err := b.Build(files)
	if err != nil || first.Cached {
		t.Fatalf("cached %v, %v", first.Cached, err)
	}
	second, err := b.Build(files)
	if err != nil || !second.Cached || second.Digest != first.Digest {
		t.Fatalf("%+v, %v", second, err)
	}
	// A damaged entry is made again.
	if err := os.Truncate(first.Blob, 10); err != nil {
		t.Fatal(err)
	}
	third, err := b.Build(files)
	if err != nil || third.Cached || third.Digest != first.Digest {
		t.Fatalf("%+v, %v", third, err)
	}
	blob(t, third)
}

func TestRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files []File
		want  string
	}{
		"twice":           {[]File{{Path: "a", Source: file}, {Path: "/a", Source: file}}, "two entries for /a"},
		"file as folder":  {[]File{{Path: "a", Source: file}, {Path: "a/b/c", Source: file}}, "/a, which is no folder, and /a/b/c"},
		"gone":            {[]File{{Path: "a", Source: file + "x"}}, "no such file"},
		"changed content": {[]File{{Path: "a", Source: file, SHA256: strings.Repeat("0", 64)}}, "expected 000"},
	} {
		t.Run(name, func(t *testing.T) {
			b := builder(t, epoch)
			if _, err := b.Build(c.files); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
			if found, _ := filepath.Glob(filepath.Join(b.cache.Dir(), cacheKind, "*")); len(found) > 0 {
				t.Errorf("left behind: %v", found)
			}
		})
	}
}
