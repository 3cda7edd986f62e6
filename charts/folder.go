package charts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/ignore"
)

// ReadFolder reads the files of a chart's folder, but for those that .helmignore names,
// in the order of their names. Links are followed within the folder only.
func ReadFolder(dir string) ([]File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	rules, err := ignored(root)
	if err != nil {
		return nil, err
	}
	left := &budget{maxUnpacked, maxFiles}
	var files []File
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if rules.Ignore(name, info) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			return nil
		}
		data, err := left.readFile(root, name)
		if err != nil {
			return err
		}
		files = append(files, File{name, data})
		return nil
	})
	return files, err
}

func ignored(root *os.Root) (*ignore.Rules, error) {
	rules := ignore.Empty()
	f, err := root.Open(ignore.HelmIgnore)
	switch {
	case err == nil:
		defer f.Close()
		if rules, err = ignore.Parse(io.LimitReader(f, maxFile)); err != nil {
			return nil, fmt.Errorf("reading %s: %w", ignore.HelmIgnore, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	rules.AddDefaults()
	return rules, nil
}

func (b *budget) readFile(root *os.Root, name string) ([]byte, error) {
	// Asked before it is opened: a pipe would wait for whoever writes to it.
	info, err := root.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w: a chart's links must stay within its folder", ErrRefused, name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file: copy what it stands for into the chart", ErrRefused, name)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if b.files--; b.files < 0 {
		return nil, fmt.Errorf("%w: it has more than %d files", ErrRefused, maxFiles)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: %s has more than the %d MiB of a chart's file: name it in .helmignore if it is none", ErrRefused, name, maxFile>>20)
	}
	if b.bytes -= int64(len(data)); b.bytes < 0 {
		return nil, tooMuch()
	}
	return data, nil
}

// Pack makes a chart of files. Its archive depends on their names and contents only, not
// on their order. source is where they are from, for people.
func Pack(files []File, source string) (*Chart, error) {
	archive, err := pack(files)
	if err != nil {
		return nil, fmt.Errorf("packing chart %s: %w", source, err)
	}
	c, err := Parse(archive, source)
	if err != nil {
		return nil, fmt.Errorf("packing chart %s: %w", source, err)
	}
	return c, nil
}

// pack makes a chart's .tgz: Chart.yaml first, so that readers know soon what it is,
// then the rest by name; nothing of who made it, when, and where.
func pack(files []File) ([]byte, error) {
	meta, err := metadata(files)
	if err != nil {
		return nil, err
	}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int {
		if first, second := a.Name == "Chart.yaml", b.Name == "Chart.yaml"; first != second {
			if first {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(z)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(meta.Name, f.Name), Mode: 0o644, Size: int64(len(f.Data)), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.Name, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.Name, err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
