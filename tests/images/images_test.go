//go:build linux

// Package images runs the tests that images declare (test in image.yaml and
// product.yaml), each in the image's own root file system and as its own user: with
// nothing else around, and no network. Programs for arm64 run under qemu-user, where
// qemu-aarch64-static is installed.
package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	declared "github.com/rancher/rke2/images"
	"github.com/rancher/rke2/tests/imagefs"
)

const limit = time.Minute // for one command, also under an emulator

// emulators by the architecture that they run.
var emulators = map[string]string{"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}

// noNetfilter recognizes what programs say when qemu-user refuses them a netlink socket
// that the kernel has. iptables, nft, ipset and conntrack open one even to print their
// version: that they get there shows that they and their libraries are whole.
func noNetfilter(out string) bool {
	return strings.Contains(out, "Protocol not supported") || strings.Contains(out, "Cannot open session to kernel")
}

func TestImages(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for chroot")
	}
	tree, err := declared.Load(filepath.Join("..", "..", "images"))
	if err != nil {
		t.Fatal(err)
	}
	dist := os.Getenv("RKE2_DIST")
	if dist == "" {
		dist = filepath.Join("..", "..", "dist")
	}
	built, err := imagefs.List(filepath.Join(dist, "oci"))
	if err != nil {
		t.Fatalf("%v\nrun make airgap first, or set RKE2_DIST", err)
	}
	seen := map[string]bool{}
	for _, i := range built {
		seen[i.Name] = true
		t.Run(i.Name+"/"+i.Platform.Architecture, func(t *testing.T) {
			d, ok := tree.Image(i.Name)
			if !ok {
				t.Fatal("the layout has it, but no declaration")
			}
			run(t, i, d)
		})
	}
	for _, d := range tree.Images {
		if !seen[d.Name] {
			t.Errorf("image %s is declared, but not in the layout", d.Name)
		}
	}
}

func run(t *testing.T, i imagefs.Image, d declared.Image) {
	if len(d.Test) == 0 {
		t.Fatalf("%s declares no test: let it say its version at least", d.Name)
	}
	emulator := ""
	if i.Platform.Architecture != runtime.GOARCH {
		path, err := exec.LookPath(emulators[i.Platform.Architecture])
		if errors.Is(err, exec.ErrNotFound) {
			t.Skipf("%s is not installed", emulators[i.Platform.Architecture])
		}
		if err != nil {
			t.Fatal(err)
		}
		emulator = path
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := i.Unpack(root, nil); err != nil {
		t.Fatal(err)
	}
	if err := furnish(root, emulator); err != nil {
		t.Fatal(err)
	}
	credential, err := user(root, i.Config.User)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range d.Test {
		args := test.Run
		if emulator != "" {
			args = append([]string{"/" + filepath.Base(emulator)}, args...)
		}
		want := test.Prints
		if want == "" {
			want = strings.TrimPrefix(d.Version, "v")
		}
		out, err := output(t.Context(), root, credential, i.Config.Env, args)
		switch {
		case err != nil && emulator != "" && noNetfilter(out):
			t.Logf("%v: runs, up to netfilter's socket, which qemu does not have", test.Run)
		case err != nil:
			t.Errorf("%v: %v\n%s", test.Run, err, out)
		case !strings.Contains(out, want):
			t.Errorf("%v prints\n%s\nwithout %q", test.Run, out, want)
		default:
			t.Logf("%v: %s", test.Run, firstLine(out, want))
		}
	}
}

// furnish adds what any container has, and the emulator.
func furnish(root, emulator string) error {
	for _, dir := range []string{"dev", "proc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "random": 8, "urandom": 9} {
		path := filepath.Join(root, "dev", name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return fmt.Errorf("making /dev/%s: %w", name, err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return err
		}
	}
	if emulator == "" {
		return nil
	}
	in, err := os.Open(emulator)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(root, filepath.Base(emulator)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

// user finds the numbers of an image's user: a name of its /etc/passwd, or numbers.
func user(root, name string) (*syscall.Credential, error) {
	if name == "" {
		return &syscall.Credential{}, nil
	}
	u, g, hasGroup := strings.Cut(name, ":")
	if data, err := os.ReadFile(filepath.Join(root, "etc", "passwd")); err == nil {
		for _, line := range strings.Split(string(data), "\n") {
			f := strings.Split(line, ":")
			if len(f) > 3 && (f[0] == u || f[2] == u) {
				u = f[2]
				if !hasGroup {
					g = f[3]
				}
				break
			}
		}
	}
	if g == "" {
		g = "0"
	}
	uid, err := strconv.ParseUint(u, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("the image's user %q is not in its /etc/passwd", name)
	}
	gid, err := strconv.ParseUint(g, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("the image's user %q has no numeric group", name)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func output(ctx context.Context, root string, credential *syscall.Credential, env, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Err = nil // the path is one in the image
	cmd.Dir, cmd.Env = "/", append([]string{"HOME=/tmp"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: root, Credential: credential,
		// What the command starts ends with it, and reaches nobody.
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNS,
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %s: %w", limit, err)
	}
	return out.String(), err
}

// firstLine gives the line that has the text.
func firstLine(out, want string) string {
	for _, l := range strings.Split(out, "\n") {
		if strings.Contains(l, want) {
			return strings.TrimSpace(l)
		}
	}
	return want
}
