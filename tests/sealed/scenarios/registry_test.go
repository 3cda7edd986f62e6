//go:build linux

package scenarios

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/tests/distribution"
	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// Where the registry is, on the switch.
const (
	registryAddress = "198.51.100.20"
	registryPort    = "5000"
)

// registriesFile is where a node has its settings of registries.
const registriesFile = "/etc/rancher/rke2/registries.yaml"

// depot is a registry with TLS and a password on a host of its own, beside a node that
// has no bundle.
type depot struct {
	*node.Node
	server *distribution.Server
	host   *sealed.Host
	base   map[string]string // the node's data folder before it ever ran
}

// TestRegistry starts a node that has nothing but the address of a registry: what is wrong
// with that is said, and once all is right the node runs, and mends itself from there.
func TestRegistry(t *testing.T) {
	d := newDepot(t, products(t))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	for _, part := range []struct {
		name string
		run  func(context.Context, *testing.T, *depot)
	}{
		{"says what is wrong", saysWhatIsWrong},
		{"boots from the registry", bootsFromRegistry},
		{"restores what has drifted", restoresFromRegistry},
		{"leaves what it cannot restore", leavesDrift},
		{"reached for nothing outside", func(_ context.Context, t *testing.T, d *depot) {
			if sent, err := d.Outside(); err != nil || len(sent) > 0 {
				t.Errorf("the node reached for %q (%v)", sent, err)
			}
		}},
	} {
		started := time.Now()
		if !t.Run(part.name, func(t *testing.T) { part.run(ctx, t, d) }) {
			t.Fatalf("%q failed: what comes after it stands on it", part.name)
		}
		t.Logf("%5.1f s  %s", time.Since(started).Seconds(), part.name)
	}
}

