package preflight

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"crypto/ecdsa"
	"crypto/elliptic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
)

// listening is a line of the kernel's table: hexadecimal ADDRESS:PORT, and an inode.
func listening(at string, inode int) string {
	return fmt.Sprintf("   0: %s 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 %d 1 0 100 0 0 10 0\n", at, inode)
}

// process adds one that holds a socket.
func (w *world) process(pid, parent int, name, exe, args string, inode int) {
	dir := fmt.Sprintf("proc/%d/", pid)
	maps.Copy(w.files, map[string]string{
		dir + "comm": name, dir + "exe": "->" + exe, dir + "cmdline": args,
		dir + "stat": fmt.Sprintf("%d (%s) S %d 1 1", pid, name, parent), dir + "fd/3": fmt.Sprintf("->socket:[%d]", inode),
	})
}

func TestPorts(t *testing.T) {
	const everywhere, loopback, eth0 = "00000000", "0100007F", "070200C0"
	for name, c := range map[string]struct {
		role     config.Role
		starting bool
		without  []string
		at       string // of inode 5, held by process 20
		exe      string
		args     string
		parent   string // the program of process 20's parent; "" is init
		want     Verdict
		words    string
	}{
		"a stranger's":                        {at: everywhere + ":192B", exe: "/usr/sbin/nginx", want: Fail, words: "6443 (kube-apiserver) is taken by nginx (pid 20)"},
		"on one address":                      {at: eth0 + ":192B", exe: "/usr/sbin/nginx", want: Fail, words: "6443"},
		"local port, taken on the network":    {at: eth0 + ":2811", exe: "/usr/sbin/nginx", want: OK},
		"local port, taken on loopback":       {at: loopback + ":2811", exe: "/usr/sbin/nginx", want: Fail, words: "10257 (kube-controller-manager)"},
		"another port":                        {at: everywhere + ":0016", exe: "/usr/sbin/sshd", want: OK},
		"a component that is not run":         {at: everywhere + ":094B", exe: "/usr/bin/etcd", without: []string{"etcd"}, want: OK},
		"an agent has no etcd":                {role: config.Agent, at: everywhere + ":094B", exe: "/usr/bin/etcd", want: OK},
		"an agent's balancer":                 {role: config.Agent, at: loopback + ":192C", exe: "/usr/bin/x", want: Fail, words: "6444 (supervisor load balancer)"},
		"a pod that an earlier rke2 started":  {starting: true, at: everywhere + ":192B", exe: "/usr/local/bin/kube-apiserver", parent: "DATA/v9-0123456789ab/bin/containerd-shim-runc-v2", want: OK, words: "6443 are this node's own"},
		"the same, its runtime removed since": {starting: true, at: everywhere + ":192B", exe: "/usr/local/bin/kube-apiserver", parent: "DATA/v9-0123456789ab/bin/containerd-shim-runc-v2 (deleted)", want: OK},
		"another shim's pod":                  {at: everywhere + ":192B", exe: "/usr/local/bin/kube-apiserver", parent: "/usr/bin/containerd-shim-runc-v2", want: Fail},
		"the kubelet of an rke2 that ended":   {starting: true, at: everywhere + ":280A", exe: "DATA/v9-0123456789ab/bin/kubelet", want: OK},
		"a look at a node that runs":          {at: everywhere + ":2481", exe: "/usr/local/bin/rke2", args: "/usr/local/bin/rke2 server\x00", want: OK},
		"a start beside a node that runs":     {starting: true, at: everywhere + ":2481", exe: "/usr/local/bin/rke2", args: "/usr/local/bin/rke2\x00server\x00", want: Fail, words: "stop it first"},
		"an rke2 that is no node":             {at: everywhere + ":2481", exe: "/usr/local/bin/rke2", args: "rke2\x00bundle\x00serve\x00", want: Fail, words: "taken by rke2 (pid 20)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.in.Starting, w.in.Config.Without = c.starting, c.without
			if c.role != "" {
				w.in.Config.Role = c.role
			}
			inData := func(exe string) string {
				if rest, ok := cut(exe, "DATA"); ok {
					return filepath.Join(w.in.Config.DataDir, "data") + rest
				}
				return exe
			}
			w.files["proc/self/net/tcp"] = idle + listening(c.at, 5)
			parent := 1
			if c.parent != "" {
				parent = 19
				w.process(19, 1, "shim", inData(c.parent), "", 6)
			}
			w.process(20, parent, "x", inData(c.exe), c.args, 5)
			verdict(t, Ports(w.input()), c.want, c.words)
		})
	}
}

func cut(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || s[:len(prefix)] != prefix {
		return s, false
	}
	return s[len(prefix):], true
}

func TestPortOfAProgramThatCannotBeSeen(t *testing.T) {
	w := newWorld(t)
	w.files["proc/self/net/tcp"] = idle + listening("00000000:192B", 5)
	verdict(t, Ports(w.input()), Fail, "a program that cannot be seen")
}

