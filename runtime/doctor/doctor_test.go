package doctor

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/closure"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/node"
	"github.com/rancher/rke2/runtime/preflight"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/tests/fake"
)

var noon = time.Date(2031, 2, 3, 12, 0, 0, 0, time.UTC)

// refs are the images of the release of these tests, by role.
func refs() map[string]string {
	return map[string]string{
		config.RoleRuntime: "docker.io/rancher/rke2-runtime:v9-rke2r1", config.RolePause: "docker.io/rancher/mirrored-pause:v9-rke2r1",
		config.RoleEtcd: "docker.io/rancher/hardened-etcd:v9-rke2r1", config.RoleKubernetes: "docker.io/rancher/hardened-kubernetes:v9-rke2r1",
	}
}

// world is a good host with a signed bundle, as files that a test may change.
type world struct {
	t       *testing.T
	files   map[string]string // of the machine
	config  config.Config
	machine host.Machine
}

func newWorld(t *testing.T) *world {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, files: map[string]string{
		"proc/self/net/tcp":                      "  sl  local_address rem_address   st\n",
		"proc/self/net/route":                    "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
		"proc/self/status":                       "CapEff:\t000001ffffffffff\n",
		"proc/self/limits":                       "Max open files            1024                 1048576              files\n",
		"proc/filesystems":                       "nodev\toverlay\n",
		"proc/swaps":                             "Filename\tType\tSize\tUsed\tPriority\n",
		"proc/sys/kernel/osrelease":              "6.12\n",
		"proc/sys/fs/inotify/max_user_instances": "1024\n",
		"lib/modules/6.12/modules.builtin":       "a/br_netfilter.ko\na/bridge.ko\na/veth.ko\na/vxlan.ko\na/nf_conntrack.ko\na/nf_tables.ko\na/nf_nat.ko\n",
		"sys/fs/cgroup/cgroup.controllers":       "cpuset cpu io memory pids\n",
		"etc/hosts":                              "127.0.0.1 localhost\n192.0.2.7 node # this\n",
		"etc/resolv.conf":                        "nameserver 192.0.2.53\n",
	}}
	for _, ns := range []string{"ipc", "mnt", "net", "pid", "uts", "cgroup", "user"} {
		w.files["proc/self/ns/"+ns] = ""
	}
	key, err := fake.NewKey()
	must(err)
	public, err := key.Public()
	must(err)
	dir := t.TempDir()
	w.config = config.Config{
		Role: config.Server, DataDir: filepath.Join(dir, "rke2"), Offline: true, Verification: trust.ModeSystem,
		TrustDir: filepath.Join(dir, "trust"), PrivateRegistry: filepath.Join(dir, "registries.yaml"),
		Release: images.Release{Version: "v9+rke2r1", PublicKeys: []string{string(public)}},
	}
	var store fake.Store
	for role, ref := range refs() {
		program := filepath.Join(dir, role)
		must(os.WriteFile(program, []byte(role), 0o755))
		image, err := fake.Program("bin/"+role, program, runtime.GOARCH)
		must(err)
		digest, err := store.Add(image, ref)
		must(err)
		must(store.Sign(key, ref, digest))
		w.config.Release.Images = append(w.config.Release.Images, images.ReleaseImage{
			Name: role, Role: role, Reference: ref, Digests: map[string]string{runtime.GOOS + "/" + runtime.GOARCH: digest.String()},
		})
	}
	must(os.MkdirAll(w.config.ImagesDir(), 0o755))
	must(store.WriteBundle(t.Context(), filepath.Join(w.config.ImagesDir(), "core.tar"), runtime.GOARCH))
	w.machine = host.Machine{
		Now: func() time.Time { return noon }, PID: 1, Hostname: func() (string, error) { return "node", nil },
		Interfaces: func() ([]host.Interface, error) {
			return []host.Interface{{Name: "eth0", Up: true, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}}, nil
		},
		Disk: func(p string) (host.Disk, error) {
			return host.Disk{ID: 1, Path: p, Free: 9e9, Available: 9e9, Total: 10e9}, nil
		},
		Writable:    func(string) error { return nil },
		CgroupMagic: func() (int64, error) { return unix.CGROUP2_SUPER_MAGIC, nil },
	}
	return w
}

