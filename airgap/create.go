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

// Order is one bundle to make.
type Order struct {
	// Name is the file's base name, without the extension.
	Name      string
	Source    Source
	Selection Selection
}

// CreateOptions says where bundles go, and in which form.
type CreateOptions struct {
	OutputDir string
	// Format is tar (or empty), tar.zst or tar.gz: the last two compress the tar as a whole.
	// Blobs are compressed already; plain is smaller to read and no larger to keep.
	Format string
	// Split makes parts of at most so many bytes; 0: one file.
	Split int64
	// Progress is told the bytes of the current bundle's tar.
	Progress func(file string, done, total int64)
}

// Created is one bundle that was made.
type Created struct {
	File      string   `json:"file"`
	List      string   `json:"list"` // the text file with its references
	Platform  string   `json:"platform"`
	Size      int64    `json:"size"`
	SHA256    string   `json:"sha256,omitempty"` // of File; "" if it was split
	Images    []string `json:"images"`
	Artifacts []string `json:"artifacts,omitempty"` // charts and files
	Unsigned  []string `json:"unsigned,omitempty"`  // images without a signature
	Kept      bool     `json:"kept"`                // it was there already
	// Parts are the files that there are instead of File, if it was split; Size is then
	// that of all.
	Parts []CreatedPart `json:"parts,omitempty"`
}

// CreatedPart is one part of a bundle.
type CreatedPart struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Kept   bool   `json:"kept"`
}

// BundleName is the base name of a set's bundle, without extension.
func BundleName(set string, p v1.Platform) string { return PlatformName("rke2-images-"+set, p) }

// PlatformName puts a platform behind a bundle's name, without extension.
func PlatformName(name string, p v1.Platform) string {
	s := fmt.Sprintf("%s.%s-%s", name, p.OS, p.Architecture)
	if p.Variant != "" {
		s += "-" + p.Variant
	}
	return s
}

// SumsName is the base name of the list of sums for an architecture.
func SumsName(p v1.Platform) string { return "sha256sum-" + p.Architecture + ".txt" }

// SetOrders orders one bundle for each set of images of a layout.
func SetOrders(layout string, sets []string, p v1.Platform, allowUnsigned bool) ([]Order, error) {
	var out []Order
	for _, set := range sets {
		if set == "" || strings.ContainsAny(set, "/\\ ,") {
			return nil, fmt.Errorf("set %q: a set's name is one word", set)
		}
		sel := Selection{Sets: []string{set}, Platform: p, AllowUnsigned: allowUnsigned}
		out = append(out, Order{Name: BundleName(set, p), Source: Layout(layout), Selection: sel})
	}
	return out, nil
}

// Create makes the bundles, the list of references beside each, and puts their sums into
// the folder's list of sums. Files appear whole or not at all, and are hashed while they
// are written. A plain bundle that is there already, by its head (which names every blob
// by digest), its size and its listed sum, is kept unread.
func Create(ctx context.Context, orders []Order, opt CreateOptions) ([]Created, error) {
	ext, err := extension(opt.Format)
	if err != nil {
		return nil, err
	}
	if opt.Split > 0 && ext != ".tar" {
		return nil, errors.New("parts are plain tars: a split bundle has the format tar")
	}
	var plans []*Plan
	for _, o := range orders { // all plans first: a fault shows before any writing
		p, err := NewPlan(o.Source, o.Selection)
		if err != nil {
			return nil, fmt.Errorf("bundling %s: %w", o.Name, err)
		}
		plans = append(plans, p)
	}
	if err := os.MkdirAll(opt.OutputDir, 0o755); err != nil {
		return nil, fmt.Errorf("bundling: %w", err)
	}
	var out []Created
	for i, p := range plans {
		c, err := p.create(ctx, orders[i], ext, opt)
		if err != nil {
			return out, fmt.Errorf("bundling %s: %w", orders[i].Name, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func extension(format string) (string, error) {
	switch format {
	case "", "tar":
		return ".tar", nil
	case "tar.zst", "tar.gz":
		return "." + format, nil
	}
	return "", fmt.Errorf("format %q is not known: use tar, tar.zst or tar.gz", format)
}

func (p *Plan) create(ctx context.Context, o Order, ext string, opt CreateOptions) (Created, error) {
	base := filepath.Join(opt.OutputDir, o.Name)
	c := Created{File: base + ext, List: base + ".txt", Platform: o.Selection.Platform.String(), Images: p.References(), Unsigned: p.Unsigned}
	for _, a := range p.Artifacts {
		c.Artifacts = append(c.Artifacts, a.Ref)
	}
	sums := filepath.Join(opt.OutputDir, SumsName(o.Selection.Platform))
	if opt.Split > 0 && p.Size > opt.Split {
		return p.createParts(ctx, c, sums, opt)
	}
	if sum, ok := p.kept(c, sums); ok {
		c.SHA256, c.Size, c.Kept = sum, p.Size, true
		return c, nil
	}
	sum, err := p.writeTo(ctx, c.File, ext, opt.Progress)
	if err != nil {
		return c, err
	}
	c.SHA256, c.Size = sum.hex, sum.size
	return c, c.writeList(sums, map[string]string{filepath.Base(c.File): c.SHA256})
}

// createParts makes the bundle in parts.
func (p *Plan) createParts(ctx context.Context, c Created, sums string, opt CreateOptions) (Created, error) {
	name := filepath.Base(c.File)
	plans, err := Split(ctx, p, name, opt.Split, func(done, total int64) {
		if opt.Progress != nil {
			opt.Progress(name+" (reading)", done, total)
		}
	})
	if err != nil {
		return c, err
	}
	c.Kept = true
	lines := map[string]string{}
	for i, part := range plans {
		one := c
		one.File = filepath.Join(opt.OutputDir, PartName(name, i+1, len(plans)))
		sum, kept := part.kept(one, sums)
		if !kept {
			made, err := part.writeTo(ctx, one.File, ".tar", opt.Progress)
			if err != nil {
				return c, err
			}
			sum, c.Kept = made.hex, false
		}
		lines[filepath.Base(one.File)] = sum
		c.Parts = append(c.Parts, CreatedPart{File: one.File, Size: part.Size, SHA256: sum, Kept: kept})
		c.Size += part.Size
	}
	return c, c.writeList(sums, lines)
}

// writeList writes the list of references, and sums of it and of files into sums.
func (c Created) writeList(sums string, files map[string]string) error {
	sum, err := writeFile(c.List, int64(len(c.list())), func(w io.Writer) error {
		_, err := io.WriteString(w, c.list())
		return err
	})
	if err != nil {
		return err
	}
	files[filepath.Base(c.List)] = sum.hex
	return UpdateSums(sums, files)
}

// list is the content of the text file with the bundle's references.
func (c Created) list() string {
	if len(c.Images) == 0 {
		return ""
	}
	return strings.Join(c.Images, "\n") + "\n"
}

// writeTo writes the bundle to a file, which appears whole.
func (p *Plan) writeTo(ctx context.Context, file, ext string, progress func(file string, done, total int64)) (fileSum, error) {
	return writeFile(file, p.Size, func(w io.Writer) error {
		w, finish, err := compressor(w, ext)
		if err != nil {
			return err
		}
		done := int64(0)
		tell := counting(func(n int) {
			if done += int64(n); progress != nil {
				progress(file, done, p.Size)
			}
		})
		return errors.Join(p.Write(ctx, io.MultiWriter(w, tell)), finish())
	})
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
	if err != nil || string(list) != c.list() {
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
