//go:build linux

package install

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"strings"
	"testing"
)

func sumOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// Whatever is wrong with the artifacts or the host: one message that says what and what
// to do, and no file of the host changed.
func TestRefuses(t *testing.T) {
	list := "sha256sum-" + arch + ".txt"
	// In a shell that has a command of its own already.
	const sourced = `INSTALL_RKE2_ARTIFACT_PATH="` + media + `"; . "` + media + `/install.sh"`
	foreign := map[string]string{"amd64": "arm64", "arm64": "amd64"}[arch]
	for _, c := range []struct {
		name    string
		spoil   func(t *testing.T, r *root, a *artifacts)
		script  string // default: run
		env     []string
		message string
	}{
		{name: "no list", spoil: func(t *testing.T, _ *root, a *artifacts) { a.remove(t, list) }, message: "has no " + list},
		{name: "another architecture's", spoil: func(t *testing.T, _ *root, a *artifacts) {
			a.remove(t, list)
			a.put(t, "sha256sum-"+foreign+".txt", "")
		}, message: "has artifacts for " + foreign},
		{name: "no signature", spoil: func(t *testing.T, _ *root, a *artifacts) { a.remove(t, list+".sig") }, message: list + " is not signed"},
		{name: "empty signature", spoil: func(t *testing.T, _ *root, a *artifacts) { a.put(t, list+".sig", "") }, message: "is not signed by the key in"},
		{name: "no base64", spoil: func(t *testing.T, _ *root, a *artifacts) { a.put(t, list+".sig", "%%%") }, message: "is not signed by the key in"},
		{name: "a stranger's signature", spoil: func(t *testing.T, r *root, a *artifacts) {
			stranger := *a
			stranger.key = newKey(t)
			stranger.sign(t, r.read(t, media+"/"+list))
		}, message: "is not signed by the key in"},
		{name: "list changed after it was signed", spoil: func(t *testing.T, r *root, a *artifacts) {
			a.put(t, list, strings.Replace(r.read(t, media+"/"+list), "0", "1", 1))
		}, message: "is not signed by the key in"},
		{name: "archive changed", spoil: func(t *testing.T, _ *root, a *artifacts) {
			a.put(t, a.name("rke2", ".tar.gz"), archive(t, "#!/bin/sh\necho evil\n"))
		}, message: "rke2.linux-" + arch + ".tar.gz was changed or damaged"},
		{name: "a set cut short", spoil: func(t *testing.T, _ *root, a *artifacts) {
			name := a.name("rke2-images-ingress", ".tar")
			a.put(t, name, a.content[name][:100])
		}, message: "rke2-images-ingress.linux-" + arch + ".tar was changed or damaged"},
		{name: "a set that is not listed", spoil: func(t *testing.T, _ *root, a *artifacts) {
			a.put(t, a.name("rke2-images-extra", ".tar"), "who made this?")
		}, message: "rke2-images-extra.linux-" + arch + ".tar is in"},
		{name: "no archive", spoil: func(t *testing.T, _ *root, a *artifacts) { a.remove(t, a.name("rke2", ".tar.gz")) }, message: "has no rke2.linux-" + arch + ".tar.gz"},
		{name: "no images", spoil: func(t *testing.T, _ *root, a *artifacts) {
			a.remove(t, a.name("rke2-images", ".tar"), a.name("rke2-images-core", ".tar"), a.name("rke2-images-canal", ".tar"), a.name("rke2-images-ingress", ".tar"))
		}, message: "has no image archives"},
		{name: "a program for another machine", spoil: func(t *testing.T, _ *root, a *artifacts) {
			a.content[a.name("rke2", ".tar.gz")] = archive(t, "\x7fELF of nothing that runs here")
			a.write(t)
		}, message: "does not run on this host"},
		{name: "an archive with something missing", spoil: func(t *testing.T, _ *root, a *artifacts) {
			a.content[a.name("rke2", ".tar.gz")] = emptyArchive(t)
			a.write(t)
		}, message: "has no bin/rke2"},
		{name: "a list that lists a path", spoil: func(t *testing.T, r *root, a *artifacts) {
			a.sign(t, r.read(t, media+"/"+list)+sumOf("x")+"  ../x\n")
		}, message: "has a line that is not a sum and a file name"},
		{name: "a file listed twice", spoil: func(t *testing.T, r *root, a *artifacts) {
			a.sign(t, r.read(t, media+"/"+list)+sumOf("x")+"  "+a.name("rke2", ".tar.gz")+"\n")
		}, message: "has two sums of rke2.linux-"},
		{name: "another version than wanted", env: []string{"INSTALL_RKE2_VERSION=v9.9.9+rke2r1"}, message: "has rke2 v1.35.4+rke2r1, and INSTALL_RKE2_VERSION is v9.9.9+rke2r1"},
		{name: "no such key", env: []string{"INSTALL_RKE2_PUBLIC_KEY=/root/none.pub"}, message: "/root/none.pub does not exist"},
		{name: "a key that is none", env: []string{"INSTALL_RKE2_PUBLIC_KEY=/etc/config"}, spoil: func(t *testing.T, r *root, _ *artifacts) {
			r.write(t, "/etc/config", "a: b\n", 0o644)
		}, message: "is not a public key in PEM form"},
		{name: "no such folder", env: []string{"INSTALL_RKE2_ARTIFACT_PATH=/nowhere"}, message: "/nowhere does not exist"},
		{name: "a type", env: []string{"INSTALL_RKE2_TYPE=master"}, message: "INSTALL_RKE2_TYPE is master"},
		{name: "a method", env: []string{"INSTALL_RKE2_METHOD=rpm"}, message: "only tar installs without a network"},
		{name: "a prefix that units cannot name", env: []string{"INSTALL_RKE2_TAR_PREFIX=/srv/my rke2"}, message: "units cannot name it"},
		{name: "a relative prefix", env: []string{"INSTALL_RKE2_TAR_PREFIX=rke2"}, message: "units cannot name it"},
		{name: "a relative images folder", env: []string{"INSTALL_RKE2_AGENT_IMAGES_DIR=images"}, message: "is not an absolute path"},
		{name: "not root", script: "id() { echo 1000; }\n" + sourced, message: "installing needs root"},
		{name: "an option", script: run + " --force", message: "what is --force?"},
		{name: "another install.sh is at work", script: "mkdir -p /usr/local/.rke2-install; sh -c 'sleep 60; : install' & echo $! >/usr/local/.rke2-install/pid; sleep 1; " + run + "; code=$?; rm -rf /usr/local/.rke2-install; exit $code", message: "another install.sh (process"},
		{name: "an unknown machine", script: "uname() { echo riscv64; }\n" + sourced, message: "architecture is riscv64"},
		{name: "images' disk too small", script: "mkdir -p /var/lib/rancher; mount -t tmpfs -o size=64k tmpfs /var/lib/rancher; " + run, message: "the disk of " + imagesDir + " is too full"},
		{name: "images' disk full of files", script: "mkdir -p " + imagesDir + "; mount -t tmpfs -o size=64m,nr_inodes=3 tmpfs " + imagesDir + "; " + run + "; code=$?; ls -A " + imagesDir + "; exit $code", message: "nothing was changed"},
		{name: "prefix' disk too small", script: "mkdir -p /srv/rke2; mount -t tmpfs -o size=64k tmpfs /srv/rke2; " + run, env: []string{"INSTALL_RKE2_TAR_PREFIX=/srv/rke2"}, message: "the disk of /srv/rke2 is too full"},
		{name: "no room for temporary files", env: []string{"TMPDIR=/nowhere"}, message: "no temporary folder can be made in /nowhere"},
		{name: "a folder in the way", spoil: func(t *testing.T, r *root, _ *artifacts) { r.write(t, "/usr/local/bin/rke2/x", "", 0o644) },
			message: "/usr/local/bin/rke2 is a folder"},
		{name: "read-only images", script: "mkdir -p /var/lib/rancher; mount -t tmpfs -o ro tmpfs /var/lib/rancher; " + run, message: "cannot be written to"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, []string{busybox, dash}, func(t *testing.T, r *root, a *artifacts) {
				if c.spoil != nil {
					c.spoil(t, r, a)
				}
				before := r.files(t)
				script := c.script
				if script == "" {
					script = run
				}
				out, code := r.run(t, script, c.env...)
				if code != 1 || !strings.Contains(out, c.message) {
					t.Errorf("exit %d, want 1 with %q:\n%s", code, c.message, out)
				}
				if strings.Count(out, "rke2 install: ") != 1 || !strings.Contains(out, "  to do: ") {
					t.Errorf("not one message with what to do:\n%s", out)
				}
				if after := r.files(t); !maps.Equal(before, after) {
					t.Errorf("files changed:\nbefore %v\nafter %v", before, after)
				}
			})
		})
	}
}
