//go:build linux

package node

import (
	"slices"
	"testing"
)

func TestDifference(t *testing.T) {
	before := map[string]string{"same": "1", "changed": "1", "gone": "1"}
	after := map[string]string{"same": "1", "changed": "2", "new": "1"}
	want := []string{"! changed: 1 → 2", "- gone: 1", "+ new: 1"}
	if got := Difference(before, after); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := Difference(before, before); len(got) > 0 {
		t.Errorf("no difference is %q", got)
	}
}
