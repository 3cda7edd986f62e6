package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// victim is a project whose builds are killed.
type victim struct {
	t     *testing.T
	root  string
	cache string
	key   string
}

func (v *victim) dist() string { return filepath.Join(v.root, "dist") }

// build starts rke2-build all as a process of its own.
func (v *victim) build() (*exec.Cmd, *bytes.Buffer) {
	v.t.Helper()
	cmd := exec.CommandContext(v.t.Context(), os.Args[0], "all", "--images", filepath.Join(v.root, "images"), "--cache", v.cache, "--key", v.key)
	// Killed compilers leave their folders.
	cmd.Env = append(os.Environ(), asMain+"=1", "GOTMPDIR="+v.t.TempDir())
	// A group of its own, so that the compilers it started go with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	return cmd, out
}

// finish builds to the end.
func (v *victim) finish() map[string]string {
	v.t.Helper()
	cmd, out := v.build()
	if err := cmd.Wait(); err != nil {
		v.t.Fatalf("%v\n%s", err, out)
	}
	return products(v.t, v.dist())
}

// kill builds until now() holds, and kills. It tells whether that was before the end.
func (v *victim) kill(now func() bool) bool {
	v.t.Helper()
	cmd, out := v.build()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for deadline := time.Now().Add(3 * time.Minute); ; {
		select {
		case err := <-ended:
			if err != nil {
				v.t.Fatalf("%v\n%s", err, out)
			}
			return false
		default:
		}
		if now() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			return <-ended != nil
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			v.t.Fatalf("it hangs\n%s", out)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// clear removes what was made, so that the next build has everything to do.
func (v *victim) clear() {
	v.t.Helper()
	for _, d := range []string{v.dist(), v.cache} {
		if err := os.RemoveAll(d); err != nil {
			v.t.Fatal(err)
		}
	}
}

func (v *victim) any(pattern string) func() bool {
	return func() bool {
		found, _ := filepath.Glob(filepath.Join(v.root, pattern))
		return len(found) > 0
	}
}

// whole checks that what is there under its own name is complete: in the cache, in the
// layout, and beside it.
func (v *victim) whole() {
	v.t.Helper()
	v.wholeCache()
	blobs := filepath.Join(v.dist(), "oci", "blobs", "sha256")
	for _, b := range names(blobs) {
		if !strings.HasPrefix(b, ".tmp-") && sumFile(v.t, filepath.Join(blobs, b)) != b {
			v.t.Errorf("blob %s is half-written", b)
		}
	}
	v.wholeIndex(blobs)
	err := filepath.WalkDir(v.dist(), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() {
			return nil
		}
		if err == nil && strings.HasSuffix(p, ".json") && !strings.HasPrefix(d.Name(), ".tmp-") {
			var data []byte
			if data, err = os.ReadFile(p); err == nil && !json.Valid(data) {
				v.t.Errorf("%s is half-written: %q", p, data)
			}
		}
		return err
	})
	if err != nil {
		v.t.Fatal(err)
	}
}

// wholeCache compares entries with what they say of themselves.
func (v *victim) wholeCache() {
	v.t.Helper()
	for _, kind := range []string{"binary", "layer"} {
		for _, e := range names(filepath.Join(v.cache, kind)) {
			if strings.HasPrefix(e, ".") {
				continue
			}
			dir := filepath.Join(v.cache, kind, e)
			data, err := os.ReadFile(filepath.Join(dir, "info.json"))
			if err != nil {
				v.t.Errorf("cache entry %s/%s: %v", kind, e, err)
				continue
			}
			var info struct{ Name, SHA256, Digest string }
			if err := json.Unmarshal(data, &info); err != nil {
				v.t.Errorf("cache entry %s/%s: %v", kind, e, err)
				continue
			}
			file, want := info.Name, info.SHA256
			if kind == "layer" {
				file, want = "blob", strings.TrimPrefix(info.Digest, "sha256:")
			}
			if sumFile(v.t, filepath.Join(dir, file)) != want {
				v.t.Errorf("cache entry %s/%s is half-written", kind, e)
			}
		}
	}
}

// wholeIndex follows the layout's index down to every blob.
func (v *victim) wholeIndex(blobs string) {
	v.t.Helper()
	data, err := os.ReadFile(filepath.Join(v.dist(), "oci", "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	for todo := [][]byte{data}; len(todo) > 0; todo = todo[1:] {
		var m struct {
			Config    *v1.Descriptor
			Layers    []v1.Descriptor
			Manifests []v1.Descriptor
		}
		if err := json.Unmarshal(todo[0], &m); err != nil {
			v.t.Fatalf("%v in %q", err, todo[0])
		}
		below := m.Manifests
		if m.Config != nil {
			below = append(append(below, *m.Config), m.Layers...)
		}
		for _, d := range below {
			st, err := os.Stat(filepath.Join(blobs, d.Digest.Hex))
			if err != nil || st.Size() != d.Size {
				v.t.Errorf("the index leads to a blob that is not there: %s, %v", d.Digest, err)
				continue
			}
			if d.MediaType.IsImage() || d.MediaType.IsIndex() {
				next, err := os.ReadFile(filepath.Join(blobs, d.Digest.Hex))
				if err != nil {
					v.t.Fatal(err)
				}
				todo = append(todo, next)
			}
		}
	}
}

func names(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// A build that is killed in any phase leaves nothing half-written under a name that is
// used, and the next one makes what an undisturbed build makes.
func TestKilled(t *testing.T) {
	root := t.TempDir()
	v := &victim{t: t, root: root, cache: filepath.Join(root, "cache"), key: releaseKey(t, root)}
	checkout(t, root, 0o022)
	want := v.finish()

	signed := func() bool {
		data, _ := os.ReadFile(filepath.Join(v.dist(), "oci", "index.json"))
		return bytes.Contains(data, []byte("cosign/sigs"))
	}
	for _, phase := range []struct {
		name string
		now  func() bool
	}{
		{"compile", v.any("cache/work/.tmp-*")},
		{"compiled", v.any("cache/work/.tmp-*/*")},
		{"binary kept", v.any("cache/binary/[0-9a-f]*")},
		{"layer begun", v.any("cache/layer/.tmp-*/blob")},
		{"layer kept", v.any("cache/layer/[0-9a-f]*")},
		{"layout begun", v.any("dist/oci/oci-layout")},
		{"first blob", v.any("dist/oci/blobs/sha256/[0-9a-f]*")},
		{"SBOM", v.any("dist/sbom/*")},
		{"provenance", v.any("dist/provenance/*")},
		{"layout committed", v.any("dist/oci/index.json")},
		{"signed", signed},
		{"public key", v.any("dist/cosign.pub")},
		{"release", v.any("dist/release.json")},
	} {
		t.Run(phase.name, func(t *testing.T) {
			v.t = t
			v.clear()
			if !v.kill(phase.now) && phase.name != "release" {
				t.Error("the build ended before it could be killed")
			}
			v.whole()
			if d := differing(want, v.finish()); len(d) > 0 {
				t.Errorf("the next build made other bytes: %s", strings.Join(d, ", "))
			}
			left(t, v)
		})
	}
	t.Run("again and again", func(t *testing.T) {
		v.t = t
		v.clear()
		// Later and later, each on what the one before left.
		for wait := 5 * time.Millisecond; ; wait = wait * 5 / 4 {
			over := time.Now().Add(wait)
			if !v.kill(func() bool { return time.Now().After(over) }) {
				break
			}
			v.whole()
		}
		if d := differing(want, v.finish()); len(d) > 0 {
			t.Errorf("the next build made other bytes: %s", strings.Join(d, ", "))
		}
		left(t, v)
	})
}

// left finds temporary files, of which a complete build leaves none: among the products,
// and in the cache beside the entries that were filled anew.
func left(t *testing.T, v *victim) {
	t.Helper()
	for _, dir := range []string{v.dist(), filepath.Join(v.cache, "binary"), filepath.Join(v.cache, "layer")} {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasPrefix(d.Name(), ".tmp-") {
				t.Errorf("a killed build left %s", p)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
