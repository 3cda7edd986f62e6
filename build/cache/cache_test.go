package cache

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func open(t *testing.T) *Cache {
	t.Helper()
	c, err := Open(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(text string) func(string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, "f"), []byte(text), 0o644) }
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestFill(t *testing.T) {
	c := open(t)
	if _, ok := c.Lookup("k", "a"); ok {
		t.Fatal("found in an empty cache")
	}
	dir, hit, err := c.Fill("k", "a", put("one"))
	if err != nil || hit {
		t.Fatalf("hit %v, %v", hit, err)
	}
	again, hit, err := c.Fill("k", "a", func(string) error { t.Error("filled twice"); return nil })
	if err != nil || !hit || again != dir {
		t.Fatalf("second fill: %s, hit %v, %v", again, hit, err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(data) != "one" {
		t.Errorf("%q, %v", data, err)
	}
	if err := c.Drop("k", "a"); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Lookup("k", "a"); ok {
		t.Error("there after Drop")
	}
}

func TestFailedFillLeavesNothing(t *testing.T) {
	c := open(t)
	broken := errors.New("disk full")
	_, _, err := c.Fill("k", "a", func(dir string) error {
		if err := put("half")(dir); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if left := names(t, filepath.Join(c.Dir(), "k")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Two caches stand for two processes: locks are on files, not on the value.
func TestFilledOnce(t *testing.T) {
	a := open(t)
	b, err := Open(a.Dir())
	if err != nil {
		t.Fatal(err)
	}
	var filled atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		c := a
		if i%2 == 1 {
			c = b
		}
		wg.Go(func() {
			_, _, err := c.Fill("k", "a", func(dir string) error {
				filled.Add(1)
				time.Sleep(10 * time.Millisecond)
				return put("x")(dir)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := filled.Load(); n != 1 {
		t.Errorf("filled %d times", n)
	}
	if left := names(t, filepath.Join(a.Dir(), "k")); len(left) != 1 {
		t.Errorf("in the folder: %v", left)
	}
}

func TestTrim(t *testing.T) {
	c := open(t)
	old := time.Now().Add(-time.Hour)
	for _, key := range []string{"old", "used"} {
		dir, _, err := c.Fill("k", key, put(key))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	// What a killed build left.
	left := filepath.Join(c.Dir(), "k", temporary+"x")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Lookup("k", "used"); !ok {
		t.Fatal("not found")
	}
	n, err := c.Trim(time.Now().Add(-time.Minute))
	if err != nil || n != 1 {
		t.Errorf("trimmed %d, %v", n, err)
	}
	if got := names(t, filepath.Join(c.Dir(), "k")); len(got) != 1 || got[0] != "used" {
		t.Errorf("left: %v", got)
	}
}

func TestKey(t *testing.T) {
	a, err := Key(map[string]string{"x": "1", "y": "2"})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := Key(map[string]string{"y": "2", "x": "1"})
	c, _ := Key(map[string]string{"y": "2", "x": "3"})
	if a != b || a == c {
		t.Errorf("keys %s %s %s", a, b, c)
	}
}

// What a killed filler left goes with the next one.
func TestFillTidies(t *testing.T) {
	c, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(c.Dir(), "k", temporary+"key-1")
	if err := os.MkdirAll(filepath.Join(left, "half"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Fill("k", "key", func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("it is still there")
	}
}

func TestSum(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	if sum, err := Sum(file); err != nil || sum != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("Sum() = %s, %v", sum, err)
	}
	for what, path := range map[string]string{"nothing": file + "x", "a folder": filepath.Dir(file)} {
		if sum, err := Sum(path); err == nil || sum != "" || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: Sum() = %q, %v", what, sum, err)
		}
	}
}
