package debian

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"

	"github.com/rancher/rke2/build/lock"
)

// universe is what the suites together have for one architecture.
type universe struct {
	arch     string
	packages map[string][]*binary   // by name, newest first
	provides map[string][]provision // by the provided name, sorted by provider
}

// provision is a package that stands for another name.
type provision struct {
	by      *binary
	version string // "" unless the Provides is versioned
}

// Resolver resolves declarations through an archive, which it asks once for each index.
type Resolver struct {
	archive   *Archive
	mu        sync.Mutex
	releases  []*release
	universes map[string]*universe
}

// NewResolver makes a resolver. Nothing is fetched until something is to be resolved.
func NewResolver(a *Archive) *Resolver {
	return &Resolver{archive: a, universes: map[string]*universe{}}
}

// signed gives the verified Release files of all suites. The caller holds the lock.
func (r *Resolver) signed(ctx context.Context) ([]*release, error) {
	if r.releases != nil {
		return r.releases, nil
	}
	ring, err := r.archive.keys()
	if err != nil {
		return nil, err
	}
	var out []*release
	for _, s := range r.archive.suites() {
		rel, err := r.archive.release(ctx, ring, s)
		if err != nil {
			return nil, err
		}
		out = append(out, rel)
	}
	r.releases = out
	return out, nil
}

// universe reads the indexes of an architecture.
func (r *Resolver) universe(ctx context.Context, arch string) (*universe, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u := r.universes[arch]; u != nil {
		return u, nil
	}
	releases, err := r.signed(ctx)
	if err != nil {
		return nil, err
	}
	u := &universe{arch: arch, packages: map[string][]*binary{}, provides: map[string][]provision{}}
	for _, rel := range releases {
		name := "main/binary-" + arch + "/Packages"
		err := r.archive.index(ctx, rel, name, binaryFields, func(p paragraph) error {
			b, err := parseBinary(p, rel.suite.archive)
			if err != nil {
				return err
			}
			u.add(&b)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if err := u.finish(); err != nil {
		return nil, err
	}
	r.universes[arch] = u
	return u, nil
}

// add takes a package in. The same version in two suites is the same package.
func (u *universe) add(b *binary) {
	for _, other := range u.packages[b.Name] {
		if other.Version == b.Version {
			return
		}
	}
	u.packages[b.Name] = append(u.packages[b.Name], b)
}

func (u *universe) finish() error {
	for _, versions := range u.packages {
		sort.Slice(versions, func(i, j int) bool { return Compare(versions[i].Version, versions[j].Version) > 0 })
		for _, b := range versions {
			if strings.Trim(b.provides, " ,") == "" {
				continue
			}
			groups, err := parseRelations(b.provides)
			if err != nil {
				return fmt.Errorf("package %s: provides: %w", b.Name, err)
			}
			for _, g := range groups {
				u.provides[g[0].name] = append(u.provides[g[0].name], provision{by: b, version: g[0].version})
			}
		}
	}
	for _, p := range u.provides {
		sort.SliceStable(p, func(i, j int) bool {
			if p[i].by.Name != p[j].by.Name {
				return p[i].by.Name < p[j].by.Name
			}
			return Compare(p[i].by.Version, p[j].by.Version) > 0
		})
	}
	return nil
}

// source finds a source package in the newest version.
func (r *Resolver) source(ctx context.Context, name string) ([]lock.Source, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	releases, err := r.signed(ctx)
	if err != nil {
		return nil, err
	}
	var found []lock.Source
	for _, rel := range releases {
		err := r.archive.index(ctx, rel, "main/source/Sources", sourceFields, func(p paragraph) error {
			if p["package"] != name {
				return nil
			}
			s, err := parseSource(p, rel.suite.archive)
			if err != nil {
				return err
			}
			found = append(found, s)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("there is no source package %s in %s", name, r.archive.mirrors.Suite)
	}
	sort.SliceStable(found, func(i, j int) bool { return Compare(found[i].Version, found[j].Version) > 0 })
	return found, nil
}

func parseSource(p paragraph, which lock.Archive) (lock.Source, error) {
	s := lock.Source{Name: p["package"], Version: p["version"], Archive: which}
	for _, line := range strings.Split(p["checksums-sha256"], "\n") {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		var size int64
		if len(f) != 3 || strings.Contains(f[2], "/") {
			return s, fmt.Errorf("source package %s: %.80q is no line of hash, size and name", s.Name, line)
		}
		if _, err := fmt.Sscanf(f[1], "%d", &size); err != nil {
			return s, fmt.Errorf("source package %s: size %q", s.Name, f[1])
		}
		s.Files = append(s.Files, lock.SourceFile{Path: p["directory"] + "/" + f[2], Size: size, SHA256: f[0]})
	}
	sort.SliceStable(s.Files, func(i, j int) bool {
		di, dj := strings.HasSuffix(s.Files[i].Path, ".dsc"), strings.HasSuffix(s.Files[j].Path, ".dsc")
		if di != dj {
			return di
		}
		return s.Files[i].Path < s.Files[j].Path
	})
	if len(s.Files) == 0 || !strings.HasSuffix(s.Files[0].Path, ".dsc") {
		return s, fmt.Errorf("source package %s %s: the index lists no .dsc with a sha256", s.Name, s.Version)
	}
	return s, nil
}
