//go:build linux

package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/tests/fake"
)

// products makes the smallest folder that a release can be laid out from: a node binary
// with the release in it, two images of core and canal, bundles of them, and what is
// known of them.
func products(t *testing.T, arches ...string) Settings {
	t.Helper()
	if len(arches) == 0 {
		arches = []string{arch}
	}
	dist := t.TempDir()
	key := newKey(t)
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	release := images.Release{Version: "v1.2.3+rke2r1", Kubernetes: "v1.2.3", Registry: "docker.io", Repo: "rancher", PublicKeys: []string{string(public)}}
	var store fake.Store
	for _, i := range []struct{ name, set string }{{"etcd", "core"}, {"calico", "canal"}} {
		released := images.ReleaseImage{
			Name: i.name, Reference: "docker.io/rancher/" + i.name + ":v1", Digests: map[string]string{}, Role: i.name, Sets: []string{i.set},
		}
		for _, arch := range arches {
			digest, err := store.Add(randomImage(t, arch), released.Reference)
			if err != nil {
				t.Fatal(err)
			}
			if err := store.Sign(key, released.Reference, digest); err != nil {
				t.Fatal(err)
			}
			released.Digests["linux/"+arch] = digest.String()
			statement := fmt.Sprintf(`{"_type":"x","predicate":{"name":%q}}`, i.name)
			put(t, filepath.Join(dist, "sbom", i.name+".linux-"+arch+".spdx.json"), statement)
			put(t, filepath.Join(dist, "provenance", i.name+".linux-"+arch+".json"), statement)
		}
		release.Images = append(release.Images, released)
	}
	// A layout with the sets that the images are of.
	writeLayout(t, &store, release, filepath.Join(dist, "oci"))
	var platforms []v1.Platform
	var orders []airgap.Order
	for _, arch := range arches {
		platform := v1.Platform{OS: "linux", Architecture: arch}
		platforms = append(platforms, platform)
		for _, set := range []string{"core", "canal"} {
			orders = append(orders, airgap.Order{
				Name: airgap.BundleName(set, platform), Source: airgap.Layout(filepath.Join(dist, "oci")),
				Selection: airgap.Selection{Sets: []string{set}, Platform: platform},
			})
		}
	}
	if _, err := airgap.Create(t.Context(), orders, airgap.CreateOptions{OutputDir: dist}); err != nil {
		t.Fatal(err)
	}
	data, err := json.MarshalIndent(release, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dist, "release.json"), string(data))
	put(t, filepath.Join(dist, "LICENSE"), "the licence\n")
	for _, a := range arches {
		name := "rke2"
		if a != arch {
			name += ".linux-" + a
		}
		nodeBinary(t, filepath.Join(dist, name), string(data), "-s -w", "GOARCH="+a)
	}
	signed := map[string][]byte{}
	return Settings{
		Dist: dist, Out: filepath.Join(t.TempDir(), "release"), Licence: filepath.Join(dist, "LICENSE"), Release: data,
		Platforms: platforms, Host: arch, Epoch: time.Unix(1000, 0), PublicKey: public,
		Sign: func(ctx context.Context, content []byte) ([]byte, error) {
			// As a key in a file signs: the same for the same content.
			if sig, ok := signed[string(content)]; ok {
				return sig, nil
			}
			sig, err := key.Sign(ctx, content)
			signed[string(content)] = []byte(base64.StdEncoding.EncodeToString(sig))
			return signed[string(content)], err
		},
		Describe: func(_ string, _ v1.Platform, digest string) (Description, error) {
			return Description{SBOM: []byte(`{"sbom of":"` + digest + `"}`), Provenance: []byte(`{"provenance of":"` + digest + `"}`)}, nil
		},
	}
}

