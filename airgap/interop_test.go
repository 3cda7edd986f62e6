package airgap

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/tests/tools"
)

// The tests of this file hold a real bundle, the product of `make airgap`, against
// tools that others wrote. What is absent skips its test on a developer's machine, and
// fails it where CI=true.

// dist is the folder of products.
func dist() string {
	if d := os.Getenv("RKE2_DIST"); d != "" {
		return d
	}
	return filepath.Join("..", "dist")
}

// product is the real bundle.
func product(t *testing.T) *Archive {
	t.Helper()
	p, err := filepath.Abs(filepath.Join(dist(), BundleName("core", amd64)+".tar"))
	noError(t, err)
	if _, err := os.Stat(p); err != nil {
		tools.Absent(t, "no bundle to read: run make airgap (%v)", err)
	}
	return mustOpen(t, p)
}

// run runs a tool and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

func TestProductVerifies(t *testing.T) {
	a := product(t)
	if !a.IsBundle() || !slices.Equal(a.Sets(), []string{"core"}) {
		t.Errorf("bundle %v, sets %q", a.IsBundle(), a.Sets())
	}
	noError(t, readAll(a.Path()))
}

func TestSkopeo(t *testing.T) {
	a := product(t)
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		tools.Absent(t, "skopeo is not installed: apt-get install skopeo")
	}
	dir := t.TempDir()
	for i, img := range a.Images() {
		ref := img.Refs[0].String()
		t.Run("oci-archive "+ref, func(t *testing.T) {
			to := filepath.Join(dir, fmt.Sprint("oci", i))
			run(t, skopeo, "--insecure-policy", "copy", "oci-archive:"+a.Path()+":"+ref, "oci:"+to+":x")
			idx, err := Layout(to).Index()
			noError(t, err)
			if got := idx.Manifests[0].Digest; got != img.Desc.Digest {
				t.Errorf("skopeo found the digest %s, not %s", got, img.Desc.Digest)
			}
		})
		t.Run("docker-archive "+ref, func(t *testing.T) {
			// skopeo makes a manifest of its own here; config and content must be ours.
			to := filepath.Join(dir, fmt.Sprint("docker", i))
			run(t, skopeo, "--insecure-policy", "copy", "docker-archive:"+a.Path()+":"+ref, "dir:"+to)
			raw, err := os.ReadFile(filepath.Join(to, "manifest.json"))
			noError(t, err)
			m, _, err := a.Manifest(img.Desc.Digest)
			noError(t, err)
			if !bytes.Contains(raw, []byte(m.Config.Digest.Hex)) {
				t.Errorf("skopeo's manifest does not have our config %s: %s", m.Config.Digest, raw)
			}
		})
	}
	t.Run("what it writes is read", func(t *testing.T) {
		ref := a.Images()[0].Refs[0].String()
		for _, kind := range []string{"oci-archive", "docker-archive"} {
			out := filepath.Join(dir, kind+".tar")
			// From its own kind: skopeo writes no docker-archive from zstd layers.
			run(t, skopeo, "--insecure-policy", "copy", kind+":"+a.Path()+":"+ref, kind+":"+out+":"+ref)
			back := mustOpen(t, out)
			if len(back.Images()) != 1 || !back.Images()[0].Has(a.Images()[0].Refs[0]) {
				t.Errorf("%s: %+v", kind, back.Images())
			}
			if kind == "oci-archive" {
				noError(t, readAll(out))
				if back.Images()[0].Desc.Digest != a.Images()[0].Desc.Digest {
					t.Errorf("digest %s", back.Images()[0].Desc.Digest)
				}
			}
		}
	})
}

