// Command install-cni-plugins puts CNI plugins where the host's container runtime looks
// for them, and exits: an init container of network charts.
//
// A plugin appears whole or not at all (temporary sibling, fsync, rename), so one that a
// pod is being started with can be replaced, and what is the same already is left alone.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// version is filled in by the linker with the plugins' declared version.
var version = "unknown"

const usage = `Copies CNI plugins from this image to the host and exits.

Usage: install-cni-plugins [flags] [PLUGIN…]

Without arguments it copies every plugin of the image.

`

// skipVar names plugins, separated by commas, that are not copied: an operator's own
// stay where they are.
const skipVar = "SKIP_CNI_BINARIES"

func main() {
	fs := flag.NewFlagSet("install-cni-plugins", flag.ContinueOnError)
	from := fs.String("from", "/opt/cni/bin", "folder of the plugins")
	to := fs.String("to", "/host/opt/cni/bin", "where the host's folder of plugins is mounted")
	skip := fs.String("skip", os.Getenv(skipVar), "plugins not to copy, separated by commas [$"+skipVar+"]")
	show := fs.Bool("version", false, "print the version and exit")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		fs.PrintDefaults()
	}
	switch err := fs.Parse(os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	}
	if *show {
		fmt.Println("install-cni-plugins", version)
		return
	}
	if err := install(os.Stdout, *from, *to, fs.Args(), strings.Split(*skip, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "install-cni-plugins:", err)
		os.Exit(1)
	}
}

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

const temporary = ".install-cni-plugins-"

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
	tmp, err := os.CreateTemp(filepath.Dir(target), temporary+"*")
	if err != nil {
		return false, err
	}
	if err := errors.Join(fill(tmp, in), tmp.Close()); err != nil {
		return false, errors.Join(err, os.Remove(tmp.Name()))
	}
	if err := os.Rename(tmp.Name(), target); err != nil {
		return false, errors.Join(err, os.Remove(tmp.Name()))
	}
	return true, nil
}

func fill(f *os.File, in io.Reader) error {
	if _, err := io.Copy(f, in); err != nil {
		return err
	}
	if err := f.Chmod(0o755); err != nil {
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