func TestRoute(t *testing.T) {
	for name, c := range map[string]struct {
		nodeIP []string
		routes bool
		want   Verdict
		words  []string
	}{
		"a default route":         {routes: true, want: OK, words: []string{"IPv4 by eth0", "192.0.2.7"}},
		"none":                    {want: Fail, words: []string{"no default route", "node-ip: 192.0.2.7"}},
		"none, and it is said":    {nodeIP: []string{"192.0.2.7"}, want: OK},
		"two of both families":    {nodeIP: []string{"192.0.2.7,2001:db8::7"}, want: OK},
		"another host's":          {nodeIP: []string{"192.0.2.8"}, routes: true, want: Fail, words: []string{"192.0.2.8 is on no interface", "eth0 192.0.2.7"}},
		"no address":              {nodeIP: []string{"eth0"}, routes: true, want: Fail, words: []string{`"eth0" is no IP address`}},
		"one right and one wrong": {nodeIP: []string{"192.0.2.7", "2001:db8::8"}, want: Fail, words: []string{"2001:db8::8"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.in.Config.NodeIPs = c.nodeIP
			if !c.routes {
				delete(w.files, "proc/self/net/route")
			}
			verdict(t, Route(w.input()), c.want, c.words...)
		})
	}
}

// authority writes a certificate that is valid between two times.
func (w *world) authority(path string, from, to time.Time, ca bool) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: from, NotAfter: to,
		IsCA: ca, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	path = filepath.Join(w.in.Config.DataDir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func TestClock(t *testing.T) {
	const ca = "server/tls/server-ca.crt"
	year := 365 * 24 * time.Hour
	for name, c := range map[string]struct {
		now   time.Duration // after noon
		want  Verdict
		words []string
	}{
		"right":               {0, OK, []string{"2031-02-03 12:00:00 UTC"}},
		"an hour behind":      {-2 * time.Hour, Warn, []string{"2031-02-03 10:00:00 UTC", "2031-02-03 11:00:00 UTC", "1h0m0s later", ca}},
		"half a day behind":   {-12 * time.Hour, Fail, []string{ca, "11h0m0s later"}},
		"before the release":  {-33 * 24 * time.Hour, Fail, []string{"this release was made after 2031-01-03"}},
		"far ahead":           {20 * year, Fail, []string{ca, "expired at", "rotate"}},
		"a year and a bit on": {year + time.Hour, OK, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.authority(ca, noon.Add(-time.Hour), noon.Add(10*year), true)
			w.authority("server/tls/client-admin.crt", noon.Add(-time.Hour), noon.Add(year), false)
			w.in.Machine.Now = func() time.Time { return noon.Add(c.now) }
			verdict(t, Clock(w.input()), c.want, c.words...)
		})
	}
}

