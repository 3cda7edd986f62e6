package airgap

import (
	"os"
	"path/filepath"
	"testing"
)

// TestBundleOfAllSets: what tests alone need is not in it.
func TestBundleOfAllSets(t *testing.T) {
	f := newFixture(t)
	for i, one := range []struct{ ref, sets string }{{"docker.io/rancher/core:v1", "core"}, {"docker.io/rancher/echo:v1", TestSet}} {
		f.sign(one.ref, f.add(image(t, int64(i+1), 10, 1, amd64), one.ref, one.sets), nil)
	}
	for set, want := range map[string]string{AllSets: "docker.io/rancher/core:v1\n", TestSet: "docker.io/rancher/echo:v1\n"} {
		opt := createOptions(f, t.TempDir())
		opt.Sets = []string{set}
		_, err := create(t.Context(), opt)
		noError(t, err)
		list, err := os.ReadFile(filepath.Join(opt.OutputDir, BundleName(set, amd64)+".txt"))
		noError(t, err)
		if string(list) != want {
			t.Errorf("set %s: the bundle has %q, want %q", set, list, want)
		}
		a, err := Open(filepath.Join(opt.OutputDir, BundleName(set, amd64)+".tar"))
		noError(t, err)
		t.Cleanup(func() { noError(t, a.Close()) })
		if sets := a.Sets(); set == AllSets && len(sets) > 0 {
			t.Errorf("the bundle says that it is of the sets %q", sets)
		}
	}
}
