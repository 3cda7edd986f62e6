package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rancher/rke2/runtime/durable"
)

// Activate points <data-dir>/bin at the root's bin, atomically, and checks that
// every executable is reached through it; if not, the link is what it was
// before. It returns where the link led, "" if there was none.
func Activate(dataDir string, root Root) (was string, err error) {
	link := filepath.Join(dataDir, "bin")
	was, err = os.Readlink(link)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		was = ""
	case err != nil:
		if info, stat := os.Lstat(link); stat == nil && info.Mode()&fs.ModeSymlink == 0 {
			return "", fmt.Errorf("linking %s to %s: it is %s that somebody else made: move it away", link, root.Bin(), kind(info))
		}
		return "", fmt.Errorf("linking %s: %w", link, err)
	}
	if was != root.Bin() {
		if err := point(link, root.Bin()); err != nil {
			return was, err
		}
	}
	reached := reachable(link, root)
	if reached == nil || was == root.Bin() {
		return was, reached
	}
	var back error
	if was == "" {
		back = os.Remove(link)
	} else {
		back = point(link, was)
	}
	return was, errors.Join(reached, back)
}

// point makes a symbolic link that is always there.
func point(link, to string) error {
	temporary := filepath.Join(filepath.Dir(link), ".bin.new")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("linking %s: %w", link, target(err))
	}
	if err := os.Symlink(to, temporary); err != nil {
		return fmt.Errorf("linking %s: %w", link, target(err))
	}
	if err := os.Rename(temporary, link); err != nil {
		return fmt.Errorf("linking %s: %w", link, errors.Join(target(err), os.Remove(temporary)))
	}
	return durable.SyncDir(filepath.Dir(link))
}

// reachable looks at each recorded file of bin through the link. Their content
// was hashed when they were staged or checked.
func reachable(link string, root Root) error {
	recorded, err := readList(root.Dir)
	if err != nil {
		return err
	}
	for _, path := range keys(recorded.Files) {
		base, ok := strings.CutPrefix(path, "bin/")
		if !ok {
			continue
		}
		info, err := os.Lstat(filepath.Join(link, base))
		if err != nil {
			return fmt.Errorf("checking what was staged: %w", err)
		}
		if r := recorded.Files[path]; !info.Mode().IsRegular() || info.Size() != r.Size || info.Mode() != r.Mode {
			return fmt.Errorf("checking what was staged: %s is not what was written: the disk or its file system may be at fault", filepath.Join(link, base))
		}
	}
	return nil
}
