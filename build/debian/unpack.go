package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/lock"
)

const (
	treeKind = "debian-tree"
	treeFile = "tree.json"
	// controlFile is the package's control file.
	controlFile = "control"
	treeScheme  = 1
	maxEntries  = 200_000
)

// entry is something that a package installs.
type entry struct {
	Path   string      // relative to the root, /usr merged
	Mode   fs.FileMode // permission bits: set-uid and set-gid are not kept
	Dir    bool        `json:",omitempty"`
	Link   string      `json:",omitempty"`
	File   string      `json:",omitempty"` // name of the content in the cache entry
	SHA256 string      `json:",omitempty"`
	Size   int64       `json:",omitempty"`
	Needed []string    `json:",omitempty"` // of a dynamic ELF file: libraries
	Loader string      `json:",omitempty"` // of a dynamic program: its interpreter
}

// tree is an unpacked package.
type tree struct {
	Control       string
	ControlSHA256 string // of the file controlFile
	Entries       []entry
	dir           string // cache entry that has the contents
}

// unpacked gives a locked package's tree, from the cache if it was unpacked before.
func (a *Archive) unpacked(ctx context.Context, p lock.Package) (tree, bool, error) {
	key, err := treeKey(p)
	if err != nil {
		return tree{}, false, err
	}
	dir, hit, err := a.cache.Fill(treeKind, key, func(dir string) error {
		deb, err := a.Package(ctx, p)
		if err != nil {
			return err
		}
		f, err := os.Open(deb)
		if err != nil {
			return fmt.Errorf("unpacking %s %s: %w", p.Name, p.Version, err)
		}
		defer f.Close()
		t, err := unpack(f, dir)
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", path.Base(p.Path), err)
		}
		if err := t.of(p); err != nil {
			return fmt.Errorf("unpacking %s: %w", path.Base(p.Path), err)
		}
		sum := sha256.Sum256([]byte(t.Control))
		t.ControlSHA256 = hex.EncodeToString(sum[:])
		if err := os.WriteFile(filepath.Join(dir, controlFile), []byte(t.Control), 0o644); err != nil {
			return fmt.Errorf("unpacking %s: %w", path.Base(p.Path), err)
		}
		data, err := json.Marshal(t)
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", path.Base(p.Path), err)
		}
		return os.WriteFile(filepath.Join(dir, treeFile), data, 0o644)
	})
	if err != nil {
		return tree{}, false, err
	}
	t, err := readTree(dir)
	if err != nil {
		if err := a.cache.Drop(treeKind, key); err != nil {
			return tree{}, false, err
		}
		return tree{}, false, fmt.Errorf("package %s was damaged in the build cache and is removed from it: run the command again: %w", p.Name, err)
	}
	return t, hit, nil
}

func treeKey(p lock.Package) (string, error) {
	return cache.Key(struct {
		Scheme int
		SHA256 string
	}{treeScheme, p.SHA256})
}

func readTree(dir string) (tree, error) {
	var t tree
	data, err := os.ReadFile(filepath.Join(dir, treeFile))
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return t, err
	}
	t.dir = dir
	return t, nil
}

// of makes sure that the control file is that of the locked package.
func (t tree) of(p lock.Package) error {
	var c paragraph
	err := paragraphs(strings.NewReader(t.Control), nil, func(q paragraph) error {
		c = q
		return nil
	})
	if err != nil {
		return fmt.Errorf("its control file: %w", err)
	}
	if c["package"] != p.Name || c["version"] != p.Version || c["architecture"] != p.Arch {
		return fmt.Errorf("it is package %q %q for %q, not %s %s for %s", c["package"], c["version"], c["architecture"], p.Name, p.Version, p.Arch)
	}
	return nil
}

// unpack reads a .deb. Contents go into dir as numbered files; nothing is made under a
// name that the package chose.
func unpack(r io.Reader, dir string) (tree, error) {
	t := tree{dir: dir}
	err := readDeb(r,
		func(r io.Reader) error { return t.readControl(r) },
		func(r io.Reader) error { return t.readData(r) })
	if err == nil && t.Control == "" {
		err = errors.New("it has no control file")
	}
	return t, err
}

