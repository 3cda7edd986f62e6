package publish

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/distribution"
)

// bundle writes a layout's images for a platform.
func bundle(t *testing.T, layout, architecture string) string {
	t.Helper()
	var b bytes.Buffer
	err := airgap.Write(t.Context(), &b, airgap.Layout(layout), airgap.Selection{Platform: v1.Platform{OS: "linux", Architecture: architecture}, AllowUnsigned: true})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), architecture+".tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// compress packs a bundle as a whole.
func compress(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".zst", z.EncodeAll(raw, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return path + ".zst"
}

// bundles opens files as push does.
func bundles(t *testing.T, key string, paths ...string) *catalog.Catalog {
	t.Helper()
	k, err := trust.LoadKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files, err := catalog.Files(paths)
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Open(t.Context(), files, catalog.Options{Policy: trust.Policy{Mode: trust.ModeAll, OperatorKeys: []trust.Key{k}}, Whole: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if len(c.Refused()) > 0 {
		t.Fatalf("refused: %+v", c.Refused())
	}
	return c
}

// TestPublishBundles: what bundles hold arrives byte for byte, from plain and from
// compressed ones, and a second time nothing is sent.
func TestPublishBundles(t *testing.T) {
	dir, key := fixture(t)
	plain := bundle(t, dir, "amd64")
	for what, path := range map[string]string{"plain": plain, "compressed": compress(t, plain)} {
		t.Run(what, func(t *testing.T) {
			s := distribution.Start(t, distribution.Options{})
			p := distribution.NewProxy(t, s, 0)
			c := bundles(t, key, path)
			var last Progress
			var events []Event
			o := Options{
				Source: c, To: to(t, p.Addr+"/mirror"), Client: client(t, s), AllowUnsigned: true,
				Progress: func(p Progress) { last = p }, Report: func(e Event) { events = append(events, e) },
			}
			res, err := Publish(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			// The layer that two images share goes out once.
			if want := int64(6<<20 + 100); res.Sent < want || res.Sent > want+4096 || p.Bytes() > res.Sent+64<<10 {
				t.Errorf("%d bytes were sent, %d went through the proxy, not about %d", res.Sent, p.Bytes(), want)
			}
			if last.Done != last.Total || last.Sent != res.Sent {
				t.Errorf("progress ends with %+v", last)
			}
			sent := 0
			for _, i := range res.Images {
				sent += i.Blobs.Sent
				if i.Outcome != registry.Sent || i.Signatures != 1 || i.Attestations != 1 {
					t.Errorf("%+v", i)
				}
			}
			if sent != 7 { // four layers, three configs
				t.Errorf("%d blobs were sent", sent)
			}
			ordered(t, events)
			same(t, s, c, "mirror/")
			p.Reset()
			if res, err = Publish(t.Context(), o); err != nil || res.Sent != 0 {
				t.Errorf("again: %d bytes, %v", res.Sent, err)
			}
			if n := p.Requests(); n["PUT"]+n["POST"]+n["PATCH"] > 0 {
				t.Errorf("something was sent again: %v", n)
			}
		})
	}
}

// same: the registry has every tag, manifest and blob of a catalog.
func same(t *testing.T, s *distribution.Server, c *catalog.Catalog, prefix string) {
	t.Helper()
	for _, r := range c.Repositories() {
		for tag, d := range r.Tags {
			want, err := c.Manifest(d)
			if err != nil {
				t.Fatal(err)
			}
			if got := get(t, s, "%s%s/manifests/%s", prefix, r.Path, tag); !bytes.Equal(got, want) {
				t.Errorf("%s:%s is %s", r.Name, tag, got)
			}
		}
		for h := range r.Blobs {
			if got := get(t, s, "%s%s/blobs/%s", prefix, r.Path, h); distribution.Digest(got) != h.String() {
				t.Errorf("%s: blob %s is another", r.Name, h)
			}
		}
	}
}

// TestPublishPlatforms: bundles of two platforms make an index an image, and cosign
// verifies each platform's manifest.
func TestPublishPlatforms(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	dir := filepath.Join(t.TempDir(), "oci")
	key := distribution.WriteLayout(t, dir, distribution.Image{Ref: etcd, Platforms: []string{"amd64", "arm64"}, Layers: [][]byte{distribution.Random(2, 1<<20)}})
	c := bundles(t, key, bundle(t, dir, "amd64"), bundle(t, dir, "arm64"))
	res, err := Publish(t.Context(), Options{Source: c, To: to(t, s.Addr), Client: client(t, s), AllowUnsigned: true})
	if err != nil {
		t.Fatal(err)
	}
	idx, err := v1.ParseIndexManifest(bytes.NewReader(get(t, s, "rancher/etcd/manifests/v1")))
	if err != nil || len(idx.Manifests) != 2 || idx.Manifests[0].Platform.Architecture != "amd64" || idx.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("%+v, %v", idx, err)
	}
	if i := res.Images[0]; i.Signatures != 2 || i.Attestations != 2 || !slices.Equal(i.Platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("%+v", i)
	}
	same(t, s, c, "")
	// It is the very index that the layout has; with that beside, its signature comes along.
	of, err := airgap.Layout(dir).Index()
	if err != nil || res.Images[0].Digest != of.Manifests[0].Digest.String() {
		t.Errorf("%s, %v", res.Images[0].Digest, err)
	}
	whole := bundles(t, key, bundle(t, dir, "amd64"), dir)
	if res, err = Publish(t.Context(), Options{Source: whole, To: to(t, s.Addr), Client: client(t, s)}); err != nil || res.Images[0].Signatures != 3 || res.Images[0].Outcome != registry.Present {
		t.Errorf("%+v, %v", res.Images, err)
	}
}

// TestPublishArtifacts: charts, sets of files and what refers to an image are pushed, too.
func TestPublishArtifacts(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	dir := filepath.Join(t.TempDir(), "oci")
	key := distribution.WriteLayout(t, dir, distribution.Image{Ref: etcd, Platforms: []string{"amd64"}, Flat: true, Layers: [][]byte{{1}}})
	idx, err := airgap.Layout(dir).Index()
	if err != nil {
		t.Fatal(err)
	}
	subject := idx.Manifests[0]
	plain := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	chart, err := mutate.Append(mutate.ConfigMediaType(plain, airgap.TypeChartConfig), mutate.Addendum{Layer: static.NewLayer([]byte("chart"), airgap.TypeChartContent)})
	if err != nil {
		t.Fatal(err)
	}
	about := mutate.Subject(mutate.ConfigMediaType(plain, "application/vnd.example.report"),
		v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest}).(v1.Image)
	for _, a := range []struct {
		img         v1.Image
		annotations map[string]string
	}{
		{chart, map[string]string{airgap.AnnotationKind: airgap.KindChart, airgap.AnnotationRefName: "quay.io/charts/app:1.2.3"}},
		{chart, map[string]string{airgap.AnnotationKind: airgap.KindFiles, airgap.AnnotationRefName: "site-config:v1"}},
		{about, map[string]string{airgap.AnnotationKind: airgap.KindReferrer, airgap.AnnotationSigns: subject.Digest.String()}},
	} {
		if err := ggcr.Path(dir).AppendImage(a.img, ggcr.WithAnnotations(a.annotations)); err != nil {
			t.Fatal(err)
		}
	}
	k, err := trust.LoadKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Open(t.Context(), []catalog.File{{Path: dir, Named: true}}, catalog.Options{Whole: true, Policy: trust.Policy{
		Mode: trust.ModeSystem, OperatorKeys: []trust.Key{k}, System: []string{"docker.io/rancher/etcd"}, // no signature on charts
	}})
	if err != nil || len(c.Refused()) > 0 {
		t.Fatalf("%v, %+v", err, c.Refused())
	}
	defer c.Close()
	for range 2 { // the second time everything is there
		res, err := Publish(t.Context(), Options{Source: c, To: to(t, s.Addr+"/m"), Client: client(t, s), AllowUnsigned: true})
		if err != nil || len(res.Images) != 3 {
			t.Fatalf("%+v, %v", res.Images, err)
		}
		kinds := map[string]string{}
		for _, i := range res.Images {
			kinds[strings.TrimPrefix(i.Reference, s.Addr)] = i.Kind
		}
		if kinds["/m/charts/app:1.2.3"] != "chart" || kinds["/m/site-config:v1"] != "files" || kinds["/m/rancher/etcd:v1"] != "" || len(kinds) != 3 {
			t.Errorf("%v", kinds)
		}
	}
	same(t, s, c, "m/")
	digest, err := about.Digest()
	if err != nil {
		t.Fatal(err)
	}
	get(t, s, "m/rancher/etcd/manifests/%s", digest)
	// This registry has no referrers API: the list is under the tag that the
	// specification gives it.
	if _, status := s.Read(t, http.MethodGet, s.URL("m/rancher/etcd/referrers/%s", subject.Digest)); status != http.StatusNotFound {
		t.Errorf("the registry lists referrers by itself: %d", status)
	}
	list, err := v1.ParseIndexManifest(bytes.NewReader(get(t, s, "m/rancher/etcd/manifests/%s", strings.Replace(subject.Digest.String(), ":", "-", 1))))
	if err != nil || len(list.Manifests) != 1 || list.Manifests[0].Digest != digest || list.Manifests[0].ArtifactType != "application/vnd.example.report" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestRewrite(t *testing.T) {
	for _, c := range []struct {
		rewrites []string
		ref      string
		want     string
	}{
		{nil, etcd, "p/rancher/etcd:v1"},
		{[]string{"docker.io/rancher=rke2"}, etcd, "p/rke2/etcd:v1"},
		{[]string{"rancher=rke2"}, etcd, "p/rke2/etcd:v1"},
		{[]string{"rancher="}, etcd, "p/etcd:v1"},
		{[]string{"ranch=x"}, etcd, "p/rancher/etcd:v1"}, // whole parts only
		{[]string{"quay.io/rancher=x"}, etcd, "p/rancher/etcd:v1"},
		{[]string{"docker.io=hub"}, etcd, "p/hub/rancher/etcd:v1"},
		{[]string{"docker.io=hub", "rancher/etcd=db"}, etcd, "p/db:v1"},
		{[]string{"rancher/etcd=db", "docker.io=hub"}, etcd, "p/db:v1"},
		{[]string{"rancher/etcd="}, etcd, ""},
	} {
		var all []Rewrite
		for _, s := range c.rewrites {
			r, err := ParseRewrite(s)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, r)
		}
		d, err := to(t, "registry.example.com/p").With(all...)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Tag(called(t, c.ref))
		if (err != nil) != (c.want == "") || err == nil && got.Name() != "registry.example.com/"+c.want {
			t.Errorf("%q: %s, %v", c.rewrites, got, err)
		}
	}
	for _, bad := range []string{"x", "=x", "a=UPPER", "a=b=c"} {
		if _, err := ParseRewrite(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
