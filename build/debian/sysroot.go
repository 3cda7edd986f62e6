package debian

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/cc"
	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

const (
	sysrootKind   = "debian-sysroot"
	sysrootScheme = 1
)

// Sysroot is a folder for a C compiler's --sysroot: headers and libraries of locked
// packages and nothing of the host's.
type Sysroot struct {
	Dir string // in the cache: not to be changed
	// ID is a hash of all that is in it, and the same wherever Dir is.
	ID        string
	Triple    string              // Debian's name of the platform: aarch64-linux-gnu in form
	Materials []artifact.Material // the packages
}

// PkgConfig gives the folder with what pkg-config knows of the libraries: the value of
// PKG_CONFIG_LIBDIR. (PKG_CONFIG_SYSROOT_DIR stays unset: the compiler adds the root.)
func (s Sysroot) PkgConfig() string {
	return filepath.Join(s.Dir, "usr/lib", s.Triple, "pkgconfig") + ":" + filepath.Join(s.Dir, "usr/share/pkgconfig")
}

// Flags make a compiler use the sysroot and nothing else. Without -B a host's own
// compiler would still take the host's libraries first.
func (s Sysroot) Flags() []string {
	return []string{"--sysroot=" + s.Dir, "-B" + filepath.Join(s.Dir, "usr/lib", s.Triple)}
}

// sysrootRequest is what C code is compiled and linked against: the C library, and what
// the component names. libgcc comes with the compiler.
func sysrootRequest(c images.Component) request {
	q := request{packages: []string{"libc6-dev"}, settled: kernelHeaders, leave: map[string]string{
		"libc-dev-bin": "programs of the C library's package that no build runs",
		"rpcsvc-proto": "RPC headers and programs, of no use here",
		"libtirpc-dev": "RPC headers, of no use here",
		"libnsl-dev":   "NIS headers, of no use here",
		"libgcc-s1":    "comes with the compiler",
	}}
	if c.Cgo != nil {
		for _, l := range c.Cgo.Libraries {
			q.packages = append(q.packages, l.Package)
		}
	}
	sort.Strings(q.packages)
	return q
}

// kernelHeaders carry no code, and security's are superseded, and dropped by mirrors,
// every few weeks.
var kernelHeaders = map[string]bool{"linux-libc-dev": true}

// Sysroot makes the sysroot of a component that is built with a C compiler, from its
// lock.
func (a *Archive) Sysroot(ctx context.Context, c images.Component, p artifact.Platform, fetching func(what []string)) (Sysroot, error) {
	s := Sysroot{}
	var err error
	if s.Triple, err = cc.Triple(p); err != nil {
		return s, fmt.Errorf("component %s: %w", c.Name, err)
	}
	l, err := lock.Read(c, a.mirrors)
	if err != nil {
		return s, err
	}
	pkgs := l.Packages[p.Arch]
	var sums []string
	for _, pkg := range pkgs {
		sums = append(sums, pkg.SHA256)
		s.Materials = append(s.Materials, material(pkg, a.mirrors.Suite))
	}
	s.Materials = artifact.SortMaterials(s.Materials)
	if s.ID, err = cache.Key(struct {
		Scheme int
		SHA256 []string
	}{sysrootScheme, sums}); err != nil {
		return s, err
	}
	s.Dir, _, err = a.cache.Fill(sysrootKind, s.ID, func(dir string) error {
		trees, _, err := a.trees(ctx, c, pkgs, fetching)
		if err != nil {
			return err
		}
		for i, t := range trees {
			if err := t.writeTo(dir); err != nil {
				return fmt.Errorf("unpacking %s: %w", pkgs[i].Name, err)
			}
		}
		return mergedLinks(dir)
	})
	if err != nil {
		return s, fmt.Errorf("component %s: %w", c.Name, err)
	}
	return s, nil
}

// writeTo puts headers and libraries into dir. os.Root keeps links of a package from
// leading what follows out of it.
func (t tree) writeTo(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, e := range t.Entries {
		if !buildsAgainst(e.Path) {
			continue
		}
		if e.Dir {
			if err := root.MkdirAll(e.Path, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := root.MkdirAll(path.Dir(e.Path), 0o755); err != nil {
			return err
		}
		if e.Link != "" {
			if err := root.Symlink(within(e.Path, e.Link), e.Path); err != nil {
				return err
			}
			continue
		}
		if err := copyInto(root, e, filepath.Join(t.dir, e.File)); err != nil {
			return err
		}
	}
	return nil
}

// buildsAgainst tells whether a path is of use to a compiler.
func buildsAgainst(p string) bool {
	for _, g := range []string{"usr", "usr/include", "usr/lib", "usr/lib64", "usr/share", "usr/share/pkgconfig"} {
		if p == g {
			return true
		}
	}
	for _, top := range []string{"usr/include/", "usr/lib/", "usr/lib64/", "usr/share/pkgconfig/"} {
		if len(p) > len(top) && p[:len(top)] == top {
			return true
		}
	}
	return false
}

// within makes an absolute link relative, so that it stays in the sysroot.
func within(at, to string) string {
	if !path.IsAbs(to) {
		return to
	}
	target, err := place(to)
	if err != nil {
		return to // os.Root and the compiler refuse what leads out
	}
	rel, err := filepath.Rel(path.Dir(at), target)
	if err != nil {
		return to
	}
	return rel
}

func copyInto(root *os.Root, e entry, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := root.OpenFile(e.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, e.Mode|0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

func mergedLinks(dir string) error {
	for _, m := range merged {
		if st, err := os.Stat(filepath.Join(dir, "usr", m)); err != nil || st.Mode().Type() != fs.ModeDir {
			continue
		}
		if err := os.Symlink("usr/"+m, filepath.Join(dir, m)); err != nil {
			return err
		}
	}
	return nil
}
