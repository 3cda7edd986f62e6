package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
)

// fileImage is an image of one layer with one file.
func fileImage(t *testing.T, name, content string) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}), errOf(io.WriteString(w, content)), w.Close()); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), l)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

func errOf[T any](_ T, err error) error { return err }

// fileBundle is a bundle of two images with a file each; the first has an SBOM that lists
// a package of that version.
func fileBundle(t *testing.T, signer fake.Key, content, version string) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var store fake.Store
	for i, ref := range []string{"docker.io/rancher/app:" + version, "docker.io/rancher/same:v1"} {
		img := fileImage(t, "etc/motd", content)
		if i == 1 {
			img = fileImage(t, "etc/motd", "always")
		}
		h, err := store.Add(img, ref)
		must(err)
		must(store.Sign(signer, ref, h))
		if i == 0 {
			att, err := signer.Attest(airgap.PredicateSPDX, `{"spdxVersion":"SPDX-2.3","packages":[{"name":"libmotd","versionInfo":"`+version+`"}]}`, h)
			must(err)
			must(store.Attest(h, att))
		}
	}
	path := filepath.Join(t.TempDir(), "images-"+version+".tar")
	must(store.WriteBundle(t.Context(), path, "amd64"))
	return path
}

func TestBundleReading(t *testing.T) {
	signer, err := fake.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := signer.Public()
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "signer.pub")
	if err := os.WriteFile(key, pub, 0o600); err != nil {
		t.Fatal(err)
	}
	one, two := fileBundle(t, signer, "hello", "v1"), fileBundle(t, signer, "hello, world", "v2")
	to := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		what string
		args []string
		says []string
		err  string
		code int // of the error; 0: it has none of its own
	}{
		{"list", []string{"list", one, two}, []string{"docker.io/rancher/app:v1\ndocker.io/rancher/same:v1\ndocker.io/rancher/app:v2\n"}, "", 0},
		{"list as JSON", []string{"list", "-o", "json", one}, []string{`"kind": "image"`, `"platform": "linux/amd64"`}, "", 0},
		{"list charts", []string{"list", "--charts", "-o", "json", one}, []string{"[]"}, "", 0},
		{"tree", []string{"inspect", "--tree", "--key", key, one}, []string{"├─ docker.io/rancher/app:v1", "│  ├─ layer  sha256:", "│  └─ attestation  sbom (1 package)", "└─ docker.io/rancher/same:v1"}, "", 0},
		{"tree and layers", []string{"inspect", "--tree", "--layers", one}, nil, "one at a time", 0},
		{"verify contents", []string{"verify", "--key", key, "--contents", one}, []string{"2 layers unpacked"}, "", 0},
		{"an SBOM is required", []string{"verify", "--key", key, "--require", "sbom", one}, []string{"FAULT  docker.io/rancher/same:v1: it has no SBOM that a trusted key signed"}, "1 fault", 0},
		{"attestations are required", []string{"verify", "--key", key, "--require", "attestations", one}, []string{"docker.io/rancher/app:v1: it has no provenance"}, "3 faults", 0},
		{"something else is required", []string{"verify", "--require", "luck", one}, nil, `"luck" is not known`, 0},
		{"extract", []string{"extract", one, "--ref", "rancher/app:v1", "--to", to}, []string{"docker.io/rancher/app:v1: 1 file, 1 folder, 0 links, 5 B in " + to}, "", 0},
		{"extract again", []string{"extract", one, "--ref", "rancher/app:v1", "--to", to}, nil, "is not empty", 0},
		{"extract one", []string{"extract", one, "--ref", "rancher/app:v1", "--path", "/etc/motd", "--to", "-"}, []string{"hello"}, "", 0},
		{"extract all to nowhere", []string{"extract", one, "--to", "-"}, nil, "give it with --path", 0},
		{"extract without a name", []string{"extract", one, "--to", t.TempDir()}, nil, "say which of these:\n  docker.io/rancher/app:v1", 0},
		{"extract of two bundles", []string{"extract", one, two, "--to", t.TempDir()}, nil, "2 bundles were given", 0},
		{"diff of the same", []string{"diff", "--key", key, one, one}, []string{"they hold the same"}, "", 0},
		{"diff", []string{"diff", "--key", key, "--files", one, two}, []string{"~ docker.io/rancher/app   linux/amd64  v1    v2  0 same, -1, +1 ", "1 same, other signatures or attestations", "~ libmotd  -     v1    v2", "~ /etc/motd  content  5 B → 12 B", "delta: ", "1 of 2 images have no SBOM"}, "", 1},
		{"diff, quietly", []string{"diff", "-q", one, two}, nil, "", 1},
		{"diff with nothing", []string{"diff", one, one + ".absent"}, nil, "no such file", 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, err := run(append([]string{"bundle"}, c.args...)...)
			var own interface{ ExitCode() int }
			code := 0
			if errors.As(err, &own) {
				code = own.ExitCode()
			}
			if code != c.code || c.err == "" && err != nil && err.Error() != "" || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error %v, exit code %d\n%s", err, code, got)
			}
			for _, s := range c.says {
				if !strings.Contains(got, s) {
					t.Errorf("no %q in:\n%s", s, got)
				}
			}
			if c.what == "diff, quietly" && got != "" {
				t.Errorf("it says %q", got)
			}
		})
	}
	got, err := run("bundle", "diff", "-o", "json", "--key", key, "--trust-dir", t.TempDir(), one, two)
	_, got, _ = strings.Cut(got, "{")
	var d airgap.Difference
	if jsonErr := json.Unmarshal([]byte("{"+got), &d); jsonErr != nil || err == nil || d.Same || len(d.Images) != 2 || d.Images[0].Attached || !d.Images[1].Attached || d.Delta == nil {
		t.Errorf("%v, %v: %+v", err, jsonErr, d)
	}
	if b, err := os.ReadFile(filepath.Join(to, "etc", "motd")); err != nil || string(b) != "hello" {
		t.Errorf("extracted %q, %v", b, err)
	}
}
