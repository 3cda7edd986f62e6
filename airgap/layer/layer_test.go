package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// file is an entry of a layer for a test, with its content.
type file struct {
	tar.Header
	content string
}

func reg(name, content string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}, content}
}

func of(kind byte, name, link string) file {
	return file{tar.Header{Name: name, Typeflag: kind, Linkname: link, Mode: 0o755}, ""}
}

func pack(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		noError(t, w.WriteHeader(&f.Header))
		_, err := io.WriteString(w, f.content)
		noError(t, err)
	}
	noError(t, w.Close())
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	noError(t, errors.Join(err, w.Close()))
	return out.Bytes()
}

func zst(t testing.TB, b []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, opts...)
	noError(t, err)
	_, err = w.Write(b)
	noError(t, errors.Join(err, w.Close()))
	return out.Bytes()
}

func read(t testing.TB, b []byte, opt Options) ([]Entry, Summary, error) {
	t.Helper()
	if opt.Size == 0 {
		opt.Size = int64(len(b))
	}
	var out []Entry
	s, err := Read(t.Context(), bytes.NewReader(b), opt, func(e Entry, _ io.Reader) error {
		out = append(out, e)
		return nil
	})
	return out, s, err
}

func mustRead(t testing.TB, files ...file) []Entry {
	t.Helper()
	out, _, err := read(t, pack(t, files...), Options{Sums: true})
	noError(t, err)
	return out
}

func TestRead(t *testing.T) {
	dev := of(tar.TypeBlock, "dev/sda", "")
	dev.Devmajor, dev.Devminor = 8, 1
	capable := reg("bin/ping", "ping")
	capable.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "caps", "SCHILY.xattr.a": "b"}
	plain := pack(t, of(tar.TypeDir, "./", ""), reg("/etc/hosts", "hosts"), of(tar.TypeSymlink, "etc/abs", "/etc/hosts"), of(tar.TypeLink, "etc/again", "./etc/hosts"),
		dev, of(tar.TypeFifo, "run/fifo", ""), capable, of(tar.TypeReg, "etc/.wh.gone", ""), of(tar.TypeReg, "var/.wh..wh..opq", ""), of(tar.TypeReg, ".wh..wh.plnk", ""))
	for how, b := range map[string][]byte{
		"tar": plain, "gzip": gz(t, plain), "zstd": zst(t, plain),
		"gzip in two members": append(gz(t, plain[:700]), gz(t, plain[700:])...),
	} {
		t.Run(how, func(t *testing.T) {
			got, sum, err := read(t, b, Options{Sums: true})
			noError(t, err)
			var lines []string
			for _, e := range got {
				lines = append(lines, fmt.Sprintf("%c %s %s", e.Type, e.Name, e.Link))
			}
			want := []string{"d . ", "f etc/hosts ", "l etc/abs /etc/hosts", "h etc/again etc/hosts", "b dev/sda 8:1", "p run/fifo ", "f bin/ping ", "w etc/gone ", "o var "}
			if !slices.Equal(lines, want) {
				t.Errorf("got %q", lines)
			}
			if hosts := sha256.Sum256([]byte("hosts")); got[1].Sum != string(hosts[:]) || got[1].Size != 5 {
				t.Errorf("%+v", got[1])
			}
			if got[6].Xattrs != "a=b\x00security.capability=caps\x00" {
				t.Errorf("attributes %q", got[6].Xattrs)
			}
			if want := fmt.Sprintf("sha256:%x", sha256.Sum256(plain)); sum.DiffID != want || sum.Bytes != int64(len(plain)) {
				t.Errorf("%+v, not %s", sum, want)
			}
		})
	}
}

