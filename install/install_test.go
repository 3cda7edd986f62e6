//go:build linux

package install

import (
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const (
	imagesDir = "/var/lib/rancher/rke2/agent/images"
	run       = `sh "` + media + `/install.sh"`
)

// each runs a test in a root of every flavour, with a release beside it.
func each(t *testing.T, test func(t *testing.T, r *root, a *artifacts)) {
	in(t, flavours, test)
}

func in(t *testing.T, flavours []string, test func(t *testing.T, r *root, a *artifacts)) {
	for _, flavour := range flavours {
		t.Run(flavour, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t, flavour)
			test(t, r, newArtifacts(t, r, "v1.35.4+rke2r1", newKey(t)))
		})
	}
}

// installed fails unless the root has exactly this release, from prefix.
func (a *artifacts) installed(t *testing.T, r *root, prefix string, sets ...string) {
	t.Helper()
	for _, set := range sets {
		name := a.name("rke2-images"+set, ".tar")
		if got := r.read(t, imagesDir+"/"+name); got != a.content[name] {
			t.Errorf("%s has other bytes", name)
		}
	}
	for file, mode := range map[string]os.FileMode{
		"bin/rke2": 0o755, "bin/rke2-killall.sh": 0o755, "bin/rke2-uninstall.sh": 0o755,
		"share/rke2/LICENSE.txt": 0o644, "share/rke2/rke2-cis-sysctl.conf": 0o644, "share/rke2/installed": 0o644,
		"lib/systemd/system/rke2-server.env": 0o644,
	} {
		info, err := os.Lstat(r.path(prefix + "/" + file))
		if err != nil {
			t.Error(err)
			continue
		}
		if st := info.Sys().(*syscall.Stat_t); info.Mode() != mode || st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%s: mode %s of %d:%d", file, info.Mode(), st.Uid, st.Gid)
		}
	}
	if got := r.read(t, prefix+"/bin/rke2"); got != program(a.version) {
		t.Errorf("rke2 is %q", got)
	}
	a.nothingHalf(t, r)
}

// nothingHalf fails if something temporary is left anywhere.
func (a *artifacts) nothingHalf(t *testing.T, r *root) {
	t.Helper()
	for name := range r.files(t) {
		if strings.Contains(name, ".rke2-install") || strings.HasPrefix(name, "/tmp/") {
			t.Errorf("%s is left", name)
		}
	}
}

func TestInstalls(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		out := r.must(t, run)
		a.installed(t, r, "/usr/local", "-core", "-canal", "-ingress")
		if r.has(imagesDir + "/" + a.name("rke2-images", ".tar")) {
			t.Error("core and canal were installed twice: by themselves and in one")
		}
		for _, want := range []string{"signed by", "left out", "rke2 v1.35.4+rke2r1 is installed in /usr/local", "systemctl enable --now rke2-server"} {
			if !strings.Contains(out, want) {
				t.Errorf("it did not say %q", want)
			}
		}
		if got := r.read(t, "/usr/local/lib/systemd/system/rke2-server.service"); got != string(serverUnit) {
			t.Errorf("the unit is\n%s", got)
		}
		t.Log(out)

		// Again: nothing is written.
		before := r.files(t)
		out = r.must(t, run)
		if after := r.files(t); !maps.Equal(before, after) {
			t.Errorf("installing again changed files:\n%s", out)
		}
		if strings.Contains(out, "installed  ") || !strings.Contains(out, "unchanged  "+imagesDir) {
			t.Errorf("installing again said\n%s", out)
		}

		// Another version, a set in another form: it takes the place of this one.
		r.write(t, "/usr/local/lib/systemd/system/rke2-server.env", "HOME=/root\nHTTP_PROXY=http://proxy\n", 0o644)
		b := newArtifacts(t, r, "v1.36.0+rke2r1", a.key)
		b.content[b.name("rke2-images-canal", ".tar.zst")] = "canal compressed"
		delete(b.content, b.name("rke2-images-canal", ".tar"))
		b.write(t)
		out = r.must(t, run)
		b.installed(t, r, "/usr/local", "-core", "-ingress")
		if r.has(imagesDir+"/"+b.name("rke2-images-canal", ".tar")) || !r.has(imagesDir+"/"+b.name("rke2-images-canal", ".tar.zst")) {
			t.Errorf("the old form of the set canal was not replaced:\n%s", out)
		}
		if env := r.read(t, "/usr/local/lib/systemd/system/rke2-server.env"); !strings.Contains(env, "HTTP_PROXY") {
			t.Error("the operator's environment is lost")
		}
	})
}

