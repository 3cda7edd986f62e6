//go:build linux

package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/fake"
)

const arch = runtime.GOARCH

// media is where the artifacts are in a root: a name as volumes have them.
const media = "/media/usb stick"

// program is what stands for rke2 in these tests: it says its version, as install.sh asks.
func program(version string) string {
	return "#!/bin/sh\necho 'rke2 version " + version + "'\n"
}

// artifacts is a small release in a folder.
type artifacts struct {
	dir     string
	key     fake.Key
	version string
	content map[string]string // by name; what is listed and signed
}

// newArtifacts makes the artifacts of a version in a root: the archive, the sets core,
// canal and ingress, and core and canal in one.
func newArtifacts(t *testing.T, r *root, version string, key fake.Key) *artifacts {
	t.Helper()
	a := &artifacts{dir: r.path(media), key: key, version: version, content: map[string]string{}}
	a.content["rke2.linux-"+arch+".tar.gz"] = archive(t, program(version))
	lists := map[string]string{"-core": "registry/etcd:v1\nregistry/runtime:v1\n", "-canal": "registry/calico:v1\n", "-ingress": "registry/nginx:v1\n"}
	lists[""] = lists["-core"] + lists["-canal"]
	for set, list := range lists {
		a.content["rke2-images"+set+".linux-"+arch+".tar"] = strings.Repeat("images of "+version+set+"\n", 5000)
		a.content["rke2-images"+set+".linux-"+arch+".txt"] = list
	}
	a.write(t)
	return a
}

// archive is a binary's archive as it is released.
func archive(t *testing.T, binary string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rke2")
	if err := os.WriteFile(file, []byte(binary), 0o755); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeTarball(&b, file, []byte("the licence"), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (a *artifacts) name(stem, ending string) string { return stem + ".linux-" + arch + ending }

// write writes all files, the list of their sums, its signature and install.sh.
func (a *artifacts) write(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(a.dir); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name, content := range a.content {
		a.put(t, name, content)
		names = append(names, name)
	}
	slices.Sort(names)
	var list strings.Builder
	for _, name := range names {
		sum := sha256.Sum256([]byte(a.content[name]))
		fmt.Fprintf(&list, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	}
	a.sign(t, list.String())
	public, err := a.key.Public()
	if err != nil {
		t.Fatal(err)
	}
	script, err := Script(public)
	if err != nil {
		t.Fatal(err)
	}
	a.put(t, scriptName, string(script))
}

// sign writes a list of sums and its signature.
func (a *artifacts) sign(t *testing.T, list string) {
	t.Helper()
	sig, err := a.key.Sign(t.Context(), []byte(list))
	if err != nil {
		t.Fatal(err)
	}
	a.put(t, "sha256sum-"+arch+".txt", list)
	a.put(t, "sha256sum-"+arch+".txt.sig", base64.StdEncoding.EncodeToString(sig))
}

func (a *artifacts) put(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (a *artifacts) remove(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(a.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func newKey(t *testing.T) fake.Key {
	t.Helper()
	k, err := fake.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// emptyArchive is an archive with a file that nobody asked for.
func emptyArchive(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tarball{tar.NewWriter(z), time.Unix(0, 0)}
	for _, err := range []error{w.file("README", 0o644, []byte("hello")), w.w.Close(), z.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}
