package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// install copies the named plugins, all if none is named, except those to skip, and says
// what it did with each.
func install(out io.Writer, from, to string, only, skip []string) error {
	// A folder made here would be in the container, where the host never sees it.
	if st, err := os.Stat(to); err != nil || !st.IsDir() {
		return fmt.Errorf("%s is not a folder: mount the host's folder of CNI plugins there, or name another with -to", to)
	}
	plugins, err := list(from, only)
	if err != nil {
		return err
	}
	if err := sweep(to); err != nil {
		return err
	}
	for _, name := range plugins {
		if slices.Contains(skip, name) {
			fmt.Fprintf(out, "skipped %s\n", name)
			continue
		}
		changed, err := put(filepath.Join(from, name), filepath.Join(to, name))
		if err != nil {
			return fmt.Errorf("installing %s: %w", name, err)
		}
		if changed {
			fmt.Fprintf(out, "installed %s\n", name)
		} else {
			fmt.Fprintf(out, "%s is up to date\n", name)
		}
	}
	return syncDir(to)
}

// list gives the plugins in a folder, sorted; only, unless it is empty, says which.
func list(from string, only []string) ([]string, error) {
	entries, err := os.ReadDir(from)
	if err != nil {
		return nil, fmt.Errorf("looking for plugins: %w", err)
	}
	var all []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			all = append(all, e.Name())
		}
	}
	if len(only) == 0 {
		if len(all) == 0 {
			return nil, fmt.Errorf("%s has no plugins", from)
		}
		return all, nil
	}
	for _, name := range only {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("there is no plugin %q in %s, which has %s", name, from, strings.Join(all, ", "))
		}
	}
	return only, nil
}

const temporary = ".install-cni-"

// sweep removes what a run that was killed left behind.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, temporary+"*"))
	if err != nil {
		return fmt.Errorf("looking for left-over files in %s: %w", dir, err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing a left-over file: %w", err)
		}
	}
	return nil
}

// put makes target the same as source and tells whether it was another.
func put(source, target string) (bool, error) {
	want, err := sum(source)
	if err != nil {
		return false, err
	}
	if st, err := os.Lstat(target); err == nil && st.IsDir() {
		return false, fmt.Errorf("%s is a folder: remove it", target)
	} else if err == nil && st.Mode() == 0o755 {
		if have, err := sum(target); err == nil && bytes.Equal(have, want) {
			return false, nil
		}
	}
	in, err := os.Open(source)
	if err != nil {
		return false, err
	}
	defer in.Close()
	return true, replace(target, in, 0o755)
}

// replace makes target a file of this content: whole, or not at all.
func replace(target string, content io.Reader, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(target), temporary+"*")
	if err != nil {
		return err
	}
	if err := errors.Join(fill(tmp, content, mode), tmp.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	if err := os.Rename(tmp.Name(), target); err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

func fill(f *os.File, content io.Reader, mode os.FileMode) error {
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return f.Sync()
}

func sum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// syncDir makes the renames last.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("keeping what was installed: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("keeping what was installed: %w", err)
	}
	return nil
}