func (t *tree) readControl(r io.Reader) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if path.Clean(h.Name) != "control" || h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(tr, maxLine+1))
		if err != nil {
			return err
		}
		if len(data) > maxLine {
			return fmt.Errorf("its control file is larger than %d bytes", maxLine)
		}
		t.Control = string(data)
	}
}

func (t *tree) readData(r io.Reader) error {
	byPath := map[string]int{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p, err := place(h.Name)
		if err != nil {
			return err
		}
		if p == "" {
			continue
		}
		if len(t.Entries) == maxEntries {
			return fmt.Errorf("it has more than %d files", maxEntries)
		}
		e := entry{Path: p, Mode: fs.FileMode(h.Mode).Perm()}
		switch h.Typeflag {
		case tar.TypeDir:
			e.Dir = true
		case tar.TypeReg:
			if err := t.content(&e, tr); err != nil {
				return fmt.Errorf("/%s: %w", p, err)
			}
		case tar.TypeSymlink:
			if h.Linkname == "" || strings.ContainsRune(h.Linkname, 0) {
				return fmt.Errorf("/%s is a link to nothing", p)
			}
			e.Link = h.Linkname
		case tar.TypeLink:
			target, err := place(h.Linkname)
			if err != nil {
				return fmt.Errorf("/%s: hard link: %w", p, err)
			}
			i, ok := byPath[target]
			if !ok || t.Entries[i].Dir {
				return fmt.Errorf("/%s is a hard link to /%s, which is no file before it", p, target)
			}
			e = t.Entries[i]
			e.Path = p
		default:
			return fmt.Errorf("/%s is a device, pipe or something else (tar type %q) that no image gets", p, h.Typeflag)
		}
		if i, ok := byPath[p]; ok {
			// /lib/x and /usr/lib/x are one folder.
			if t.Entries[i].Dir && e.Dir {
				continue
			}
			return fmt.Errorf("/%s is in it twice", p)
		}
		byPath[p] = len(t.Entries)
		t.Entries = append(t.Entries, e)
	}
}

// place says where a path of a package is in an image: relative to the root, with /bin,
// /sbin and /lib… merged into /usr, as on every Debian since 12.
func place(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("path %q has a zero byte", name)
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("path %q leads out of the package", name)
		}
	}
	p := strings.Trim(path.Clean("/"+name), "/")
	for _, m := range merged {
		if p == m || strings.HasPrefix(p, m+"/") {
			return "usr/" + p, nil
		}
	}
	return p, nil
}

var merged = [...]string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// content stores a regular file and looks whether it needs libraries.
func (t *tree) content(e *entry, r io.Reader) error {
	e.File = fmt.Sprintf("%06d", len(t.Entries))
	f, err := os.OpenFile(filepath.Join(t.dir, e.File), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if e.Size, err = io.Copy(io.MultiWriter(f, h), r); err != nil {
		return err
	}
	e.SHA256 = hex.EncodeToString(h.Sum(nil))
	e.Needed, e.Loader = linkage(f)
	return f.Close()
}

// linkage reads what a dynamic ELF file asks for. What is no such file asks for nothing.
func linkage(r io.ReaderAt) (needed []string, loader string) {
	magic := make([]byte, 4)
	if _, err := r.ReadAt(magic, 0); err != nil || !bytes.Equal(magic, []byte(elf.ELFMAG)) {
		return nil, ""
	}
	f, err := elf.NewFile(r)
	if err != nil || (f.Type != elf.ET_DYN && f.Type != elf.ET_EXEC) {
		return nil, ""
	}
	if needed, err = f.ImportedLibraries(); err != nil {
		return nil, ""
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err == nil {
				loader = strings.TrimRight(string(b), "\x00")
			}
		}
	}
	return needed, loader
}
