package collect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Cache is a folder of blobs by their digest, and of downloads that were broken off. It
// is shared by any number of processes, and may be removed whenever none runs.
type Cache struct{ dir string }

// DefaultCacheDir is rke2/bundle in the user's cache folder ($XDG_CACHE_HOME, else
// ~/.cache).
func DefaultCacheDir() (string, error) {
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a cache folder: %w: set XDG_CACHE_HOME, or pass --cache-dir", err)
	}
	return filepath.Join(d, "rke2", "bundle"), nil
}

// OpenCache makes the folder if it is missing.
func OpenCache(dir string) (*Cache, error) {
	for _, sub := range []string{"blobs/sha256", "partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("opening the cache: %w", err)
		}
	}
	return &Cache{dir}, nil
}

// Dir is the cache's folder.
func (c *Cache) Dir() string { return c.dir }

func (c *Cache) path(h v1.Hash) string { return filepath.Join(c.dir, "blobs", "sha256", h.Hex) }

// Has tells whether a blob is there in its full size.
func (c *Cache) Has(d v1.Descriptor) bool {
	st, err := os.Stat(c.path(d.Digest))
	return err == nil && st.Mode().IsRegular() && st.Size() == d.Size
}

// Open opens a blob. Its bytes are for the reader to verify; see [Cache.Scrub].
func (c *Cache) Open(h v1.Hash) (*os.File, error) {
	f, err := os.Open(c.path(h))
	if err != nil {
		return nil, fmt.Errorf("reading the cache: %w", err)
	}
	return f, nil
}

// Small reads a small blob and verifies it; one that is wrong is removed.
func (c *Cache) Small(d v1.Descriptor) ([]byte, bool) {
	f, err := os.Open(c.path(d.Digest))
	if err != nil {
		return nil, false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, d.Size+1))
	if err != nil || int64(len(b)) != d.Size || digestOf(b) != d.Digest {
		_ = os.Remove(c.path(d.Digest)) // it is fetched again
		return nil, false
	}
	return b, true
}

// Put stores a small blob.
func (c *Cache) Put(b []byte) (v1.Hash, error) {
	d := v1.Descriptor{Digest: digestOf(b), Size: int64(len(b))}
	return d.Digest, c.Take(context.Background(), d, bytes.NewReader(b))
}

// Take stores a blob that is read from r, and verifies it.
func (c *Cache) Take(ctx context.Context, d v1.Descriptor, r io.Reader) error {
	return c.Fetch(ctx, d, func(f *os.File) error {
		if err := f.Truncate(0); err != nil {
			return err
		}
		h := sha256.New()
		n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, d.Size+1))
		if err != nil {
			return err
		}
		if got := hex.EncodeToString(h.Sum(nil)); n != d.Size || got != d.Digest.Hex {
			return fmt.Errorf("blob %s: %d bytes of sha256:%s came instead of %d", d.Digest, n, got, d.Size)
		}
		return nil
	})
}

// Fetch stores the blob that fill writes and verifies, if it is not there. fill is given a
// file with what an earlier try, of this process or of one that was killed, left of the
// blob. Another process that fetches the same blob is waited for.
func (c *Cache) Fetch(ctx context.Context, d v1.Descriptor, fill func(f *os.File) error) error {
	if d.Digest.Algorithm != "sha256" || len(d.Digest.Hex) != 2*sha256.Size {
		return fmt.Errorf("blob %q: only sha256 digests are known", d.Digest)
	}
	partial := filepath.Join(c.dir, "partial", d.Digest.Hex)
	for !c.Has(d) {
		f, err := lock(ctx, partial)
		if err != nil {
			return fmt.Errorf("writing the cache: %w", err)
		}
		if f == nil {
			continue // another process has just put it into place, or given up
		}
		err = fill(f)
		if err == nil {
			err = errors.Join(f.Chmod(0o444), f.Sync(), os.Rename(partial, c.path(d.Digest)))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// lock opens a file that only one process has at a time; nil if it was renamed meanwhile.
// The lock goes with the process, so a killed one leaves nothing to clear up by hand.
func lock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		}
	}
	mine, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if named, err := os.Lstat(path); err != nil || !os.SameFile(mine, named) {
		return nil, f.Close()
	}
	return f, nil
}

// Scrub hashes blobs of the cache, removes those that are not what they are called, and
// returns them. It is for when something did not verify: reading the cache does not hash.
func (c *Cache) Scrub(ctx context.Context, blobs []v1.Hash) ([]v1.Hash, error) {
	var bad []v1.Hash
	for _, h := range blobs {
		if err := ctx.Err(); err != nil {
			return bad, err
		}
		f, err := os.Open(c.path(h))
		if err != nil {
			continue // not in the cache
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		if err := f.Close(); err != nil {
			return bad, err
		}
		if err == nil && hex.EncodeToString(sum.Sum(nil)) == h.Hex {
			continue
		}
		if err := os.Remove(c.path(h)); err != nil {
			return bad, fmt.Errorf("cleaning the cache: %w", err)
		}
		bad = append(bad, h)
	}
	return bad, nil
}

func digestOf(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// room refuses what the disk can't take.
func (c *Cache) room(need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(c.dir, &st); err != nil {
		return nil // then writing tells
	}
	if free := int64(st.Bavail) * st.Bsize; need > free {
		return fmt.Errorf("%d bytes have to be fetched, and %d are free in the cache %s: make space, or name another folder with --cache-dir", need, free, c.dir)
	}
	return nil
}