func randomImage(t *testing.T, arch string) v1.Image {
	t.Helper()
	image, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", arch
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

func put(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeLayout writes a store as the OCI layout that rke2-build leaves.
func writeLayout(t *testing.T, store *fake.Store, release images.Release, dir string) {
	t.Helper()
	index, err := store.Index()
	if err != nil {
		t.Fatal(err)
	}
	index = index.DeepCopy()
	for n, d := range index.Manifests {
		for _, i := range release.Images {
			if d.Annotations[airgap.AnnotationImageName] == i.Reference {
				index.Manifests[n].Annotations[airgap.AnnotationSets] = strings.Join(i.Sets, ",")
			}
		}
	}
	data, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "index.json"), string(data))
	put(t, filepath.Join(dir, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
	for _, d := range index.Manifests {
		raw := blob(t, store, dir, d.Digest)
		m, err := v1.ParseManifest(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range append([]v1.Descriptor{m.Config}, m.Layers...) {
			blob(t, store, dir, l.Digest)
		}
	}
}

func blob(t *testing.T, store *fake.Store, dir string, h v1.Hash) []byte {
	t.Helper()
	r, err := store.Blob(h)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "blobs", h.Algorithm, h.Hex), string(raw))
	return raw
}

// nodeBinary builds a program that has a text in it.
func nodeBinary(t *testing.T, path, text, ldflags string, env ...string) {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "release.json"), text)
	put(t, filepath.Join(dir, "go.mod"), "module node\n\ngo 1.26\n")
	put(t, filepath.Join(dir, "main.go"), "package main\n\nimport _ \"embed\"\n\n//go:embed release.json\nvar release string\n\nfunc main() { println(release) }\n")
	cmd := exec.Command("go", "build", "-ldflags", ldflags, "-o", path)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath", "GOFIPS140=off"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestLay(t *testing.T) {
	s := products(t)
	made, err := Lay(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range made {
		names = append(names, strings.ReplaceAll(a.Name, arch, "ARCH"))
		if content, err := os.ReadFile(filepath.Join(s.Out, a.Name)); err != nil || sumOf(string(content)) != a.SHA256 || int64(len(content)) != a.Size {
			t.Errorf("%s is said to have %d bytes, sha256:%s: %v", a.Name, a.Size, a.SHA256, err)
		}
	}
	want := []string{
		"calico.linux-ARCH.provenance.json", "calico.linux-ARCH.spdx.json", "cosign.pub", "etcd.linux-ARCH.provenance.json", "etcd.linux-ARCH.spdx.json",
		"install.sh", "rke2-images-canal.linux-ARCH.tar", "rke2-images-canal.linux-ARCH.txt", "rke2-images-core.linux-ARCH.tar", "rke2-images-core.linux-ARCH.txt",
		"rke2-images.linux-ARCH.tar", "rke2-images.linux-ARCH.txt", "rke2.linux-ARCH", "rke2.linux-ARCH.provenance.json", "rke2.linux-ARCH.spdx.json", "rke2.linux-ARCH.tar.gz",
		"sha256sum-ARCH.txt", "sha256sum-ARCH.txt.sig",
	}
	if !slices.Equal(names, want) {
		t.Errorf("laid out:\n%s\nwant:\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	cmd := exec.Command("sha256sum", "--check", "--strict", "--quiet", "sha256sum-"+arch+".txt")
	cmd.Dir = s.Out
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(s.Out, "rke2-images.linux-"+arch+".txt")); err != nil || string(got) != "docker.io/rancher/calico:v1\ndocker.io/rancher/etcd:v1\n" {
		t.Errorf("the base archive's list is %q, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(s.Out, "etcd.linux-"+arch+".spdx.json")); err != nil || string(got) != "{\"name\":\"etcd\"}\n" {
		t.Errorf("etcd's SBOM is %q, %v", got, err)
	}
	checkTarball(t, filepath.Join(s.Out, "rke2.linux-"+arch+".tar.gz"), filepath.Join(s.Dist, "rke2"))

	// Again, elsewhere: the same bytes. In the same place: the folder is replaced whole.
	put(t, filepath.Join(s.Out, "stale.txt"), "of an earlier release")
	first := s.Out
	for _, out := range []string{filepath.Join(t.TempDir(), "again"), first} {
		s.Out = out
		again, err := Lay(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(again, made) {
			t.Errorf("made again:\n%v\nwant\n%v", again, made)
		}
	}
	if _, err := os.Stat(filepath.Join(first, "stale.txt")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an earlier release's file is left: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(first), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Two platforms share a folder; each has a list of its own, with what is common in both.
func TestLayPlatforms(t *testing.T) {
	s := products(t, "amd64", "arm64")
	if _, err := Lay(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"amd64", "arm64"} {
		list, err := os.ReadFile(filepath.Join(s.Out, "sha256sum-"+a+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[a]
		for _, want := range []string{"  install.sh\n", "  cosign.pub\n", "  rke2.linux-" + a + ".tar.gz\n", "  rke2-images.linux-" + a + ".tar\n", "  etcd.linux-" + a + ".spdx.json\n"} {
			if !strings.Contains(string(list), want) {
				t.Errorf("the list of %s has no line %q:\n%s", a, want, list)
			}
		}
		if strings.Contains(string(list), other) {
			t.Errorf("the list of %s has files of %s:\n%s", a, other, list)
		}
		if _, err := os.Stat(filepath.Join(s.Out, "sha256sum-"+a+".txt.sig")); err != nil {
			t.Error(err)
		}
		checkTarball(t, filepath.Join(s.Out, "rke2.linux-"+a+".tar.gz"), filepath.Join(s.Out, "rke2.linux-"+a))
	}
}

func checkTarball(t *testing.T, file, binary string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("the archive says when (%s) and from what (%q) it was made", z.ModTime, z.Name)
	}
	var files []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 1000 {
			t.Errorf("%s is of %d:%d, %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		files = append(files, fmt.Sprintf("%s %o", h.Name, h.Mode))
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := os.ReadFile(binary); h.Name == "bin/rke2" && !bytes.Equal(content, want) {
			t.Error("bin/rke2 has other bytes than the node binary")
		}
	}
	want := []string{
		"bin/rke2 755", "bin/rke2-killall.sh 755", "bin/rke2-uninstall.sh 755",
		"lib/systemd/system/rke2-agent.env 644", "lib/systemd/system/rke2-agent.service 644",
		"lib/systemd/system/rke2-server.env 644", "lib/systemd/system/rke2-server.service 644",
		"share/rke2/LICENSE.txt 644", "share/rke2/rke2-cis-sysctl.conf 644",
	}
	if !slices.Equal(files, want) {
		t.Errorf("the archive has %q, want %q", files, want)
	}
}

// What is not of one release is not laid out, and what was there stays.
func TestLayRefuses(t *testing.T) {
	whole, another := products(t), products(t)
	for _, c := range []struct {
		name, message string
		spoil         func(t *testing.T, s *Settings)
	}{
		{"another key", "the key is not the release's", func(t *testing.T, s *Settings) {
			public, err := newKey(t).Public()
			if err != nil {
				t.Fatal(err)
			}
			s.PublicKey = public
		}},
		{"no node binary", "no such file", func(t *testing.T, s *Settings) { remove(t, s.Dist, "rke2") }},
		{"a node binary of another release", "was built for another release", func(t *testing.T, s *Settings) {
			nodeBinary(t, filepath.Join(s.Dist, "rke2"), "{}", "-s -w")
		}},
		{"a node binary with symbols", "is not stripped", func(t *testing.T, s *Settings) {
			nodeBinary(t, filepath.Join(s.Dist, "rke2"), string(s.Release), "")
		}},
		{"a node binary that is none", "bad magic number", func(t *testing.T, s *Settings) {
			put(t, filepath.Join(s.Dist, "rke2"), "#!/bin/sh\necho this is long enough to have a header\n")
		}},
		{"a node binary for another machine", "run make rke2 PLATFORMS=linux/", func(t *testing.T, s *Settings) {
			other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[arch]
			s.Platforms[0].Architecture, s.Host = other, other
		}},
		{"no core bundle", "has no bundle of the set core", func(t *testing.T, s *Settings) { remove(t, s.Dist, "rke2-images-core.linux-"+arch+".tar") }},
		{"a bundle cut short", "rke2-images-canal", func(t *testing.T, s *Settings) {
			if err := os.Truncate(filepath.Join(s.Dist, "rke2-images-canal.linux-"+arch+".tar"), 3000); err != nil {
				t.Fatal(err)
			}
		}},
		{"a bundle of another release", "and release v1.2.3+rke2r1 has", func(t *testing.T, s *Settings) {
			for _, file := range []string{"rke2-images-core.linux-" + arch + ".tar", "rke2-images-canal.linux-" + arch + ".tar"} {
				data, err := os.ReadFile(filepath.Join(another.Dist, file))
				if err != nil {
					t.Fatal(err)
				}
				put(t, filepath.Join(s.Dist, file), string(data))
			}
		}},
		{"no SBOM", "etcd.linux-" + arch + ".spdx.json", func(t *testing.T, s *Settings) { remove(t, s.Dist, "sbom/etcd.linux-"+arch+".spdx.json") }},
		{"an SBOM that states nothing", "it states nothing", func(t *testing.T, s *Settings) {
			put(t, filepath.Join(s.Dist, "sbom/etcd.linux-"+arch+".spdx.json"), "{}")
		}},
		{"a folder of something else", "is not a release's", func(t *testing.T, s *Settings) {
			remove(t, s.Out, scriptName)
			put(t, filepath.Join(s.Out, "thesis.tex"), "precious")
		}},
		{"a signer that fails", "no such slot", func(t *testing.T, s *Settings) {
			s.Sign = func(context.Context, []byte) ([]byte, error) { return nil, errors.New("no such slot") }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := whole
			s.Dist, s.Out = filepath.Join(t.TempDir(), "dist"), filepath.Join(t.TempDir(), "release")
			s.Platforms = slices.Clone(whole.Platforms)
			if err := os.CopyFS(s.Dist, os.DirFS(whole.Dist)); err != nil {
				t.Fatal(err)
			}
			put(t, filepath.Join(s.Out, scriptName), "earlier")
			c.spoil(t, &s)
			if _, err := Lay(t.Context(), s); err == nil || !strings.Contains(err.Error(), c.message) {
				t.Errorf("%v, want %q", err, c.message)
			}
			entries, err := os.ReadDir(s.Out)
			if err != nil || len(entries) != 1 {
				t.Errorf("what was there: %v, %v", entries, err)
			}
			if left, err := filepath.Glob(filepath.Join(filepath.Dir(s.Out), ".*")); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}
