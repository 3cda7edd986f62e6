package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/build/debian/debiantest"
	"github.com/rancher/rke2/build/lock"
)

// lockProject has a component of Debian packages, and an archive for it.
func lockProject(t *testing.T, made time.Time) (root string, a *debiantest.Archive) {
	t.Helper()
	root = project(t)
	a = debiantest.NewAt(t, made)
	a.Add("", debiantest.Package{Name: "tool", Version: "1", Fields: "Depends: lib\n"}, debiantest.Package{Name: "lib", Version: "1"})
	a.Publish(t)
	t.Setenv("DEBIAN_MIRROR", a.Mirrors().Main)
	t.Setenv("DEBIAN_SECURITY_MIRROR", a.Mirrors().Security)
	t.Setenv("DEBIAN_KEYRING", a.Keyring)
	product := filepath.Join(root, "images", "product.yaml")
	data, err := os.ReadFile(product)
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, "debian:\n  suite: bookworm\n  mirror: http://debian.example.com/debian\n  security: http://debian.example.com/security\n"...)
	if err := os.WriteFile(product, data, 0o644); err != nil {
		t.Fatal(err)
	}
	declareTools(t, root, "tool")
	return root, a
}

func declareTools(t *testing.T, root, packages string) {
	t.Helper()
	dir := filepath.Join(root, "images", "tools")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "description: tools\ncrypto: none\ncrypto-reason: none is needed\ndebian:\n  packages: [" + packages + "]\n"
	if err := os.WriteFile(filepath.Join(dir, "image.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLock(t *testing.T) {
	root, a := lockProject(t, time.Now())
	code, out, msg := invoke(t, "lock")
	if code != 0 || !strings.Contains(out, "tool (amd64) 1 is new") || !strings.Contains(msg, "/debian/dists/bookworm/InRelease") {
		t.Fatalf("%d\n%s%s", code, out, msg)
	}
	a.Requests()
	if code, out, msg = invoke(t, "lock"); code != 0 || !strings.Contains(out, "unchanged") || len(a.Requests()) != 0 {
		t.Errorf("again: %d\n%s%s", code, out, msg)
	}
	// Newer packages move when they are told to.
	a.Add("security", debiantest.Package{Name: "lib", Version: "1+deb12u1"})
	a.Publish(t)
	code, out, msg = invoke(t, "lock", "--update", "lib", "-o", "json")
	var updated []lock.Updated
	if err := json.Unmarshal([]byte(out), &updated); err != nil || code != 0 || len(updated) != 1 || len(updated[0].Changes) != 2 || updated[0].Changes[0].After != "1+deb12u1" {
		t.Errorf("update: %d, %v\n%s%s", code, err, out, msg)
	}
	// A declaration that changed, and what to do about it.
	declareTools(t, root, "lib, tool")
	code, _, msg = invoke(t, "compile", "tools")
	if code != exitFailure || !strings.Contains(msg, "package lib is new") || !strings.Contains(msg, "rke2-build lock tools") {
		t.Errorf("stale: %d\n%s", code, msg)
	}
	if code, out, msg = invoke(t, "lock", "tools"); code != 0 || !strings.Contains(out, "no pin changed") {
		t.Errorf("locked again: %d\n%s%s", code, out, msg)
	}
	if code, out, msg = invoke(t, "compile", "tools"); code != 0 {
		t.Errorf("compile: %d\n%s%s", code, out, msg)
	}
	for _, wrong := range [][]string{{"lock", "tiny"}, {"lock", "nothing"}, {"lock", "--output", "xml"}} {
		if code, _, msg = invoke(t, wrong...); code != exitUsage {
			t.Errorf("%v: %d\n%s", wrong, code, msg)
		}
	}
	if code, _, msg = invoke(t, "lock", "--update", "libb"); code != exitFailure || !strings.Contains(msg, "--update libb") {
		t.Errorf("unknown name: %d\n%s", code, msg)
	}
}

// Without --allow-expired, an archive that is kept back is refused.
func TestLockExpired(t *testing.T) {
	lockProject(t, time.Now().Add(-8*24*time.Hour))
	code, _, msg := invoke(t, "lock")
	if code != exitFailure || !strings.Contains(msg, "InRelease: it expired at ") {
		t.Errorf("%d\n%s", code, msg)
	}
	if code, _, msg = invoke(t, "lock", "--allow-expired"); code != 0 {
		t.Errorf("%d\n%s", code, msg)
	}
}
