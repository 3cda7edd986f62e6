//go:build linux

package install

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	dataDir = "/var/lib/rancher/rke2"
	podID   = "005f1a81655b3ffad1a5740abcbd7e6ef0342e5901026ef51fd7f4a984e9c5f5"
)

// machine prepares a root as a machine that rke2 runs on: real programs in the places
// where rke2's are, which only wait.
func machine(t *testing.T, flavour string) *root {
	t.Helper()
	r := newRoot(t, flavour)
	r.write(t, "/usr/local/bin/rke2-killall.sh", string(killallScript), 0o755)
	r.write(t, "/usr/local/bin/rke2-uninstall.sh", string(uninstallScript), 0o755)
	r.program(t, "/usr/local/bin/rke2")
	r.program(t, "/usr/bin/bystander")
	return r
}

// waiter is a static program that does nothing for a long time, whatever it is called and
// whatever its arguments are; with "spawn" for its first one it starts the program that
// follows, in a session of its own, and waits.
const waiter = `package main

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "spawn" {
		cmd := exec.Command(os.Args[2], os.Args[3:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
	}
	time.Sleep(5 * time.Minute)
}
`

// program puts a program that waits at a path of the root.
func (r *root) program(t *testing.T, path string) {
	t.Helper()
	built := filepath.Join(template(t, dash), "..", "waiter")
	templates.Lock()
	defer templates.Unlock()
	if _, err := os.Stat(built); err != nil {
		source := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(source, []byte(waiter), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", "build", "-o", built, source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath", "GOFIPS140=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	copyInto(t, built, r.path(path))
}

// running starts a machine's processes and mounts: a node, its containerd, a shim with a
// container in it, volumes; and what is not rke2's. DATA is the data folder.
const running = `
POD=` + podID + `
# What is no container's id may be part of any cgroup's name.
mkdir -p /run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/e
mkdir -p /run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/$POD/rootfs /run/netns /mnt "/var/lib/kubelet/pods/uid/volumes/tmp space" /var/lib/kubelet/pods/uid/nfs "$DATA/agent/images" "$DATA/server/db"
mount -t tmpfs tmpfs /run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/$POD/rootfs
mount -t tmpfs tmpfs "/var/lib/kubelet/pods/uid/volumes/tmp space"
mount -t tmpfs tmpfs /var/lib/kubelet/pods/uid/nfs
mount -t tmpfs tmpfs "$DATA/agent/images"
mount -t tmpfs tmpfs "$DATA/server/db"
mount -t tmpfs tmpfs /mnt
: >/run/netns/cni-1 >/run/netns/operators
mount --bind /proc/self/ns/net /run/netns/cni-1
mount --bind /proc/self/ns/net /run/netns/operators
mkdir -p /run/containerd/s /run/containerd/runc/k8s.io/$POD /run/containerd/runc/k8s.io/dockers
: >/run/containerd/s/0a1b >/run/containerd/s/dockers
echo '{"version":3,"address":"unix:///run/containerd/s/0a1b","protocol":"ttrpc"}' >/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/$POD/bootstrap.json
echo '{"linux":{"namespaces":[{"type":"network","path":"/var/run/netns/cni-1"}]}}' >/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/$POD/config.json
mkdir -p /sys/fs/cgroup/kubepods/besteffort/pod1/$POD /sys/fs/cgroup/kubepods/burstable /sys/fs/cgroup/other.slice
: >/sys/fs/cgroup/kubepods/burstable/busy
/usr/local/bin/rke2 server &
/usr/local/bin/rke2 bundle verify server & verify=$!
"$DATA/data/v1/bin/containerd" &
"$DATA/data/v1/bin/containerd-shim-runc-v2" spawn /usr/bin/in-a-container x y &
/usr/bin/bystander "$DATA/data/v1/bin/containerd" & bystander=$!
sleep 1
`

// look says what is left on the machine.
const look = `
echo "exit $?"
echo "--- left"
for p in /proc/[0-9]*; do readlink $p/exe 2>/dev/null || :; done | sort | uniq -c
cut -d ' ' -f 5 /proc/self/mountinfo | sort
ls /run/netns /run/containerd/s /run/containerd/runc/k8s.io
echo /sys/fs/cgroup/* /sys/fs/cgroup/kubepods/*
kill $bystander $verify
`

func (r *root) node(t *testing.T, data string) {
	t.Helper()
	r.program(t, data+"/data/v1/bin/containerd")
	r.program(t, data+"/data/v1/bin/containerd-shim-runc-v2")
	r.program(t, "/usr/bin/in-a-container")
}

func TestKillall(t *testing.T) {
	for _, data := range []string{dataDir, "/srv/big disk/rke2"} {
		for _, flavour := range flavours {
			t.Run(flavour+" "+data, func(t *testing.T) {
				t.Parallel()
				r := machine(t, flavour)
				r.node(t, data)
				if data != dataDir {
					r.write(t, "/etc/rancher/rke2/config.yaml", "data-dir: '"+data+"'\n", 0o600)
				}
				r.write(t, "/etc/fstab", "server:/x /var/lib/kubelet/pods/uid/nfs nfs defaults 0 0\n", 0o644)
				out := r.must(t, fmt.Sprintf("DATA='%s'\n", data)+running+"/usr/local/bin/rke2-killall.sh"+look)
				said, left, _ := strings.Cut(out, "--- left")
				t.Log(out)
				if !strings.Contains(said, "exit 0") {
					t.Errorf("it failed:\n%s", out)
				}
				for _, gone := range []string{"bin/containerd", "in-a-container", "rootfs", "volumes", "cni-1", "0a1b", podID, "kubepods/besteffort", "2 /usr/local/bin/rke2"} {
					if strings.Contains(left, gone) {
						t.Errorf("%s is left:\n%s", gone, left)
					}
				}
				for _, kept := range []string{
					"1 /usr/bin/bystander", "1 /usr/local/bin/rke2", // verifies a bundle
					"\n/mnt\n", "/var/lib/kubelet/pods/uid/nfs", "/agent/images", "/server/db", "operators", "s:\ndockers", "k8s.io:\ndockers", "kubepods/burstable", "other.slice",
				} {
					if !strings.Contains(left, kept) {
						t.Errorf("%s was not rke2's and is gone:\n%s", kept, left)
					}
				}
				if !strings.Contains(said, "is in /etc/fstab: left as it is") {
					t.Errorf("it is silent about fstab:\n%s", said)
				}
			})
		}
	}
}

// A machine on which nothing of rke2 runs, or ever was.
func TestKillallOfNothing(t *testing.T) {
	for _, flavour := range flavours {
		r := machine(t, flavour)
		before := r.files(t)
		out := r.must(t, "mount -t tmpfs tmpfs /mnt; /usr/local/bin/rke2-killall.sh; cut -d ' ' -f 5 /proc/self/mountinfo")
		if !strings.Contains(out, "/mnt") || !strings.Contains(out, "rke2 is stopped") {
			t.Error(out)
		}
		if after := r.files(t); len(after) != len(before) {
			t.Errorf("files: %v, before %v", after, before)
		}
		if out, code := r.run(t, "/usr/local/bin/rke2-killall.sh now"); code != 2 || !strings.Contains(out, "what is now?") {
			t.Errorf("exit %d: %s", code, out)
		}
	}
}

// Interfaces and rules go by name; what another Kubernetes or an operator has, stays.
func TestKillallNetwork(t *testing.T) {
	const setup = `
mkdir -p /sys /run/flannel; mount -t sysfs sysfs /sys
printf 'FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.3.1/24\nFLANNEL_MTU=1450\n' >/run/flannel/subnet.env
ip link set lo up; ip route add unreachable 10.43.0.0/17 metric 4294967294 proto 82; ip route add unreachable 10.60.0.0/16; ip route add blackhole 10.42.3.0/24; ip route add blackhole 10.42.0.0/16; ip route add blackhole 10.50.0.0/24
ip link add cni0 type bridge; ip link add flannel.1 type bridge; ip link add cali0123456789a type bridge; ip link add calm type bridge; ip link add br0 type bridge
iptables -t nat -N KUBE-SERVICES; iptables -t nat -N CNI-HOSTPORT-DNAT; iptables -t nat -N OPERATOR
iptables -t nat -A KUBE-SERVICES -m comment --comment "jump -j OPERATOR" -j RETURN
iptables -t nat -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
iptables -t nat -A PREROUTING -p tcp --dport 80 -m comment --comment "KUBE-SERVICES are elsewhere" -j OPERATOR
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
iptables -N KUBE-FORWARD; iptables -A FORWARD -j KUBE-FORWARD; iptables -A INPUT -p tcp --dport 22 -j ACCEPT
`
	const see = "\nls /sys/class/net; ip route; iptables-save | grep -v '^[#:]'; iptables-save | grep '^:[A-Z]*-' || :\n"
	for _, c := range []struct {
		name, before, bridge string
		gone, kept           []string
	}{
		{
			name: "ours alone",
			gone: []string{"cni0", "flannel.1", "cali0123456789a", "-j KUBE-", "-j CNI-", ":KUBE", ":CNI", "10.42.3.0/24", "10.43.0.0/17"},
			kept: []string{"calm", "br0", "blackhole 10.42.0.0/16", "blackhole 10.50.0.0/24", "unreachable 10.60.0.0/16", "--dport 80", "--dport 22", "-j OPERATOR"},
		},
		{
			name:   "containers of another hang on the bridge",
			before: "ip link add v0 type veth peer name v1; ip link set v0 master cni0\n",
			gone:   []string{"flannel.1", "-j KUBE-"},
			kept:   []string{"cni0", "br0"},
		},
		{
			name:   "another Kubernetes",
			before: "/opt/other/kubelet &\nsleep 1\n",
			kept:   []string{"cni0", "flannel.1", "-j KUBE-SERVICES", "-j CNI-HOSTPORT-DNAT", "-j KUBE-FORWARD", "blackhole 10.42.3.0/24"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := machine(t, dash)
			for _, p := range []string{"ip", "iptables", "iptables-save", "iptables-restore"} {
				install(t, r.dir, tool(t, p)+":/usr/sbin/"+p)
			}
			extensions, err := filepath.Glob("/usr/lib/*/xtables")
			if err != nil || len(extensions) != 1 {
				t.Fatalf("iptables' extensions: %v, %v", extensions, err)
			}
			if err := os.MkdirAll(r.path(filepath.Dir(extensions[0])), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(r.path(extensions[0]), os.DirFS(extensions[0])); err != nil {
				t.Fatal(err)
			}
			r.program(t, "/opt/other/kubelet")
			out := r.must(t, "set -e\n"+setup+c.before+see+"echo '--- killall'\n/usr/local/bin/rke2-killall.sh\necho '--- left'"+see)
			_, left, _ := strings.Cut(out, "--- left")
			for _, gone := range c.gone {
				if strings.Contains(left, gone) {
					t.Errorf("%s is left:\n%s", gone, out)
				}
			}
			for _, kept := range c.kept {
				if !strings.Contains(left, kept) {
					t.Errorf("%s is gone:\n%s", kept, out)
				}
			}
		})
	}
}
