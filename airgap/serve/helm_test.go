package serve

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/distribution"
	"github.com/rancher/rke2/tests/tools"
)

// TestHelm: Helm pulls a chart.
func TestHelm(t *testing.T) {
	helm := tools.Build(t, "airgap/serve/testdata/tools/helm", "helm")
	dir := filepath.Join(t.TempDir(), "oci")
	key := distribution.WriteLayout(t, dir, distribution.Image{Ref: etcd, Platforms: []string{"amd64"}, Layers: [][]byte{{1}}})
	chart := chartArchive(t)
	writeChart(t, dir, chart, "docker.io/charts/app:1.2.3")
	conf, ca := testTLS(t)
	p := policy(t, key)
	p.Mode, p.System = trust.ModeSystem, []string{"docker.io/rancher/etcd"} // charts need no signature
	r := start(t, Options{Paths: []string{dir}, Catalog: catalog.Options{Policy: p}, TLS: conf})
	to := t.TempDir()
	client(t, r, ca)(helm, "pull", "oci://"+r.addr+"/charts/app", "--version", "1.2.3", "--ca-file", ca, "--destination", to)
	got, err := os.ReadFile(filepath.Join(to, "app-1.2.3.tgz"))
	if err != nil || !bytes.Equal(got, chart) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// chartArchive is the smallest chart.
func chartArchive(t *testing.T) []byte {
	t.Helper()
	content := []byte("apiVersion: v2\nname: app\nversion: 1.2.3\n")
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Name: "app/Chart.yaml", Mode: 0o644, Size: int64(len(content))})
	_, writeErr := w.Write(content)
	if err := errors.Join(err, writeErr, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// writeChart puts a chart into a layout, in Helm's form.
func writeChart(t *testing.T, dir string, chart []byte, ref string) {
	t.Helper()
	put := func(mediaType types.MediaType, data []byte) v1.Descriptor {
		t.Helper()
		h, size, err := v1.SHA256(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", h.Hex), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return v1.Descriptor{MediaType: mediaType, Digest: h, Size: size}
	}
	config := put(airgap.TypeChartConfig, []byte(`{"apiVersion":"v2","name":"app","version":"1.2.3"}`))
	raw, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{put(airgap.TypeChartContent, chart)},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := put(types.OCIManifestSchema1, raw)
	d.Annotations = map[string]string{airgap.AnnotationKind: airgap.KindChart, airgap.AnnotationRefName: ref}
	if err := layout.Path(dir).AppendDescriptor(d); err != nil {
		t.Fatal(err)
	}
}
