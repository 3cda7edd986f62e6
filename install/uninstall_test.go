//go:build linux

package install

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// lived puts onto a machine what a node leaves there.
func lived(t *testing.T, r *root, data string) {
	t.Helper()
	for _, file := range []string{
		data + "/agent/pod-manifests/etcd.yaml", data + "/server/token", data + "/server/db/etcd/member", data + "/data/v1/bin/kubectl",
		data + "/agent/containerd/io.containerd.grpc.v1.cri/sandboxes/" + podID + "/x",
		"/var/lib/kubelet/pods/uid/file", "/var/log/pods/p/0.log", "/run/k3s/x",
		"/etc/rancher/rke2/rke2.yaml", "/etc/rancher/node/password",
		"/var/lib/cni/networks/ours/lock", "/var/lib/cni/networks/ours/last_reserved_ip.0",
	} {
		r.write(t, file, "x", 0o600)
	}
	r.write(t, "/var/lib/cni/networks/ours/10.42.0.5", podID+"\r\neth0", 0o600)
	r.write(t, "/var/lib/cni/networks/podman/10.88.0.2", "theirs\r\neth0", 0o600)
	r.write(t, "/var/lib/cni/networks/podman/lock", "", 0o600)
}

const uninstall = "/usr/local/bin/rke2-uninstall.sh"

func TestUninstall(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		r.write(t, "/etc/cni/net.d/10-mine.conflist", "{}", 0o644)
		r.write(t, "/opt/cni/bin/bridge", "mine", 0o755)
		r.write(t, "/usr/local/bin/mine", "mine", 0o755)
		r.write(t, "/var/lib/cni/networks/podman/10.88.0.2", "theirs\r\neth0", 0o600)
		r.write(t, "/var/lib/cni/networks/podman/lock", "", 0o600)
		before := r.files(t)
		r.must(t, run)
		lived(t, r, dataDir)
		full := r.files(t)
		out := r.must(t, uninstall+" --dry-run")
		if !maps.Equal(full, r.files(t)) || !strings.Contains(out, "would remove "+dataDir+"/server") || !strings.Contains(out, "would remove /usr/local/bin/rke2\n") {
			t.Errorf("the dry run said\n%s", out)
		}
		out = r.must(t, uninstall)
		left := slices.Sorted(maps.Keys(r.files(t)))
		want := slices.Sorted(maps.Keys(before))
		if !slices.Equal(left, want) {
			t.Errorf("left:\n%s\nwant:\n%s\n%s", strings.Join(left, "\n"), strings.Join(want, "\n"), out)
		}
		for _, dir := range []string{dataDir, "/var/lib/rancher", "/var/lib/kubelet", "/etc/rancher", "/usr/local/share/rke2", "/usr/local/lib/systemd", "/var/lib/cni/networks/ours"} {
			if r.has(dir) {
				t.Errorf("%s is left:\n%s", dir, out)
			}
		}
		if !strings.Contains(out, "\nrke2 is uninstalled\n") {
			t.Error(out)
		}
	})
}

// Elsewhere than usual: another prefix, a data folder behind a link with other things in
// it, a folder of images of its own, all with spaces where there can be some.
func TestUninstallElsewhere(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		r.write(t, "/srv/big disk/rke2/precious", "not rke2's", 0o644)
		r.write(t, "/etc/rancher/rke2/config.yaml", "data-dir: /srv/link here\n", 0o600)
		r.must(t, `ln -s "/srv/big disk/rke2" "/srv/link here"; `+run, "INSTALL_RKE2_TAR_PREFIX=/opt/rke2", "INSTALL_RKE2_AGENT_IMAGES_DIR=/srv/images here")
		lived(t, r, "/srv/big disk/rke2")
		r.write(t, "/srv/images here/other.tar", "not rke2's", 0o644)
		out := r.must(t, "/opt/rke2/bin/rke2-uninstall.sh")
		for _, kept := range []string{"/srv/big disk/rke2/precious", "/srv/images here/other.tar"} {
			if !r.has(kept) {
				t.Errorf("%s is gone:\n%s", kept, out)
			}
		}
		for _, gone := range []string{"/opt/rke2", "/srv/big disk/rke2/server", "/srv/big disk/rke2/agent", "/srv/link here", "/etc/systemd/system/rke2-server.service", "/srv/images here/" + a.name("rke2-images-core", ".tar")} {
			if r.has(gone) {
				t.Errorf("%s is left:\n%s", gone, out)
			}
		}
		if !strings.Contains(out, "left /srv/big disk/rke2: it holds files that are not rke2's") {
			t.Error(out)
		}
	})
}