func TestVerifyOnly(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		before := r.files(t)
		out := r.must(t, run+" --verify")
		if !maps.Equal(before, r.files(t)) {
			t.Error("it wrote something")
		}
		if !strings.Contains(out, "verified   "+a.name("rke2-images-core", ".tar")) {
			t.Error(out)
		}
		if out := r.must(t, run+" --help"); !strings.Contains(out, "INSTALL_RKE2_AGENT_IMAGES_DIR") || strings.Contains(out, "set -eu") {
			t.Errorf("help:\n%s", out)
		}
	})
}

// What is chosen where.
func TestPlaces(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		const readOnly = "mount --bind /usr/local /usr/local; mount -o remount,ro,bind /usr/local\n"
		out := r.must(t, readOnly+run)
		a.installed(t, r, "/opt/rke2", "-core", "-canal", "-ingress")
		unit := r.read(t, "/etc/systemd/system/rke2-agent.service")
		if !strings.Contains(unit, "ExecStart=/opt/rke2/bin/rke2 agent") || strings.Contains(unit, "/usr/local") || !strings.Contains(out, "read-only") || !strings.Contains(out, "Add /opt/rke2/bin to PATH") {
			t.Errorf("%s\n%s", out, unit)
		}
		// An upgrade finds where it is, also when /usr/local could be written to now.
		r.must(t, run)
		if r.has("/usr/local/bin/rke2") {
			t.Error("it was installed a second time")
		}
		out, code := r.run(t, run, "INSTALL_RKE2_TAR_PREFIX=/srv/rke2")
		if code == 0 || !strings.Contains(out, "rke2 is installed in /opt/rke2") {
			t.Errorf("exit %d: %s", code, out)
		}
	})
	each(t, func(t *testing.T, r *root, a *artifacts) {
		r.write(t, "/etc/rancher/rke2/config.yaml", "token: x\ndata-dir: \"/srv/big disk\" # the new one\n", 0o600)
		r.must(t, run, "INSTALL_RKE2_TYPE=agent", "INSTALL_RKE2_TAR_PREFIX=/srv/rke2")
		if !r.has("/srv/big disk/agent/images/"+a.name("rke2-images-core", ".tar")) || !r.has("/srv/rke2/bin/rke2") {
			t.Error("data-dir or the prefix was not followed")
		}
	})
	each(t, func(t *testing.T, r *root, a *artifacts) {
		// The folder of the artifacts elsewhere than the script; no base archive; its own folder of images.
		a.remove(t, a.name("rke2-images", ".tar"), a.name("rke2-images", ".txt"), a.name("rke2-images-ingress", ".tar"))
		out := r.must(t, `mv "`+media+`/install.sh" /tmp/i.sh; cd /tmp; sh i.sh; rm -f i.sh`, "INSTALL_RKE2_ARTIFACT_PATH="+media, "INSTALL_RKE2_AGENT_IMAGES_DIR=/srv/images here")
		for _, set := range []string{"-core", "-canal"} {
			if !r.has("/srv/images here/" + a.name("rke2-images"+set, ".tar")) {
				t.Errorf("set %s is not installed:\n%s", set, out)
			}
		}
		if strings.Contains(out, "-ingress") {
			t.Errorf("a set that is not there is spoken of:\n%s", out)
		}
	})
	each(t, func(t *testing.T, r *root, a *artifacts) {
		// Only the sets in one.
		a.remove(t, a.name("rke2-images-core", ".tar"), a.name("rke2-images-canal", ".tar"))
		r.must(t, run)
		a.installed(t, r, "/usr/local", "", "-ingress")
	})
}

// The signature may be verified by an operator's key, by cosign, or elsewhere.
func TestWaysToTrust(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		public, err := a.key.Public()
		if err != nil {
			t.Fatal(err)
		}
		r.write(t, "/root/release.pub", string(public), 0o600)
		r.must(t, run+" --verify", "INSTALL_RKE2_PUBLIC_KEY=/root/release.pub")

		a.put(t, scriptName, string(installScript)) // of the source tree: no key in it
		if out, code := r.run(t, run); code != 1 || !strings.Contains(out, "holds no key") {
			t.Errorf("exit %d: %s", code, out)
		}
		list := r.read(t, media+"/sha256sum-"+arch+".txt")
		r.must(t, run+" --verify", "INSTALL_RKE2_SUMS_SHA256="+sumOf(list))
		if out, code := r.run(t, run+" --verify", "INSTALL_RKE2_SUMS_SHA256="+sumOf("another")); code != 1 || !strings.Contains(out, "is not the one that you verified") {
			t.Errorf("exit %d: %s", code, out)
		}

		// Without openssl: cosign, if there is one.
		a.write(t)
		if err := os.Remove(r.path("/usr/bin/openssl")); err != nil {
			t.Fatal(err)
		}
		out, code := r.run(t, run)
		if code != 1 || !strings.Contains(out, "neither openssl nor cosign") {
			t.Errorf("exit %d: %s", code, out)
		}
		r.write(t, "/usr/local/bin/cosign", "#!/bin/sh\n[ \"$1\" = verify-blob ]\n", 0o755)
		r.must(t, run+" --verify")
		r.write(t, "/usr/local/bin/cosign", "#!/bin/sh\nexit 1\n", 0o755)
		if out, code := r.run(t, run+" --verify"); code != 1 || !strings.Contains(out, "is not signed by") {
			t.Errorf("exit %d: %s", code, out)
		}
	})
}