// examine looks at the world as it is now.
func (w *world) examine(change func(*Options)) Report {
	w.t.Helper()
	w.machine.Root = w.t.TempDir()
	for path, content := range w.files {
		path = filepath.Join(w.machine.Root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	folder, err := scan.Open(w.config.ImagesDir())
	if err != nil {
		w.t.Fatal(err)
	}
	defer folder.Close()
	policy, fault := node.Policy(w.config)
	charts := closure.Defaults("none")
	o := Options{
		Input: node.Look(w.machine, w.config, policy, folder), Policy: policy, PolicyFault: fault,
		ConfigFile: "/etc/rancher/rke2/config.yaml", Charts: &charts, Patience: 5 * time.Second,
	}
	if change != nil {
		change(&o)
	}
	return Examine(w.t.Context(), o)
}

// check finds one by name; there must be one.
func check(t *testing.T, r Report, name string) preflight.Check {
	t.Helper()
	at := slices.IndexFunc(r.Checks, func(c preflight.Check) bool { return c.Name == name })
	if at < 0 {
		t.Fatalf("there is no check of %s", name)
	}
	return r.Checks[at]
}

// says holds a check to its verdict and words.
func says(t *testing.T, r Report, name string, want preflight.Verdict, words ...string) {
	t.Helper()
	c := check(t, r, name)
	if c.Verdict != want || (want != preflight.OK && c.ToDo == "") {
		t.Errorf("want %s and what to do of\n%s: %s", want, c.Verdict, c)
	}
	for _, word := range words {
		if !strings.Contains(c.String(), word) {
			t.Errorf("no %q in\n%s", word, c)
		}
	}
}

func TestAGoodHost(t *testing.T) {
	r := newWorld(t).examine(nil)
	for _, c := range r.Checks {
		if c.Verdict != preflight.OK {
			t.Errorf("%s: %s", c.Verdict, c)
		}
	}
	if r.Verdict != preflight.OK || len(r.Checks) < 20 || len(r.Images) != 4 || r.Images[0].Bundle == "" || !strings.Contains(r.Images[0].TrustedBy, "release key") {
		t.Errorf("got %+v", r)
	}
	says(t, r, "bundle", preflight.OK, "core.tar: bundle", "4 images: 4 verified")
}

func TestWhatASystemMayLack(t *testing.T) {
	w := newWorld(t)
	w.files["proc/self/status"] = "CapEff:\t0000000000000000\n"
	w.files["proc/self/limits"] = "Max open files            1024                 4096                 files\n"
	w.files["proc/sys/fs/inotify/max_user_instances"] = "128\n"
	w.files["proc/swaps"] = "Filename\tType\n/dev/sda2 partition 1 0 -2\n"
	w.files["lib/modules/6.12/modules.builtin"] = "a/veth.ko\n"
	delete(w.files, "proc/self/ns/pid")
	w.files["proc/50/comm"] = "firewalld\n"
	w.files["proc/51/comm"] = "NetworkManager\n"
	w.files["sys/fs/selinux/enforce"] = "1"
	w.files["etc/resolv.conf"] = "nameserver 127.0.0.53\n"
	w.machine.Hostname = func() (string, error) { return "my_host", nil }
	r := w.examine(nil)
	says(t, r, "capabilities", preflight.Fail, "CAP_SYS_ADMIN", "CAP_NET_ADMIN")
	says(t, r, "limits", preflight.Warn, "LimitNOFILE", "fs.inotify.max_user_instances=512")
	says(t, r, "swap", preflight.Warn, "/dev/sda2", "swapoff")
	says(t, r, "kernel", preflight.Warn, "br_netfilter", "6.12")
	says(t, r, "namespaces", preflight.Fail, "pid")
	says(t, r, "firewall", preflight.Warn, "firewalld (pid 50)", "9345/tcp")
	says(t, r, "interfaces", preflight.Warn, "NetworkManager (pid 51)", "unmanaged-devices")
	says(t, r, "security", preflight.Warn, "SELinux is enforcing")
	says(t, r, "resolver", preflight.Warn, "resolv-conf")
	says(t, r, "hostname", preflight.Warn, `"my_host"`, "node-name")
	if r.Verdict != preflight.Fail {
		t.Errorf("the whole is %s", r.Verdict)
	}
	w.files["etc/NetworkManager/conf.d/x.conf"] = "[keyfile]\nunmanaged-devices=interface-name:cali*\n"
	says(t, w.examine(nil), "interfaces", preflight.OK, "x.conf")
}

func TestTrustAndBundles(t *testing.T) {
	w := newWorld(t)
	if err := os.MkdirAll(w.config.TrustDir, 0o755); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(w.config.TrustDir, "bad.pub")
	for path, content := range map[string]string{bad: "no key", filepath.Join(w.config.ImagesDir(), "cut.tar"): "x", filepath.Join(w.config.ImagesDir(), "x.tar.part"): "x"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := w.examine(nil)
	says(t, r, "trust", preflight.Fail, "bad.pub")
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	w.config.Release.Development = true
	r = w.examine(nil)
	says(t, r, "trust", preflight.Warn, "DEVELOPMENT")
	var words []string
	for _, c := range r.Checks {
		if c.Name == "bundle" {
			words = append(words, string(c.Verdict)+" "+c.Found)
		}
	}
	text := strings.Join(words, "\n")
	for _, want := range []string{"ok core.tar", "warn cut.tar is passed over", "warn x.tar.part is not looked at"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	w.config.Verification = trust.ModeOff
	says(t, w.examine(nil), "trust", preflight.Warn, "NOTHING IS VERIFIED")

	// Another release's key: all is refused.
	w.config.Verification = trust.ModeSystem
	stranger, err := fake.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := stranger.Public()
	if err != nil {
		t.Fatal(err)
	}
	w.config.Release.PublicKeys = []string{string(public)}
	r = w.examine(nil)
	says(t, r, "bundle", preflight.Warn, "0 verified, 4 refused")
	says(t, r, "images", preflight.Fail, "cannot be used")
	if !slices.ContainsFunc(r.Images, func(i Image) bool { return strings.Contains(i.Fault, "trusted key") }) {
		t.Errorf("no image is at fault: %+v", r.Images)
	}
	w.config.Release.Images = nil
	says(t, w.examine(nil), "trust", preflight.Fail, "built without a release")
}

func TestSettingsThatContradictOffline(t *testing.T) {
	w := newWorld(t)
	for path, content := range map[string]string{
		w.config.PrivateRegistry:                             "mirrors: {docker.io: {endpoint: [https://mirror.example.com]}}\n",
		filepath.Join(w.config.ImagesDir(), "pull.txt"):      "# ours\nregistry.example.com/a/b:v1\n" + refs()[config.RoleEtcd] + "\n",
		filepath.Join(w.config.ImagesDir(), "rke2-core.txt"): refs()[config.RolePause] + "\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := w.examine(nil)
	says(t, r, "registries", preflight.OK, "offline is set")
	says(t, r, "offline", preflight.Warn, "names mirrors", "1 images of pre-pull lists", "pull.txt: registry.example.com/a/b:v1")
	w.config.Offline = false
	says(t, w.examine(nil), "offline", preflight.OK, "asked of registries")
}

func TestSettingsFault(t *testing.T) {
	r := newWorld(t).examine(func(o *Options) { o.SettingsFault = errors.New("cni: nonsense") })
	says(t, r, "settings", preflight.Fail, "cni: nonsense")
}

func TestRegistriesAreExplained(t *testing.T) {
	w := newWorld(t)
	w.config.Offline = false
	if err := os.WriteFile(w.config.PrivateRegistry, []byte(`
mirrors:
  docker.io:
    endpoint: [https://mirror.example.com:5000]
    rewrite: {"^rancher/(.*)": "ours/$1"}
configs:
  mirror.example.com:5000:
    auth: {username: ci, password: secret-word}
    tls: {ca_file: `+filepath.Join(t.TempDir(), "ca.pem")+`}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.examine(nil)
	says(t, r, "registries", preflight.Warn, "mirrors for 1", "ca.pem: no such file")
	if len(r.Registries) != 4 || len(r.Registries[0].Endpoints) != 2 {
		t.Fatalf("got %+v", r.Registries)
	}
	first, last := r.Registries[0].Endpoints[0].String(), r.Registries[0].Endpoints[1].String()
	for _, want := range []string{"https://mirror.example.com:5000 as ours/rke2-runtime", "user ci", "FAULT"} {
		if !strings.Contains(first, want) {
			t.Errorf("no %q in %s", want, first)
		}
	}
	if strings.Contains(first, "secret-word") || !strings.Contains(last, "the registry itself") {
		t.Errorf("got %s, %s", first, last)
	}
	for text, want := range map[string]preflight.Verdict{
		"mirors: {}\n":       preflight.Warn, // the node goes on without it
		"mirrors: [wrong]\n": preflight.Fail,
	} {
		if err := os.WriteFile(w.config.PrivateRegistry, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		says(t, w.examine(nil), "registries", want, text[:6])
	}
}

func TestDialling(t *testing.T) {
	w := newWorld(t)
	w.config.Offline = false
	registry := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		http.Error(rw, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
	}))
	defer registry.Close()
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Date", noon.Add(time.Hour).Format(http.TimeFormat))
	}))
	defer server.Close()
	w.config.Join = server.URL
	// The default endpoint is an address of this machine, too: nothing leaves it.
	for i := range w.config.Release.Images {
		w.config.Release.Images[i].Reference = strings.Replace(w.config.Release.Images[i].Reference, "docker.io", strings.TrimPrefix(registry.URL, "http://"), 1)
	}
	if err := os.WriteFile(w.config.PrivateRegistry, []byte("mirrors: {\""+strings.TrimPrefix(registry.URL, "http://")+"\": {endpoint: [\""+slow.URL+"\"]}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.examine(func(o *Options) { o.Dial, o.Patience = true, 300*time.Millisecond })
	says(t, r, "registries", preflight.Warn, "no endpoint has")
	says(t, r, "server", preflight.Warn, "200 OK", "2031-02-03 13:00:00", "2031-02-03 12:00:00")
	endpoints := r.Registries[0].Endpoints
	if len(endpoints) != 2 || endpoints[0].Answer != "no answer within 300ms" || !strings.Contains(endpoints[1].Answer, "not found") {
		t.Errorf("got %+v", endpoints)
	}
	server.Close()
	r = w.examine(func(o *Options) { o.Dial, o.Patience, o.Config.Offline = true, time.Second, true })
	says(t, r, "server", preflight.Fail, "does not answer")
	if a := r.Registries[0].Endpoints[0].Answer; a != "" {
		t.Errorf("it dialled though offline is set: %s", a)
	}
}

func TestJoin(t *testing.T) {
	for name, c := range map[string]struct {
		at    string
		role  config.Role
		want  preflight.Verdict
		words string
	}{
		"an agent without a server": {"", config.Agent, preflight.Fail, "no server is set"},
		"by address":                {"https://192.0.2.1:9345", config.Agent, preflight.OK, "192.0.2.1"},
		"by a name":                 {"https://one.example.com:9345", config.Server, preflight.OK, "asked of name servers"},
		"at the API's port":         {"https://192.0.2.1:6443", config.Agent, preflight.Warn, "9345"},
		"without a scheme":          {"192.0.2.1:9345", config.Agent, preflight.Fail, "no address to join"},
		"plain":                     {"http://192.0.2.1:9345", config.Agent, preflight.Fail, "no address to join"},
	} {
		o := Options{}
		o.Config = config.Config{Role: c.role, Join: c.at}
		o.Machine = host.Machine{Root: t.TempDir()}
		checks := join(context.Background(), o)
		if len(checks) != 1 || checks[0].Verdict != c.want || !strings.Contains(checks[0].String(), c.words) {
			t.Errorf("%s: %+v", name, checks)
		}
	}
	if checks := join(context.Background(), Options{Input: preflight.Input{Config: config.Config{Role: config.Server}}}); len(checks) != 0 {
		t.Errorf("a first server: %+v", checks)
	}
}
