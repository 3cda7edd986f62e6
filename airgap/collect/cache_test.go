package collect

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func blobOf(b []byte) v1.Descriptor { return v1.Descriptor{Digest: digestOf(b), Size: int64(len(b))} }

// TestCacheFetch: a blob is fetched once, by whoever comes first; what is there of it is
// handed on to the next.
func TestCacheFetch(t *testing.T) {
	c, err := OpenCache(t.TempDir())
	noError(t, err)
	content := bytes.Repeat([]byte("0123456789"), 1000)
	d := blobOf(content)
	broken := errors.New("broken")
	err = c.Fetch(t.Context(), d, func(f *os.File) error {
		_, err := f.Write(content[:4000])
		return errors.Join(err, broken)
	})
	if !errors.Is(err, broken) || c.Has(d) {
		t.Fatalf("%v", err)
	}
	var fetched atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := c.Fetch(t.Context(), d, func(f *os.File) error {
				fetched.Add(1)
				there, err := io.ReadAll(f)
				if err != nil || !bytes.Equal(there, content[:4000]) {
					t.Errorf("%d bytes were there, %v", len(there), err)
				}
				_, err = f.Write(content[4000:])
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, ok := c.Small(d); fetched.Load() != 1 || !ok || !bytes.Equal(got, content) {
		t.Errorf("fetched %d times", fetched.Load())
	}
	if left, _ := os.ReadDir(filepath.Join(c.Dir(), "partial")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCacheRefuses(t *testing.T) {
	c, err := OpenCache(t.TempDir())
	noError(t, err)
	content := []byte("content")
	d := blobOf(content)
	for what, wrong := range map[string]string{"other bytes": "CONTENT", "fewer": "conten", "more": "contents"} {
		if err := c.Take(t.Context(), d, strings.NewReader(wrong)); err == nil || c.Has(d) {
			t.Errorf("%s: %v", what, err)
		}
	}
	noError(t, c.Take(t.Context(), d, bytes.NewReader(content)))
	if bad, err := c.Scrub(t.Context(), []v1.Hash{d.Digest, digestOf(nil)}); err != nil || len(bad) != 0 {
		t.Errorf("%v %v", bad, err)
	}
	noError(t, os.Chmod(c.path(d.Digest), 0o600))
	noError(t, os.WriteFile(c.path(d.Digest), []byte("CONTENT"), 0o600))
	if _, ok := c.Small(d); ok || c.Has(d) {
		t.Error("damage went unnoticed")
	}
	if err := c.Take(t.Context(), v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: "../../x"}}, nil); err == nil {
		t.Error("a digest that is a path was taken")
	}
	if err := c.room(1 << 60); err == nil || !strings.Contains(err.Error(), "--cache-dir") {
		t.Errorf("%v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	noError(t, os.WriteFile(file, nil, 0o600))
	if _, err := OpenCache(file); err == nil {
		t.Error("a file was taken for a folder")
	}
}

// TestCacheWaits: for another process that fetches the same, but not longer than it is told.
func TestCacheWaits(t *testing.T) {
	c, err := OpenCache(t.TempDir())
	noError(t, err)
	d := blobOf([]byte("x"))
	err = c.Fetch(t.Context(), d, func(*os.File) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return c.Fetch(ctx, d, func(*os.File) error { return errors.New("both have it") })
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestParseWanted(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for s, want := range map[string]struct {
		ref   string
		names []string
	}{
		"busybox":                              {"docker.io/library/busybox:latest", []string{"docker.io/library/busybox:latest"}},
		"docker://busybox:1.36":                {"docker.io/library/busybox:1.36", []string{"docker.io/library/busybox:1.36"}},
		"index.docker.io/library/busybox:1.36": {"docker.io/library/busybox:1.36", []string{"docker.io/library/busybox:1.36"}},
		"r.example:5000/aa:b":                  {"r.example:5000/aa:b", []string{"r.example:5000/aa:b"}},
		"busybox@" + digest:                    {"docker.io/library/busybox@" + digest, []string{"docker.io/library/busybox@" + digest}},
		"busybox:1@" + digest:                  {"docker.io/library/busybox:1@" + digest, []string{"docker.io/library/busybox:1", "docker.io/library/busybox@" + digest}},
	} {
		w, err := parseWanted(s, "")
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if w.ref != want.ref || !slices.Equal(w.names(), want.names) {
			t.Errorf("%s: %s %q", s, w.ref, w.names())
		}
		if w.digest != "" && w.reference() != w.digest || w.digest == "" && w.reference() != w.tag {
			t.Errorf("%s: asked for as %s", s, w.reference())
		}
	}
	for _, s := range []string{"", "B:c", "a b", "busybox@sha256:abc", "busybox@sha512:" + strings.Repeat("a", 128), "https://busybox"} {
		if _, err := parseWanted(s, ""); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

// TestParallel: the error is the first by number, and not what was cancelled because of it.
func TestParallel(t *testing.T) {
	boom := errors.New("boom")
	var most, now atomic.Int64
	err := parallel(t.Context(), 50, 4, func(ctx context.Context, i int) error {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		if i == 20 {
			return boom
		}
		if i > 16 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	if !errors.Is(err, boom) || most.Load() > 4 {
		t.Errorf("%v, %d at a time", err, most.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := parallel(ctx, 3, 1, func(context.Context, int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := parallel(t.Context(), 0, 0, nil); err != nil {
		t.Error(err)
	}
}
