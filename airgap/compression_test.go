package airgap

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4"
	"github.com/ulikunitz/xz"

	"github.com/rancher/rke2/tests/tools"
)

func compress(t testing.TB, b []byte, c compression) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch c {
	case plain:
		return b
	case zst:
		z, err := zstd.NewWriter(&out)
		noError(t, err)
		w = z
	case gz:
		w = gzip.NewWriter(&out)
	case lz:
		w = lz4.NewWriter(&out)
	case bz:
		return bzip(t, b)
	case xzc:
		z, err := xz.NewWriter(&out)
		noError(t, err)
		w = z
	}
	_, err := w.Write(b)
	noError(t, errors.Join(err, w.Close()))
	return out.Bytes()
}

// bzip uses the host's bzip2, because the standard library has only the reader.
func bzip(t testing.TB, b []byte) []byte {
	t.Helper()
	cmd := exec.Command("bzip2", "-c")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	noError(t, err)
	return out
}

var compressions = []struct {
	name string
	c    compression
}{{"b.TAR", plain}, {"b.tar.zst", zst}, {"b.tzst", zst}, {"b.tar.GZ", gz}, {"b.tgz", gz}, {"b.tar.lz4", lz}, {"b.tar.bz2", bz}, {"b.tbz", bz}, {"b.tar.xz", xzc}, {"b.TXZ", xzc}, {"mislabelled.tar", gz}}

func TestCompressions(t *testing.T) {
	f := simple(t, 3000)
	b := f.bytes(core())
	for _, c := range compressions {
		t.Run(c.name, func(t *testing.T) {
			if !HasArchiveName(c.name) {
				t.Error("not known by its name")
			}
			if _, err := exec.LookPath("bzip2"); c.c == bz && err != nil {
				tools.Absent(t, "bzip2 is needed to make the test's input: apt-get install bzip2")
			}
			a := mustOpen(t, file(t, c.name, compress(t, b, c.c)))
			if a.Compression() != string(c.c) {
				t.Errorf("compression %s", a.Compression())
			}
			// The head of a bundle of ours is enough to list its images.
			if a.scanned != (c.c == plain) {
				t.Errorf("read whole by Open: %v", a.scanned)
			}
			if len(a.Images()) != 2 {
				t.Errorf("%d images before it was read", len(a.Images()))
			}
			checkSimple(t, f, a)
		})
	}
}

// TestCompressedDamage: whatever happens to a compressed bundle, it is an error or
// it changes nothing.
func TestCompressedDamage(t *testing.T) {
	f := simple(t, 300)
	b := f.bytes(core())
	for _, c := range compressions[1:10] {
		t.Run(c.name, func(t *testing.T) {
			z := compress(t, b, c.c)
			path := file(t, c.name, z)
			step := max(1, len(z)/60)
			for n := len(z) - 1; n > 0; n -= step {
				noError(t, os.Truncate(path, int64(n)))
				if err := readAll(path); err == nil {
					t.Errorf("%d of %d bytes were accepted", n, len(z))
				}
			}
			unnoticed := 0
			for i := 0; i < len(z); i += step {
				d := bytes.Clone(z)
				d[i] ^= 0x10
				noError(t, os.WriteFile(path, d, 0o600))
				if readAll(path) != nil {
					continue
				}
				unnoticed++
				a := mustOpen(t, path)
				checkSimple(t, f, a) // no byte that counts differs
			}
			if unnoticed > 3 { // bits that compressed formats leave unused
				t.Errorf("%d of 60 flips went unnoticed", unnoticed)
			}
		})
	}
}

// TestSignaturesOfDamagedStream: a fault past the head is found by the first read.
func TestSignaturesOfDamagedStream(t *testing.T) {
	b := simple(t, 100_000).bytes(core())
	z := compress(t, b, zst)
	a := mustOpen(t, file(t, "b.tar.zst", z[:len(z)-100]))
	_, err := a.Signatures(a.Images()[0].Desc.Digest)
	if !errors.Is(err, ErrTruncated) || !strings.Contains(err.Error(), "b.tar.zst") {
		t.Errorf("error: %v", err)
	}
	if _, again := a.Blob(a.Images()[0].Desc.Digest); !errors.Is(again, ErrTruncated) {
		t.Errorf("the second time: %v", again)
	}
}

// zeros is an endless stream.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBomb(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks some gigabytes of zeros")
	}
	// A tar header that announces 64 GiB, then zeros.
	h, err := header(blobPrefix+strings.Repeat("0", 64), 64<<30)
	noError(t, err)
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	noError(t, err)
	_, err = io.Copy(z, io.MultiReader(bytes.NewReader(h), io.LimitReader(zeros{}, 4<<30)))
	noError(t, errors.Join(err, z.Close()))
	_, err = Open(file(t, "bomb.tar.zst", b.Bytes()))
	if !errors.Is(err, ErrRefusedContent) || !strings.Contains(err.Error(), "this is no image archive") {
		t.Errorf("error: %v", err)
	}
}

// TestWindow: a frame that wants 2 GiB of memory. Made by `zstd --ultra -22 --long=31`.
func TestWindow(t *testing.T) {
	// Magic, descriptor without single segment or content size, window of 2^31.
	frame, err := base64.StdEncoding.DecodeString("KLUv/QCoAQAA")
	noError(t, err)
	_, err = Open(file(t, "w.tar.zst", append(frame, make([]byte, 1000)...)))
	if err == nil || !strings.Contains(err.Error(), "window") {
		t.Errorf("error: %v", err)
	}
}

// TestDictionary: an xz stream that wants more memory than is given for it.
func TestDictionary(t *testing.T) {
	var b bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 1 << 30}.NewWriter(&b)
	noError(t, err)
	_, err = w.Write(makeTar(t))
	noError(t, errors.Join(err, w.Close()))
	_, err = Open(file(t, "d.tar.xz", b.Bytes()))
	if !errors.Is(err, ErrRefusedContent) || !strings.Contains(err.Error(), "dictionary is larger than 32 MiB") {
		t.Errorf("error: %v", err)
	}
}

func TestArchiveNames(t *testing.T) {
	for _, n := range []string{"images.txt", "x.tar.lzma", "README", "x.tar.zst.sha256", ".json", "tar"} {
		if HasArchiveName(n) {
			t.Errorf("%s counts as an archive", n)
		}
	}
}