func newDepot(t *testing.T, p node.Products) *depot {
	t.Helper()
	sw, err := sealed.NewSwitch(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sw.Close(); err != nil {
			t.Error(err)
		}
	})
	d := &depot{server: distribution.Lay(t, net.JoinHostPort(registryAddress, registryPort), distribution.Options{})}
	stranger := strangersRuntime(t, p)
	login := distribution.DockerConfig(t, d.server.Addr)
	same := func(path string, writable bool) sealed.Bind {
		return sealed.Bind{Source: path, Target: path, Writable: writable}
	}
	d.host, err = sealed.New(context.WithoutCancel(t.Context()), sealed.Options{
		Name: "depot", Switch: sw, Address: registryAddress + "/24",
		Env: []string{"OTEL_TRACES_EXPORTER=none", "DOCKER_CONFIG=/login", "PATH=/usr/local/bin:/usr/bin:/bin"},
		Binds: []sealed.Bind{
			same(d.server.Folder, true), {Source: d.server.Program, Target: "/usr/local/bin/registry"},
			{Source: login, Target: "/login"}, {Source: p.Binary, Target: "/usr/local/bin/rke2"},
			{Source: p.Bundle, Target: "/bundles/core.tar"}, {Source: stranger, Target: "/bundles/stranger.tar"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(d.host.LogFile("registry"))
			t.Logf("the registry's log:\n%s", b[max(0, len(b)-4<<10):])
		}
		if err := d.host.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := d.host.Start(context.WithoutCancel(t.Context()), "registry", "registry", "serve", d.server.Config); err != nil {
		t.Fatal(err)
	}
	err = sealed.Wait(t.Context(), "the registry to listen", stepLimit, func(ctx context.Context) error {
		conn, err := d.host.DialContext(ctx, "tcp", d.server.Addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"/bundles/core.tar", d.server.Addr}, {"/bundles/core.tar", d.server.Addr + "/cache"},
		{"/bundles/stranger.tar", "--insecure-unverified", d.server.Addr},
	} {
		push := append([]string{"bundle", "push", "--ca-file", d.server.CAFile}, args...)
		if out, err := d.host.Command(t.Context(), "rke2", push...).CombinedOutput(); err != nil {
			t.Fatalf("pushing: %v\n%s", err, out)
		}
	}
	d.Node = newNode(t, node.Options{
		Name: "bare", Binary: p.Binary, Plugins: plugins(t, p), Switch: sw, Address: "198.51.100.21/24",
		Config: map[string]any{"offline": false, "disable-default-registry-endpoint": true},
	})
	ca, err := os.ReadFile(d.server.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFile("/etc/depot-ca.pem", ca); err != nil {
		t.Fatal(err)
	}
	if d.base, err = d.Listing(node.DataDir); err != nil {
		t.Fatal(err)
	}
	return d
}

// strangersRuntime is a bundle with the runtime image as docker.io/wrong/rke2-runtime,
// signed by somebody whom nobody trusts.
func strangersRuntime(t *testing.T, p node.Products) string {
	t.Helper()
	layout := airgap.Layout(p.Layout)
	reference, desc, _, err := fake.Find(layout, runtimeImage)
	if err != nil {
		t.Fatal(err)
	}
	key, err := fake.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	wrong := strings.Replace(reference, "/rancher/", "/wrong/", 1)
	store := fake.Store{Base: layout}
	store.AddBase(desc, wrong)
	if err := store.Sign(key, wrong, desc.Digest); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "stranger.tar")
	if err := store.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return path
}

// rightly is the registries.yaml that is right.
const rightly = `mirrors:
  docker.io:
    endpoint: ["https://ADDRESS"]
configs:
  ADDRESS:
    auth: {username: USER, password: PASSWORD}
    tls: {ca_file: /etc/depot-ca.pem}
`

// registries writes the node's registries.yaml: the right one with one change.
func (d *depot) registries(t *testing.T, from, to string) {
	t.Helper()
	if !strings.Contains(rightly, from) {
		t.Fatalf("nothing to change: %q", from)
	}
	text := strings.Replace(rightly, from, to, 1)
	text = strings.NewReplacer("ADDRESS", d.server.Addr, "USER", distribution.User, "PASSWORD", distribution.Password).Replace(text)
	if err := d.WriteFile(registriesFile, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// saysWhatIsWrong: each fault is one error that names the registry and what to do, soon,
// and nothing is on disk after it.
func saysWhatIsWrong(_ context.Context, t *testing.T, d *depot) {
	for _, c := range []struct {
		name, from, to string
		want           []string
	}{
		{"its authority is not known", "tls: {ca_file: /etc/depot-ca.pem}", "", []string{
			"connecting to ADDRESS: certificate not accepted", "signed by an authority that this machine does not know", `configs."ADDRESS".tls.ca_file in ` + registriesFile,
		}},
		{"the password is wrong", "PASSWORD", "a-guess", []string{"not authorised", `configs."ADDRESS".auth in ` + registriesFile}},
		{"the image is not there", `"]`, `"]` + "\n    rewrite: {\"^rancher/(.*)\": \"nowhere/$1\"}", []string{"ADDRESS/nowhere/rke2-runtime: not found"}},
		{"a stranger signed it", `"]`, `"]` + "\n    rewrite: {\"^rancher/(.*)\": \"wrong/$1\"}", []string{"at https://ADDRESS is refused", "none of the trusted keys"}},
		{"nothing listens there", "https://ADDRESS", "https://" + registryAddress + ":5001", []string{registryAddress + ":5001", "nothing answers there"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d.registries(t, c.from, c.to)
			words, took := refusedStart(t, d.Node)
			t.Logf("%.1f s:\n%s", took.Seconds(), words)
			for _, w := range append(c.want, "no bundle has the image ", "and pulling it failed: ") {
				if w = strings.ReplaceAll(w, "ADDRESS", d.server.Addr); !strings.Contains(words, w) {
					t.Errorf("it does not say %q", w)
				}
			}
			leftNothing(t, d.Node, d.base)
		})
	}
}

// bootsFromRegistry: with all images below one folder there, as a cache of registries has
// them; the runtime image is fetched by rke2, the others by containerd.
func bootsFromRegistry(ctx context.Context, t *testing.T, d *depot) {
	d.registries(t, `"]`, `"]`+"\n    rewrite: {\"^(.*)$\": \"cache/$1\"}")
	if err := d.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.WaitReady(ctx, bootLimit); err != nil {
		t.Fatal(err)
	}
	report(t, "cold start from a registry to Ready", time.Since(d.Started()))
	if err := d.WaitControlPlane(ctx, stepLimit); err != nil {
		t.Fatal(err)
	}
	log, err := d.Log()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"pulling an image", "pulled an image", "staged the runtime"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if left, _ := filepath.Glob(d.Disk(node.DataDir + "/data/.[ps]*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// stagedBin is the folder, outside, of the node's executables.
func stagedBin(t *testing.T, n *node.Node) string {
	t.Helper()
	to, err := os.Readlink(n.Path(node.DataDir + "/bin"))
	if err != nil {
		t.Fatal(err)
	}
	return n.Path(to)
}

// stagedFiles is every staged file's mode and content.
func stagedFiles(t *testing.T, bin string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(bin, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = fmt.Sprintf("%v %x", info.Mode(), sum.Sum(nil))
	}
	return out
}

// drift changes files of the staged runtime: content, mode, one that is gone, one too many.
func drift(t *testing.T, bin string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(bin, "crictl"))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	next := filepath.Join(bin, "crictl")
	if err := errors.Join(
		os.Remove(next), os.WriteFile(next, raw, 0o755),
		os.Chmod(filepath.Join(bin, "runc"), 0o777),
		os.Remove(filepath.Join(bin, "ctr")),
		os.WriteFile(filepath.Join(bin, "extra"), nil, 0o755),
	); err != nil {
		t.Fatal(err)
	}
}

func restoresFromRegistry(ctx context.Context, t *testing.T, d *depot) {
	if err := d.Stop(ctx, stopLimit); err != nil {
		t.Fatal(err)
	}
	bin := stagedBin(t, d.Node)
	before := stagedFiles(t, bin)
	shim, err := os.Stat(filepath.Join(bin, "containerd-shim-runc-v2"))
	if err != nil {
		t.Fatal(err)
	}
	drift(t, bin)
	node.NextSecond()
	if err := d.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.ReadySince(ctx, d.Started(), bootLimit); err != nil {
		t.Fatal(err)
	}
	log, err := d.Log()
	if err != nil {
		t.Fatal(err)
	}
	for file, what := range map[string]string{"crictl": "has other content", "runc": "has mode", "ctr": "is missing", "extra": "is not the image's"} {
		found := false
		for line := range strings.Lines(log) {
			found = found || strings.Contains(line, "was restored") && strings.Contains(line, "bin/"+file) && strings.Contains(line, what)
		}
		if !found {
			t.Errorf("the log does not say that bin/%s, which %s, was restored", file, what)
		}
	}
	if after := stagedFiles(t, bin); !maps.Equal(before, after) {
		t.Errorf("it is not as it was: %v, before %v", after, before)
	}
	if now, err := os.Stat(filepath.Join(bin, "containerd-shim-runc-v2")); err != nil || !os.SameFile(shim, now) {
		t.Errorf("the shim, which runs, was replaced: %v", err)
	}
}

// leavesDrift: with the registry out of reach nothing can be restored, and nothing is.
func leavesDrift(ctx context.Context, t *testing.T, d *depot) {
	if err := d.Stop(ctx, stopLimit); err != nil {
		t.Fatal(err)
	}
	drift(t, stagedBin(t, d.Node))
	before, err := d.Listing(node.DataDir + "/data")
	if err != nil {
		t.Fatal(err)
	}
	d.registries(t, "https://ADDRESS", "https://"+registryAddress+":5001")
	words, _ := refusedStart(t, d.Node)
	t.Log(words)
	for _, want := range []string{"nothing answers there", "is left as it was"} {
		if !strings.Contains(words, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	after, err := d.Listing(node.DataDir + "/data")
	if err != nil {
		t.Fatal(err)
	}
	if diff := node.Difference(before, after); len(diff) > 0 {
		t.Errorf("it is not as it was: %v", diff)
	}
}
