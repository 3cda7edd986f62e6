// Package inventory reads the files of a finished image: their digests, and what Go
// programs among them say of their modules and build settings. SBOM and provenance are
// made of it, so what they state is read from the very bytes that are shipped.
package inventory

import (
	"bytes"
	"crypto/sha1" // SPDX 2.3 demands it, beside a real digest
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/layer"
)

const (
	cacheKind = "inventory"
	factsFile = "facts.json"
	// scheme is part of every key: raise it when this package finds out more.
	scheme = 2
)

// File is a regular file of an image.
type File struct {
	Path    string // slash-separated, relative to the image's root
	Package string // package URL of what it came from; "" for Go programs and the project's own files
	SHA256  string // hex
	Facts
}

// Facts are what follows from a file's bytes alone.
type Facts struct {
	SHA1 string   `json:"sha1"` // hex
	ELF  bool     `json:"elf,omitempty"`
	Go   *Program `json:"go,omitempty"` // of Go programs
}

// Program is a Go program's build info.
type Program struct {
	Package   string            `json:"package"`   // of its main function
	GoVersion string            `json:"goVersion"` // go1.26.8
	Main      Module            `json:"main"`
	Modules   []Module          `json:"modules,omitempty"` // those it was linked with, in go's order
	Settings  map[string]string `json:"settings"`
}

// Module is a module as it was built: where go.mod replaces one, the replacement.
type Module struct {
	Path    string `json:"path"`
	Version string `json:"version,omitempty"` // none for a folder, "(devel)" for the main module of a folder
	Sum     string `json:"sum,omitempty"`     // go.sum's "h1:…"
	// Replaces is "path@version" of the module in whose place this one was built.
	Replaces string `json:"replaces,omitempty"`
	// Folder is set where a folder beside go.mod was built in the place of Path.
	Folder string `json:"folder,omitempty"`
}

// Read describes the regular files among an image's, sorted by path. What it finds out is
// kept in the cache, if there is one, under the files' digests.
func Read(c *cache.Cache, files []layer.File) ([]File, error) {
	var out []File
	var sources []string
	for _, f := range files {
		if f.Dir || f.Link != "" {
			continue
		}
		out = append(out, File{Path: strings.Trim(f.Path, "/"), Package: f.Package, SHA256: f.SHA256})
		sources = append(sources, f.Source)
	}
	known, err := recall(c, out)
	if err != nil {
		return nil, err
	}
	found := make([]Facts, len(out))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range out {
		if k, ok := known.get(out[i].SHA256); ok {
			found[i] = k
			continue
		}
		g.Go(func() error {
			facts, sum, err := read(sources[i])
			if err != nil {
				return fmt.Errorf("describing /%s: %w", out[i].Path, err)
			}
			if out[i].SHA256 != "" && out[i].SHA256 != sum {
				return fmt.Errorf("describing /%s: %s has sha256 %s, expected %s: it was changed; remove it and build again", out[i].Path, sources[i], sum, out[i].SHA256)
			}
			out[i].SHA256, found[i] = sum, facts
			known.put(sum, facts)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Facts = found[i]
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	for i := 1; i < len(out); i++ {
		if out[i].Path == out[i-1].Path {
			return nil, fmt.Errorf("the image has two files /%s", out[i].Path)
		}
	}
	return out, known.keep()
}

// memory is what is known of contents, by SHA-256.
type memory struct {
	cache *cache.Cache
	key   string
	mu    sync.Mutex
	facts map[string]Facts
	fresh bool // something was added
}

// recall looks up what an earlier run found out about the same files.
func recall(c *cache.Cache, files []File) (*memory, error) {
	m := &memory{cache: c, facts: map[string]Facts{}}
	if c == nil {
		return m, nil
	}
	var sums []string
	for _, f := range files {
		sums = append(sums, f.SHA256)
	}
	slices.Sort(sums)
	key, err := cache.Key(struct {
		Scheme int
		Files  []string
	}{scheme, slices.Compact(sums)})
	if err != nil {
		return nil, err
	}
	m.key = key
	dir, ok := c.Lookup(cacheKind, key)
	if !ok {
		return m, nil
	}
	data, err := os.ReadFile(filepath.Join(dir, factsFile))
	if err == nil {
		err = json.Unmarshal(data, &m.facts)
	}
	if err != nil { // a damaged entry is no reason to fail: everything is there to be read again
		m.facts = map[string]Facts{}
		return m, c.Drop(cacheKind, key)
	}
	return m, nil
}

func (m *memory) get(sum string) (Facts, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.facts[sum]
	return f, ok && sum != ""
}

func (m *memory) put(sum string, f Facts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.facts[sum], m.fresh = f, true
}

// keep stores what was found out, if anything was.
func (m *memory) keep() error {
	if m.cache == nil || !m.fresh {
		return nil
	}
	data, err := json.Marshal(m.facts)
	if err != nil {
		return fmt.Errorf("keeping an inventory: %w", err)
	}
	_, _, err = m.cache.Fill(cacheKind, m.key, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, factsFile), data, 0o644)
	})
	return err
}

// read streams a file once for its digests. The build info of a Go program takes a few
// reads more.
func read(path string) (facts Facts, sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return facts, "", err
	}
	defer f.Close()
	start := make([]byte, len(elfMagic))
	if _, err := f.ReadAt(start, 0); err != nil && !errors.Is(err, io.EOF) {
		return facts, "", err
	}
	facts.ELF = bytes.Equal(start, []byte(elfMagic))
	old, strong := sha1.New(), sha256.New()
	if _, err := io.Copy(io.MultiWriter(old, strong), f); err != nil {
		return facts, "", err
	}
	facts.SHA1 = hex.EncodeToString(old.Sum(nil))
	if facts.ELF {
		// An error means that it is no Go program, or one that hides it: who needs to
		// know where every program came from finds Go unset.
		if info, err := buildinfo.Read(f); err == nil {
			facts.Go = program(info)
		}
	}
	return facts, hex.EncodeToString(strong.Sum(nil)), nil
}

const elfMagic = "\x7fELF"

func program(info *buildinfo.BuildInfo) *Program {
	p := &Program{Package: info.Path, GoVersion: info.GoVersion, Main: module(&info.Main), Settings: map[string]string{}}
	for _, d := range info.Deps {
		p.Modules = append(p.Modules, module(d))
	}
	for _, s := range info.Settings {
		p.Settings[s.Key] = s.Value
	}
	return p
}
