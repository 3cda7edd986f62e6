package airgap

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/legacy/tarball"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/tests/tools"
)

// same opens an archive that another tool wrote of the image of twoLayers and uses it in
// every way.
func same(t *testing.T, path, ref string, format Format) {
	t.Helper()
	a := mustOpen(t, path)
	if a.Format() != format || len(a.Images()) != 1 || a.Images()[0].Names()[0] != ref || a.Images()[0].platform() != "linux/amd64" {
		t.Errorf("%s: %s, %+v", path, a.Format(), a.Images())
	}
	v, err := a.Verify(t.Context(), VerifyOptions{Unsigned: true, Contents: true})
	noError(t, err)
	if !v.OK || v.Layers != 2 {
		t.Errorf("%s: %+v", path, v)
	}
	dir, check := guarded(t)
	_, err = Extract(t.Context(), a, ExtractOptions{Dir: dir, Ref: ref})
	noError(t, err)
	check()
	if got := contentsOf(t, dir); !slices.Equal(got, []string{"drwxr-xr-x etc", "-rwxr-xr-x etc/hosts high", "-rwxr-xr-x etc/x x"}) {
		t.Errorf("%s: %q", path, got)
	}
	d, err := Diff(t.Context(), mustOpen(t, twoLayers(t)), a, DiffOptions{Files: true})
	noError(t, err)
	for _, c := range d.Images {
		if c.Change == Changed && (c.Layers.Same != 2 || len(c.Files) > 0) {
			t.Errorf("%s: %+v", path, c)
		}
	}
}

// twoLayers is an OCI archive of an image with two gzip layers.
func twoLayers(t *testing.T) string {
	t.Helper()
	low := makeTar(t, reg("etc/hosts", []byte("low")), reg("etc/x", []byte("x")), reg("etc/gone", nil))
	high := makeTar(t, reg("etc/hosts", []byte("high")), reg("etc/.wh.gone", nil))
	return file(t, "two.tar", stack(t, []compression{gz}, low, high))
}

// TestReadsSkopeo: what skopeo writes, of each kind.
func TestReadsSkopeo(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		tools.Absent(t, "skopeo is not installed: apt-get install skopeo")
	}
	from := "oci-archive:" + twoLayers(t)
	dir := t.TempDir()
	for kind, format := range map[string]Format{"docker-archive:": FormatDockerArchive, "oci-archive:": FormatOCI, "oci:": FormatOCI} {
		t.Run(kind, func(t *testing.T) {
			to := filepath.Join(dir, strings.TrimSuffix(kind, ":"))
			run(t, skopeo, "--insecure-policy", "copy", from, kind+to+":docker.io/x/y:z")
			same(t, to, "docker.io/x/y:z", format)
			if kind == "oci:" {
				return
			}
			b, err := os.ReadFile(to)
			noError(t, err)
			for _, c := range []compression{zst, gz, lz, bz, xzc} {
				same(t, file(t, "packed", compress(t, b, c)), "docker.io/x/y:z", format)
			}
		})
	}
}

// TestReadsDockerSave: the form of docker save before version 25, with a folder a layer,
// as go-containerregistry's port of docker's own code writes it.
func TestReadsDockerSave(t *testing.T) {
	l, err := layout.FromPath(layoutOf(t, twoLayers(t)))
	noError(t, err)
	idx, err := l.ImageIndex()
	noError(t, err)
	m, err := idx.IndexManifest()
	noError(t, err)
	img, err := l.Image(m.Manifests[0].Digest)
	noError(t, err)
	tag, err := name.NewTag("docker.io/x/y:z")
	noError(t, err)
	path := filepath.Join(t.TempDir(), "saved.tar")
	f, err := os.Create(path)
	noError(t, err)
	noError(t, tarball.Write(tag, img, f))
	noError(t, f.Close())
	same(t, path, "docker.io/x/y:z", FormatDockerArchive)
}

// layoutOf unpacks an archive to a folder by hand.
func layoutOf(t *testing.T, path string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	noError(t, Unpack(t.Context(), path, UnpackOptions{Dir: dir}))
	return dir
}

// TestReadsK0s: the form of k0s airgap bundle-artifacts: blobs first, full names by tag
// and by digest as ref.name, an image index with its one platform and BuildKit's
// attestations, oci-layout last.
func TestReadsK0s(t *testing.T) {
	all := entries(t, mustReadFile(t, twoLayers(t)))
	manifest := []byte(all[len(all)-1].PAXRecords["test.content"])
	statement := []byte(`{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","subject":[],"predicate":{}}`)
	config := []byte(`{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`)
	attested, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: hashOf(config)},
		Layers: []v1.Descriptor{{MediaType: "application/vnd.in-toto+json", Size: int64(len(statement)), Digest: hashOf(statement)}}})
	noError(t, err)
	idx, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{
		{MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: hashOf(manifest), Platform: &amd64},
		{MediaType: types.OCIManifestSchema1, Size: 7, Digest: hashOf([]byte("not here")), Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}},
		{MediaType: types.OCIManifestSchema1, Size: int64(len(attested)), Digest: hashOf(attested), Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": hashOf(manifest).String()}},
	}})
	noError(t, err)
	var top v1.IndexManifest
	top.SchemaVersion = 2
	for _, n := range []string{"docker.io/x/y:z", "docker.io/x/y@" + hashOf(idx).String()} {
		top.Manifests = append(top.Manifests, v1.Descriptor{MediaType: types.OCIImageIndex, Size: int64(len(idx)), Digest: hashOf(idx), Annotations: map[string]string{AnnotationRefName: n}})
	}
	index, err := json.Marshal(top)
	noError(t, err)
	files := []tar.Header{{Name: "blobs/", Typeflag: tar.TypeDir}, {Name: "blobs/sha256/", Typeflag: tar.TypeDir}}
	files = append(files, all[2:]...)
	for _, b := range [][]byte{statement, config, attested, idx} {
		files = append(files, reg(blobName(hashOf(b)), b))
	}
	path := file(t, "bundle.tar", makeTar(t, append(files, reg(indexFile, index), reg(layoutFile, []byte(layoutContent)))...))
	same(t, path, "docker.io/x/y:z", FormatOCI)
	img := mustOpen(t, path).Images()[0]
	if len(img.Digests) != 1 || img.Index != hashOf(idx) || !img.called(hashOf(idx).String()) {
		t.Errorf("%+v", img)
	}
}

func mustReadFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	noError(t, err)
	return b
}

// TestReadsCtr: containerd's export of several platforms with attestations, made by the
// containerd and ctr of the runtime image, which come out of the bundle by extraction.
func TestReadsCtr(t *testing.T) {
	a := product(t)
	if os.Getuid() != 0 {
		tools.Absent(t, "containerd needs root")
	}
	dir, err := os.MkdirTemp("", "ctd") // short: a socket's path is
	noError(t, err)
	t.Cleanup(func() { noError(t, os.RemoveAll(dir)) })
	i := slices.IndexFunc(a.Images(), func(i Image) bool { return strings.HasSuffix(i.Refs[0].RepositoryStr(), "/rke2-runtime") })
	_, err = Extract(t.Context(), a, ExtractOptions{Dir: dir, Ref: a.Images()[i].Refs[0].String(), Paths: []string{"bin/containerd", "bin/ctr"}})
	noError(t, err)
	ctr := startContainerd(t, dir)

	src := filepath.Join(dir, "multi.tar")
	noError(t, os.WriteFile(src, multiPlatform(t), 0o600))
	ctr("images", "import", "--local", "--all-platforms", "--no-unpack", src)
	const ref = "docker.io/x/multi:v1"
	out := filepath.Join(dir, "out.tar")
	ctr("images", "export", "--local", "--all-platforms", out, ref)
	back := mustOpen(t, out)
	var got []string
	for _, img := range back.Images() {
		got = append(got, img.Names()[0]+" "+img.platform())
	}
	if !slices.Equal(got, []string{ref + " linux/amd64", ref + " linux/arm64"}) {
		t.Errorf("exported %q", got)
	}
	v, err := back.Verify(t.Context(), VerifyOptions{Unsigned: true, Contents: true})
	noError(t, err)
	if !v.OK {
		t.Errorf("%v", v.Faults)
	}
	to, check := guarded(t)
	if _, err := Extract(t.Context(), back, ExtractOptions{Dir: to, Ref: ref}); err == nil || !strings.Contains(err.Error(), "several platforms") {
		t.Errorf("error: %v", err)
	}
	_, err = Extract(t.Context(), back, ExtractOptions{Dir: to, Ref: ref, Platform: "linux/arm64"})
	noError(t, err)
	check()
	if got := contentsOf(t, to); !slices.Equal(got, []string{"-rwxr-xr-x arch arm64"}) {
		t.Errorf("got %q", got)
	}
	ctr("images", "export", "--local", "--platform", "linux/arm64", out, ref)
	if got := mustOpen(t, out).Images(); len(got) != 1 || got[0].platform() != "linux/arm64" {
		t.Errorf("one platform: %+v", got)
	}
}

// multiPlatform is an OCI archive of an index with two platforms and attestations.
func multiPlatform(t *testing.T) []byte {
	t.Helper()
	var files []tar.Header
	put := func(b []byte, media types.MediaType) v1.Descriptor {
		files = append(files, reg(blobName(hashOf(b)), b))
		return v1.Descriptor{MediaType: media, Size: int64(len(b)), Digest: hashOf(b)}
	}
	manifest := func(config v1.Descriptor, layer v1.Descriptor) v1.Descriptor {
		b, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer}})
		noError(t, err)
		return put(b, types.OCIManifestSchema1)
	}
	var list []v1.Descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		l := makeTar(t, reg("arch", []byte(arch)))
		config := fmt.Appendf(nil, `{"os":"linux","architecture":%q,"rootfs":{"type":"layers","diff_ids":[%q]}}`, arch, hashOf(l))
		d := manifest(put(config, types.OCIConfigJSON), put(compress(t, l, gz), types.OCILayer))
		d.Platform = &v1.Platform{OS: "linux", Architecture: arch}
		list = append(list, d)
	}
	statement := put([]byte(`{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","subject":[],"predicate":{}}`), "application/vnd.in-toto+json")
	att := manifest(put([]byte(`{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}`), types.OCIConfigJSON), statement)
	att.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	att.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": list[0].Digest.String()}
	idx, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: append(list, att)})
	noError(t, err)
	d := put(idx, types.OCIImageIndex)
	d.Annotations = map[string]string{AnnotationImageName: "docker.io/x/multi:v1", AnnotationRefName: "v1"}
	top, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{d}})
	noError(t, err)
	return makeTar(t, append(files, reg(indexFile, top), reg(layoutFile, []byte(layoutContent)))...)
}