func TestExpiry(t *testing.T) {
	w := newWorld(t)
	verdict(t, Expiry(w.input()), OK, "none yet")
	w.authority("server/tls/server-ca.crt", noon.AddDate(-1, 0, 0), noon.AddDate(9, 0, 0), true)
	w.authority("server/tls/etcd/client.crt", noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0), false)
	verdict(t, Expiry(w.input()), OK, "2 certificates", "client.crt", "2032-02-03")
	w.authority("agent/client-kubelet.crt", noon.AddDate(-1, 0, 0), noon.AddDate(0, 0, 20), false)
	w.authority("agent/serving-kubelet.crt", noon.AddDate(-1, 0, 0), noon.AddDate(0, 0, -1), false)
	verdict(t, Expiry(w.input()), Warn, "1 expired, 1 expire within 90 days", "serving-kubelet.crt expired at 2031-02-02", "start rke2 again")
	w.authority("server/tls/client-ca.crt", noon.AddDate(-1, 0, 0), noon.AddDate(0, 0, -1), true)
	verdict(t, Expiry(w.input()), Fail, "client-ca.crt")
	if err := os.WriteFile(filepath.Join(w.in.Config.DataDir, "agent/broken.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	verdict(t, Expiry(w.input()), Fail, "broken.crt holds no certificate")
}

func TestDataDir(t *testing.T) {
	w := newWorld(t)
	verdict(t, DataDir(w.input()), OK)
	readOnly := func(at string) func(string) error {
		return func(dir string) error {
			if dir == at {
				return &os.PathError{Op: "writing in", Path: filepath.Dir(at), Err: unix.EROFS}
			}
			return nil
		}
	}
	w.in.Machine.Writable = readOnly(filepath.Join(w.in.Config.DataDir, "agent", "containerd"))
	verdict(t, DataDir(w.input()), Fail, filepath.Join(w.in.Config.DataDir, "agent")+" cannot be written to: read-only file system")
	w.in.Machine.Writable = readOnly("/etc/rancher")
	verdict(t, DataDir(w.input()), Warn, "/etc cannot be written to")
	w.in.Machine.Writable = readOnly(filepath.Join(w.in.Config.DataDir, "server"))
	w.in.Config.Role = config.Agent
	verdict(t, DataDir(w.input()), OK)
}

func TestCgroups(t *testing.T) {
	w := newWorld(t)
	verdict(t, Cgroups(w.input()), OK, "version 2")
	w.files["sys/fs/cgroup/cgroup.controllers"] = "cpuset cpu io pids"
	w.files["proc/cgroups"] = "#\nmemory\t0\t1\t0\n"
	verdict(t, Cgroups(w.input()), Fail, "version 2 without memory", "cgroup_enable=memory")
	w.files["proc/cgroups"] = "#\nmemory\t0\t1\t1\n"
	verdict(t, Cgroups(w.input()), Fail, "cgroup.controllers")
	w.files["sys/fs/cgroup/cgroup.controllers"] = "cpuset cpu memory pids"
	verdict(t, Cgroups(w.input()), Warn, "without io")
	w.in.Machine.CgroupMagic = func() (int64, error) { return unix.TMPFS_MAGIC, nil }
	verdict(t, Cgroups(w.input()), Fail, "version 1 without")
	w.files["proc/self/mountinfo"] = "1 0 0:1 / /a rw - cgroup x rw,cpu,cpuacct\n2 0 0:2 / /b rw - cgroup x rw,cpuset,devices,memory,blkio,freezer,pids\n"
	verdict(t, Cgroups(w.input()), Warn, "version 1 with", "unified_cgroup_hierarchy=1")
	w.in.Machine.CgroupMagic = func() (int64, error) { return 0, errors.New("no such thing") }
	verdict(t, Cgroups(w.input()), Fail, "mount the cgroup file system")
}

func TestFilesystem(t *testing.T) {
	w := newWorld(t)
	verdict(t, Filesystem(w.input()), OK)
	w.files["proc/filesystems"] = "\text4\n"
	verdict(t, Filesystem(w.input()), Fail, "6.12", "modprobe overlay")
	w.in.Config.Snapshotter = "native"
	verdict(t, Filesystem(w.input()), OK, "native")
}

// TestSpaceOfACompressedBundle: it is not read for an estimate.
func TestSpaceOfACompressedBundle(t *testing.T) {
	w := newWorld(t)
	w.in.Admit = func(*airgap.Archive, airgap.Image) (trust.Admitted, error) {
		t.Error("a signature was looked for, which takes reading the bundle")
		return trust.Admitted{}, errors.New("no")
	}
	w.bundle("core.tar")
	plain := filepath.Join(w.in.Config.ImagesDir(), "core.tar")
	raw, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(plain+".zst", encoder.EncodeAll(raw, nil), 0o644), os.Remove(plain), encoder.Close()); err != nil {
		t.Fatal(err)
	}
	staging, importing := bills(w.input())
	if staging.likely() != 0 || importing.least() != 0 || importing.likely() <= importing.guess || importing.guess <= 0 {
		t.Errorf("got %+v and %+v", staging, importing)
	}
	for _, ref := range refs() {
		w.keep(filepath.Join(w.in.Config.ImagesDir(), "core.tar.zst"), w.digest[ref])
	}
	if err := os.MkdirAll(filepath.Join(w.in.Config.DataDir, "data", "v9-rke2r1-"+w.digest[runtimeRef].Hex[:12], "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, importing := bills(w.input()); importing.likely() != 0 {
		t.Errorf("all is there: %+v", importing)
	}
	in := w.input()
	in.Starting = true
	verdict(t, Images(in), OK, "4 images")
}

func TestSpaceOfTwoDisks(t *testing.T) {
	w := newWorld(t)
	w.bundle("core.tar")
	in := w.input()
	staging, importing := bills(in)
	if staging.stage <= 0 || staging.blobs != 0 || importing.blobs <= importing.unpack || importing.unpack <= staging.stage {
		t.Fatalf("got %+v and %+v", staging, importing)
	}
	disks := func(free map[string]int64) {
		w.in.Machine.Disk = func(p string) (host.Disk, error) {
			base := filepath.Base(p)
			return host.Disk{ID: uint64(len(base)), Path: p, Free: free[base], Available: free[base], Total: 1000}, nil
		}
	}
	disks(map[string]int64{"data": staging.likely() + 100, "containerd": importing.likely() + 100})
	verdict(t, Space(w.input()), OK, "to stage", "to store")
	disks(map[string]int64{"data": staging.least() - 1, "containerd": importing.likely() + 100})
	verdict(t, Space(w.input()), Fail, "data", "make space")
	disks(map[string]int64{"data": staging.likely() + 100, "containerd": importing.least()})
	verdict(t, Space(w.input()), Warn, "it may not do")
	disks(map[string]int64{"data": staging.likely(), "containerd": importing.likely() + 100})
	verdict(t, Space(w.input()), Warn, "5 %")
	w.in.Machine.Disk = func(p string) (host.Disk, error) {
		return host.Disk{ID: 1, Path: p, Free: 1e9, Available: 1e9, Total: 1e9, Inodes: 100}, nil
	}
	verdict(t, Space(w.input()), Fail, "no inode is free")
}
