package preflight

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/tests/fake"
)

// noon is when these tests happen.
var noon = time.Date(2031, 2, 3, 12, 0, 0, 0, time.UTC)

const (
	idle       = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	byEth0     = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\neth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
	runtimeRef = "docker.io/rancher/rke2-runtime:v9-rke2r1"
	pause      = "docker.io/rancher/mirrored-pause:v9-rke2r1"
	etcd       = "docker.io/rancher/hardened-etcd:v9-rke2r1"
	kube       = "docker.io/rancher/hardened-kubernetes:v9-rke2r1"
)

// world is a host on which all is well, and a node's settings and bundles.
type world struct {
	t      *testing.T
	files  map[string]string // of the machine
	in     Input
	store  fake.Store
	digest map[string]v1.Hash
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, digest: map[string]v1.Hash{}, files: map[string]string{
		"proc/self/net/tcp":                 idle,
		"proc/self/net/route":               byEth0,
		"proc/self/status":                  "CapEff:\t000001ffffffffff\n",
		"proc/filesystems":                  "nodev\toverlay\n",
		"sys/fs/cgroup/cgroup.controllers":  "cpuset cpu io memory pids\n",
		"proc/1/comm":                       "init\n",
		"proc/1/stat":                       "1 (init) S 0 1 1",
		"proc/100/comm":                     "rke2\n",
		"proc/100/stat":                     "100 (rke2) S 1 1 1",
		"proc/100/exe":                      "->/usr/local/bin/rke2",
		"proc/100/cmdline":                  "/usr/local/bin/rke2\x00server\x00",
		"proc/sys/kernel/osrelease":         "6.12\n",
		"proc/sys/net/ipv4/ip_forward":      "1\n",
		"proc/sys/net/netfilter/nf_whatver": "1\n",
	}}
	dataDir := filepath.Join(t.TempDir(), "rke2")
	w.in.Config = config.Config{
		Role: config.Server, DataDir: dataDir, Offline: true, Verification: trust.ModeSystem,
		Release: images.Release{Version: "v9+rke2r1"},
	}
	for role, ref := range refs() {
		w.in.Config.Release.Images = append(w.in.Config.Release.Images, images.ReleaseImage{Name: role, Role: role, Reference: ref})
	}
	w.in.Admit = func(_ *airgap.Archive, image airgap.Image) (trust.Admitted, error) {
		return trust.Policy{Mode: trust.ModeOff}.Admit(image.Refs[0], image.Desc.Digest, nil)
	}
	w.in.Pinned = func(n Need) (v1.Hash, bool) { h, ok := w.digest[n.Ref.String()]; return h, ok }
	w.in.Machine = host.Machine{
		Now: func() time.Time { return noon }, Made: noon.AddDate(0, -1, 0), PID: 100,
		Hostname: func() (string, error) { return "node", nil },
		Interfaces: func() ([]host.Interface, error) {
			return []host.Interface{
				{Name: "lo", Up: true, Loopback: true, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
				{Name: "eth0", Up: true, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}},
			}, nil
		},
		Disk: func(p string) (host.Disk, error) {
			return host.Disk{ID: 1, Path: p, Free: 9e9, Available: 8e9, Total: 10e9}, nil
		},
		Writable:    func(string) error { return nil },
		CgroupMagic: func() (int64, error) { return unix.CGROUP2_SUPER_MAGIC, nil },
	}
	return w
}

func refs() map[string]string {
	return map[string]string{config.RoleRuntime: runtimeRef, config.RolePause: pause, config.RoleEtcd: etcd, config.RoleKubernetes: kube}
}

// bundle writes the release's images, and what else was added to the store.
func (w *world) bundle(name string) {
	w.t.Helper()
	for role, ref := range refs() {
		program := filepath.Join(w.t.TempDir(), role)
		if err := os.WriteFile(program, []byte(strings.Repeat(role, 1000)), 0o755); err != nil {
			w.t.Fatal(err)
		}
		image, err := fake.Program("bin/"+role, program, runtime.GOARCH)
		if err != nil {
			w.t.Fatal(err)
		}
		if w.digest[ref], err = w.store.Add(image, ref); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := os.MkdirAll(w.in.Config.ImagesDir(), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := w.store.WriteBundle(w.t.Context(), filepath.Join(w.in.Config.ImagesDir(), name), runtime.GOARCH); err != nil {
		w.t.Fatal(err)
	}
}

// input is the world as it is now.
func (w *world) input() Input {
	w.t.Helper()
	w.in.Machine.Root = w.t.TempDir()
	for path, content := range w.files {
		path = filepath.Join(w.in.Machine.Root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	folder, err := scan.Open(w.in.Config.ImagesDir())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = folder.Close() })
	w.in.Folder = folder
	return w.in
}

func TestStartOnAGoodHost(t *testing.T) {
	w := newWorld(t)
	w.bundle("core.tar")
	warnings, err := Start(w.input())
	if err != nil || len(warnings) > 0 {
		t.Errorf("got %v, %v", warnings, err)
	}
}

// TestStartNamesEveryFault: an operator who mends one thing at a time needs as many
// starts as there are faults.
func TestStartNamesEveryFault(t *testing.T) {
	w := newWorld(t)
	w.in.Machine.UID = 7
	w.in.Machine.Writable = func(dir string) error { return &os.PathError{Op: "x", Path: dir, Err: unix.EROFS} }
	w.files["proc/self/net/tcp"] = idle + "   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0\n"
	maps.Copy(w.files, map[string]string{"proc/9/comm": "nginx", "proc/9/stat": "9 (nginx) S 1 1 1", "proc/9/fd/3": "->socket:[101]"})
	delete(w.files, "proc/self/net/route")
	_, err := Start(w.input())
	var refused *RefusedError
	if !errors.As(err, &refused) || len(refused.Checks) != 5 {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"for 5 reasons", "not as root", "read-only file system", "6443 (kube-apiserver) is taken by nginx (pid 9)",
		"no default route and no node-ip", "node-ip: 192.0.2.7", "no bundle has 4 of the 4 images", "no bundle has the image " + etcd, "the folder does not exist", "to do: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
}

// verdict runs one check and holds it to what it must say.
func verdict(t *testing.T, c Check, want Verdict, words ...string) {
	t.Helper()
	if c.Verdict != want {
		t.Errorf("%s: want %s", c, want)
	}
	if want != OK && c.ToDo == "" {
		t.Errorf("%s: it does not say what to do", c)
	}
	for _, word := range words {
		if !strings.Contains(c.String(), word) {
			t.Errorf("no %q in\n%s", word, c)
		}
	}
}
