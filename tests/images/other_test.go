//go:build linux

package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	declared "github.com/rancher/rke2/images"
	"github.com/rancher/rke2/tests/imagefs"
)

// otherImages are built for the other architecture in every run of the tests: one of each
// way to make a program, but none that takes minutes to compile. All of them are, by
// make airgap with PLATFORMS=linux/amd64,linux/arm64, and then TestImages runs them.
var (
	otherImages     = []string{"mirrored-pause", "hardened-cni-plugins"}
	otherComponents = []string{"runc", "socat"} // C, against locked libraries
)

func TestOtherArchitecture(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for chroot")
	}
	arch := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	emulator, err := exec.LookPath(emulators[arch])
	if errors.Is(err, exec.ErrNotFound) {
		t.Skipf("%s is not installed; make prerequisites does it", emulators[arch])
	}
	if err != nil {
		t.Fatal(err)
	}
	dist := t.TempDir()
	build(t, dist, arch, append([]string{"image"}, otherImages...)...)
	tree, err := declared.Load(filepath.Join("..", "..", "images"))
	if err != nil {
		t.Fatal(err)
	}
	built, err := imagefs.List(filepath.Join(dist, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	if len(built) != len(otherImages) {
		t.Errorf("%d images were built of %d", len(built), len(otherImages))
	}
	for _, i := range built {
		t.Run(i.Name+"/"+i.Platform.Architecture, func(t *testing.T) {
			d, ok := tree.Image(i.Name)
			if !ok || i.Platform.Architecture != arch {
				t.Fatalf("%s for %s was not asked for", i.Name, i.Platform)
			}
			run(t, i, d)
		})
	}
	for _, b := range compiled(t, dist, arch) {
		t.Run(b.Name, func(t *testing.T) {
			flag := map[string]string{"socat": "-V"}[b.Name]
			if flag == "" {
				flag = "--version"
			}
			out, err := exec.CommandContext(t.Context(), emulator, b.Path, flag).CombinedOutput()
			if err != nil || !strings.Contains(string(out), b.Name) {
				t.Errorf("%s %s: %v\n%s", b.Name, flag, err, out)
			}
			t.Log(firstLine(string(out), "ersion"))
		})
	}
}

// build runs the product's own build tool, with its own cache.
func build(t *testing.T, dist, arch string, args ...string) []byte {
	t.Helper()
	products := os.Getenv("RKE2_DIST")
	if products == "" {
		products = filepath.Join("..", "..", "dist")
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(products, "rke2-build"),
		append([]string{"--images", filepath.Join("..", "..", "images"), "--dist", dist, "--platform", "linux/" + arch}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, said.Bytes())
	}
	return out.Bytes()
}

type binary struct{ Name, Path string }

func compiled(t *testing.T, dist, arch string) []binary {
	t.Helper()
	var components []struct{ Binaries []binary }
	if err := json.Unmarshal(build(t, dist, arch, append([]string{"compile", "-o", "json"}, otherComponents...)...), &components); err != nil {
		t.Fatal(err)
	}
	var out []binary
	for _, c := range components {
		out = append(out, c.Binaries...)
	}
	if len(out) != len(otherComponents) {
		t.Errorf("%d programs were compiled of %d", len(out), len(otherComponents))
	}
	return out
}
