package collect

import (
	"bytes"
	"compress/gzip"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/manifest"
)

// TestLegacyArchives: archives of docker's old format have no manifests; a bundle's image
// is made of their parts, the same every time, and other tools read it.
func TestLegacyArchives(t *testing.T) {
	dir := t.TempDir()
	img, err := random.Image(20_000, 3, random.WithSource(rand.NewSource(1)))
	noError(t, err)
	config, err := img.ConfigFile()
	noError(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, config)
	noError(t, err)
	tag, err := name.NewTag("registry.example/old/app:v1")
	noError(t, err)
	compressed := filepath.Join(dir, "crane.tar") // crane's has compressed layers
	noError(t, tarball.WriteToFile(compressed, tag, img))
	plain := filepath.Join(dir, "skopeo.tar") // skopeo's, as docker's, has not
	out, err := exec.CommandContext(t.Context(), "skopeo", "copy", "-q", "docker-archive:"+compressed, "docker-archive:"+plain+":"+tag.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(plain)
	noError(t, err)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, err = w.Write(b)
	noError(t, err)
	noError(t, w.Close())
	whole := filepath.Join(dir, "skopeo.tar.gz")
	noError(t, os.WriteFile(whole, z.Bytes(), 0o600))

	sums := map[string]string{}
	for _, file := range []string{compressed, plain, whole} {
		got, _, err := gather(t.Context(), t, manifest.Bundle{Archives: []manifest.Archive{{Path: file}}}, options(t, nil, t.TempDir()))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		sums[filepath.Base(file)] = got["linux/amd64"].sum
		images := got["linux/amd64"].archive.Images()
		if len(images) != 1 || images[0].Names()[0] != tag.String() || got["linux/amd64"].archive.Format() != airgap.FormatOCI {
			t.Errorf("%s: %+v", file, images)
		}
		back := filepath.Join(t.TempDir(), "back")
		if out, err := exec.CommandContext(t.Context(), "skopeo", "copy", "-q", "oci-archive:"+got["linux/amd64"].file+":"+tag.String(), "oci:"+back).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
	if sums["skopeo.tar"] != sums["skopeo.tar.gz"] || sums["skopeo.tar"] == sums["crane.tar"] {
		t.Errorf("%v", sums)
	}

	layer := bytes.Index(b, []byte("random_file"))
	b[layer+2000] ^= 1
	noError(t, os.WriteFile(plain, b, 0o600))
	if _, _, err := gather(t.Context(), t, manifest.Bundle{Archives: []manifest.Archive{{Path: plain}}}, options(t, nil, t.TempDir())); err == nil ||
		!strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), plain) {
		t.Errorf("%v", err)
	}
}
