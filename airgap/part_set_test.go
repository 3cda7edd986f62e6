package airgap

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOneOfASet: what several files are together, and what of them can be unpacked.
func TestOneOfASet(t *testing.T) {
	const size = 50_000
	f := simple(t, size)
	parts := f.split(90_000)
	if len(parts) != 4 {
		t.Fatalf("%d parts", len(parts))
	}
	base, next := file(t, "old.tar", f.bytes(core())), file(t, wholeName, bumped(t, size).bytes(core()))
	other := file(t, "other.tar", f.bytes(Selection{Sets: []string{"other"}, Platform: amd64}))
	delta := filepath.Join(t.TempDir(), "d.tar")
	made, err := MakeDelta(t.Context(), DeltaOptions{From: []string{base}, New: []string{next}, Output: delta})
	noError(t, err)
	whole := mustOpen(t, base)
	identity, _ := whole.Identity()
	for name, c := range map[string]struct {
		files []string
		want  string // in the error of opening or unpacking; empty: all of it
		index string
	}{
		"one file":             {[]string{base}, "", identity.String()},
		"all parts":            {parts, "", identity.String()},
		"a delta and its base": {[]string{delta, base}, "", made.Whole.Index.String()},
		"a delta and parts":    {append([]string{delta}, parts...), "", made.Whole.Index.String()},
		"two bundles":          {[]string{base, other}, "2 bundles were given", ""},
		"a delta and another":  {[]string{delta, base, other}, "3 bundles were given", ""},
		"not all parts":        {parts[1:], "part 1 of 4", ""},
		"a part":               {parts[:1], "part 2 of 4", ""},
		"a delta":              {[]string{delta}, "is a delta from old.tar", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := OpenSet(c.files...)
			noError(t, err)
			defer s.Close()
			dir := filepath.Join(t.TempDir(), "layout")
			a, err := s.One()
			if err == nil {
				err = a.Unpack(t.Context(), UnpackOptions{Dir: dir})
			}
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("want %q: %v", c.want, err)
				}
				nothing(t, filepath.Dir(dir))
				return
			}
			noError(t, err)
			if h, _ := a.Identity(); h.String() != c.index {
				t.Errorf("it is %s, want %s", h, c.index)
			}
			plan, err := NewPlan(Layout(dir), core())
			noError(t, err)
			if hashOf(plan.index()).String() != c.index {
				t.Error("what was unpacked gives another bundle")
			}
		})
	}
	// An image can be unpacked of a partial bundle that has all of its layers.
	noError(t, os.Remove(delta))
	_, err = MakeDelta(t.Context(), DeltaOptions{From: []string{other}, New: []string{base}, Output: delta})
	noError(t, err)
	a := mustOpen(t, delta)
	dir := t.TempDir()
	noError(t, a.Unpack(t.Context(), UnpackOptions{Dir: filepath.Join(dir, "runtime"), Image: "rancher/rke2-runtime:v1.35.4-rke2r1"}))
	var incomplete *IncompleteError
	if err := a.Unpack(t.Context(), UnpackOptions{Dir: filepath.Join(dir, "etcd"), Image: etcdRef}); !errors.As(err, &incomplete) {
		t.Errorf("etcd, whose layers the other bundle has: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "etcd")); err == nil {
		t.Error("a folder is there")
	}
}
