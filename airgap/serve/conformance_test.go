package serve

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/tests/tools"
)

// TestConformance runs the distribution specification's own tests: what a registry that is
// read-only answers to pulls and to content discovery.
func TestConformance(t *testing.T) {
	tool := tools.Build(t, "airgap/serve/testdata/tools/conformance", "conformance")
	_, layout, key := fixture(t)
	conf, ca := testTLS(t)
	r := start(t, Options{
		Paths:   []string{bundleOf(t, layout, "amd64"), bundleOf(t, layout, "arm64")},
		Catalog: catalog.Options{Policy: policy(t, key)}, TLS: conf,
	})
	index := r.manifestOf(t, "rancher/etcd", "v1")
	if len(index.Manifests) != 2 {
		t.Fatalf("%+v", index)
	}
	var manifests, blobs []string
	manifests = append(manifests, r.ask(t, "HEAD", "/v2/rancher/etcd/manifests/v1").header.Get("Docker-Content-Digest"))
	for _, d := range index.Manifests {
		manifests = append(manifests, d.Digest.String())
		m := r.manifestOf(t, "rancher/etcd", d.Digest.String())
		blobs = append(blobs, m.Config.Digest.String())
		for _, l := range m.Layers {
			blobs = append(blobs, l.Digest.String())
		}
	}
	cmd := exec.CommandContext(t.Context(), tool)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+ca,
		"OCI_REGISTRY="+r.addr, "OCI_REPO1=rancher/etcd", "OCI_REPO2=rancher/kubernetes",
		"OCI_VERSION=1.1",
		"OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false", "OCI_API_BLOBS_UPLOAD_CANCEL=false",
		"OCI_RO_DATA_TAGS=v1", "OCI_RO_DATA_MANIFESTS="+strings.Join(manifests, " "), "OCI_RO_DATA_BLOBS="+strings.Join(blobs, " "),
		"OCI_RO_DATA_REFERRERS="+strings.Join(manifests, " "),
	)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	// Its exit code says nothing: with read-only data this version crashes when it writes
	// its report files, after it printed the results.
	_ = cmd.Run()
	_, summary, found := strings.Cut(out.String(), "OCI Conformance Result:")
	if !found {
		t.Fatalf("no result\n%s%s", out.String(), errs.String())
	}
	t.Logf("OCI Conformance Result:%s", summary)
	state := map[string]string{}
	for l := range strings.Lines(summary) {
		if name, is, ok := strings.Cut(strings.TrimSpace(l), ":"); ok {
			state[strings.TrimRight(name, ".")] = strings.TrimSpace(is)
		}
	}
	if state["FAIL"] != "0" || state["Error"] != "0" || state["Skip"] != "0" {
		t.Errorf("not all passed:\n%s", out.String())
	}
	for _, must := range []string{
		"Ping", "Tag listing", "Blob get", "Blob head", "Manifest get by digest", "Manifest get by tag",
		"Manifest head by digest", "Manifest head by tag", "Referrers", "Read Only Inputs", "Invalid Manifest Digest",
	} {
		if state[must] != "Pass" {
			t.Errorf("%s: %q", must, state[must])
		}
	}
}