// TestReadContent: what fn does not read is skipped, and its errors come back as they are.
func TestReadContent(t *testing.T) {
	b := pack(t, reg("a", "first"), reg("b", strings.Repeat("x", 5000)), reg("c", "third"))
	var got string
	_, err := Read(t.Context(), bytes.NewReader(b), Options{Size: int64(len(b))}, func(e Entry, r io.Reader) error {
		if e.Name == "b" {
			_, err := r.Read(make([]byte, 10))
			return err
		}
		c, err := io.ReadAll(r)
		got += string(c)
		return err
	})
	if err != nil || got != "firstthird" {
		t.Errorf("%q, %v", got, err)
	}
	mine := errors.New("mine")
	_, err = Read(t.Context(), bytes.NewReader(b), Options{Size: 1}, func(Entry, io.Reader) error { return mine })
	if !errors.Is(err, mine) || err.Error() != mine.Error() {
		t.Errorf("error %v", err)
	}
	_, err = Read(t.Context(), io.MultiReader(bytes.NewReader(b[:900]), failing{mine}), Options{Size: 1}, func(Entry, io.Reader) error { return nil })
	if !errors.Is(err, mine) || err.Error() != mine.Error() {
		t.Errorf("the source's error became %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = Read(ctx, bytes.NewReader(b), Options{Size: 1}, func(Entry, io.Reader) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestReadRefuses: what no layer needs, or none can have.
func TestReadRefuses(t *testing.T) {
	sound := pack(t, reg("a", strings.Repeat("a", 3000)))
	long := strings.Repeat("x", 300)
	bigXattr := reg("a", "")
	bigXattr.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 900_000)}
	for _, c := range []struct {
		what string
		b    []byte
		is   error
		says string
	}{
		{"a way up", pack(t, reg("../etc/passwd", "x")), ErrRefused, "leads outside"},
		{"a way up in its middle", pack(t, reg("a/../../b", "x")), ErrRefused, "leads outside"},
		{"a way up after a slash", pack(t, reg("/../b", "x")), ErrRefused, "leads outside"},
		{"a way up that stays inside", pack(t, reg("a/../b", "x")), ErrRefused, "leads outside"},
		{"a hard link up", pack(t, of(tar.TypeLink, "a", "../../etc/passwd")), ErrRefused, "hard link"},
		{"a link to nothing", pack(t, of(tar.TypeSymlink, "a", "")), ErrRefused, "is a link to"},
		{"a long name", pack(t, reg(long, "x")), ErrRefused, "too long"},
		{"a long path", pack(t, reg(strings.Repeat("dir/", 1100)+"f", "x")), ErrRefused, "bytes"},
		{"a whiteout of nothing", pack(t, reg("a/.wh.", "")), ErrRefused, "whiteout of no file"},
		{"a whiteout of a folder's parent", pack(t, reg("a/.wh...", "")), ErrRefused, "whiteout of no file"},
		{"a root that is a file", pack(t, reg(".", "")), ErrRefused, "root is no folder"},
		{"a root that is a link", pack(t, of(tar.TypeSymlink, ".", "/")), ErrRefused, "root is no folder"},
		{"an unknown type", pack(t, of('Z', "a", "")), ErrRefused, "tar type"},
		{"attributes without end", pack(t, slices.Repeat([]file{bigXattr}, 40)...), ErrRefused, "names and attributes"},
		{"a size of exabytes", lyingSize(t, 1<<60), ErrRefused, "may unpack to"},
		{"a size that is not there", lyingSize(t, 100_000), ErrMalformed, "ends early"},
		{"a sparse file of gigabytes", sparse(t, 100<<30), ErrRefused, "may unpack to"},
		{"truncated", sound[:2000], ErrMalformed, "ends early"},
		{"truncated gzip", gz(t, sound)[:30], ErrMalformed, "ends early"},
		{"truncated zstd", zst(t, sound)[:30], ErrMalformed, ""},
		{"no layer", bytes.Repeat([]byte("no layer"), 200), ErrMalformed, "header"},
		{"damaged gzip", flip(gz(t, sound), 25), ErrMalformed, ""},
		{"a window of gigabytes", append([]byte("\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"), make([]byte, 1000)...), ErrRefused, "window"},
		{"a bomb of zeros", zst(t, append(sound[:len(sound)-1024], make([]byte, 400<<20)...)), ErrRefused, "unpacks to more than"},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, _, err := read(t, c.b, Options{})
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

func flip(b []byte, i int) []byte {
	b[i] ^= 0xff
	return b
}

func TestBudget(t *testing.T) {
	b := pack(t, reg("a", "x"))
	spent := Budget{}
	for range maxEntries {
		noError(t, spent.spend(Entry{}))
	}
	if _, _, err := read(t, b, Options{Budget: &spent}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "files") {
		t.Errorf("error: %v", err)
	}
}

// lyingSize is a file whose header says another size than it has.
func lyingSize(t testing.TB, size int64) []byte {
	b := pack(t, reg("x", ""))
	field := b[124:136]
	clear(field)
	field[0] = 0x80
	binary.BigEndian.PutUint64(field[4:], uint64(size))
	fixChecksum(b)
	return b
}

// sparse is an old GNU sparse file: a few bytes that unpack to many.
func sparse(t testing.TB, size int64) []byte {
	b := pack(t, reg("x", ""))
	b[156] = tar.TypeGNUSparse
	copy(b[257:265], "ustar  \x00")
	clear(b[345:500])
	field := b[483:495]
	field[0] = 0x80
	binary.BigEndian.PutUint64(field[4:], uint64(size))
	fixChecksum(b)
	return b
}

func fixChecksum(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h[:512] {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}
