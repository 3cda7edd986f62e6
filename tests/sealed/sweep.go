//go:build linux

package sealed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// Everything of a host that has a name outside it, its cgroups and the state
// directory it was given by default, is named for the process that made it:
// rke2-sealed-<pid>-<start time>-<host>. Once that process is gone, whoever comes
// next may clear it up.
const runPrefix = "rke2-sealed-"

var runName = regexp.MustCompile(`^rke2-sealed-(\d+)-(\d+)(-|$)`)

// thisRun is the name that this process' hosts start with.
func thisRun() (string, error) {
	started, err := startTime(os.Getpid())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s%d-%d", runPrefix, os.Getpid(), started), nil
}

// abandoned says if name is a host's and the process that made it is gone.
func abandoned(name string) bool {
	m := runName.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		return false
	}
	started, err := startTime(pid)
	return err != nil || strconv.FormatUint(started, 10) != m[2]
}

// Base is the directory of default state directories: $RKE2_SEALED_DIR, or
// /var/tmp/rke2-sealed. It needs a few gigabytes on a file system that overlayfs
// can write to, which /tmp often is not.
func Base() string {
	if dir := os.Getenv("RKE2_SEALED_DIR"); dir != "" {
		return dir
	}
	return "/var/tmp/rke2-sealed"
}

// Sweep clears up what killed runs left: their keepers (with their hosts), their
// cgroups and their default state directories. It returns what it removed. Tests
// call it before they start; it does not touch what a living process made.
func Sweep() ([]string, error) {
	removed, err := removeCgroups(abandoned)
	errs := []error{err}
	entries, err := os.ReadDir(Base())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		if dir := filepath.Join(Base(), e.Name()); abandoned(e.Name()) {
			// Its keeper, if there still is one, is about to let go.
			if err := removeAll(dir, removeLimit); err != nil {
				errs = append(errs, err)
				continue
			}
			removed = append(removed, dir)
		}
	}
	return removed, errors.Join(errs...)
}

// removeCgroups removes the cgroups of hosts that match, with what is in them.
func removeCgroups(match func(string) bool) (removed []string, err error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, h := range hs {
		for _, dir := range cgroupsNamed(h.Mount, match) {
			if err := removeTree(dir, removeLimit); err != nil {
				errs = append(errs, err)
				continue
			}
			removed = append(removed, dir)
		}
	}
	return removed, errors.Join(errs...)
}

func removeAll(dir string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		err := os.RemoveAll(dir)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// cgroupsNamed finds the cgroups of hosts below dir that match. A host's own are
// not looked into.
func cgroupsNamed(dir string, match func(string) bool) []string {
	var found []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // somebody removed theirs meanwhile
		}
		if !d.IsDir() || !runName.MatchString(d.Name()) {
			return nil
		}
		if match(d.Name()) {
			found = append(found, path)
		}
		return fs.SkipDir
	})
	return found
}
