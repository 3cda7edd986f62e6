package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// authorities are the certificate authorities of a cluster, by their files' names in a
// server's tls folder, without -ca.crt and -ca.key.
var authorities = []string{"server", "client", "request-header", "etcd/peer", "etcd/server"}

// serviceKey is the key that the tokens of service accounts are signed with.
const serviceKey = "service.key"

// rotation is what an operator's folder has, in the names of files, of what can be new.
type rotation struct {
	from           string // the folder
	present, fresh []string
}

// newRotation compares an operator's folder with what is in use. The folder has the files
// itself, or in tls.
func newRotation(given, inUse string) (rotation, error) {
	r := rotation{from: given}
	if info, err := os.Stat(filepath.Join(given, "tls")); err == nil && info.IsDir() {
		r.from = filepath.Join(given, "tls")
	}
	if info, err := os.Stat(r.from); err != nil || !info.IsDir() {
		return r, fmt.Errorf("--path %q: want the folder that holds the new CA certificates and keys, laid out as %s is", given, inUse)
	}
	var err error
	if r.from, err = filepath.Abs(r.from); err != nil {
		return r, err
	}
	for _, name := range append(slices.Clone(authorities), serviceKey) {
		files := []string{name}
		if name != serviceKey {
			files = []string{name + "-ca.crt", name + "-ca.key"}
		}
		if err := r.add(inUse, files); err != nil {
			return r, err
		}
	}
	switch {
	case len(r.present) == 0:
		return r, fmt.Errorf("%s has none of the files that can be rotated: %s-ca.crt, each with its -ca.key, and %s",
			r.from, strings.Join(authorities, "-ca.crt, "), serviceKey)
	case len(r.fresh) == 0:
		return r, fmt.Errorf("nothing in %s is new: %s there are those in %s", r.from, strings.Join(r.present, ", "), inUse)
	}
	return r, nil
}

// add takes in what the folder has of files that belong together.
func (r *rotation) add(inUse string, files []string) error {
	var there []string
	fresh := false
	for _, file := range files {
		given, err := os.ReadFile(filepath.Join(r.from, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		there = append(there, file)
		used, err := os.ReadFile(filepath.Join(inUse, file))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		fresh = fresh || err != nil || !bytes.Equal(given, used)
	}
	if n := len(there); n > 0 && n < len(files) {
		return fmt.Errorf("%s has %s, and not the other of %s: an authority needs both", r.from, there[0], strings.Join(files, " and "))
	}
	r.present = append(r.present, there...)
	if fresh {
		r.fresh = append(r.fresh, there...)
	}
	return nil
}

// layOut makes a folder as the engine wants it, with the files in tls: what is new, and
// nothing in the others' places, which stands for what is in use. It is to be removed.
func (r *rotation) layOut() (string, error) {
	folder, err := os.MkdirTemp("", "rke2-authorities-")
	if err != nil {
		return "", err
	}
	place := func(file string) error {
		at, to := filepath.Join(folder, "tls", file), os.DevNull
		if slices.Contains(r.fresh, file) {
			to = filepath.Join(r.from, file)
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return err
		}
		return os.Symlink(to, at)
	}
	for _, name := range authorities {
		err = errors.Join(err, place(name+"-ca.crt"), place(name+"-ca.key"))
	}
	if err = errors.Join(err, place(serviceKey)); err != nil {
		return "", errors.Join(err, os.RemoveAll(folder))
	}
	return folder, nil
}
