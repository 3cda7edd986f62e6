package serve

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/crypto/bcrypt"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/tests/distribution"
	"github.com/rancher/rke2/tests/tools"
)

// The tests of this file pull the products of `make airgap` with clients that others
// wrote: crane, skopeo, cosign, and the containerd that the runtime image carries.

const pause = "rancher/mirrored-pause"

// products starts a server of the core bundle, with TLS and a password.
func products(t *testing.T) (r *running, ca, dist string, images []airgap.Image) {
	t.Helper()
	dist = os.Getenv("RKE2_DIST")
	if dist == "" {
		dist = filepath.Join("..", "..", "dist")
	}
	dist, err := filepath.Abs(dist)
	if err != nil {
		t.Fatal(err)
	}
	bundle, key := filepath.Join(dist, "rke2-images-core.linux-amd64.tar"), filepath.Join(dist, "cosign.pub")
	for _, p := range []string{bundle, key} {
		if _, err := os.Stat(p); err != nil {
			tools.Absent(t, "no bundle to serve: run make airgap (%v)", err)
		}
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(distribution.Password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(users, []byte(distribution.User+":"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := LoadUsers(users)
	if err != nil {
		t.Fatal(err)
	}
	conf, ca := testTLS(t)
	r = start(t, Options{Paths: []string{bundle}, Catalog: catalog.Options{Policy: policy(t, key)}, TLS: conf, Users: u})
	a, err := airgap.Open(bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	return r, ca, dist, a.Images()
}

// client runs a tool that trusts the server's certificate and knows its password.
func client(t *testing.T, r *running, ca string) func(name string, args ...string) string {
	env := append(os.Environ(), "HOME="+t.TempDir(), "SSL_CERT_FILE="+ca, "DOCKER_CONFIG="+distribution.DockerConfig(t, r.addr),
		"REGISTRY_AUTH_FILE="+filepath.Join(distribution.DockerConfig(t, r.addr), "config.json"))
	return func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
		}
		return string(out)
	}
}

// at is an image's reference at the server.
func at(r *running, img airgap.Image) string {
	ref := img.Refs[0]
	return r.addr + "/" + ref.RepositoryStr() + ":" + ref.TagStr()
}

func TestCrane(t *testing.T) {
	crane := tools.Build(t, "airgap/testdata/tools/crane", "crane")
	r, ca, _, images := products(t)
	run := client(t, r, ca)
	if got := strings.Fields(run(crane, "catalog", r.addr)); len(got) != len(images) {
		t.Errorf("the catalog is %q", got)
	}
	for _, img := range images {
		if got := strings.TrimSpace(run(crane, "digest", at(r, img))); got != img.Desc.Digest.String() {
			t.Errorf("%s: crane finds %s, not %s", at(r, img), got, img.Desc.Digest)
		}
	}
	img := find(t, images, pause)
	to := filepath.Join(t.TempDir(), "pause.tar")
	run(crane, "pull", at(r, img), to)
	if _, err := tarball.ImageFromPath(to, nil); err != nil {
		t.Error(err)
	}
	for _, img := range images {
		to := filepath.Join(t.TempDir(), "oci")
		run(crane, "pull", "--format", "oci", at(r, img), to)
		blobs, err := filepath.Glob(filepath.Join(to, "blobs", "sha256", "*"))
		if err != nil || len(blobs) < 3 {
			t.Errorf("%s: %d blobs, %v", at(r, img), len(blobs), err)
		}
		for _, b := range blobs {
			content, err := os.ReadFile(b)
			if err != nil || distribution.Digest(content) != "sha256:"+filepath.Base(b) {
				t.Errorf("%s: blob %s is another (%v)", at(r, img), filepath.Base(b), err)
			}
		}
	}
	if tags := run(crane, "ls", r.addr+"/"+pause); !strings.Contains(tags, ".sig") || !strings.Contains(tags, img.Refs[0].TagStr()) {
		t.Errorf("tags %q", tags)
	}
}

func find(t *testing.T, images []airgap.Image, repository string) airgap.Image {
	t.Helper()
	for _, i := range images {
		if i.Refs[0].RepositoryStr() == repository {
			return i
		}
	}
	t.Fatalf("%s is not in the bundle", repository)
	return airgap.Image{}
}

func TestSkopeo(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		tools.Absent(t, "skopeo is not installed: apt-get install skopeo")
	}
	r, ca, _, images := products(t)
	run := client(t, r, ca)
	for _, name := range []string{pause, "rancher/hardened-etcd"} {
		img := find(t, images, name)
		to := filepath.Join(t.TempDir(), "oci")
		run(skopeo, "--insecure-policy", "copy", "docker://"+at(r, img), "oci:"+to+":x")
		idx, err := airgap.Layout(to).Index()
		if err != nil || idx.Manifests[0].Digest != img.Desc.Digest {
			t.Errorf("%s: skopeo copied %+v, %v", name, idx, err)
		}
	}
	if out := run(skopeo, "list-tags", "docker://"+r.addr+"/"+pause); !strings.Contains(out, find(t, images, pause).Refs[0].TagStr()) {
		t.Errorf("%s", out)
	}
}

func TestCosign(t *testing.T) {
	cosign := tools.Build(t, "airgap/testdata/tools/cosign", "cosign")
	r, ca, dist, images := products(t)
	run := client(t, r, ca)
	ref := at(r, find(t, images, pause))
	run(cosign, "verify", "--key", filepath.Join(dist, "cosign.pub"), "--private-infrastructure=true", ref)
	out := run(cosign, "verify-attestation", "--key", filepath.Join(dist, "cosign.pub"), "--private-infrastructure=true", "--type", "spdxjson", ref)
	if !strings.Contains(out, "payload") {
		t.Errorf("cosign shows no attestation: %s", out)
	}
}

// TestContainerd pulls with the containerd that nodes run, as a mirror of docker.io: it
// asks for the image by its own name.
func TestContainerd(t *testing.T) {
	if os.Getuid() != 0 {
		tools.Absent(t, "containerd needs root")
	}
	r, ca, dist, images := products(t)
	bin := runtimeBin(t, filepath.Join(dist, "rke2-images-core.linux-amd64.tar"), images)
	dir := t.TempDir()
	socket := filepath.Join(dir, "c.sock")
	hosts := filepath.Join(dir, "hosts", "docker.io")
	if err := os.MkdirAll(hosts, 0o755); err != nil {
		t.Fatal(err)
	}
	config := "version = 3\nroot = \"" + dir + "/root\"\nstate = \"" + dir + "/state\"\n" +
		"disabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.grpc.v1.cri\"]\n" +
		"[grpc]\n  address = \"" + socket + "\"\n[ttrpc]\n  address = \"" + socket + ".ttrpc\"\n"
	mirror := "server = \"https://" + r.addr + "\"\n[host.\"https://" + r.addr + "\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"" + ca + "\"\n"
	for path, content := range map[string]string{filepath.Join(dir, "config.toml"): config, filepath.Join(hosts, "hosts.toml"): mirror} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var logs bytes.Buffer
	daemon := exec.Command(filepath.Join(bin, "containerd"), "--config", filepath.Join(dir, "config.toml"))
	daemon.Stdout, daemon.Stderr = &logs, &logs
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait() // it was told to end
		if t.Failed() {
			t.Logf("containerd's log:\n%s", logs.String())
		}
	})
	ctr := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "ctr"), append([]string{"--address", socket, "--namespace", "test"}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for limit := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := ctr("version"); err == nil {
			break
		} else if time.Now().After(limit) {
			t.Fatal("containerd does not answer")
		}
	}
	img := find(t, images, pause)
	out, err := ctr("content", "fetch", "--hosts-dir", filepath.Join(dir, "hosts"), "--user", distribution.User+":"+distribution.Password, img.Refs[0].String())
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err = ctr("images", "ls")
	if err != nil || !strings.Contains(out, img.Desc.Digest.String()) {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = ctr("images", "check")
	if err != nil || !strings.Contains(out, "complete") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Log(out)
}

// runtimeBin takes containerd and ctr out of the runtime image.
func runtimeBin(t *testing.T, bundle string, images []airgap.Image) string {
	t.Helper()
	a, err := airgap.Open(bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	dir := t.TempDir()
	_, err = airgap.Extract(t.Context(), a, airgap.ExtractOptions{
		Dir: dir, Ref: find(t, images, "rancher/rke2-runtime").Refs[0].String(), Paths: []string{"/bin/containerd", "/bin/ctr"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
