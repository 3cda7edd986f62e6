package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rancher/rke2/tests/tools"
)

// full builds with a file system of that size on a folder, then again with room. It runs
// in a mount namespace of its own, and copies what there is after each.
const full = `set -e
mount -t tmpfs -o size=$SIZE tmpfs "$FOLDER"
if "$@" >"$SAID" 2>&1; then echo 0; else echo $?; fi >"$SAID.code"
mkdir -p "$COPIES/first" "$COPIES/second"
cp -a dist cache "$COPIES/first/"
mount -o remount,size=512m "$FOLDER"
"$@" >"$SAID.again" 2>&1
cp -a dist cache "$COPIES/second/"
`

// A disk that is full is said to be, with the file that was being written; nothing
// half-written stays, and with room the result is the usual one.
func TestNoSpaceLeft(t *testing.T) {
	if os.Getuid() != 0 {
		tools.Absent(t, "only root can make a file system that is full")
	}
	root := t.TempDir()
	v := &victim{t: t, root: root, cache: filepath.Join(root, "cache"), key: releaseKey(t, root)}
	checkout(t, root, 0o022)
	want := v.finish()
	for _, c := range []struct{ folder, size string }{
		{"cache", "1m"}, // less than a program
		{"cache", "8m"}, // programs fit, the large layer doesn't
		{"dist", "1m"},
		{"dist", "7m"},
	} {
		t.Run(c.folder+" "+c.size, func(t *testing.T) {
			v.t = t
			v.clear()
			for _, d := range []string{v.dist(), v.cache} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			copies := t.TempDir()
			said := filepath.Join(copies, "said")
			cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c", full, "full",
				os.Args[0], "all", "--images", filepath.Join(root, "images"), "--cache", v.cache, "--key", v.key)
			cmd.Dir = root
			cmd.Env = append(os.Environ(), asMain+"=1", "FOLDER="+filepath.Join(root, c.folder), "SIZE="+c.size, "SAID="+said, "COPIES="+copies)
			if out, err := cmd.CombinedOutput(); err != nil {
				again, _ := os.ReadFile(said + ".again")
				t.Fatalf("%v\n%s%s", err, out, again)
			}
			text, err := os.ReadFile(said)
			if err != nil {
				t.Fatal(err)
			}
			code, err := os.ReadFile(said + ".code")
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(string(code)) != "1" {
				t.Errorf("exit %s:\n%s", code, text)
			}
			for _, want := range []string{"no space left on device", "The file system of " + filepath.Join(root, c.folder), " free now", "run the same command again"} {
				if !strings.Contains(string(text), want) {
					t.Errorf("no %q in what it said:\n%s", want, text)
				}
			}
			left := &victim{t: t, root: filepath.Join(copies, "first"), cache: filepath.Join(copies, "first", "cache")}
			left.whole()
			if d := differing(want, products(t, filepath.Join(copies, "second", "dist"))); len(d) > 0 {
				t.Errorf("with room it made other bytes: %s", strings.Join(d, ", "))
			}
		})
	}
}
