package airgap

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap/trust"
)

// TestOtherTools: archives as other tools write them, and the names they carry.
func TestOtherTools(t *testing.T) {
	img, second := image(t, 1, 500, 2, amd64), image(t, 2, 500, 1, amd64)
	m, err := img.Manifest()
	noError(t, err)
	docker := func(config string, tags ...string) []byte {
		b, err := json.Marshal([]dockerImage{{Config: config, RepoTags: tags, Layers: []string{blobName(m.Layers[0].Digest)}}})
		noError(t, err)
		return b
	}
	arm := image(t, 3, 500, 1, v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"})
	multi := mutate.IndexMediaType(mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &amd64}},
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}}), types.OCIImageIndex)
	multiRaw, err := multi.RawManifest()
	noError(t, err)
	multiDesc := v1.Descriptor{MediaType: types.OCIImageIndex, Digest: hashOf(multiRaw), Size: int64(len(multiRaw)),
		Annotations: map[string]string{AnnotationImageName: "docker.io/library/multi:v1", AnnotationRefName: "v1"}}
	index := func(d ...v1.Descriptor) v1.IndexManifest { return v1.IndexManifest{Manifests: d} }

	for _, c := range []struct {
		what  string
		files []tar.Header
		names []string // of the images, in order, with platform
	}{
		{"docker save 25", ociTar(t, index(descOf(t, img, AnnotationImageName, "docker.io/library/busybox:1.36", AnnotationRefName, "1.36")),
			docker(blobName(m.Config.Digest), "busybox:1.36"), img), []string{"docker.io/library/busybox:1.36 linux/amd64"}},
		{"ctr images export", ociTar(t, index(descOf(t, img, AnnotationImageName, "registry.local:5000/a/b:v1", AnnotationRefName, "v1")),
			docker(blobName(m.Config.Digest), "registry.local:5000/a/b:v1"), img), []string{"registry.local:5000/a/b:v1 linux/amd64"}},
		{"skopeo oci-archive", ociTar(t, index(descOf(t, img, AnnotationRefName, "docker.io/rancher/x:v1")), nil, img), []string{"docker.io/rancher/x:v1 linux/amd64"}},
		{"a short name in ref.name", ociTar(t, index(descOf(t, img, AnnotationRefName, "rancher/x:v1")), nil, img), []string{"docker.io/rancher/x:v1 linux/amd64"}},
		{"a bare tag in ref.name", ociTar(t, index(descOf(t, img, AnnotationRefName, "v1")), nil, img), []string{descOf(t, img).Digest.String() + " linux/amd64"}},
		{"a bare tag, and the name in manifest.json", ociTar(t, index(descOf(t, img, AnnotationRefName, "v1")), docker(blobName(m.Config.Digest), "x/y:v1"), img), []string{"docker.io/x/y:v1 linux/amd64"}},
		{"no annotations", ociTar(t, index(descOf(t, img)), nil, img), []string{descOf(t, img).Digest.String() + " linux/amd64"}},
		{"names by tag and by digest", ociTar(t, index(descOf(t, img, AnnotationImageName, "docker.io/x/y:v1"), descOf(t, img, AnnotationImageName, "docker.io/x/y@"+descOf(t, img).Digest.String())), nil, img),
			[]string{"docker.io/x/y:v1 docker.io/x/y@" + descOf(t, img).Digest.String() + " linux/amd64"}},
		{"two images", ociTar(t, index(descOf(t, second, AnnotationImageName, "docker.io/z/z:v1"), descOf(t, img, AnnotationImageName, "docker.io/x/y:v1")), nil, img, second),
			[]string{"docker.io/x/y:v1 linux/amd64", "docker.io/z/z:v1 linux/amd64"}},
		{"several platforms, all here", ociTar(t, index(multiDesc), nil, multi, img, arm), []string{"docker.io/library/multi:v1 linux/amd64", "docker.io/library/multi:v1 linux/arm64"}},
		{"several platforms, one here", ociTar(t, index(multiDesc), nil, multi, img), []string{"docker.io/library/multi:v1 linux/amd64"}},
		{"./ before each name", func() []tar.Header {
			f := ociTar(t, index(descOf(t, img, AnnotationImageName, "docker.io/x/y:v1")), nil, img)
			for i := range f {
				f[i].Name = "./" + f[i].Name
			}
			return append([]tar.Header{{Name: "./", Typeflag: tar.TypeDir}}, f...)
		}(), []string{"docker.io/x/y:v1 linux/amd64"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := makeTar(t, c.files...)
			for _, how := range []compression{plain, zst} {
				a := mustOpen(t, file(t, "x.tar", compress(t, b, how)))
				if a.Format() != FormatOCI || a.IsBundle() {
					t.Errorf("%s: format %s, bundle %v", how, a.Format(), a.IsBundle())
				}
				var got []string
				for _, i := range a.Images() {
					got = append(got, strings.Join(i.Names(), " ")+" "+i.Platform.String())
				}
				if !slices.Equal(got, c.names) {
					t.Errorf("%s: images %q", how, got)
				}
			}
			noError(t, readAll(file(t, "x.tar", b)))
		})
	}

	t.Run("several platforms, none here", func(t *testing.T) {
		_, err := Open(file(t, "x.tar", makeTar(t, ociTar(t, index(multiDesc), nil, multi)...)))
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "none of its 2 manifests") {
			t.Errorf("error: %v", err)
		}
	})
}

