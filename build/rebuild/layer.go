package rebuild

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// layer explains two layers that are not the same: by the first entry that differs, else
// by the bytes of the tar, else by those of the compressed blobs.
func (c *comparer) layer(da, db v1.Descriptor) (*Difference, error) {
	var d *Difference
	err := c.both(da, db, true, func(a, b io.Reader) (err error) {
		d, err = c.entries(da, db, tar.NewReader(a), tar.NewReader(b))
		return err
	})
	if d != nil || err != nil {
		return d, err
	}
	d = &Difference{Part: "layer", What: "tar (all entries are equal)"}
	err = c.both(da, db, true, func(a, b io.Reader) (err error) {
		d.Bytes, err = firstBytes(a, b)
		return err
	})
	if d.Bytes != nil || err != nil {
		return d, err
	}
	d.What = "compression (the tars are equal)"
	err = c.both(da, db, false, func(a, b io.Reader) (err error) {
		d.Bytes, err = firstBytes(a, b)
		return err
	})
	if da.MediaType != db.MediaType {
		d.Built, d.Rebuilt = string(da.MediaType), string(db.MediaType)
	}
	return d, err
}

// both opens a blob of each side, unpacked if asked for.
func (c *comparer) both(da, db v1.Descriptor, unpacked bool, use func(a, b io.Reader) error) error {
	return c.a.stream(da, unpacked, func(a io.Reader) error {
		return c.b.stream(db, unpacked, func(b io.Reader) error { return use(a, b) })
	})
}

func (s *side) stream(d v1.Descriptor, unpacked bool, use func(io.Reader) error) error {
	f, err := s.blob(d.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	if !unpacked {
		return use(f)
	}
	switch t := string(d.MediaType); {
	case strings.HasSuffix(t, "zstd"):
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", d.Digest, err)
		}
		defer z.Close()
		return use(z)
	case strings.HasSuffix(t, "gzip"):
		z, err := gzip.NewReader(f)
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", d.Digest, err)
		}
		return use(z)
	}
	return use(f)
}

// entries goes through two tars at once, up to the first entry that differs.
func (c *comparer) entries(da, db v1.Descriptor, a, b *tar.Reader) (*Difference, error) {
	for {
		ha, errA := a.Next()
		hb, errB := b.Next()
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("reading tar: %w", err)
			}
		}
		switch {
		case errA != nil && errB != nil:
			return nil, nil
		case errA != nil:
			return only(hb.Name, false), nil
		case errB != nil:
			return only(ha.Name, true), nil
		case ha.Name != hb.Name:
			// Our layers are sorted: what comes first is missing on the other side.
			if strings.TrimSuffix(ha.Name, "/") < strings.TrimSuffix(hb.Name, "/") {
				return only(ha.Name, true), nil
			}
			return only(hb.Name, false), nil
		}
		if what, x, y := attribute(ha, hb); what != "" {
			return &Difference{Part: "layer", File: file(ha.Name), What: what, Built: x, Rebuilt: y}, nil
		}
		w, err := firstBytes(a, b)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", ha.Name, err)
		}
		if w == nil {
			continue
		}
		d := &Difference{Part: "layer", File: file(ha.Name), What: "content", Bytes: w}
		if ha.Size != hb.Size {
			d.Built, d.Rebuilt = fmt.Sprintf("%d bytes", ha.Size), fmt.Sprintf("%d bytes", hb.Size)
		}
		d.Hint, err = c.hint(da, db, ha.Name, w.Offset)
		return d, err
	}
}

func file(name string) string { return "/" + strings.TrimSuffix(name, "/") }

func only(name string, built bool) *Difference {
	return &Difference{Part: "layer", File: file(name), What: "file", Built: there(built), Rebuilt: there(!built)}
}

// attribute compares what a tar says of a file besides its content.
func attribute(a, b *tar.Header) (what, x, y string) {
	for _, f := range []struct {
		what string
		x, y string
	}{
		{"type", string(a.Typeflag), string(b.Typeflag)},
		{"mode", fmt.Sprintf("%04o", a.Mode), fmt.Sprintf("%04o", b.Mode)},
		{"owner", fmt.Sprintf("%d:%d %s:%s", a.Uid, a.Gid, a.Uname, a.Gname), fmt.Sprintf("%d:%d %s:%s", b.Uid, b.Gid, b.Uname, b.Gname)},
		{"modification time", stamp(a.ModTime), stamp(b.ModTime)},
		{"link target", a.Linkname, b.Linkname},
		{"device", fmt.Sprintf("%d:%d", a.Devmajor, a.Devminor), fmt.Sprintf("%d:%d", b.Devmajor, b.Devminor)},
		{"extended attributes", brief(a.PAXRecords), brief(b.PAXRecords)},
	} {
		if f.x != f.y {
			return f.what, f.x, f.y
		}
	}
	return "", "", ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// hint tells what the bytes of a program are, by writing both versions of it to
// temporary files: only there can they be read in any order.
func (c *comparer) hint(da, db v1.Descriptor, name string, offset int64) (string, error) {
	a, err := c.a.extract(da, name)
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(a) }()
	b, err := c.b.extract(db, name)
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(b) }()
	return explain(a, b, offset), nil
}

// extract writes one file of a layer to a temporary file.
func (s *side) extract(d v1.Descriptor, name string) (path string, err error) {
	f, err := os.CreateTemp("", "rke2-rebuild-")
	if err != nil {
		return "", fmt.Errorf("explaining %s: %w", name, err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = s.stream(d, true, func(r io.Reader) error {
		t := tar.NewReader(r)
		for {
			h, err := t.Next()
			if err != nil {
				return fmt.Errorf("explaining %s: %w", name, err)
			}
			if h.Name != name {
				continue
			}
			if _, err := io.Copy(f, t); err != nil {
				return fmt.Errorf("explaining %s: %w", name, err)
			}
			return nil
		}
	})
	return f.Name(), err
}
