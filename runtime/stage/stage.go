// Package stage puts the contents of a runtime image where the node runs them:
// <data-dir>/data/<tag>-<digest12>/{bin,charts}. A root appears whole or not at
// all, and every file of it is checked again at each start.
package stage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/durable"
)

const (
	// listName is the file that records what was staged: JSON, see list.
	listName = ".files.json"
	// maxUnpacked bounds what a runtime image may unpack to. Layers are
	// compressed, so their size says nothing.
	maxUnpacked = 8 << 30
)

// Layer is one verified layer of the runtime image, in the image's order.
type Layer interface {
	// Open gives the layer's uncompressed tar stream. The bytes are verified
	// while they are read: a digest that does not match is an error of Read.
	Open(ctx context.Context) (io.ReadCloser, error)
}

// Root is a staged runtime image whose files were checked.
type Root struct {
	Dir string // absolute
	// Staged is true when this call wrote the root, false when it was there.
	Staged bool
	// Repaired names files that had drifted and were written again.
	Repaired []string
}

// Bin is the folder of the node's executables.
func (r Root) Bin() string { return filepath.Join(r.Dir, "bin") }

// Charts is the folder of the charts' manifests.
func (r Root) Charts() string { return filepath.Join(r.Dir, "charts") }

// list is the record of a staged root: slash-separated path to what it holds.
type list struct {
	Image string                `json:"image"` // manifest digest
	Files map[string]fileRecord `json:"files"`
}

type fileRecord struct {
	SHA256 string      `json:"sha256"`
	Size   int64       `json:"size"`
	Mode   fs.FileMode `json:"mode"`
}

// Key is the folder name of a runtime image: changed bytes under one tag get a
// folder of their own.
func Key(image trust.Admitted) string {
	return image.Ref().TagStr() + "-" + image.Digest().Hex[:12]
}

// Existing opens the root of an image that was staged before, without the
// image. It fails with fs.ErrNotExist if there is none, and with a *DriftError
// if files of it changed since.
func Existing(dataDir string, image trust.Admitted) (Root, error) {
	if !image.Valid() {
		return Root{}, errors.New("staging: the image was not verified")
	}
	root := Root{Dir: filepath.Join(dataDir, "data", Key(image))}
	recorded, err := readList(root.Dir)
	if err != nil {
		return Root{}, err
	}
	if recorded.Image != image.Digest().String() {
		return Root{}, &DriftError{Dir: root.Dir, Files: []string{listName}}
	}
	drifted, err := recorded.check(root.Dir)
	if err != nil {
		return Root{}, err
	}
	if len(drifted) > 0 {
		return Root{}, &DriftError{Dir: root.Dir, Files: drifted}
	}
	return root, nil
}

// DriftError names files of a staged root that are not what was staged.
type DriftError struct {
	Dir   string
	Files []string
}

func (e *DriftError) Error() string {
	return fmt.Sprintf("staged runtime %s: changed since it was staged: %s", e.Dir, strings.Join(e.Files, ", "))
}

// Runtime makes sure that the image's /bin and /charts are staged below
// dataDir, and that <data-dir>/bin links to them. What is there and unchanged
// is not written again; a root that has drifted is replaced whole.
func Runtime(ctx context.Context, dataDir string, image trust.Admitted, layers []Layer) (Root, error) {
	root, err := Existing(dataDir, image)
	var drift *DriftError
	switch {
	case err == nil:
		return root, link(dataDir, root)
	case errors.As(err, &drift):
	case errors.Is(err, fs.ErrNotExist):
	default:
		return Root{}, err
	}
	root = Root{Dir: filepath.Join(dataDir, "data", Key(image)), Staged: true}
	if drift != nil {
		root.Repaired = drift.Files
	}
	if err := write(ctx, root.Dir, image, layers); err != nil {
		return Root{}, fmt.Errorf("staging %s in %s: %w", image.Ref(), root.Dir, err)
	}
	return root, link(dataDir, root)
}

// write unpacks the layers to a temporary sibling of dir and renames it.
func write(ctx context.Context, dir string, image trust.Admitted, layers []Layer) (err error) {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	removeUnfinished(parent)
	temporary, err := os.MkdirTemp(parent, unfinishedPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temporary))
			_ = os.Remove(parent) // only if nothing else was ever staged
		}
	}()
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	record := list{Image: image.Digest().String(), Files: map[string]fileRecord{}}
	x := extractor{root: temporary, left: maxUnpacked, files: record.Files}
	for _, sub := range []string{"bin", "charts"} {
		if err := os.Mkdir(filepath.Join(temporary, sub), 0o755); err != nil {
			return err
		}
	}
	for _, layer := range layers {
		if err := x.layer(ctx, layer); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(keys(record.Files), func(p string) bool { return strings.HasPrefix(p, "bin/") }) {
		return errors.New("the image has no files in /bin: it is not a runtime image")
	}
	if err := writeList(temporary, record); err != nil {
		return err
	}
	for _, sub := range []string{"bin", "charts", "."} {
		if err := durable.SyncDir(filepath.Join(temporary, sub)); err != nil {
			return err
		}
	}
	if err := replaceDir(temporary, dir); err != nil {
		return err
	}
	return durable.SyncDir(parent)
}

