package main

import (
	"errors"
	"os"
	"runtime/debug"

	"github.com/rancher/rke2/airgap"
)

// limitMemory has Go collect garbage earlier, so that bundles of any size and images of
// very many files are read in little memory. An operator's own GOMEMLIMIT counts.
func limitMemory() {
	const limit = 40 << 20
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// eachArchive opens archives and gives each to fn, in order: the parts of one bundle,
// if all are there, as that bundle; a part on its own, as far as it goes.
func eachArchive(files []string, fn func(*airgap.Archive) error) (err error) {
	limitMemory()
	set, err := airgap.OpenSet(files...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	for _, a := range set.Archives {
		if err := fn(a); err != nil {
			return err
		}
	}
	for _, l := range set.Loose {
		if err := fn(l.Archive); err != nil {
			return err
		}
	}
	return nil
}

// openOne opens what must be one archive, the parts of one, or a delta and what it was
// made from.
func openOne(files []string) (*airgap.Archive, func() error, error) {
	limitMemory()
	set, err := airgap.OpenSet(files...)
	if err != nil {
		return nil, nil, err
	}
	a, err := set.One()
	if err != nil {
		return nil, nil, errors.Join(err, set.Close())
	}
	return a, set.Close, nil
}
