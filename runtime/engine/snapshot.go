package engine

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// page is what etcd's database is a multiple of, in bytes; what a snapshot has beyond
// that is the SHA-256 of all before it (etcd's `snapshot save`).
const page = 512

// checkSnapshot reads a snapshot of etcd, in a zip archive or not, whole, and compares it
// with the checksum at its end. The engine does so too, but only after it has ended etcd
// and moved the datastore away.
func checkSnapshot(path string) error {
	err := readSnapshot(path)
	if err == nil {
		return nil
	}
	advice := "nothing was stopped or changed; `rke2 etcd-snapshot list` shows this server's snapshots"
	if entries, missing := os.ReadDir(filepath.Dir(path)); missing == nil && errors.Is(err, os.ErrNotExist) {
		var names []string
		for _, entry := range entries {
			if entry.Type().IsRegular() {
				names = append(names, entry.Name())
			}
		}
		if len(names) > 0 {
			advice = "nothing was stopped or changed; that folder has " + strings.Join(names, ", ")
		}
	}
	return fmt.Errorf("the snapshot %s cannot be restored: %w: %s", path, err, advice)
}

func readSnapshot(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a file")
	}
	if !strings.HasSuffix(path, ".zip") {
		return checkSum(f, info.Size())
	}
	archive, err := zip.NewReader(f, info.Size())
	if err != nil {
		return err
	}
	if len(archive.File) != 1 {
		return fmt.Errorf("the archive has %d files, where one snapshot is meant", len(archive.File))
	}
	in, err := archive.File[0].Open()
	if err != nil {
		return err
	}
	defer in.Close()
	return checkSum(in, int64(archive.File[0].UncompressedSize64)) //nolint:gosec // a size beyond an int64 is told below, being no snapshot's
}

func checkSum(in io.Reader, size int64) error {
	if size <= sha256.Size || size%page != sha256.Size {
		return fmt.Errorf("it has %d bytes: it is cut off, or no snapshot that `rke2 etcd-snapshot` made", size)
	}
	sum := sha256.New()
	if n, err := io.CopyN(sum, in, size-sha256.Size); err != nil {
		return fmt.Errorf("reading it at byte %d: %w", n, err)
	}
	var want [sha256.Size]byte
	if _, err := io.ReadFull(in, want[:]); err != nil {
		return fmt.Errorf("reading its checksum: %w", err)
	}
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		return fmt.Errorf("it is damaged: its checksum is %x, it should be %x", sum.Sum(nil), want)
	}
	return nil
}