// TestLegacyDocker: what docker save wrote before version 25, also with its links
// between equal layers.
func TestLegacyDocker(t *testing.T) {
	img := image(t, 1, 500, 2, amd64)
	tag, err := ParseTag("rancher/x:v1")
	noError(t, err)
	p := filepath.Join(t.TempDir(), "legacy.tar")
	noError(t, tarball.WriteToFile(p, tag, img))
	a := mustOpen(t, p)
	if a.Format() != FormatDockerArchive || len(a.Images()) != 1 || !a.Images()[0].Has(tag) || a.Images()[0].Desc.Digest != (v1.Hash{}) {
		t.Errorf("%s %+v", a.Format(), a.Images())
	}
	v, err := Verify(t.Context(), p, VerifyOptions{})
	noError(t, err)
	if v.OK || len(v.Faults) != 1 || !strings.Contains(v.Faults[0].String(), "nothing in it can be verified") {
		t.Errorf("verify: %+v", v)
	}
	ins, err := a.Inspect(trust.Policy{})
	noError(t, err)
	if ins.Images[0].Signature.State != SigUnverifiable {
		t.Errorf("inspect: %+v", ins)
	}
	if err := Unpack(t.Context(), p, UnpackOptions{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "legacy") {
		t.Errorf("unpack: %v", err)
	}

	linked := func(target string) []byte {
		return makeTar(t, reg("aaa/layer.tar", []byte("x")), tar.Header{Name: "bbb/layer.tar", Typeflag: tar.TypeSymlink, Linkname: target},
			reg("c.json", []byte("{}")), reg(manifestFile, []byte(`[{"Config":"c.json","RepoTags":["busybox:1"],"Layers":["aaa/layer.tar","bbb/layer.tar"]}]`)))
	}
	a = mustOpen(t, file(t, "x.tar", linked("../aaa/layer.tar")))
	if got := a.Images()[0].Refs[0].String(); got != "docker.io/library/busybox:1" {
		t.Errorf("name %s", got)
	}
	for _, bad := range []string{"/etc/passwd", "../../etc/passwd"} {
		if _, err := Open(file(t, "x.tar", linked(bad))); !errors.Is(err, ErrRefusedContent) {
			t.Errorf("link to %s: %v", bad, err)
		}
	}
	if _, err := Open(file(t, "x.tar", linked("../zzz"))); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), `"bbb/layer.tar" is missing`) {
		t.Errorf("dangling link: %v", err)
	}
}

// TestSignatureConventions: where signatures are found in archives that are not ours.
func TestSignatureConventions(t *testing.T) {
	f := newFixture(t)
	const ref = "docker.io/rancher/x:v1"
	img, other := image(t, 1, 100, 1, amd64), image(t, 2, 100, 1, amd64)
	h := descOf(t, img).Digest
	sig := f.signature(ref, h, nil)
	for _, c := range []struct {
		what  string
		files []tar.Header
		want  int
	}{
		{"cosign save", ociTar(t, v1.IndexManifest{Manifests: []v1.Descriptor{descOf(t, img, AnnotationKind, KindImage), descOf(t, sig, AnnotationKind, KindSignatures)}}, nil, img, sig), 1},
		{"cosign's tags, skopeo's names", ociTar(t, v1.IndexManifest{Manifests: []v1.Descriptor{
			descOf(t, img, AnnotationRefName, ref), descOf(t, other, AnnotationRefName, "docker.io/y/y:v1"),
			descOf(t, sig, AnnotationRefName, "docker.io/rancher/x:sha256-"+h.Hex+".sig")}}, nil, img, other, sig), 1},
		{"bare tags", ociTar(t, v1.IndexManifest{Manifests: []v1.Descriptor{descOf(t, img, AnnotationRefName, "v1"), descOf(t, sig, AnnotationRefName, "sha256-"+h.Hex+".sig")}}, nil, img, sig), 1},
		{"ours, by annotation", ociTar(t, v1.IndexManifest{Manifests: []v1.Descriptor{descOf(t, img), descOf(t, other), descOf(t, sig, AnnotationKind, KindSignatures, AnnotationSigns, h.String())}}, nil, img, other, sig), 1},
		{"no subject and two images", ociTar(t, v1.IndexManifest{Manifests: []v1.Descriptor{descOf(t, img), descOf(t, other), descOf(t, sig, AnnotationKind, KindSignatures)}}, nil, img, other, sig), 0},
		{"none", ociTar(t, v1.IndexManifest{Manifests: []v1.Descriptor{descOf(t, img)}}, nil, img), 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			a := mustOpen(t, file(t, "x.tar", makeTar(t, c.files...)))
			sigs, err := a.Signatures(h)
			noError(t, err)
			if len(sigs) != c.want {
				t.Fatalf("%d signatures", len(sigs))
			}
			for _, i := range a.Images() {
				if i.Desc.Digest == descOf(t, sig).Digest {
					t.Error("the signatures are listed as an image")
				}
			}
			if c.want > 0 {
				tag, err := ParseTag(ref)
				noError(t, err)
				_, err = trust.Policy{OperatorKeys: []trust.Key{f.key}}.Admit(tag, h, sigs)
				noError(t, err)
			}
		})
	}
}

// TestLayoutFolderInTar: our own layout, unpacked and packed again by hand, is
// another tool's archive.
func TestLayoutFolderInTar(t *testing.T) {
	f := simple(t, 500)
	dir := filepath.Join(t.TempDir(), "layout")
	noError(t, Unpack(t.Context(), file(t, "b.tar", f.bytes(core())), UnpackOptions{Dir: dir}))
	var files []tar.Header
	noError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		b, err := os.ReadFile(p)
		files = append(files, reg(rel, b))
		return err
	}))
	a := mustOpen(t, file(t, "x.tar", makeTar(t, files...)))
	if a.IsBundle() {
		t.Error("it counts as ours")
	}
	checkSimple(t, f, a)
}
