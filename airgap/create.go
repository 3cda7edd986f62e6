package airgap

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// CreateOptions says which bundles to make of a layout, and where.
type CreateOptions struct {
	Layout    string
	Sets      []string // one bundle each
	OutputDir string
	Platform  v1.Platform
	// Compress is "none" (or empty), "zstd" or "gzip", for the tar as a whole. Blobs are
	// compressed already; plain is smaller to read and no larger to keep.
	Compress      string
	AllowUnsigned bool
	// Progress is told the bytes of the current bundle's tar.
	Progress func(file string, done, total int64)
}

// Created is one bundle that was made.
type Created struct {
	File   string   `json:"file"`
	List   string   `json:"list"` // the text file with its references
	Size   int64    `json:"size"`
	SHA256 string   `json:"sha256"`
	Images []string `json:"images"`
	Kept   bool     `json:"kept"` // it was there already
}

// BundleName is the base name of a set's bundle, without extension.
func BundleName(set string, p v1.Platform) string {
	return fmt.Sprintf("rke2-images-%s.%s-%s", set, p.OS, p.Architecture)
}

// SumsName is the base name of the list of sums for an architecture.
func SumsName(p v1.Platform) string { return "sha256sum-" + p.Architecture + ".txt" }

// Create writes a bundle for each set, the list of its references beside it, and
// their sums into the folder's list of sums. Files appear whole or not at all, and
// are hashed while they are written. A plain bundle that is there already, by its head
// (which names every blob by digest), its size and its listed sum, is kept unread.
func Create(ctx context.Context, opt CreateOptions) ([]Created, error) {
	ext, err := extension(opt.Compress)
	if err != nil {
		return nil, err
	}
	var plans []*Plan
	for _, set := range opt.Sets { // all plans first: a fault shows before any writing
		if set == "" || strings.ContainsAny(set, "/\\ ,") {
			return nil, fmt.Errorf("set %q: a set's name is one word", set)
		}
		p, err := NewPlan(Layout(opt.Layout), Selection{Sets: []string{set}, Platform: opt.Platform, AllowUnsigned: opt.AllowUnsigned})
		if err != nil {
			return nil, fmt.Errorf("bundling set %s: %w", set, err)
		}
		plans = append(plans, p)
	}
	if err := os.MkdirAll(opt.OutputDir, 0o755); err != nil {
		return nil, fmt.Errorf("bundling: %w", err)
	}
	var out []Created
	for i, p := range plans {
		base := filepath.Join(opt.OutputDir, BundleName(opt.Sets[i], opt.Platform))
		c, err := p.create(ctx, base, ext, opt)
		if err != nil {
			return out, fmt.Errorf("bundling set %s: %w", opt.Sets[i], err)
		}
		out = append(out, c)
	}
	return out, nil
}

func extension(compress string) (string, error) {
	switch compress {
	case "", "none":
		return ".tar", nil
	case "zstd":
		return ".tar.zst", nil
	case "gzip":
		return ".tar.gz", nil
	}
	return "", fmt.Errorf("compression %q is not known: use none, zstd or gzip", compress)
}

func (p *Plan) create(ctx context.Context, base, ext string, opt CreateOptions) (Created, error) {
	c := Created{File: base + ext, List: base + ".txt", Images: p.References()}
	sums := filepath.Join(filepath.Dir(base), SumsName(opt.Platform))
	if sum, ok := p.kept(c, sums); ok {
		c.SHA256, c.Size, c.Kept = sum, p.Size, true
		return c, nil
	}
	sum, err := writeFile(c.File, p.Size, func(w io.Writer) error {
		w, finish, err := compressor(w, ext)
		if err != nil {
			return err
		}
		done := int64(0)
		tell := counting(func(n int) {
			if done += int64(n); opt.Progress != nil {
				opt.Progress(c.File, done, p.Size)
			}
		})
		return errors.Join(p.Write(ctx, io.MultiWriter(w, tell)), finish())
	})
	if err != nil {
		return c, err
	}
	c.SHA256, c.Size = sum.hex, sum.size
	list := strings.Join(c.Images, "\n") + "\n"
	listSum, err := writeFile(c.List, int64(len(list)), func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader([]byte(list)))
		return err
	})
	if err != nil {
		return c, err
	}
	return c, UpdateSums(sums, map[string]string{filepath.Base(c.File): c.SHA256, filepath.Base(c.List): listSum.hex})
}

// kept tells whether the planned bundle is what is there, and gives its sum.
func (p *Plan) kept(c Created, sums string) (string, bool) {
	var head bytes.Buffer
	for _, h := range p.head {
		if writeEntry(context.Background(), &head, h.name, h.content) != nil {
			return "", false
		}
	}
	f, err := os.Open(c.File)
	if err != nil {
		return "", false
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != p.Size || !strings.HasSuffix(c.File, ".tar") {
		return "", false
	}
	there := make([]byte, head.Len())
	if _, err := io.ReadFull(f, there); err != nil || !bytes.Equal(there, head.Bytes()) {
		return "", false
	}
	list, err := os.ReadFile(c.List)
	if err != nil || string(list) != strings.Join(c.Images, "\n")+"\n" {
		return "", false
	}
	lines, err := os.ReadFile(sums)
	if err != nil {
		return "", false
	}
	sum := ""
	for l := range strings.Lines(string(lines)) {
		if hex, name, ok := strings.Cut(strings.TrimSpace(l), "  "); ok && name == filepath.Base(c.File) {
			sum = hex
		}
	}
	return sum, sum != "" && strings.Contains(string(lines), "  "+filepath.Base(c.List)+"\n")
}

// compressor wraps w. One goroutine and no time stamp: the same bytes every time.
func compressor(w io.Writer, ext string) (io.Writer, func() error, error) {
	switch ext {
	case ".tar.zst":
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case ".tar.gz":
		z := gzip.NewWriter(w)
		return z, z.Close, nil
	}
	return w, func() error { return nil }, nil
}
