package airgap

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

type fileSum struct {
	hex  string
	size int64
}

// writeFile makes a file appear whole: it writes to a hidden sibling, which only one
// process at a time can have, syncs it and renames it. It returns the sum of what
// was written. about is the expected size, to find a full disk before it is full.
func writeFile(path string, about int64, write func(io.Writer) error) (_ fileSum, err error) {
	dir := filepath.Dir(path)
	if free, err := freeBytes(dir); err == nil && about > free {
		return fileSum{}, fmt.Errorf("writing %s: %d bytes are needed and %d are free in %s", path, about, free, dir)
	}
	tmp := filepath.Join(dir, "."+filepath.Base(path)+".partial")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fileSum{}, fmt.Errorf("writing %s: %w", path, err)
	}
	defer f.Close()
	// The lock goes with the process, so a killed one leaves nothing to clear up by hand.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fileSum{}, fmt.Errorf("writing %s: another process is writing it", path)
	}
	// Whoever had the lock before may have renamed this very file into place.
	if mine, err := f.Stat(); err != nil {
		return fileSum{}, fmt.Errorf("writing %s: %w", path, err)
	} else if named, err := os.Lstat(tmp); err != nil || !os.SameFile(mine, named) {
		return fileSum{}, fmt.Errorf("writing %s: another process has just written it", path)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	if err := f.Truncate(0); err != nil {
		return fileSum{}, fmt.Errorf("writing %s: %w", path, err)
	}
	w := &summingWriter{f: f, sum: sha256.New()}
	if err := write(w); err != nil {
		return fileSum{}, fmt.Errorf("writing %s: %w", path, err)
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return fileSum{}, fmt.Errorf("writing %s: %w", path, err)
	}
	if err := errors.Join(os.Rename(tmp, path), syncDir(dir)); err != nil {
		return fileSum{}, fmt.Errorf("writing %s: %w", path, err)
	}
	return fileSum{hex.EncodeToString(w.sum.Sum(nil)), w.n}, nil
}

// summingWriter hashes on a second core what it writes, and has the kernel write
// back as it goes, so that the sync at the end is short.
type summingWriter struct {
	f      *os.File
	sum    hash.Hash
	n      int64
	behind int64 // start of what writeback has not been asked for
}

func (s *summingWriter) Write(p []byte) (int, error) {
	const worthIt = 64 << 10
	if len(p) < worthIt {
		s.sum.Write(p)
		n, err := s.f.Write(p)
		s.n += int64(n)
		return n, err
	}
	hashed := make(chan struct{})
	go func() {
		s.sum.Write(p)
		close(hashed)
	}()
	n, err := s.f.Write(p)
	<-hashed
	s.n += int64(n)
	if s.n-s.behind >= 16<<20 {
		// Only a hint: Sync is what counts.
		_ = unix.SyncFileRange(int(s.f.Fd()), s.behind, s.n-s.behind, unix.SYNC_FILE_RANGE_WRITE)
		s.behind = s.n
	}
	return n, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// UpdateSums sets the sums of files in a list as sha256sum writes it ("<hex>  <base
// name>", sorted by name). Entries of files that are no longer beside it are dropped.
func UpdateSums(path string, sums map[string]string) error {
	lines := map[string]string{}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("updating %s: %w", path, err)
	}
	sc := bufio.NewScanner(strings.NewReader(string(b)))
	for n := 1; sc.Scan(); n++ {
		sum, file, ok := strings.Cut(sc.Text(), "  ")
		if !ok || len(sum) != 2*sha256.Size || file == "" || filepath.Base(file) != file {
			return fmt.Errorf("updating %s: line %d is not a sum and a file name: remove the file and make the bundles again", path, n)
		}
		if _, err := os.Lstat(filepath.Join(filepath.Dir(path), file)); err == nil {
			lines[file] = sum
		}
	}
	for file, sum := range sums {
		lines[file] = sum
	}
	var out []string
	for file, sum := range lines {
		out = append(out, sum+"  "+file+"\n")
	}
	sort.Slice(out, func(i, j int) bool { return out[i][2*sha256.Size:] < out[j][2*sha256.Size:] })
	_, err = writeFile(path, 0, func(w io.Writer) error {
		_, err := io.WriteString(w, strings.Join(out, ""))
		return err
	})
	return err
}
