package provenance

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/rancher/rke2/build/cache"
)

// Source is a file of the project that decides what is built.
type Source struct {
	Path   string // slash-separated, relative to the project's root
	SHA256 string // hex
}

// Sources hashes files of the project, and all files of folders, but for what is hidden.
// root is the project's root; what doesn't exist is an error.
func Sources(root string, paths ...string) ([]Source, error) {
	var out []Source
	for _, p := range paths {
		err := filepath.WalkDir(p, func(at string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case at != p && strings.HasPrefix(d.Name(), "."):
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			case !d.Type().IsRegular():
				return nil
			}
			rel, err := filepath.Rel(root, at)
			if err != nil {
				return err
			}
			sum, err := cache.Sum(at)
			out = append(out, Source{Path: filepath.ToSlash(rel), SHA256: sum})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("hashing sources: %w", err)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return slices.Compact(out), nil
}
