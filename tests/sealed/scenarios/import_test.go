//go:build linux

package scenarios

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/tests/fake"
	"github.com/rancher/rke2/tests/sealed"
	"github.com/rancher/rke2/tests/sealed/node"
)

// Images of the bundle that is replaced while the node runs.
const (
	siteReference  = "registry.example/apps/site:v1"
	movedReference = "registry.example/apps/site:v2"
)

// TestImages: what happens to bundles and images of one node while it runs.
func TestImages(t *testing.T) {
	p := products(t)
	s := &scenario{Node: newNode(t, node.Options{Name: "images", Binary: p.Binary, Plugins: plugins(t, p)})}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	for _, part := range []struct {
		name string
		run  func(context.Context, *testing.T, *scenario, node.Products)
	}{
		{"says what is missing before the start", imagesBeforeStart},
		{"boots and takes a bundle that is added", addsBundle},
		{"restores what is deleted by hand", restoresDeleted},
		{"notices another bundle of the same size and an older time", noticesReplaced},
		{"passes over a bad file", passesOverBadFile},
		{"unpins what was removed", unpinsRemoved},
		{"starts again without reading", readsNothingAgain},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(ctx, t, s, p) }) {
			t.Fatalf("%q failed: what comes after it stands on it", part.name)
		}
	}
	reachedNothing(ctx, t, s)
}

// nodeImage is what this test reads of the output of rke2 images.
type nodeImage struct {
	Reference, Bundle, State, Trusted string
	Why                               []string
	Pinned, Missing                   bool
}

// listImages runs rke2 images on the node. Its error is that of the command.
func listImages(ctx context.Context, t *testing.T, s *scenario, args ...string) (containerd string, images []nodeImage, err error) {
	t.Helper()
	out, err := s.Command(ctx, "rke2", append([]string{"images", "-o", "json"}, args...)...).Output()
	var failed *sealed.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	var listed struct {
		Containerd string
		Images     []nodeImage
	}
	if decoded := json.Unmarshal(out, &listed); decoded != nil {
		t.Fatalf("rke2 images: %v: %v\n%s", decoded, err, out)
	}
	return listed.Containerd, listed.Images, err
}