func TestCrane(t *testing.T) {
	a := product(t)
	crane := tools.Build(t, "airgap/testdata/tools/crane", "crane")
	dir := t.TempDir()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(registry.NewDiskBlobHandler(dir))))
	defer s.Close()
	repo := strings.TrimPrefix(s.URL, "http://") + "/all"
	layout := filepath.Join(t.TempDir(), "layout")
	noError(t, Unpack(t.Context(), a.Path(), UnpackOptions{Dir: layout}))
	run(t, crane, "push", "--index", layout, repo+":v1")
	for _, img := range a.Images() {
		ref := img.Refs[0]
		t.Run(ref.String(), func(t *testing.T) {
			// As a docker-archive, straight from the bundle: a manifest of crane's own, and
			// the same config and layers. (Its library passes zstd layers of such archives
			// on, but can't look into them.)
			m, raw, err := a.Manifest(img.Desc.Digest)
			noError(t, err)
			if got := run(t, crane, "digest", "--tarball", a.Path(), ref.String()); !strings.HasPrefix(got, "sha256:") {
				t.Errorf("crane digest: %q", got)
			}
			theirs, err := tarball.ImageFromPath(a.Path(), &ref)
			noError(t, err)
			sameParts(t, theirs, m)
			// As an OCI layout, through a registry: the same bytes come out.
			got := run(t, crane, "manifest", repo+"@"+img.Desc.Digest.String())
			if strings.TrimSuffix(got, "\n") != string(raw) {
				t.Errorf("crane's manifest is another: %s", got)
			}
			run(t, crane, "validate", "--fast", "--remote", repo+"@"+img.Desc.Digest.String())
			to := filepath.Join(t.TempDir(), "pulled")
			run(t, crane, "pull", "--format", "oci", repo+"@"+img.Desc.Digest.String(), to)
			for _, l := range m.Layers {
				f, err := Layout(to).Blob(l.Digest)
				noError(t, err)
				_, err = io.Copy(io.Discard, verify(f, l.Digest, l.Size))
				noError(t, errors.Join(err, f.Close()))
			}
		})
	}
}

// sameParts reads an image's config and compressed layers and compares their digests.
func sameParts(t *testing.T, img v1.Image, want *v1.Manifest) {
	t.Helper()
	if h, err := img.ConfigName(); err != nil || h != want.Config.Digest {
		t.Errorf("config %s, %v", h, err)
	}
	layers, err := img.Layers()
	noError(t, err)
	if len(layers) != len(want.Layers) {
		t.Fatalf("%d layers", len(layers))
	}
	for i, l := range layers {
		r, err := l.Compressed()
		noError(t, err)
		h, _, err := v1.SHA256(r)
		if err := errors.Join(err, r.Close()); err != nil || h != want.Layers[i].Digest {
			t.Errorf("layer %d: %s, not %s (%v)", i, h, want.Layers[i].Digest, err)
		}
	}
}

func TestCosign(t *testing.T) {
	a := product(t)
	cosign := tools.Build(t, "airgap/testdata/tools/cosign", "cosign")
	key := filepath.Join(dist(), "cosign.pub")
	if _, err := os.Stat(key); err != nil {
		tools.Absent(t, "no public key beside the bundle: %v", err)
	}
	t.Setenv("HOME", t.TempDir()) // cosign keeps a trust root there
	other := file(t, "other.pub", newFixture(t).pub)
	for _, img := range a.Images() {
		ref := img.Refs[0]
		t.Run(ref.String(), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "one")
			noError(t, Unpack(t.Context(), a.Path(), UnpackOptions{Dir: dir, Image: ref.String()}))
			out := run(t, cosign, "verify", "--key", key, "--private-infrastructure=true", "--local-image", dir, "-a", "tag="+ref.TagStr())
			if !strings.Contains(out, img.Desc.Digest.String()) {
				t.Errorf("cosign verified something else: %s", out)
			}
			for what, args := range map[string][]string{
				"another key": {"--key", other},
				"another tag": {"--key", key, "-a", "tag=v0"},
			} {
				cmd := exec.CommandContext(t.Context(), cosign, append([]string{"verify", "--private-infrastructure=true", "--local-image", dir}, args...)...)
				if out, err := cmd.CombinedOutput(); err == nil {
					t.Errorf("%s: cosign accepts it: %s", what, out)
				}
			}
		})
	}
}

