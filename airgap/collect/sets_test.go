package collect

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/manifest"
	"github.com/rancher/rke2/tests/distribution"
)

// TestSets: of a layout, what tests alone need is taken only where it is asked for.
func TestSets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oci")
	image := func(name, sets string) distribution.Image {
		return distribution.Image{Ref: "docker.io/rancher/" + name + ":v1", Sets: sets, Platforms: []string{"amd64"}, Layers: [][]byte{[]byte(name)}}
	}
	distribution.WriteLayout(t, dir, image("canal", "canal"), image("core", "core"), image("echo", airgap.TestSet))
	for what, c := range map[string]struct{ sets, want []string }{
		"nothing named":  {nil, []string{"canal", "core"}},
		"all":            {[]string{airgap.AllSets}, []string{"canal", "core"}},
		"a set":          {[]string{"core"}, []string{"core"}},
		"those of tests": {[]string{airgap.TestSet}, []string{"echo"}},
		"all and those":  {[]string{airgap.AllSets, airgap.TestSet}, []string{"canal", "core", "echo"}},
	} {
		t.Run(what, func(t *testing.T) {
			made, _, err := gather(t.Context(), t, manifest.Bundle{Layouts: []manifest.Layout{{Path: dir, Sets: c.sets}}}, options(t, nil, t.TempDir()))
			noError(t, err)
			var got []string
			for _, img := range made["linux/amd64"].archive.Images() {
				got = append(got, filepath.Base(img.Refs[0].Context().RepositoryStr()))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("taken %q, want %q", got, c.want)
			}
		})
	}
}
