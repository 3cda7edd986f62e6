package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/fake"
)

const bundleImage = "docker.io/rancher/rke2-runtime:v1.35.4-rke2r1"

// bundleFixture makes a layout with one signed image of set core, and the key's file.
func bundleFixture(t *testing.T) (layout, key string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	img, err := random.Image(5000, 2)
	must(err)
	img = mutate.MediaType(mutate.ConfigMediaType(img, types.OCIConfigJSON), types.OCIManifestSchema1)
	cfg, err := img.ConfigFile()
	must(err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, cfg)
	must(err)
	var store fake.Store
	h, err := store.Add(img, bundleImage)
	must(err)
	signer, err := fake.NewKey()
	must(err)
	must(store.Sign(signer, bundleImage, h))
	pub, err := signer.Public()
	must(err)
	key = filepath.Join(dir, "signer.pub")
	must(os.WriteFile(key, pub, 0o600))
	tar := filepath.Join(dir, "x.tar")
	must(store.WriteBundle(t.Context(), tar, "amd64"))
	layout = filepath.Join(dir, "oci")
	must(airgap.Unpack(t.Context(), tar, airgap.UnpackOptions{Dir: layout}))

	idx, err := airgap.Layout(layout).Index()
	must(err)
	for _, d := range idx.Manifests {
		if d.Annotations[airgap.AnnotationKind] == airgap.KindImage {
			d.Annotations[airgap.AnnotationSets] = "core"
		}
	}
	b, err := json.Marshal(idx)
	must(err)
	must(os.WriteFile(filepath.Join(layout, "index.json"), b, 0o600))
	return layout, key
}

func TestBundleCommands(t *testing.T) {
	layout, key := bundleFixture(t)
	out := t.TempDir()
	bundle := filepath.Join(out, "rke2-images-core.linux-amd64.tar")
	got, err := run("bundle", "airgap", "--layout", layout, "--output-dir", out)
	if err != nil || !strings.Contains(got, bundle) || !strings.Contains(got, "1 image  sha256:") || !strings.Contains(got, "/s\n") {
		t.Fatalf("%v\n%s", err, got)
	}
	for _, f := range []string{"rke2-images-core.linux-amd64.txt", "sha256sum-amd64.txt"} {
		if _, err := os.Stat(filepath.Join(out, f)); err != nil {
			t.Error(err)
		}
	}
	damaged := filepath.Join(out, "damaged.tar")
	b, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(damaged, b, 0o600); err != nil {
		t.Fatal(err)
	}
	noKeys := []string{"--trust-dir", t.TempDir()}

	for _, c := range []struct {
		what string
		args []string
		says []string
		err  string
	}{
		{"inspect", []string{"bundle", "inspect", "--key", key, "--layers", bundle}, []string{bundleImage, "linux/amd64", "manifest  sha256:", "key "}, ""},
		{"inspect without keys", append([]string{"bundle", "inspect", bundle}, noKeys...), []string{"untrusted", "no trusted keys"}, ""},
		{"inspect as JSON", []string{"bundle", "inspect", "--key", key, "-o", "json", bundle}, []string{`"state": "verified"`, `"bundle": true`}, ""},
		{"inspect in another format", []string{"bundle", "inspect", "-o", "yaml", bundle}, nil, `"yaml" is not known`},
		{"inspect no file", []string{"bundle", "inspect", filepath.Join(out, "absent.tar")}, nil, "no such file"},
		{"verify", []string{"bundle", "verify", "--key", key, bundle}, []string{"ok  " + bundleImage, "1 image, 0 attestations, "}, ""},
		{"verify as JSON", []string{"bundle", "verify", "--key", key, "-o", "json", bundle}, []string{`"ok": true`}, ""},
		{"verify with the host's keys", []string{"bundle", "verify", "--trust-dir", filepath.Dir(key), bundle}, []string{"ok  " + bundleImage}, ""},
		{"verify without keys", append([]string{"bundle", "verify", bundle}, noKeys...), []string{"FAULT  " + bundleImage + ": no trusted keys"}, "1 fault found"},
		{"verify damage", []string{"bundle", "verify", "--key", key, damaged}, []string{"FAULT  "}, " found: do not use"},
		{"verify both", []string{"bundle", "verify", "--key", key, bundle, damaged}, []string{"ok  " + bundleImage, "FAULT  "}, " found: do not use"},
		{"verify with a broken key", []string{"bundle", "verify", "--key", bundle, bundle}, nil, "reading public key"},
		{"unpack", []string{"bundle", "unpack", bundle, filepath.Join(out, "l"), "--image", "rancher/rke2-runtime:v1.35.4-rke2r1"}, []string{"unpacked into"}, ""},
		{"unpack again", []string{"bundle", "unpack", bundle, filepath.Join(out, "l")}, nil, "is not empty"},
		{"another platform", []string{"bundle", "airgap", "--layout", layout, "--output-dir", out, "--platform", "linux"}, nil, "linux/amd64"},
		{"another set", []string{"bundle", "airgap", "--layout", layout, "--output-dir", out, "--set", "nope"}, nil, "no image of set nope"},
		{"too few arguments", []string{"bundle", "unpack", bundle}, nil, "at least 2 arg(s)"},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, err := run(c.args...)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error %v\n%s", err, got)
			}
			for _, s := range c.says {
				if !strings.Contains(got, s) {
					t.Errorf("no %q in:\n%s", s, got)
				}
			}
		})
	}
}

// TestBundleHelp: every command shows how it is used.
func TestBundleHelp(t *testing.T) {
	for _, c := range append(newBundleCommand().Commands(), newBundleCommand()) {
		if c.Example == "" || c.Long == "" || c.Short == "" {
			t.Errorf("%s lacks help", c.Name())
		}
	}
}

func TestBundleTrustUsesTheRelease(t *testing.T) {
	// The committed placeholder trusts nothing and pins nothing.
	p, sets, err := bundleTrust(nil, t.TempDir())
	if err != nil || len(p.ReleaseKeys)+len(p.OperatorKeys)+len(p.Pins)+len(sets) != 0 {
		t.Errorf("%+v %v %v", p, sets, err)
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 185_843_712: "185.8 MB", 1_440_000_000: "1.44 GB"} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