// Nothing on another file system is deleted, also if it is the same one bound twice.
func TestUninstallKeepsMounts(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		r.write(t, "/srv/backup/snapshot", "precious", 0o600)
		script := `
mount -t tmpfs tmpfs /var/lib/rancher 2>/dev/null || { mkdir -p /var/lib/rancher; mount -t tmpfs tmpfs /var/lib/rancher; }
` + run + ` || exit 9
mkdir -p "` + dataDir + `/server/db/snap shots" ` + dataDir + `/agent/x /var/lib/kubelet/pods/uid/volumes/nfs
echo x >` + dataDir + `/server/token
mount --bind /srv/backup "` + dataDir + `/server/db/snap shots"
mount -t tmpfs tmpfs /var/lib/kubelet
mkdir -p /var/lib/kubelet/pods; echo x >/var/lib/kubelet/pods/file
` + uninstall + `
echo "exit $?"
echo "--- left"
find /var/lib/rancher /var/lib/kubelet`
		if r.has("/usr/bin/find") || r.has("/bin/find") {
			script += "\n"
		} else {
			script = strings.Replace(script, "find /var/lib/rancher /var/lib/kubelet", "ls -AR /var/lib/rancher /var/lib/kubelet", 1)
		}
		out := r.must(t, script)
		said, left, _ := strings.Cut(out, "--- left")
		if got := r.read(t, "/srv/backup/snapshot"); got != "precious" {
			t.Errorf("the backup is %q", got)
		}
		if !strings.Contains(said, "exit 0") || !strings.Contains(said, "left "+dataDir+"/server/db/snap shots: it is a mount") || !strings.Contains(said, "uninstalled but for what was left") {
			t.Errorf("it said\n%s", said)
		}
		for _, gone := range []string{"token", "images", "agent", "pods"} {
			if strings.Contains(left, gone) {
				t.Errorf("%s is left:\n%s", gone, left)
			}
		}
		if !strings.Contains(left, "snapshot") {
			t.Errorf("the backup's mount is gone:\n%s", left)
		}
	})
}

// Data folders that cannot be meant.
func TestUninstallRefuses(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		r.must(t, run)
		before := r.files(t)
		for _, data := range []string{"relative/rke2", "a\n/b"} {
			if out, code := r.run(t, uninstall, "RKE2_DATA_DIR="+data); code != 1 || !strings.Contains(out, "to do: ") {
				t.Errorf("data folder %q: exit %d: %s", data, code, out)
			}
		}
		if out, code := r.run(t, uninstall+" --all"); code != 2 || !strings.Contains(out, "what is --all?") {
			t.Errorf("exit %d: %s", code, out)
		}
		if out, code := r.run(t, "id() { echo 1000; }\n. "+uninstall); code != 1 || !strings.Contains(out, "needs root") {
			t.Errorf("exit %d: %s", code, out)
		}
		if !maps.Equal(before, r.files(t)) {
			t.Error("it removed something")
		}
		// A data folder that is a place of other things loses only what rke2 puts there.
		r.write(t, "/srv/site/index.html", "precious", 0o644)
		r.must(t, uninstall, "RKE2_DATA_DIR=/srv")
		if !r.has("/srv/site/index.html") || r.has("/usr/local/bin/rke2") {
			t.Error("/srv as the data folder")
		}
	})
}