const unfinishedPrefix = ".staging-"

// removeUnfinished clears what a killed run left behind. Only one rke2 runs in
// a data folder at a time, so nobody is writing there.
func removeUnfinished(parent string) {
	left, _ := filepath.Glob(filepath.Join(parent, unfinishedPrefix+"*"))
	for _, dir := range left {
		_ = os.RemoveAll(dir) // it is only in the way of disk space
	}
}

// replaceDir renames src to dst. A dst that exists is moved aside first: files
// of it may be running, and stay readable to who has them open.
func replaceDir(src, dst string) error {
	if err := os.Rename(src, dst); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrExist) && !isNotEmpty(err) {
		return err
	}
	aside := filepath.Join(filepath.Dir(dst), unfinishedPrefix+"old-"+filepath.Base(dst))
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Rename(dst, aside); err != nil {
		return err
	}
	if err := os.Rename(src, dst); err != nil {
		return errors.Join(err, os.Rename(aside, dst))
	}
	return os.RemoveAll(aside)
}

// link points <data-dir>/bin at the root's bin, atomically.
func link(dataDir string, root Root) error {
	name := filepath.Join(dataDir, "bin")
	if target, err := os.Readlink(name); err == nil && target == root.Bin() {
		return nil
	}
	temporary := filepath.Join(dataDir, ".bin.new")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("linking %s: %w", name, err)
	}
	if err := os.Symlink(root.Bin(), temporary); err != nil {
		return fmt.Errorf("linking %s: %w", name, err)
	}
	if err := os.Rename(temporary, name); err != nil {
		return fmt.Errorf("linking %s: %w (if it is a folder, move it away)", name, errors.Join(err, os.Remove(temporary)))
	}
	return durable.SyncDir(dataDir)
}

// staged matches the folders that Key names: v<version>-<12 hex digits>.
var staged = regexp.MustCompile(`^.+-[0-9a-f]{12}$`)

// Prune removes the staged roots of other versions, except those that keep
// says are in use (a running shim was started from there). It returns the
// folders that it removed.
func Prune(dataDir string, current Root, keep func(dir string) bool) ([]string, error) {
	parent := filepath.Dir(current.Dir)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, fmt.Errorf("removing old staged runtimes: %w", err)
	}
	var removed []string
	for _, entry := range entries {
		dir := filepath.Join(parent, entry.Name())
		if dir == current.Dir || !entry.IsDir() || !staged.MatchString(entry.Name()) || keep(dir) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, listName)); err != nil {
			continue // not made by this package
		}
		if err := os.RemoveAll(dir); err != nil {
			return removed, fmt.Errorf("removing old staged runtime: %w", err)
		}
		removed = append(removed, dir)
	}
	return removed, nil
}

func readList(dir string) (list, error) {
	raw, err := os.ReadFile(filepath.Join(dir, listName))
	if err != nil {
		return list{}, fmt.Errorf("reading what was staged: %w", err)
	}
	var l list
	if err := json.Unmarshal(raw, &l); err != nil {
		return list{}, &DriftError{Dir: dir, Files: []string{listName}}
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

// check hashes every recorded file and names those that differ, are missing,
// or are in a folder of the root without being recorded.
func (l list) check(dir string) ([]string, error) {
	var drifted []string
	for _, path := range keys(l.Files) {
		record := l.Files[path]
		same, err := record.matches(filepath.Join(dir, filepath.FromSlash(path)))
		if err != nil {
			return nil, fmt.Errorf("checking the staged runtime: %w", err)
		}
		if !same {
			drifted = append(drifted, path)
		}
	}
	for _, sub := range []string{"bin", "charts"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			drifted = append(drifted, sub)
			continue
		}
		for _, entry := range entries {
			if path := sub + "/" + entry.Name(); l.Files[path].SHA256 == "" {
				drifted = append(drifted, path)
			}
		}
	}
	return drifted, nil
}

func (r fileRecord) matches(path string) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() || info.Size() != r.Size || info.Mode().Perm() != r.Mode {
		return false, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return false, err
	}
	return hex.EncodeToString(hash.Sum(nil)) == r.SHA256, nil
}

func keys(files map[string]fileRecord) []string {
	paths := make([]string, 0, len(files))
	for path := range files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}
