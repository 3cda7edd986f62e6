package fake

import (
	"io"
	"path/filepath"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
)

// TestBulkIsABundle: what is made while it is read is what was promised: every blob's
// digest is checked by the bundle's reader.
func TestBulkIsABundle(t *testing.T) {
	var bulk Bulk
	if err := bulk.Add("registry.example/bulk/a:v1", runtime.GOARCH, 1_000_001, 1, 2); err != nil {
		t.Fatal(err)
	}
	if err := bulk.Add("registry.example/bulk/b:v1", runtime.GOARCH, 1_000_001, 2, 3); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bulk.tar")
	if err := bulk.WriteBundle(t.Context(), path, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	archive, err := airgap.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if n := len(archive.Images()); n != 2 {
		t.Errorf("%d images", n)
	}
	large := 0
	err = archive.Walk(t.Context(), nil, func(d v1.Descriptor, r io.Reader) error {
		n, err := io.Copy(io.Discard, r)
		if n > 1_000_000 {
			large++
		}
		return err
	})
	if err != nil || large != 3 {
		t.Errorf("%d layers, want 3 (one is shared): %v", large, err)
	}
}
