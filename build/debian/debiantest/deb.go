package debiantest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// File is an entry of a package. The zero Type is a regular file.
type File struct {
	Path string // as in the tar
	Type byte
	Link string
	Data string
	Mode int64 // 0: 0644, folders 0755
}

// Control is the package's control file.
func (p Package) Control() string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: Nobody <nobody@example.com>\nDescription: a test\n%s",
		p.Name, p.Version, p.Arch, p.Fields)
}

// Build makes the .deb.
func (p Package) Build(t testing.TB) []byte {
	t.Helper()
	form := p.Form
	if form == "" {
		form = "gz"
	}
	return Ar(
		Member{"debian-binary", []byte("2.0\n")},
		Member{"control.tar.gz", Compress(t, "gz", Tar(t, File{Path: "./control", Data: p.Control()}))},
		Member{"data.tar." + form, Compress(t, form, Tar(t, p.Files...))},
	)
}

// Member is a file in an ar archive.
type Member struct {
	Name string
	Data []byte
}

// Ar makes an ar archive.
func Ar(members ...Member) []byte {
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range members {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.Name, 0, 0, 0, "100644", len(m.Data))
		b.Write(m.Data)
		if len(m.Data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// Tar makes a tar archive.
func Tar(t testing.TB, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Path, Typeflag: f.Type, Linkname: f.Link, Mode: f.Mode, Size: int64(len(f.Data))}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if f.Type == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Compress packs data as gz, xz or zst.
func Compress(t testing.TB, form string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch form {
	case "gz":
		w = gzip.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	case "zst":
		w, err = zstd.NewWriter(&b)
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
