// Package modulefiles makes build contexts of files that Go modules ship beside their
// code: templates, scripts, CRDs, charts. A component declares which files, and which
// edits to them, under "files" in its image.yaml; go.mod and go.sum say which version,
// and go.sum's h1 sum is checked over the module zip before a byte of it is used. No
// upstream file is committed, and no change to one goes unseen: an edit whose text isn't
// found exactly as often as declared is an error.
//
// Module zips (golang.org/ref/mod#zip-files) carry no modes. Here files that start with
// "#!" get 0755 and all others 0644; a Dockerfile's COPY --chmod sets others. What was
// taken is kept in the build cache under the hash of module, sum and declaration, with
// each file's sha256, so that neither the go command nor the module cache is needed
// again while nothing changes.
package modulefiles

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/images"
)

const (
	cacheKind = "modulefiles"
	listFile  = "list.json"
	treeDir   = "tree"
	// scheme is part of every key: raise it when this package gives other files.
	scheme = 1
)

// Maker gives the files of modules. It may be used from several goroutines.
type Maker struct{ cache *cache.Cache }

// New makes a Maker that keeps files in the cache.
func New(c *cache.Cache) *Maker { return &Maker{cache: c} }

// taken is a file of a cache entry.
type taken struct {
	Path   string      `json:"path"` // in the context, slash-separated
	Mode   fs.FileMode `json:"mode"`
	SHA256 string      `json:"sha256"` // hex
}

// Files gives the build context that f declares, a declaration of component c: regular
// files sorted by path, with their sha256, and the module that they are from. The files
// are in the build cache and must not be changed.
func (m *Maker) Files(ctx context.Context, c images.Component, f images.ModuleFiles) ([]layer.File, artifact.Material, error) {
	d := declaration{ModuleFiles: f, yaml: filepath.Join(c.Dir, "image.yaml")}
	if err := d.check(); err != nil {
		return nil, artifact.Material{}, err
	}
	mod, err := find(c.Dir, f.Module)
	if err != nil {
		return nil, artifact.Material{}, d.errorf(f.Line, "%w", err)
	}
	key, err := cache.Key(struct {
		Scheme     int
		Module, H1 string
		From       string
		Paths      []string
		Edits      []images.Edit
	}{scheme, mod.String(), mod.h1, d.From, d.Paths, withoutLines(d.Edits)})
	if err != nil {
		return nil, artifact.Material{}, err
	}
	for {
		dir, hit, err := m.cache.Fill(cacheKind, key, func(dir string) error { return m.fill(ctx, d, mod, dir) })
		if err != nil {
			return nil, artifact.Material{}, err
		}
		material := mod.material()
		files, err := read(dir, material.PURL)
		if err == nil {
			return files, material, nil
		}
		if !hit {
			return nil, artifact.Material{}, err
		}
		if err := m.cache.Drop(cacheKind, key); err != nil {
			return nil, artifact.Material{}, err
		}
	}
}

// withoutLines leaves out where edits are declared, which changes nothing.
func withoutLines(edits []images.Edit) []images.Edit {
	out := make([]images.Edit, len(edits))
	for i, e := range edits {
		e.Line = 0
		out[i] = e
	}
	return out
}

// fill takes the declared files out of the module, edits them, and writes them to dir.
func (m *Maker) fill(ctx context.Context, d declaration, mod locked, dir string) error {
	zip, err := m.download(ctx, mod)
	if err != nil {
		return d.errorf(d.Line, "%w", err)
	}
	files, err := d.take(zip, mod)
	if err != nil {
		return err
	}
	if err := d.edit(files, mod); err != nil {
		return err
	}
	paths := make([]string, 0, len(files))
	for p := range files {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	var list []taken
	for _, p := range paths {
		content := files[p]
		at := filepath.Join(dir, treeDir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return fmt.Errorf("keeping files of %s: %w", mod, err)
		}
		if err := os.WriteFile(at, content, 0o644); err != nil {
			return fmt.Errorf("keeping files of %s: %w", mod, err)
		}
		list = append(list, taken{Path: p, Mode: mode(content), SHA256: sum(content)})
	}
	data, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("keeping files of %s: %w", mod, err)
	}
	if err := os.WriteFile(filepath.Join(dir, listFile), data, 0o644); err != nil {
		return fmt.Errorf("keeping files of %s: %w", mod, err)
	}
	return nil
}

// mode is what a file gets, for want of one in the module zip.
func mode(content []byte) fs.FileMode {
	if len(content) > 2 && content[0] == '#' && content[1] == '!' {
		return 0o755
	}
	return 0o644
}

// read gives the files of a cache entry, or an error if somebody damaged it.
func read(dir, purl string) ([]layer.File, error) {
	data, err := os.ReadFile(filepath.Join(dir, listFile))
	if err != nil {
		return nil, fmt.Errorf("reading cached module files: %w", err)
	}
	var list []taken
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("reading cached module files %s: %w", dir, err)
	}
	files := make([]layer.File, 0, len(list))
	for _, t := range list {
		source := filepath.Join(dir, treeDir, filepath.FromSlash(t.Path))
		content, err := os.ReadFile(source)
		if err != nil {
			return nil, fmt.Errorf("reading cached module files: %w", err)
		}
		if got := sum(content); got != t.SHA256 {
			return nil, fmt.Errorf("cached module file %s has sha256 %s, expected %s", source, got, t.SHA256)
		}
		files = append(files, layer.File{Path: t.Path, Mode: t.Mode, Source: source, SHA256: t.SHA256, Package: purl})
	}
	return files, nil
}

func sum(content []byte) string {
	s := sha256.Sum256(content)
	return hex.EncodeToString(s[:])
}
