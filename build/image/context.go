package image

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/rancher/rke2/build/layer"
)

// Context is a tree of files that Dockerfiles name in COPY --from and FROM.
type Context interface {
	// List gives what is at or below the path prefix, which is relative to the
	// context's root; "" is everything. Paths are relative to the root too.
	List(prefix string) ([]layer.File, error)
}

// Files is a context of listed files.
type Files []layer.File

// List implements Context. Folders that are not listed are there with mode 0755.
func (f Files) List(prefix string) ([]layer.File, error) {
	var out []layer.File
	folders := map[string]int{}
	for _, file := range f {
		p := clean(file.Path)
		if p == "" || !below(p, prefix) {
			continue
		}
		file.Path = p
		if file.Dir {
			if i, ok := folders[p]; ok {
				out[i] = file
				continue
			}
			folders[p] = len(out)
		}
		out = append(out, file)
	}
	for _, file := range out {
		for up := path.Dir(file.Path); up != "." && below(up, prefix); up = path.Dir(up) {
			if _, ok := folders[up]; !ok {
				folders[up] = len(out)
				out = append(out, layer.File{Path: up, Mode: 0o755, Dir: true})
			}
		}
	}
	return out, nil
}

// Dir is a context of a folder on this machine. Modes become 0755 for folders and what
// its owner may execute, else 0644, so that the umask of a checkout has no effect.
type Dir string

// List implements Context.
func (d Dir) List(prefix string) ([]layer.File, error) {
	root := filepath.Join(string(d), filepath.FromSlash(prefix))
	if _, err := os.Lstat(root); err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("reading build context: %w", err)
	}
	var out []layer.File
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(string(d), p)
		if err != nil {
			return err
		}
		f := layer.File{Path: clean(filepath.ToSlash(rel)), Mode: 0o644}
		info, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			f.Dir, f.Mode = true, 0o755
		case e.Type()&fs.ModeSymlink != 0:
			if f.Link, err = os.Readlink(p); err != nil {
				return err
			}
		case e.Type().IsRegular():
			f.Source = p
			if info.Mode()&0o100 != 0 {
				f.Mode = 0o755
			}
		default:
			return fmt.Errorf("%s is neither a file, a folder nor a symbolic link", p)
		}
		if f.Path != "" {
			out = append(out, f)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading build context %s: %w", d, err)
	}
	return out, nil
}

func clean(p string) string { return strings.Trim(path.Clean("/"+p), "/") }

func below(p, prefix string) bool {
	return prefix == "" || p == prefix || strings.HasPrefix(p, prefix+"/")
}
