package main

import (
	"errors"

	"github.com/rancher/rke2/airgap"
)

// eachArchive opens archives, one after another, and gives each to fn.
func eachArchive(files []string, fn func(*airgap.Archive) error) error {
	for _, f := range files {
		a, err := airgap.Open(f)
		if err != nil {
			return err
		}
		if err := errors.Join(fn(a), a.Close()); err != nil {
			return err
		}
	}
	return nil
}

// openOne opens what must be one archive.
func openOne(files []string) (*airgap.Archive, func() error, error) {
	if len(files) != 1 {
		return nil, nil, errors.New("give one bundle")
	}
	a, err := airgap.Open(files[0])
	if err != nil {
		return nil, nil, err
	}
	return a, a.Close, nil
}
