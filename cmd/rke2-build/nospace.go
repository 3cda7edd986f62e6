package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// noSpace says which file system is full where that is why something failed, else "".
func noSpace(err error) string {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return ""
	}
	const mend = "Make space there, or name another folder with --cache or --dist (or GOTMPDIR, GOCACHE and GOMODCACHE for what Go keeps), and run the same command again: nothing half-written is used."
	var at *fs.PathError
	var link *os.LinkError
	path := ""
	switch {
	case errors.As(err, &at):
		path = at.Path
	case errors.As(err, &link):
		path = link.New
	default:
		return mend
	}
	for dir := path; ; dir = filepath.Dir(dir) {
		if st, serr := os.Stat(dir); serr == nil && st.IsDir() {
			return fmt.Sprintf("The file system of %s is full%s. %s", dir, room(dir), mend)
		}
		if dir == filepath.Dir(dir) {
			return mend
		}
	}
}

// room says how much of a file system is free.
func room(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return ""
	}
	block := s.Bsize
	return fmt.Sprintf(": %s of %s and %d of %d files are free now that what was half-written is removed, and more is needed", size(int64(s.Bavail)*block), size(int64(s.Blocks)*block), s.Ffree, s.Files)
}
