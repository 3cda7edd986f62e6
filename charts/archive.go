package charts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Limits on a chart. Real ones are far below; a HelmChart's content must fit into an
// object of about a megabyte anyway.
const (
	maxArchive  = 16 << 20  // of a .tgz
	maxUnpacked = 100 << 20 // of everything in it, charts in charts included
	maxFile     = 5 << 20   // of one file, as Helm has it
	maxFiles    = 20_000
	maxNesting  = 8 // archives within archives
)

// File is one file of a chart.
type File struct {
	Name string // slash path below the chart's folder
	Data []byte
}

// budget is what may still be unpacked, over all levels of nesting.
type budget struct {
	bytes int64
	files int
}

// readArchive unpacks a chart's .tgz into memory, in its order, and looks into the
// charts that it brings along. Of the other files than those to keep it only sees that
// they are sound; nil keeps all.
func readArchive(data []byte, keep func(name string) bool) ([]File, error) {
	return (&budget{maxUnpacked, maxFiles}).read(data, keep, 0)
}

func (b *budget) read(data []byte, keep func(string) bool, depth int) ([]File, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrTruncated)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: not a .tgz: %w", ErrNotChart, fault(err))
	}
	var files []File
	seen := map[string]bool{}
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("unpacking: %w", fault(err))
		}
		f, err := b.entry(h)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		if seen[f.Name] {
			return nil, fmt.Errorf("%w: %s is in it twice", ErrRefused, f.Name)
		}
		seen[f.Name] = true
		if err := b.content(f, h, tr, keep, depth); err != nil {
			return nil, err
		}
		if keep == nil || keep(f.Name) {
			files = append(files, *f)
		}
	}
	// What follows the tar's end is unpacked by nobody, but its checksum is at the end.
	if n, err := io.Copy(io.Discard, io.LimitReader(z, b.bytes+1)); err != nil {
		return nil, fmt.Errorf("unpacking: %w", fault(err))
	} else if b.bytes -= n; b.bytes < 0 {
		return nil, tooMuch()
	}
	return files, nil
}

// nestedArchive tells whether Helm unpacks the file as a chart that this one depends on.
func nestedArchive(name string) bool {
	rest, ok := strings.CutPrefix(name, "charts/")
	return ok && !strings.Contains(rest, "/") && strings.HasSuffix(rest, ".tgz") && !strings.HasPrefix(rest, "_") && !strings.HasPrefix(rest, ".")
}

// entry checks one entry's header; nil where it is of no account.
func (b *budget) entry(h *tar.Header) (*File, error) {
	if b.files--; b.files < 0 {
		return nil, fmt.Errorf("%w: it has more than %d files", ErrRefused, maxFiles)
	}
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil, nil
	case tar.TypeReg:
	default:
		return nil, fmt.Errorf("%w: %q is a link or a device, which no chart has", ErrRefused, h.Name)
	}
	name, err := inside(h.Name)
	if err != nil {
		return nil, err
	}
	if h.Size > maxFile {
		return nil, fmt.Errorf("%w: %q has %d bytes, more than the %d MiB of a chart's file", ErrRefused, h.Name, h.Size, maxFile>>20)
	}
	if h.Size > b.bytes {
		return nil, tooMuch()
	}
	b.bytes -= h.Size
	return &File{Name: name}, nil
}

// content reads a file, and looks into it if it is a chart.
func (b *budget) content(f *File, h *tar.Header, r io.Reader, keep func(string) bool, depth int) error {
	nested := nestedArchive(f.Name)
	if !nested && keep != nil && !keep(f.Name) {
		if _, err := io.CopyN(io.Discard, r, h.Size); err != nil {
			return fmt.Errorf("unpacking %q: %w", h.Name, fault(err))
		}
		return nil
	}
	data := make([]byte, h.Size)
	if _, err := io.ReadFull(r, data); err != nil {
		return fmt.Errorf("unpacking %q: %w", h.Name, fault(err))
	}
	f.Data = trimBOM(data)
	if !nested {
		return nil
	}
	if depth == maxNesting {
		return fmt.Errorf("%w: charts are nested more than %d deep", ErrRefused, maxNesting)
	}
	if _, err := b.read(f.Data, func(string) bool { return false }, depth+1); err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	return nil
}

func tooMuch() error {
	return fmt.Errorf("%w: it unpacks to more than %d MiB", ErrRefused, maxUnpacked>>20)
}

// inside is an entry's path below the chart's folder, which is its first element.
func inside(entry string) (string, error) {
	refused := fmt.Errorf("%w: the path %q leads outside of the chart's folder", ErrRefused, entry)
	slashed := strings.ReplaceAll(entry, `\`, "/") // of Helm on Windows
	if strings.HasPrefix(slashed, "/") || strings.Contains(slashed, "\x00") || (len(slashed) > 1 && slashed[1] == ':') {
		return "", refused
	}
	slashed = strings.TrimPrefix(slashed, "./")
	for _, part := range strings.Split(slashed, "/") {
		if part == ".." {
			return "", refused
		}
	}
	folder, rest, ok := strings.Cut(slashed, "/")
	rest = path.Clean(rest)
	if !ok || folder == "" || rest == "." || path.IsAbs(rest) {
		return "", fmt.Errorf("%w: %q is not in the chart's folder: the archive has to hold one folder, with Chart.yaml in it", ErrNotChart, entry)
	}
	return rest, nil
}

// fault puts what a decoder found into our terms.
func fault(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the archive ends early: copy it again", ErrTruncated)
	}
	if errors.Is(err, gzip.ErrChecksum) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}
