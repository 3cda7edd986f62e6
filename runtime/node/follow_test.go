package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/tests/containerd"
	"github.com/rancher/rke2/tests/fake"
)

// lockedLog is a log that a test reads while a node writes it.
type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take is what was written since.
func (l *lockedLog) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.b.String()
	l.b.Reset()
	return s
}

// followed is an agent's images in a real containerd.
type followed struct {
	*world
	*containerd.Running
	log  lockedLog
	said string // since the last await
}

// pauseRef is the one image that an agent needs beside the runtime.
const pauseRef = "docker.io/rancher/mirrored-pause:v1"

// newFollowed makes an agent with a bundle of what it needs. Its containerd is not started.
func newFollowed(t *testing.T) (f *followed, core string) {
	t.Helper()
	f = &followed{world: newWorld(t)}
	f.config.Role, f.config.Snapshotter = config.Agent, containerd.Snapshotter
	sandbox, err := fake.Layers(runtime.GOARCH, 1)
	if err != nil {
		t.Fatal(err)
	}
	f.config.Release.Images = append(f.config.Release.Images, images.ReleaseImage{
		Name: "pause", Role: config.RolePause, Reference: pauseRef, Digests: here(mustDigest(t, sandbox).String()),
	})
	core = f.bundle(t, "core.tar", func(s *fake.Store) error {
		return errors.Join(signed(s, f.runtime, runtimeRef, &f.key, runtimeRef), signed(s, sandbox, pauseRef, &f.key, pauseRef))
	})
	return f, core
}

// root is containerd's folder.
func (f *followed) root() string { return filepath.Join(f.config.DataDir, "agent", "containerd") }

// begin prepares the node. What it logs then is for await.
func (f *followed) begin(t *testing.T) *Content {
	t.Helper()
	content, _, err := prepare(t.Context(), f.config, slog.New(slog.NewTextHandler(&f.log, nil)), anyHost)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = content.Close() })
	return content
}

// follow imports beside the test. end ends that and gives its error; ended is closed when
// it ended, also if by itself.
func (f *followed) follow(t *testing.T, content *Content, ready func(string)) (ended <-chan struct{}, end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = content.Import(ctx, f.Socket, ready)
	}()
	end = func() error {
		cancel()
		<-done
		return err
	}
	t.Cleanup(func() { _ = end() })
	return done, end
}

// await waits for words in the log that was written since the last time.
func (f *followed) await(t *testing.T, words ...string) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		f.said += f.log.take()
		all := true
		for _, w := range words {
			all = all && strings.Contains(f.said, w)
		}
		if all {
			f.said = ""
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("not said: %q in\n%s", words, f.said)
		}
	}
}

// has waits until containerd has an image, pinned or not, or has it not.
func (f *followed) has(t *testing.T, ref string, want bool, pinned bool) {
	t.Helper()
	err := errors.New("it was not asked")
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		var out string
		if out, err = f.Ctr(t.Context(), "images", "ls", "name=="+ref); err != nil {
			continue
		}
		there, isPinned := strings.Contains(out, ref), strings.Contains(out, "io.cattle.rke2.pinned=pinned")
		if there == want && isPinned == pinned {
			return
		}
		err = fmt.Errorf("there: %v, pinned: %v\n%s", there, isPinned, out)
	}
	t.Errorf("%s: want there: %v, pinned: %v: %v", ref, want, pinned, err)
}