// SELinux: what is installed gets its label, if the host has the tool; no more than that.
func TestLabels(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		r.write(t, "/usr/sbin/restorecon", "#!/bin/sh\necho \"$@\" >>/labelled\n", 0o755)
		r.must(t, run)
		labelled := strings.Fields(r.read(t, "/labelled"))
		if !slices.Contains(labelled, "/usr/local/bin/rke2") || !slices.Contains(labelled, imagesDir+"/"+a.name("rke2-images-core", ".tar")) {
			t.Errorf("labelled: %q", labelled)
		}
	})
}

// However it is ended, nothing half copied is used, and the next run completes it.
func TestEndedHalfway(t *testing.T) {
	for _, signal := range []string{"TERM", "HUP", "KILL"} {
		t.Run(signal, func(t *testing.T) {
			each(t, func(t *testing.T, r *root, a *artifacts) {
				before := r.files(t)
				// It is in the middle of its first copy for long.
				slow := "sync() { sleep 2; }\n. \"" + media + "/install.sh\""
				r.write(t, "/slow.sh", slow, 0o755)
				out := r.must(t, `INSTALL_RKE2_ARTIFACT_PATH="`+media+`" sh /slow.sh & pid=$!
while ! [ -f `+imagesDir+`/.`+a.name("rke2-images-canal", ".tar")+`.rke2-install ]; do sleep 0.1 2>/dev/null || sleep 1; done
kill -`+signal+` $pid; code=0; wait $pid || code=$?; echo "exit $code"; rm -f /slow.sh`)
				if strings.Contains(out, "exit 0") || strings.Contains(out, "installed  ") {
					t.Errorf("it was not ended:\n%s", out)
				}
				if signal != "KILL" {
					if after := r.files(t); !maps.Equal(before, after) {
						t.Errorf("files changed: %v", after)
					}
				}
				for name := range r.files(t) {
					if _, ok := before[name]; !ok && !strings.Contains(name, "rke2-install") {
						t.Errorf("%s is there", name)
					}
				}
				// The killed one's archives are not among those of the next.
				a.remove(t, a.name("rke2-images-canal", ".tar"), a.name("rke2-images", ".tar"))
				r.must(t, "rm -rf /tmp/rke2-install.*; "+run)
				a.installed(t, r, "/usr/local", "-core", "-ingress")
			})
		})
	}
}

// What a development key signed is installed, and said to be that.
func TestDevelopmentBuild(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		if out := r.must(t, run); strings.Contains(out, "development build") {
			t.Error("a release is called a development build")
		}
		a.content[a.name("rke2", ".tar.gz")] = archive(t, program(a.version+" (development build)"))
		a.write(t)
		if out := r.must(t, run); !strings.Contains(out, "this is a development build") || !strings.Contains(out, "\nrke2 "+a.version+" is installed") {
			t.Error(out)
		}
	})
}

// Parts and deltas go in beside what they may need.
func TestParts(t *testing.T) {
	each(t, func(t *testing.T, r *root, a *artifacts) {
		r.must(t, run)
		b := newArtifacts(t, r, "v1.36.0+rke2r1", a.key)
		whole := b.name("rke2-images-core", "")
		for _, name := range []string{whole + ".tar", b.name("rke2-images", ".tar")} {
			delete(b.content, name)
		}
		b.content[whole+".part1of2.tar"], b.content[whole+".part2of2.tar"] = "one", "two"
		b.write(t)
		out := r.must(t, run)
		for _, name := range []string{whole + ".tar", whole + ".part1of2.tar", whole + ".part2of2.tar"} {
			if !r.has(imagesDir + "/" + name) {
				t.Errorf("%s is not there:\n%s", name, out)
			}
		}
	})
}
