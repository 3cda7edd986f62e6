package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
)

// checkout writes a small project as a checkout under that umask would: two commands,
// one of them in two images, and files beside a Dockerfile, one large enough that its
// layer takes a while.
func checkout(t *testing.T, root string, umask fs.FileMode) {
	t.Helper()
	large := make([]byte, 6<<20)
	rand.New(rand.NewSource(1)).Read(large)
	for name, content := range map[string]string{
		"images/product.yaml": "version-of: app\nrelease: rke2r1\nfips140: v1.0.0\nregistry: docker.io\nrepo: rancher\n" +
			"image:\n  name: runtime\n  role: runtime\n  dockerfile: ../Dockerfile.runtime\n  sets: [core]\n",
		"Dockerfile.runtime":         "FROM scratch\nARG IMAGE_VERSION\nLABEL v=$IMAGE_VERSION\nCOPY --from=app / /bin/\nCOPY --from=ctl / /bin/\n",
		"images/app/go.mod":          "module example.com/app\n\ngo 1.25.0\n\ntool (\n\texample.com/app\n\texample.com/app/ctl\n)\n",
		"images/app/main.go":         "package main\n\nfunc main() { println(\"app\") }\n",
		"images/app/ctl/main.go":     "package main\n\nfunc main() { println(\"ctl\") }\n",
		"images/app/image.yaml":      "description: app\nversion: v1.35.4\nimage:\n  name: hardened-app\n  role: app\n  sets: [core, app]\n",
		"images/app/Dockerfile":      "FROM scratch\nCOPY --from=app / /bin/\nCOPY files /etc/app/\nUSER 1000\n",
		"images/app/files/large.bin": string(large),
		"images/app/files/run.sh":    "#!/bin/true\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := fs.FileMode(0o666)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o777
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode&^umask); err != nil {
			t.Fatal(err)
		}
	}
}

// products hashes what a build made, by path. Temporary files, which a killed build may
// leave, are none. Two files have paths or keys of this machine in them.
func products(t *testing.T, dist string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dist, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dist, p)
		if err != nil || rel == "overlay.json" || rel == "development.key" || strings.HasPrefix(d.Name(), ".tmp-") {
			return err
		}
		out[rel] = sumFile(t, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 10 || out["oci/index.json"] == "" || out["release.json"] == "" {
		t.Fatalf("not everything was made: %v", out)
	}
	return out
}

func sumFile(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// differing lists what differs between two builds' products.
func differing(a, b map[string]string) []string {
	var out []string
	for n := range a {
		if a[n] != b[n] {
			out = append(out, n)
		}
	}
	for n := range b {
		if _, ok := a[n]; !ok {
			out = append(out, n+" (new)")
		}
	}
	sort.Strings(out)
	return out
}

// releaseKey makes a key, whose signatures are the same each time.
func releaseKey(t *testing.T, dir string) string {
	t.Helper()
	t.Setenv("COSIGN_PASSWORD", "secret")
	name := filepath.Join(dir, "release")
	if code, _, msg := invoke(t, "keygen", name); code != 0 {
		t.Fatal(msg)
	}
	if err := os.Chmod(name+".key", 0o644); err != nil {
		t.Fatal(err)
	}
	return name + ".key"
}

// open makes a folder that every user can get to.
func open(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rke2-build-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The go command makes the folders of modules read-only.
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = os.Chmod(p, 0o755)
			}
			return nil
		})
		_ = os.RemoveAll(dir)
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The same sources give the same bytes: in any folder, from any working directory, for
// any user, under any umask, in any time zone and language, on any number of cores. Each
// build starts with nothing that another made.
func TestSameBytesEverywhere(t *testing.T) {
	base := open(t)
	key := releaseKey(t, base)
	program := filepath.Join(base, "rke2-build")
	if err := copyProgram(program); err != nil {
		t.Fatal(err)
	}
	builds := []struct {
		name  string
		dir   string // of the checkout
		cwd   string // in it; "/": the root of the file system
		umask int
		user  uint32
		jobs  int
		env   []string
	}{
		{"one core", "a", "images/app", 0o022, 0, 1, []string{"TZ=UTC", "GOMAXPROCS=1", "LANG=C"}},
		{"all cores, elsewhere", "deep/er/with space", "/", 0o077, 0, 9, []string{"TZ=Asia/Kolkata", "LANG=de_DE.UTF-8", "GOFLAGS=-v", "CGO_ENABLED=1"}},
		{"nobody", "c", ".", 0o000, 65534, 2, []string{"TZ=America/St_Johns", "USER=nobody", "GOAMD64=v3", "GOFIPS140=off"}},
	}
	var want map[string]string
	for _, b := range builds {
		if b.user != 0 && os.Getuid() != 0 {
			t.Logf("%s: left out, since only root can be another user", b.name)
			continue
		}
		root, home := filepath.Join(base, b.dir), filepath.Join(base, "home-"+b.name)
		checkout(t, root, fs.FileMode(b.umask))
		for _, d := range []string{root, home} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
			own(t, d, b.user)
		}
		cmd := exec.CommandContext(t.Context(), program, "all", "--images", filepath.Join(root, "images"), "--key", key, "-j", fmt.Sprint(b.jobs))
		cmd.Dir = filepath.Join(root, b.cwd)
		if b.cwd == "/" {
			cmd.Dir = "/"
		}
		cmd.Env = append([]string{asMain + "=1", "HOME=" + home, "COSIGN_PASSWORD=secret", "PATH=" + os.Getenv("PATH"), "GOSUMDB=off", "GOPROXY=off"}, b.env...)
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		if b.user != 0 {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: b.user, Gid: b.user}
		}
		old := syscall.Umask(b.umask)
		out, err := cmd.CombinedOutput()
		syscall.Umask(old)
		if err != nil {
			t.Fatalf("%s: %v\n%s", b.name, err, out)
		}
		if n := bytes.Count(out, []byte(" built ")); n < 2 {
			t.Errorf("%s: %d steps had something to do:\n%s", b.name, n, out)
		}
		got := products(t, filepath.Join(root, "dist"))
		if want == nil {
			want = got
			continue
		}
		if d := differing(want, got); len(d) > 0 {
			t.Errorf("%s made other bytes: %s", b.name, strings.Join(d, ", "))
		}
	}
}

// own gives a folder and all in it to a user.
func own(t *testing.T, dir string, user uint32) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(user), int(user))
	})
	if err != nil && os.Getuid() == 0 {
		t.Fatal(err)
	}
}

// copyProgram puts this test program, which can be rke2-build, where every user can
// start it.
func copyProgram(to string) error {
	in, err := os.Open(os.Args[0])
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
