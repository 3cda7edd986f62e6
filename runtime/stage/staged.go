package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// Staged is a root on disk, as its record describes it. Whether its files are
// still what they were is not said.
type Staged struct {
	Dir     string
	Name    string // reference of its image
	Image   string // digest of its image's manifest
	Release string // of the rke2 that it is of; "" if not known
	Linked  bool   // <data-dir>/bin leads there
	Proof   Proof
}

// stagedName matches the folders that Key names.
var stagedName = regexp.MustCompile(`^[^.].*-[0-9a-f]{12}$`)

// All lists the staged roots by name. Folders that are not this package's are
// passed over, and so are those whose record is lost.
func All(dataDir string) ([]Staged, error) {
	parent := filepath.Join(dataDir, "data")
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for staged runtimes: %w", err)
	}
	linked, _ := os.Readlink(filepath.Join(dataDir, "bin")) // none is linked then
	var out []Staged
	for _, entry := range entries {
		if !entry.IsDir() || !stagedName.MatchString(entry.Name()) {
			continue
		}
		root := Root{Dir: filepath.Join(parent, entry.Name())}
		recorded, err := readList(root.Dir)
		if err != nil {
			continue
		}
		out = append(out, Staged{
			Dir: root.Dir, Name: recorded.Name, Image: recorded.Image, Release: recorded.Release,
			Linked: linked == root.Bin(), Proof: recorded.Proof,
		})
	}
	return out, nil
}

// Prune removes the staged roots of other versions, except those that keep
// says are in use (see [Running.From]), and what killed runs left half written. It
// returns the folders of the roots that it removed.
func Prune(dataDir string, current Root, keep func(dir string) bool) (removed []string, err error) {
	parent := filepath.Join(dataDir, "data")
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, fmt.Errorf("removing old staged runtimes: %w", err)
	}
	removeUnfinished(parent)
	for _, entry := range entries {
		dir := filepath.Join(parent, entry.Name())
		if dir == current.Dir || !entry.IsDir() || !stagedName.MatchString(entry.Name()) || keep(dir) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, listName)); err != nil {
			continue // not made by this package
		}
		// Renamed first: what is half removed is not taken for a root.
		gone := filepath.Join(parent, unfinishedPrefix+"old-"+entry.Name())
		if err := os.Rename(dir, gone); err != nil {
			return removed, fmt.Errorf("removing an old staged runtime: %w", err)
		}
		removed = append(removed, dir)
		if err := os.RemoveAll(gone); err != nil {
			return removed, fmt.Errorf("removing an old staged runtime: %w", err)
		}
	}
	return removed, nil
}