// file writes a bundle with one unsigned image elsewhere.
func (f *followed) file(t *testing.T, refs map[string]int64) string {
	t.Helper()
	var s fake.Store
	for ref, seed := range refs {
		image, err := fake.Layers(runtime.GOARCH, seed, seed+100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Add(image, ref); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "bundle.tar")
	if err := s.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFollow: what happens to bundles and images while a node runs.
func TestFollow(t *testing.T) {
	const app, next = "registry.example/apps/app:v1", "registry.example/apps/app:v2"
	f, core := newFollowed(t)
	f.Running = containerd.Start(t, containerd.Programs(t), f.root())
	content := f.begin(t)
	// Somebody copies the bundle again just when the import begins.
	raw, err := os.ReadFile(core)
	if err != nil {
		t.Fatal(err)
	}
	copying, err := os.OpenFile(core, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 9)
	ended, end := f.follow(t, content, func(ref string) { ready <- ref })
	f.await(t, "a bundle changed while it was being read", core, "was replaced or written to while it was being read: the new one is read next")
	if _, err := copying.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := copying.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case ref := <-ready:
		if ref != pauseRef {
			t.Errorf("ready: %s", ref)
		}
	case <-ended:
		t.Fatalf("it ended: %v", end())
	}
	f.await(t, "images are ready", "blobs=6", "failed=0")
	dir := f.config.ImagesDir()
	site := filepath.Join(dir, "site.tar")

	t.Run("added", func(t *testing.T) {
		copyTo(t, f.file(t, map[string]int64{app: 10}), site)
		f.await(t, "a bundle was added", "site.tar", "images are ready", "blobs=4")
		f.has(t, app, true, true)
	})
	t.Run("deleted by hand", func(t *testing.T) {
		if _, err := f.Ctr(t.Context(), "images", "rm", app); err != nil {
			t.Fatal(err)
		}
		f.await(t, "restored from their bundles", app, "images are ready")
		f.has(t, app, true, true)
	})
	t.Run("somebody else's image is deleted", func(t *testing.T) {
		const other = "example.com/other:v1"
		for _, args := range [][]string{{"tag", app, other}, {"rm", other}} {
			if _, err := f.Ctr(t.Context(), append([]string{"images"}, args...)...); err != nil {
				t.Fatal(err)
			}
		}
		f.has(t, other, false, false)
	})
	t.Run("replaced by one of the same size with an older time", func(t *testing.T) {
		before, err := os.Stat(site)
		if err != nil {
			t.Fatal(err)
		}
		other := f.file(t, map[string]int64{next: 20})
		old := before.ModTime().Add(-time.Hour)
		err = errors.Join(os.Chtimes(other, old, old), os.Rename(other, filepath.Join(dir, ".new")), os.Rename(filepath.Join(dir, ".new"), site))
		if err != nil {
			t.Fatal(err)
		}
		if after, err := os.Stat(site); err != nil || after.Size() != before.Size() {
			t.Fatalf("the test is wrong: %v, %v", after, err)
		}
		f.await(t, "a bundle was replaced", "unpinned", app, "images are ready", "blobs=4")
		f.has(t, next, true, true)
		f.has(t, app, true, false)
	})
	t.Run("a bad file", func(t *testing.T) {
		bad := filepath.Join(dir, "bad.tar")
		if err := os.WriteFile(bad, bytes.Repeat([]byte("no tar "), 1000), 0o644); err != nil {
			t.Fatal(err)
		}
		f.await(t, "level=ERROR", "cannot be read and is passed over: copy it again, or remove it", "bad.tar")
		if err := os.Remove(bad); err != nil {
			t.Fatal(err)
		}
		f.await(t, "a bundle was removed", "bad.tar")
	})
	t.Run("a damaged image", func(t *testing.T) { f.damaged(t) })
	t.Run("parts that become complete", func(t *testing.T) { f.parts(t) })
	t.Run("a list, offline", func(t *testing.T) {
		list := filepath.Join(dir, "list.txt")
		if err := os.WriteFile(list, []byte(next+"\nregistry.example/apps/away:v1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		f.await(t, "a list of images was added", "offline is set", "registry.example/apps/away:v1")
	})
	t.Run("removed", func(t *testing.T) {
		if err := os.Remove(site); err != nil {
			t.Fatal(err)
		}
		f.await(t, "a bundle was removed", "site.tar")
		f.has(t, next, true, true) // the list names it
		if err := errors.Join(os.Remove(filepath.Join(dir, "list.txt")), os.Remove(core)); err != nil {
			t.Fatal(err)
		}
		f.has(t, next, true, false)
		f.has(t, runtimeRef, true, false)
		f.has(t, pauseRef, true, true) // the node could not start without
	})
	if err := end(); err != nil {
		t.Error(err)
	}
}

// damaged: of two images of a bundle one has a damaged layer; the other is imported.
func (f *followed) damaged(t *testing.T) {
	const good, bad = "registry.example/apps/good:v1", "registry.example/apps/harmed:v1"
	path := f.file(t, map[string]int64{good: 30, bad: 40})
	a, err := airgap.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	harm := func(raw []byte) {
		for _, image := range a.Images() {
			if image.Names()[0] != bad {
				continue
			}
			manifest, _, err := a.Manifest(image.Desc.Digest)
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(raw, []byte(manifest.Layers[1].Digest.Hex+"\x00"))
			raw[at+2000] ^= 1
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	harm(raw)
	to := filepath.Join(f.config.ImagesDir(), "harmed.tar")
	if err := os.WriteFile(to, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	f.await(t, "an image is not imported", bad, "damaged", "copy the file again", "harmed.tar", "failed=1")
	f.has(t, good, true, true)
	f.has(t, bad, false, false)
	harm(raw) // back to what it was
	if err := os.WriteFile(to, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	f.await(t, "a bundle was replaced", "images are ready", "failed=0")
	f.has(t, bad, true, true)
}

// parts: of a split bundle one part comes later.
func (f *followed) parts(t *testing.T) {
	const large = "registry.example/apps/large:v1"
	whole := f.file(t, map[string]int64{large: 50})
	parts, err := airgap.SplitFile(t.Context(), airgap.SplitOptions{File: whole, Size: fake.LayerSize + 20_000, OutputDir: t.TempDir()})
	if err != nil || len(parts) != 2 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	drop := func(path string) { copyTo(t, path, filepath.Join(f.config.ImagesDir(), filepath.Base(path))) }
	drop(parts[0].File)
	f.await(t, "a bundle is not complete", "an image is not complete and not imported", large)
	f.has(t, large, false, false)
	drop(parts[1].File)
	f.await(t, "images are ready", "failed=0")
	f.has(t, large, true, true)
}
