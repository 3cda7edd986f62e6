package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Products are what `make airgap` leaves in its output folder.
type Products struct {
	Dir    string
	Binary string // rke2
	Build  string // rke2-build
	Bundle string // the core images
	Layout string // all images, an OCI layout
}

// FindProducts looks in $RKE2_DIST or, without it, in the folder dist of the
// module that the working directory is in.
func FindProducts() (Products, error) {
	dir := os.Getenv("RKE2_DIST")
	if dir == "" {
		root, err := moduleRoot()
		if err != nil {
			return Products{}, err
		}
		dir = filepath.Join(root, "dist")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Products{}, err
	}
	p := Products{
		Dir:    dir,
		Binary: filepath.Join(dir, "rke2"),
		Build:  filepath.Join(dir, "rke2-build"),
		Layout: filepath.Join(dir, "oci"),
	}
	p.Bundle = p.Set("core")
	for _, path := range []string{p.Binary, p.Build, p.Bundle, filepath.Join(p.Layout, "index.json")} {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return p, fmt.Errorf("%s is not there: run `make airgap` first, or set RKE2_DIST to the folder that has it", path)
		} else if err != nil {
			return p, err
		}
	}
	return p, nil
}

// Set is the bundle of one set of images.
func (p Products) Set(name string) string {
	return filepath.Join(p.Dir, "rke2-images-"+name+".linux-amd64.tar")
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("not in the source folder: set RKE2_DIST to the folder that `make airgap` wrote")
		}
		dir = up
	}
}