// TestContainerd imports the bundle with ctr into a containerd, both from the bundle
// itself, and reads what they export again.
func TestContainerd(t *testing.T) {
	a := product(t)
	if os.Getuid() != 0 {
		tools.Absent(t, "containerd needs root")
	}
	dir, err := os.MkdirTemp("", "ctd") // short: a socket's path is
	noError(t, err)
	t.Cleanup(func() { noError(t, os.RemoveAll(dir)) })
	extract(t, a, dir, "bin/containerd", "bin/ctr")
	ctr := startContainerd(t, dir)
	ctr("images", "import", "--local", "--snapshotter", "native", a.Path())
	listed := ctr("images", "ls")
	for _, img := range a.Images() {
		if !strings.Contains(listed, img.Refs[0].String()) || !strings.Contains(listed, img.Desc.Digest.String()) {
			t.Errorf("%s (%s) is not in containerd:\n%s", img.Refs[0], img.Desc.Digest, listed)
		}
	}
	if n := strings.Count(listed, "\n"); n != 1+len(a.Images()) {
		t.Errorf("containerd has other images, too:\n%s", listed)
	}
	out := filepath.Join(dir, "export.tar")
	var refs []string
	for _, img := range a.Images() {
		refs = append(refs, img.Refs[0].String())
	}
	ctr(append([]string{"images", "export", out}, refs...)...)
	back := mustOpen(t, out)
	var got []string
	for _, img := range back.Images() {
		got = append(got, img.Refs[0].String())
	}
	if !slices.Equal(got, refs) {
		t.Errorf("exported %q", got)
	}
	noError(t, readAll(out))
}

// extract takes files out of the runtime image's layers.
func extract(t *testing.T, a *Archive, dir string, names ...string) {
	t.Helper()
	i := slices.IndexFunc(a.Images(), func(i Image) bool { return strings.HasSuffix(i.Refs[0].RepositoryStr(), "/rke2-runtime") })
	if i < 0 {
		t.Fatal("no runtime image in the bundle")
	}
	m, _, err := a.Manifest(a.Images()[i].Desc.Digest)
	noError(t, err)
	layers := map[v1.Hash]bool{}
	for _, l := range m.Layers {
		layers[l.Digest] = true
	}
	found := 0
	noError(t, a.Walk(t.Context(), func(h v1.Hash) bool { return layers[h] }, func(_ v1.Descriptor, r io.Reader) error {
		z, err := zstd.NewReader(r)
		if err != nil {
			return err
		}
		defer z.Close()
		for tr := tar.NewReader(z); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if !slices.Contains(names, h.Name) {
				continue
			}
			found++
			f, err := os.OpenFile(filepath.Join(dir, filepath.Base(h.Name)), os.O_CREATE|os.O_WRONLY, 0o755)
			if err != nil {
				return err
			}
			_, err = io.Copy(f, tr)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
	}))
	if found != len(names) {
		t.Fatalf("%d of %q are in the runtime image", found, names)
	}
}

// startContainerd runs containerd with everything it keeps under dir and returns ctr.
func startContainerd(t *testing.T, dir string) func(args ...string) string {
	t.Helper()
	config := filepath.Join(dir, "config.toml")
	socket := filepath.Join(dir, "c.sock")
	noError(t, os.WriteFile(config, fmt.Appendf(nil, `version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket), 0o600))
	logs, err := os.Create(filepath.Join(dir, "log"))
	noError(t, err)
	cmd := exec.Command(filepath.Join(dir, "containerd"), "--config", config)
	cmd.Stdout, cmd.Stderr = logs, logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	noError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed by a signal
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		logs.Close()
	})
	ctr := filepath.Join(dir, "ctr")
	for limit := time.Now().Add(30 * time.Second); exec.Command(ctr, "--address", socket, "version").Run() != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			b, _ := os.ReadFile(logs.Name())
			t.Fatalf("containerd does not answer:\n%s", b)
		}
	}
	return func(args ...string) string {
		t.Helper()
		return run(t, ctr, append([]string{"--address", socket}, args...)...)
	}
}