// image waits until rke2 images says of an image what is wanted.
func image(ctx context.Context, t *testing.T, s *scenario, reference string, want func(nodeImage) bool) {
	t.Helper()
	err := sealed.Wait(ctx, reference, stepLimit, func(ctx context.Context) error {
		_, all, err := listImages(ctx, t, s)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(all, func(i nodeImage) bool { return i.Reference == reference })
		if at < 0 {
			return errors.New("it is not listed")
		}
		if !want(all[at]) {
			return fmt.Errorf("%+v", all[at])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ready(i nodeImage) bool { return i.State == "present" && i.Pinned }

// says waits for words in what the node has logged since an earlier moment.
func says(ctx context.Context, t *testing.T, s *scenario, since int, words ...string) {
	t.Helper()
	err := sealed.Wait(ctx, "the node's word", stepLimit, func(context.Context) error {
		log, err := s.Log()
		if err != nil {
			return err
		}
		for _, w := range words {
			if !strings.Contains(log[since:], w) {
				return fmt.Errorf("not said: %q", w)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// logged is how much the node has logged.
func logged(t *testing.T, s *scenario) int {
	t.Helper()
	log, err := s.Log()
	if err != nil {
		t.Fatal(err)
	}
	return len(log)
}

// layered is a bundle of an image of two layers that are told by a number: all such
// bundles have one size.
func layered(t *testing.T, reference string, seed int64) string {
	t.Helper()
	image, err := fake.Layers(runtime.GOARCH, seed, seed+1)
	if err != nil {
		t.Fatal(err)
	}
	var store fake.Store
	if _, err := store.Add(image, reference); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "site.tar")
	if err := store.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	return path
}

// inFolder is a file in the node's folder of bundles, seen from outside.
func inFolder(s *scenario, name string) string {
	return filepath.Join(s.Disk(node.ImagesDir), name)
}

func imagesBeforeStart(ctx context.Context, t *testing.T, s *scenario, p node.Products) {
	containerd, missing, err := listImages(ctx, t, s, "--missing")
	if err == nil || containerd != "never ran" || len(missing) < 3 {
		t.Errorf("with no bundle: %v, %q, %+v", err, containerd, missing)
	}
	place(t, s.Node, p.Bundle)
	if _, missing, err = listImages(ctx, t, s, "--missing"); err != nil || len(missing) > 0 {
		t.Errorf("with the core bundle: %v, %+v", err, missing)
	}
	_, all, err := listImages(ctx, t, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.State != "absent" || i.Bundle != filepath.Join(node.ImagesDir, filepath.Base(p.Bundle)) || !strings.HasPrefix(i.Trusted, "release key") {
			t.Errorf("before the start: %+v", i)
		}
	}
}

func addsBundle(ctx context.Context, t *testing.T, s *scenario, _ node.Products) {
	up(ctx, t, s)
	imported(ctx, t, s)
	bundles, _ := operatorsBundles(t)
	added := time.Now()
	if err := copyFile(bundles[0], inFolder(s, "probe.tar")); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(layered(t, siteReference, 10), inFolder(s, "site.tar")); err != nil {
		t.Fatal(err)
	}
	image(ctx, t, s, probeReference, ready)
	report(t, "a bundle is copied in, its image is there", time.Since(added))
	image(ctx, t, s, siteReference, ready)
	apply(ctx, t, s, fmt.Sprintf(probePod, "probe", probeReference))
	if _, err := s.WaitPod(ctx, "default", "probe", stepLimit); err != nil {
		t.Fatal(err)
	}
	containerd, all, err := listImages(ctx, t, s)
	if err != nil || containerd != "running" {
		t.Fatalf("%s, %v", containerd, err)
	}
	for _, i := range all {
		if !ready(i) && i.State != "staged" {
			t.Errorf("on the running node: %+v", i)
		}
	}
}

func restoresDeleted(ctx context.Context, t *testing.T, s *scenario, _ node.Products) {
	const socket = "/run/k3s/containerd/containerd.sock"
	since, deleted := logged(t, s), time.Now()
	if out, err := s.Command(ctx, node.DataDir+"/bin/crictl", "--runtime-endpoint", "unix://"+socket, "rmi", siteReference).CombinedOutput(); err != nil {
		t.Fatalf("crictl rmi: %v\n%s", err, out)
	}
	says(ctx, t, s, since, "restored from their bundles", siteReference, "images are ready")
	image(ctx, t, s, siteReference, ready)
	report(t, "crictl rmi, the image is back", time.Since(deleted))

	since = logged(t, s)
	_, all, err := listImages(ctx, t, s)
	if err != nil {
		t.Fatal(err)
	}
	etcd := all[slices.IndexFunc(all, func(i nodeImage) bool { return slices.Contains(i.Why, "etcd") })]
	if out, err := s.Command(ctx, node.DataDir+"/bin/ctr", "--address", socket, "-n", "k8s.io", "images", "rm", "--sync", etcd.Reference).CombinedOutput(); err != nil {
		t.Fatalf("ctr images rm: %v\n%s", err, out)
	}
	says(ctx, t, s, since, "restored from their bundles", etcd.Reference)
	image(ctx, t, s, etcd.Reference, ready)
}

func noticesReplaced(ctx context.Context, t *testing.T, s *scenario, _ node.Products) {
	to := inFolder(s, "site.tar")
	before, err := os.Stat(to)
	if err != nil {
		t.Fatal(err)
	}
	since, hidden := logged(t, s), inFolder(s, ".site.tar.new")
	if err := copyFile(layered(t, movedReference, 20), hidden); err != nil {
		t.Fatal(err)
	}
	older := before.ModTime().Add(-48 * time.Hour)
	if err := errors.Join(os.Chtimes(hidden, older, older), os.Rename(hidden, to)); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(to); err != nil || after.Size() != before.Size() {
		t.Fatalf("the new bundle has another size: %v, %v", after, err)
	}
	says(ctx, t, s, since, "a bundle was replaced", "site.tar", "unpinned")
	image(ctx, t, s, movedReference, ready)
}

func passesOverBadFile(ctx context.Context, t *testing.T, s *scenario, p node.Products) {
	since := logged(t, s)
	bad := inFolder(s, "bad.tar")
	if err := os.WriteFile(bad, bytes.Repeat([]byte("this is no tar. "), 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	says(ctx, t, s, since, "cannot be read and is passed over", "bad.tar", "not an image archive")
	// What is copied slowly is waited for: half of it is no fault.
	since = logged(t, s)
	raw, err := os.ReadFile(layered(t, "registry.example/apps/slow:v1", 30))
	if err != nil {
		t.Fatal(err)
	}
	slow, err := os.Create(inFolder(s, "slow.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Write(raw[:len(raw)/2]); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond) // a slow medium
	if log, err := s.Log(); err != nil || strings.Contains(log[since:], "slow.tar") {
		t.Errorf("it was read before it was there: %v\n%s", err, log[since:])
	}
	if _, err := slow.Write(raw[len(raw)/2:]); err != nil {
		t.Fatal(err)
	}
	if err := slow.Close(); err != nil {
		t.Fatal(err)
	}
	image(ctx, t, s, "registry.example/apps/slow:v1", ready)
	if err := s.WaitAPI(ctx, stepLimit); err != nil {
		t.Error(err)
	}
	if err := errors.Join(os.Remove(bad), os.Remove(slow.Name())); err != nil {
		t.Fatal(err)
	}
}

func unpinsRemoved(ctx context.Context, t *testing.T, s *scenario, _ node.Products) {
	since := logged(t, s)
	if err := os.Remove(inFolder(s, "site.tar")); err != nil {
		t.Fatal(err)
	}
	says(ctx, t, s, since, "a bundle was removed", "site.tar", "unpinned", movedReference)
}

func readsNothingAgain(ctx context.Context, t *testing.T, s *scenario, _ node.Products) {
	before := containers(ctx, t, s)
	stored := listing(t, s, content)
	if err := s.Stop(ctx, stopLimit); err != nil {
		t.Fatal(err)
	}
	containerd, all, err := listImages(ctx, t, s)
	if err != nil || containerd != "stopped" {
		t.Errorf("%s, %v", containerd, err)
	}
	for _, i := range all {
		if !ready(i) && i.State != "staged" {
			t.Errorf("on the stopped node: %+v", i)
		}
	}
	up(ctx, t, s)
	log := imported(ctx, t, s)
	for _, word := range []string{"imported=0", "blobs=0", "bytes=0", "unpinned=0", "failed=0"} {
		if !strings.Contains(log, word) {
			t.Errorf("not %s: %s", word, log)
		}
	}
	if d := node.Difference(stored, listing(t, s, content)); len(d) > 0 {
		t.Errorf("containerd's content changed:\n%s", strings.Join(d, "\n"))
	}
	unchanged(ctx, t, s, before)
}
