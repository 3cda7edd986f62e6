// Package cache keeps what was built under the hash of everything it was built from.
// An entry is a folder that is there whole or not at all, so a build that was
// interrupted leaves nothing that a later one would trust.
package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Env names the variable that moves the cache.
const Env = "RKE2_BUILD_CACHE"

const temporary = ".tmp-"

// Cache is a folder of entries: <dir>/<kind>/<key>/.
type Cache struct{ dir string }

// DefaultDir is $RKE2_BUILD_CACHE, else rke2-build in the user's cache folder
// ($XDG_CACHE_HOME, else ~/.cache).
func DefaultDir() (string, error) {
	if d := os.Getenv(Env); d != "" {
		return d, nil
	}
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a cache folder (set %s): %w", Env, err)
	}
	return filepath.Join(d, "rke2-build"), nil
}

// Open makes the folder if it is missing.
func Open(dir string) (*Cache, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening cache: %w", err)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return nil, fmt.Errorf("opening cache: %w", err)
	}
	return &Cache{dir: abs}, nil
}

// Dir is where the cache is.
func (c *Cache) Dir() string { return c.dir }

// Key hashes the JSON form of v, which must hold everything that the entry depends on
// and nothing else.
func Key(v any) (string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("hashing a cache key: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// Lookup gives the entry's folder. What is in it must not be changed.
func (c *Cache) Lookup(kind, key string) (string, bool) {
	dir := c.entry(kind, key)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return "", false
	}
	// Trim goes by this time. A failure only makes the entry look older.
	now := time.Now()
	_ = os.Chtimes(dir, now, now)
	return dir, true
}

// Fill gives the entry's folder, calling fill with a new empty one where there is none
// yet. Another process that fills the same entry is waited for, not raced.
func (c *Cache) Fill(kind, key string, fill func(dir string) error) (_ string, hit bool, err error) {
	if dir, ok := c.Lookup(kind, key); ok {
		return dir, true, nil
	}
	final := c.entry(kind, key)
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return "", false, fmt.Errorf("filling cache: %w", err)
	}
	unlock, err := lock(filepath.Join(filepath.Dir(final), ".lock-"+key))
	if err != nil {
		return "", false, err
	}
	defer unlock()
	if dir, ok := c.Lookup(kind, key); ok {
		return dir, true, nil
	}
	// What is there now is of somebody who was killed while filling: the lock is ours.
	left, err := filepath.Glob(filepath.Join(filepath.Dir(final), temporary+key+"-*"))
	if err != nil {
		return "", false, fmt.Errorf("filling cache: %w", err)
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return "", false, fmt.Errorf("filling cache: %w", err)
		}
	}
	tmp, err := os.MkdirTemp(filepath.Dir(final), temporary+key+"-")
	if err != nil {
		return "", false, fmt.Errorf("filling cache: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }() // Trim takes what stays
	if err := fill(tmp); err != nil {
		return "", false, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", false, fmt.Errorf("filling cache: %w", err)
	}
	if err := syncTree(tmp); err != nil {
		return "", false, fmt.Errorf("filling cache: %w", err)
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", false, fmt.Errorf("filling cache: %w", err)
	}
	if err := syncPath(filepath.Dir(final)); err != nil {
		return "", false, fmt.Errorf("filling cache: %w", err)
	}
	return final, false, nil
}

// TempDir makes a folder for work in progress, on the file system that entries are on.
// The caller removes it; Trim does if the caller was killed.
func (c *Cache) TempDir() (string, error) {
	work := filepath.Join(c.dir, "work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return "", fmt.Errorf("making a work folder: %w", err)
	}
	dir, err := os.MkdirTemp(work, temporary)
	if err != nil {
		return "", fmt.Errorf("making a work folder: %w", err)
	}
	return dir, nil
}

// Drop removes an entry that turned out to be damaged.
func (c *Cache) Drop(kind, key string) error {
	if err := os.RemoveAll(c.entry(kind, key)); err != nil {
		return fmt.Errorf("dropping a damaged cache entry: %w", err)
	}
	return nil
}

// Trim removes entries that nothing has looked up since the given time, and what
// interrupted builds left behind before it.
func (c *Cache) Trim(since time.Time) (removed int, err error) {
	kinds, err := os.ReadDir(c.dir)
	if err != nil {
		return 0, fmt.Errorf("trimming cache: %w", err)
	}
	for _, k := range kinds {
		entries, err := os.ReadDir(filepath.Join(c.dir, k.Name()))
		if err != nil {
			continue // a file that is not ours
		}
		for _, e := range entries {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return removed, fmt.Errorf("trimming cache: %w", err)
			}
			if !info.ModTime().Before(since) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(c.dir, k.Name(), e.Name())); err != nil {
				return removed, fmt.Errorf("trimming cache: %w", err)
			}
			if !strings.HasPrefix(e.Name(), ".") {
				removed++
			}
		}
	}
	return removed, nil
}

func (c *Cache) entry(kind, key string) string { return filepath.Join(c.dir, kind, key) }

// lock takes an exclusive lock on path. The file is removed while it is held, so a
// waiter may end up with one that is no longer there: it then tries again.
func lock(path string) (unlock func(), err error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return nil, fmt.Errorf("locking cache entry: %w", err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("locking cache entry %s: %w", path, err)
		}
		held, err := f.Stat()
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("locking cache entry: %w", err)
		}
		if there, err := os.Stat(path); err == nil && os.SameFile(held, there) {
			return func() {
				// Closing gives the lock up in any case.
				_ = os.Remove(path)
				_ = f.Close()
			}, nil
		}
		_ = f.Close()
	}
}

func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		return syncPath(path)
	})
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
