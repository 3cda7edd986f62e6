package serve

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/airgap"
)

// extract writes containerd and ctr of a layer, if it has them.
func extract(t *testing.T, a *airgap.Archive, layer v1.Descriptor, dir string) {
	t.Helper()
	rc, err := a.Blob(layer.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	z, err := zstd.NewReader(rc)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for tr := tar.NewReader(z); ; {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		base := path.Base(hdr.Name)
		if hdr.Typeflag != tar.TypeReg || base != "containerd" && base != "ctr" {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, base), os.O_CREATE|os.O_WRONLY, 0o755)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(f, tr)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
