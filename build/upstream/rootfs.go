package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/layer"
)

const (
	treeKind = "upstream-tree"
	treeFile = "tree.json"
	// scheme is part of every tree's key: raise it when this package unpacks otherwise.
	scheme = 1
)

// node is a file of the unpacked tree. Its content is in the file of its hash.
type node struct {
	Path   string
	Mode   fs.FileMode `json:",omitempty"`
	Dir    bool        `json:",omitempty"`
	Link   string      `json:",omitempty"`
	SHA256 string      `json:",omitempty"`
	Size   int64       `json:",omitempty"`
}

// tree gives the files of the image, unpacked once into the cache, sorted by path.
func (m *Maker) tree(ctx context.Context, f fetched) (files []layer.File, cached bool, err error) {
	key, err := cache.Key(struct {
		Scheme   int
		Manifest string
	}{scheme, f.desc.Digest.String()})
	if err != nil {
		return nil, false, err
	}
	dir, hit, err := m.cache.Fill(treeKind, key, func(dir string) error { return m.unpack(ctx, f, dir) })
	if err != nil {
		return nil, false, fmt.Errorf("upstream image %s: %w", f.subject, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, treeFile))
	if err != nil {
		return nil, false, fmt.Errorf("reading the cached files of upstream image %s: %w", f.subject, err)
	}
	var nodes []node
	if err := json.Unmarshal(data, &nodes); err != nil {
		return nil, false, fmt.Errorf("the cached files of upstream image %s are damaged: remove %s and build again: %w", f.subject, dir, err)
	}
	purl := f.purl(f.platform)
	for _, n := range nodes {
		file := layer.File{Path: n.Path, Mode: n.Mode, Dir: n.Dir, Link: n.Link, SHA256: n.SHA256}
		if n.SHA256 != "" {
			file.Source, file.Package = filepath.Join(dir, n.SHA256), purl
		}
		files = append(files, file)
	}
	return files, hit, nil
}

// unpack applies the layers one on the other.
func (m *Maker) unpack(ctx context.Context, f fetched, dir string) error {
	u := &unpacker{dir: dir, limits: m.limits, at: map[string]*entry{}, kids: map[string]map[string]bool{}, stored: map[string]bool{}}
	for i, p := range f.blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := u.layer(i, p, f.layers[i].Digest, f.diffIDs[i])
		if errors.Is(err, errBlob) {
			return errors.Join(fmt.Errorf("layer %d of %d: cached %s is damaged; it is fetched again by the next build: %w", i+1, len(f.blobs), p, err),
				m.cache.Drop(blobKind, f.layers[i].Digest.Hex))
		}
		if err != nil {
			return fmt.Errorf("layer %d of %d (%s): %w", i+1, len(f.blobs), f.layers[i].Digest, err)
		}
	}
	nodes := make([]node, 0, len(u.at))
	used := map[string]bool{}
	for _, e := range u.at {
		nodes = append(nodes, e.node)
		used[e.SHA256] = true
	}
	sort.Slice(nodes, func(i, j int) bool { return nodes[i].Path < nodes[j].Path })
	// What an upper layer replaced or removed need not be kept.
	for sum := range u.stored {
		if !used[sum] {
			if err := os.Remove(filepath.Join(dir, sum)); err != nil {
				return err
			}
		}
	}
	data, err := json.Marshal(nodes)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, treeFile), data, 0o644)
}
