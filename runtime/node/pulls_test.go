package node

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/rancher/rke2/tests/containerd"
	"github.com/rancher/rke2/tests/fake"
)

// TestPullsLists: what lists name and no bundle has is pulled by the real containerd from
// a registry, pinned, and let go when the list is; a system image that is not signed is
// not pulled.
func TestPullsLists(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	listed, forged := host+"/tools/listed:v1", host+"/rancher/hardened-etcd:v99"
	for n, ref := range []string{listed, forged} {
		image, err := fake.Layers(runtime.GOARCH, int64(60+n))
		if err != nil {
			t.Fatal(err)
		}
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(tag, image); err != nil {
			t.Fatal(err)
		}
	}
	f, _ := newFollowed(t)
	f.config.Offline = false
	list := filepath.Join(f.config.ImagesDir(), "tools.txt")
	if err := os.WriteFile(list, []byte("# tools\n"+listed+"\n"+forged+"\n"+pauseRef+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.Running = containerd.Start(t, containerd.Programs(t), f.root())
	_, end := f.follow(t, f.begin(t), func(string) {})

	f.await(t, "pulled an image of a list", listed, "an image of a list is not pulled", forged, "unsigned")
	f.has(t, listed, true, true)
	f.has(t, forged, false, false)
	if _, err := f.Ctr(t.Context(), "images", "rm", listed); err != nil {
		t.Fatal(err)
	}
	f.await(t, "images of lists were deleted from containerd and are pulled again")
	f.has(t, listed, true, true)
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	f.has(t, listed, true, false)
	if err := end(); err != nil {
		t.Error(err)
	}
}
