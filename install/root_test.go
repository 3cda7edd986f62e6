//go:build linux

package install

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// The scripts run in root file systems that have little: one of nothing but a static
// busybox, one of dash, coreutils and their like as a minimal Debian has them, one with
// bash for sh as Red Hat's and SUSE's systems have it. All have openssl.
const (
	busybox = "busybox"
	dash    = "dash"
	bash    = "bash"
)

var flavours = []string{busybox, dash, bash}

// debian is what of a minimal Debian the scripts may use; ip and iptables are where a node
// is, and the scripts do without.
var debian = strings.Fields(`
	/usr/bin/dash:/bin/sh
	/bin/cat /bin/chmod /bin/chown /bin/cp /bin/ln /bin/ls /bin/mkdir /bin/mktemp /bin/mv /bin/readlink
	/bin/rm /bin/rmdir /bin/sleep /bin/sync /bin/touch /bin/uname /bin/true
	/usr/bin/basename /usr/bin/cut /usr/bin/dirname /usr/bin/env /usr/bin/head /usr/bin/id /usr/bin/sha256sum
	/usr/bin/sort /usr/bin/stat /usr/bin/tail /usr/bin/tr /usr/bin/uniq /usr/bin/wc
	/bin/sed /bin/grep /bin/tar /bin/gzip /bin/mount /bin/umount /usr/bin/openssl`)

var templates struct {
	sync.Mutex
	dir  string
	made map[string]string
}

func TestMain(m *testing.M) {
	// Who runs the tests under nohup ignores SIGHUP for all below, and a shell cannot trap
	// what was ignored when it started. What a program catches is not passed on as ignored.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	code := m.Run()
	if templates.dir != "" {
		if err := os.RemoveAll(templates.dir); err != nil {
			code = 1
		}
	}
	os.Exit(code)
}

// template makes a root file system once; roots are made of links to its files.
func template(t *testing.T, flavour string) string {
	t.Helper()
	templates.Lock()
	defer templates.Unlock()
	if dir, ok := templates.made[flavour]; ok {
		return dir
	}
	if templates.dir == "" {
		dir, err := os.MkdirTemp("", "rke2-install-roots-")
		if err != nil {
			t.Fatal(err)
		}
		templates.dir, templates.made = dir, map[string]string{}
	}
	dir := filepath.Join(templates.dir, flavour)
	for _, d := range []string{"bin", "usr/bin", "usr/sbin", "usr/local/bin", "sbin", "proc", "sys", "dev", "etc", "tmp", "run", "var/lib", "opt", "media", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if flavour == busybox {
		install(t, dir, "/bin/busybox:/bin/busybox")
		install(t, dir, "/usr/bin/openssl")
		cmd := exec.Command("/bin/busybox", "--install", "-s", "/bin")
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
		cmd.Dir = "/"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	} else {
		if flavour == bash {
			install(t, dir, "/bin/bash:/bin/sh")
		}
		for _, p := range debian { // what is there already stays
			install(t, dir, p)
		}
	}
	templates.made[flavour] = dir
	return dir
}

// install copies a program of this machine, and the libraries that it needs, into dir.
// "FROM:TO" gives it another place.
func install(t *testing.T, dir, program string) {
	t.Helper()
	from, to, ok := strings.Cut(program, ":")
	if !ok {
		to = from
	}
	files := map[string]string{from: to}
	out, err := exec.Command("ldd", from).CombinedOutput()
	if err != nil && !bytes.Contains(out, []byte("not a dynamic executable")) {
		t.Fatalf("ldd %s: %v: %s (hack/prerequisites installs what the tests need)", from, err, out)
	}
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			files[strings.TrimSuffix(word, ":")] = strings.TrimSuffix(word, ":")
		}
	}
	for from, to := range files {
		copyInto(t, from, filepath.Join(dir, to))
	}
}

func copyInto(t *testing.T, from, to string) {
	t.Helper()
	if _, err := os.Lstat(to); err == nil {
		return
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// root is a file system to run scripts in.
type root struct {
	dir string
	env []string
}

func newRoot(t *testing.T, flavour string) *root {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: no file system can be made a root")
	}
	dir := filepath.Join(t.TempDir(), "root")
	if out, err := exec.Command("cp", "-al", template(t, flavour), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := &root{dir: dir, env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}}
	r.write(t, "/dev/null", "", 0o666) // a device is not needed for what the scripts throw away
	return r
}

// run runs a script as the first process of a machine with this root: namespaces of its
// own, /proc mounted. Mounts that it makes end with it.
func (r *root) run(t *testing.T, script string, env ...string) (output string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "mount -t proc proc /proc\n"+script)
	cmd.Dir = "/"
	cmd.Env = append(append([]string{}, r.env...), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:       r.dir,
		Cloneflags:   syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Unshareflags: syscall.CLONE_NEWNS, // no mount shows outside
	}
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatalf("running in %s: %v", r.dir, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must runs a script that has to succeed.
func (r *root) must(t *testing.T, script string, env ...string) string {
	t.Helper()
	out, code := r.run(t, script, env...)
	if code != 0 {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	return out
}

func (r *root) path(p string) string { return filepath.Join(r.dir, p) }

func (r *root) write(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	p := r.path(path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(p) // may be a link to the template's
	if err := os.WriteFile(p, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil {
		t.Fatal(err)
	}
}

func (r *root) read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(r.path(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (r *root) has(path string) bool {
	_, err := os.Lstat(r.path(path))
	return err == nil
}

// files describes every file of the root but the kernel's and temporary ones: what has
// the same description was not written in between.
func (r *root) files(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, r.dir)
		if d.IsDir() {
			switch name {
			case "/proc", "/dev", "/bin", "/lib", "/lib64", "/usr/bin", "/usr/lib", "/media":
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String() + " " + info.ModTime().String()
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			text += " inode " + strconv.FormatUint(st.Ino, 10)
		}
		found[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
