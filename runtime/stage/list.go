package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rancher/rke2/runtime/durable"
)

// listName is the file that records what was staged: JSON, see list.
const listName = ".files.json"

// folders are what is staged of an image, each flat.
var folders = [...]string{"bin", "charts"}

// folderMode is that of the root and its folders.
const folderMode = fs.FileMode(0o755)

// list is the record of a staged root: slash-separated path to what it holds.
type list struct {
	Image   string                `json:"image"`             // manifest digest
	Name    string                `json:"name,omitempty"`    // that it was admitted under
	Release string                `json:"release,omitempty"` // of rke2
	Proof   Proof                 `json:"proof,omitzero"`
	Files   map[string]fileRecord `json:"files"`
}

type fileRecord struct {
	SHA256 string      `json:"sha256"`
	Size   int64       `json:"size"`
	Mode   fs.FileMode `json:"mode"`
	Layer  int         `json:"layer"` // place in the image of the one that it is from
}

// Drift is one path of a staged root that is not as it was staged.
type Drift struct {
	Path string // below the root, slash-separated
	What string // such as "is missing"
	fix  fix
}

// String is path and what is wrong with it.
func (d Drift) String() string { return d.Path + " " + d.What }

// fix is what mends a drift.
type fix int

const (
	fixContent fix = iota // the file is wanted from the image
	fixMode               // its mode and owner are set
	fixExtra              // it is taken away
	fixFolder             // it is made anew
	fixList               // the record itself is gone: all is wanted from the image
	fixRoot               // the root is no folder
)

// DriftError names what of a staged root is not as it was staged.
type DriftError struct {
	Dir   string
	Files []Drift
}

// Error implements error.
func (e *DriftError) Error() string {
	what := make([]string, len(e.Files))
	for i, f := range e.Files {
		what[i] = f.String()
	}
	return fmt.Sprintf("staged runtime %s: changed since it was staged: %s", e.Dir, strings.Join(what, ", "))
}

// NeedsImage tells whether content of the image is wanted to mend it: modes, owners and
// what does not belong there can be put right without.
func (e *DriftError) NeedsImage() bool {
	return slices.ContainsFunc(e.Files, func(d Drift) bool { return d.fix != fixMode && d.fix != fixExtra })
}

// isFolder is false where there is nothing that could be mended.
func (e *DriftError) isFolder() bool {
	return !slices.ContainsFunc(e.Files, func(d Drift) bool { return d.fix == fixRoot })
}

// readList fails with fs.ErrNotExist if nothing was staged there, and with a
// *DriftError if the record of it is lost.
func readList(dir string) (list, error) {
	drifted := func(path, what string, fix fix) error {
		return &DriftError{Dir: dir, Files: []Drift{{Path: path, What: what, fix: fix}}}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return list{}, fmt.Errorf("reading what was staged: %w", err)
	}
	if !info.IsDir() {
		return list{}, drifted(".", "is no folder", fixRoot)
	}
	raw, err := os.ReadFile(filepath.Join(dir, listName))
	if errors.Is(err, fs.ErrNotExist) {
		return list{}, drifted(listName, "is missing", fixList)
	}
	if err != nil {
		return list{}, fmt.Errorf("reading what was staged: %w", err)
	}
	var l list
	if err := json.Unmarshal(raw, &l); err != nil || len(l.Files) == 0 {
		return list{}, drifted(listName, "is damaged", fixList)
	}
	for path := range l.Files {
		if sub, base, _ := strings.Cut(path, "/"); !slices.Contains(folders[:], sub) || base == "" || base != filepath.Base(base) {
			return list{}, drifted(listName, "is damaged", fixList)
		}
	}
	return l, nil
}

func writeList(dir string, l list) error {
	raw, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, listName), raw, 0o644)
}

// check compares everything with the record: folders first, then files by name,
// then what is there without being recorded. It hashes every file.
func (l list) check(dir string) ([]Drift, error) {
	var drifted []Drift
	real := map[string]bool{}
	for _, sub := range append([]string{"."}, folders[:]...) {
		d, err := checkFolder(dir, sub)
		if err != nil {
			return nil, fmt.Errorf("checking the staged runtime: %w", err)
		}
		if d != nil {
			drifted = append(drifted, *d)
		}
		real[sub] = d == nil || d.fix == fixMode
	}
	paths := keys(l.Files)
	found := make([]*Drift, len(paths))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for n, path := range paths {
		if sub, _, _ := strings.Cut(path, "/"); !real[sub] {
			found[n] = &Drift{Path: path, What: "is missing"}
			continue
		}
		group.Go(func() (err error) {
			found[n], err = l.Files[path].check(dir, path)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("checking the staged runtime: %w", err)
	}
	for _, d := range found {
		if d != nil {
			drifted = append(drifted, *d)
		}
	}
	for _, sub := range folders {
		if !real[sub] {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return nil, fmt.Errorf("checking the staged runtime: %w", err)
		}
		for _, entry := range entries {
			if path := sub + "/" + entry.Name(); l.Files[path].SHA256 == "" {
				drifted = append(drifted, Drift{Path: path, What: "is not the image's", fix: fixExtra})
			}
		}
	}
	return drifted, nil
}

func checkFolder(dir, sub string) (*Drift, error) {
	info, err := os.Lstat(filepath.Join(dir, sub))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Drift{Path: sub, What: "is missing", fix: fixFolder}, nil
	case err != nil:
		return nil, err
	case !info.IsDir():
		return &Drift{Path: sub, What: "is " + kind(info) + ", not a folder", fix: fixFolder}, nil
	}
	if what := checkMode(info, folderMode|fs.ModeDir); what != "" {
		return &Drift{Path: sub, What: what, fix: fixMode}, nil
	}
	return nil, nil
}

// check hashes one file.
func (r fileRecord) check(dir, path string) (*Drift, error) {
	full := filepath.Join(dir, filepath.FromSlash(path))
	info, err := os.Lstat(full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Drift{Path: path, What: "is missing"}, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return &Drift{Path: path, What: "is " + kind(info) + ", not a file"}, nil
	case info.Size() != r.Size:
		return &Drift{Path: path, What: fmt.Sprintf("has %d bytes instead of %d", info.Size(), r.Size)}, nil
	}
	sum, err := hashFile(full)
	if err != nil {
		return nil, err
	}
	if sum != r.SHA256 {
		return &Drift{Path: path, What: "has other content"}, nil
	}
	if what := checkMode(info, r.Mode); what != "" {
		return &Drift{Path: path, What: what, fix: fixMode}, nil
	}
	return nil, nil
}

// checkMode says what is wrong with mode or owner: the owner is who staged it.
func checkMode(info fs.FileInfo, want fs.FileMode) string {
	if info.Mode() != want {
		return fmt.Sprintf("has mode %v instead of %v", info.Mode(), want)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && (int(s.Uid) != os.Geteuid() || int(s.Gid) != os.Getegid()) {
		return fmt.Sprintf("belongs to %d:%d instead of %d:%d", s.Uid, s.Gid, os.Geteuid(), os.Getegid())
	}
	return ""
}

func kind(info fs.FileInfo) string {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return "a symbolic link"
	case info.IsDir():
		return "a folder"
	case info.Mode().IsRegular():
		return "a file"
	}
	return "a special file"
}

func hashFile(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func keys(files map[string]fileRecord) []string {
	paths := make([]string, 0, len(files))
	for path := range files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}
