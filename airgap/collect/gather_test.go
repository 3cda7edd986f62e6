package collect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/manifest"
	"github.com/rancher/rke2/airgap/mirrors"
	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/distribution"
)

// testSameBytes: however and in whatever order things are gathered, and whatever was in
// the cache, the bundle is the same.
func testSameBytes(t *testing.T, f *fixture) {
	dir := t.TempDir()
	noError(t, os.MkdirAll(filepath.Join(dir, "notes", "more"), 0o755))
	noError(t, os.WriteFile(filepath.Join(dir, "notes", "a"), []byte("read me"), 0o600))
	noError(t, os.WriteFile(filepath.Join(dir, "notes", "more", "b"), []byte("and me"), 0o600))
	list := filepath.Join(dir, "images.txt")
	noError(t, os.WriteFile(list, []byte(f.refs()[0]+"\n"+f.refs()[1]+"\n"), 0o600))
	config := f.registries(t, "", f.Addr)
	cache := filepath.Join(dir, "cache")
	b := manifest.Bundle{Images: f.refs(), Files: []manifest.File{{Path: filepath.Join(dir, "notes")}, {Path: list}}}

	first, _, err := gather(t.Context(), t, b, options(t, door(config), cache))
	noError(t, err)
	want := first["linux/amd64"].sum
	again := func(what string, b manifest.Bundle, cache string, jobs int) {
		t.Helper()
		opt := options(t, door(config), cache)
		opt.Jobs = jobs
		got, _, err := gather(t.Context(), t, b, opt)
		noError(t, err)
		if got["linux/amd64"].sum != want {
			t.Errorf("%s: another bundle", what)
		}
	}
	again("with all in the cache", b, cache, 0)
	again("one at a time, nothing in the cache", b, t.TempDir(), 1)
	turned := b
	turned.Images, turned.Files = slices.Clone(b.Images), slices.Clone(b.Files)
	slices.Reverse(turned.Images)
	slices.Reverse(turned.Files)
	turned.Images = append(turned.Images, turned.Images[0])
	again("in another order", turned, t.TempDir(), 16)
	listed := b
	listed.Images, listed.ImageLists = nil, []string{list}
	again("from a list", listed, cache, 0)
	blobs, err := filepath.Glob(filepath.Join(cache, "blobs/sha256/*"))
	noError(t, err)
	for i, file := range blobs {
		switch i % 3 {
		case 0:
			noError(t, os.Remove(file))
		case 1:
			noError(t, os.Chmod(file, 0o600))
			noError(t, os.Truncate(file, 1))
		}
	}
	again("with a part of the cache gone", b, cache, 2)
	noError(t, os.Chtimes(filepath.Join(dir, "notes", "a"), distantPast, distantPast))
	again("with other times", b, cache, 0)
}

// testPlatforms: one bundle a platform, each of its own manifests; what there is not is
// named with what there is.
func testPlatforms(t *testing.T, f *fixture) {
	opt := options(t, door(f.registries(t, "", f.Addr)), t.TempDir())
	got, _, err := gather(t.Context(), t, manifest.Bundle{Images: f.refs()[:1], Platforms: []string{"linux/amd64", "linux/arm64", "linux/amd64"}}, opt)
	noError(t, err)
	if len(got) != 2 {
		t.Fatalf("%v", got)
	}
	for p, m := range got {
		if i := m.archive.Images(); len(i) != 1 || i[0].Platform.String() != p {
			t.Errorf("%s: %+v", p, i)
		}
	}
	for _, c := range []struct{ ref, platform, says string }{
		{f.refs()[0], "linux/s390x", "it is not made for linux/s390x; it has linux/amd64, linux/arm64"},
		{f.refs()[1], "linux/arm64", "it is not made for linux/arm64; it has linux/amd64"},
		{f.Addr + "/apps/none:v1", "linux/amd64", "the registry has no such image"},
		{f.Addr + "/apps/one@sha256:" + strings.Repeat("a", 64), "linux/amd64", "the registry has no such image"},
	} {
		_, _, err := gather(t.Context(), t, manifest.Bundle{Images: []string{c.ref}, Platforms: []string{c.platform}}, opt)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.ref) {
			t.Errorf("%s: %v", c.ref, err)
		}
	}
}

// testNamesByDigest: of the image index, of the manifest, and beside a tag.
func testNamesByDigest(t *testing.T, f *fixture) {
	opt := options(t, door(f.registries(t, "", f.Addr)), t.TempDir())
	_, c, err := gather(t.Context(), t, manifest.Bundle{Images: f.refs()[:1]}, opt)
	noError(t, err)
	index, amd64 := c.Images[0].Digest, c.Images[0].Manifests["linux/amd64"]
	repo := strings.TrimSuffix(f.refs()[0], ":v1")
	got, _, err := gather(t.Context(), t, manifest.Bundle{Images: []string{repo + "@" + index, repo + "@" + amd64, repo + ":v1@" + index}}, opt)
	noError(t, err)
	img := got["linux/amd64"].archive.Images()
	if len(img) != 1 || img[0].Index.String() != index {
		t.Fatalf("%+v", img)
	}
	want := []string{repo + ":v1", repo + "@" + amd64, repo + "@" + index}
	slices.Sort(want)
	names := img[0].Names()
	if slices.Sort(names); !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
}

// testMirrors: a mirror is asked by the rewritten name; one that is down is passed over.
func testMirrors(t *testing.T, f *fixture) {
	config := f.registries(t, fmt.Sprintf(`mirrors:
  docker.io:
    endpoint: ["https://127.0.0.1:1", "https://%s"]
    rewrite: {"^library/(.*)": "apps/$1"}
`, f.Addr), f.Addr)
	var passed atomic.Int64
	d := mirrors.NewDoor(config, registry.Settings{}, func(endpoint string, why error) {
		if passed.Add(1); endpoint != "https://127.0.0.1:1" || !errors.Is(why, registry.ErrUnreachable) {
			t.Errorf("%s: %v", endpoint, why)
		}
	})
	got, c, err := gather(t.Context(), t, manifest.Bundle{Images: []string{"one:v1"}}, options(t, d, t.TempDir()))
	noError(t, err)
	if names := got["linux/amd64"].archive.Images()[0].Names(); names[0] != "docker.io/library/one:v1" || c.Images[0].From != "https://"+f.Addr || passed.Load() != 1 {
		t.Errorf("%q from %s, %d passed over", names, c.Images[0].From, passed.Load())
	}
}

// testRequireSigned: an image needs a signature of a key that is trusted, on its manifest
// or on its image index.
func testRequireSigned(t *testing.T, f *fixture) {
	key, err := trust.LoadKey(f.key)
	noError(t, err)
	opt := options(t, door(f.registries(t, "", f.Addr)), t.TempDir())
	opt.RequireSigned = true
	opt.Trust = trust.Policy{Mode: trust.ModeAll, OperatorKeys: []trust.Key{key}}
	_, _, err = gather(t.Context(), t, manifest.Bundle{Images: f.refs()}, opt)
	noError(t, err)

	bare := f.Addr + "/apps/bare:v1"
	f.put(t, bare, nil)
	got, _, err := gather(t.Context(), t, manifest.Bundle{Images: []string{bare, f.refs()[1]}}, opt)
	if err == nil || !strings.Contains(err.Error(), bare) || strings.Contains(err.Error(), "apps/one") {
		t.Errorf("an unsigned image: %v %v", got, err)
	}
	other, err := trust.LoadKey(distribution.WriteLayout(t, t.TempDir(), distribution.Image{Ref: "a:b", Platforms: []string{"amd64"}}))
	noError(t, err)
	opt.Trust.OperatorKeys = []trust.Key{other}
	if _, _, err = gather(t.Context(), t, manifest.Bundle{Images: f.refs()}, opt); err == nil || !strings.Contains(err.Error(), "signatures are required") {
		t.Errorf("another's key: %v", err)
	}
	opt.RequireSigned = false
	opened, c, err := gather(t.Context(), t, manifest.Bundle{Images: []string{bare}}, opt)
	noError(t, err)
	if len(opened["linux/amd64"].archive.Images()) != 1 || c.Images[0].Signatures != 0 {
		t.Errorf("%+v", c.Images)
	}
}

// put writes an image to the registry; with a subject it refers to that.
func (f *fixture) put(t testing.TB, ref string, subject *v1.Descriptor) v1.Hash {
	t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	noError(t, err)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	layer := types.OCILayer
	if subject != nil {
		layer = "application/spdx+json"
		img = mutate.ConfigMediaType(img, "application/spdx+json")
	}
	img, err = mutate.AppendLayers(img, static.NewLayer([]byte(`{"name":"`+ref+`"}`), layer))
	noError(t, err)
	if subject != nil {
		img = mutate.Subject(img, *subject).(v1.Image)
	}
	tag, err := name.NewTag(ref)
	noError(t, err)
	noError(t, ggcr.Write(tag, img, ggcr.WithTransport(f.HTTP().Transport), ggcr.WithAuth(authn.Anonymous)))
	h, err := img.Digest()
	noError(t, err)
	return h
}

// testReferrers: an SBOM that refers to an image by OCI 1.1 comes along.
func testReferrers(t *testing.T, f *fixture) {
	opt := options(t, door(f.registries(t, "", f.Addr)), t.TempDir())
	_, c, err := gather(t.Context(), t, manifest.Bundle{Images: f.refs()[1:]}, opt)
	noError(t, err)
	h, err := v1.NewHash(c.Images[0].Digest)
	noError(t, err)
	raw, ok := opt.Cache.Small(v1.Descriptor{Digest: h, Size: size(t, opt.Cache, h)})
	if !ok {
		t.Fatal("the manifest is not in the cache")
	}
	sbom := f.put(t, f.Addr+"/apps/one:sbom", &v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: h, Size: int64(len(raw))})
	got, c, err := gather(t.Context(), t, manifest.Bundle{Images: f.refs()[1:]}, opt)
	noError(t, err)
	attached, err := got["linux/amd64"].archive.Attachments(t.Context(), nil)
	noError(t, err)
	if c.Images[0].Referrers != 1 || !slices.ContainsFunc(attached, func(a airgap.Attachment) bool {
		return a.Kind == airgap.KindReferrer && a.Desc.Digest == sbom && a.Subject == h
	}) {
		t.Errorf("%+v\n%+v", c.Images, attached)
	}
}

func size(t testing.TB, c *Cache, h v1.Hash) int64 {
	t.Helper()
	f, err := c.Open(h)
	noError(t, err)
	defer f.Close()
	st, err := f.Stat()
	noError(t, err)
	return st.Size()
}

// testDamagedCache: what was damaged in the cache is found when the bundle is written,
// and goes, so that it is fetched anew.
func testDamagedCache(t *testing.T, f *fixture) {
	opt := options(t, door(f.registries(t, "", f.Addr)), t.TempDir())
	b := manifest.Bundle{Images: f.refs()[1:], Platforms: []string{"linux/amd64"}}
	c, err := Gather(t.Context(), &b, opt)
	noError(t, err)
	defer c.Close()
	noError(t, c.Fetch(t.Context(), opt))
	layer := filepath.Join(opt.Cache.Dir(), "blobs", strings.Replace(distribution.Digest(distribution.Random(3, 1<<20)), ":", "/", 1))
	noError(t, os.Chmod(layer, 0o600))
	data, err := os.ReadFile(layer)
	noError(t, err)
	data[len(data)/2] ^= 1
	noError(t, os.WriteFile(layer, data, 0o600))
	create := func() error {
		_, err := airgap.Create(t.Context(), c.Orders("x"), airgap.CreateOptions{OutputDir: t.TempDir()})
		return err
	}
	if err := create(); !errors.Is(err, airgap.ErrDamaged) {
		t.Errorf("%v", err)
	}
	bad, err := c.Scrub(t.Context())
	noError(t, err)
	if len(bad) != 1 || "sha256:"+bad[0].Hex != distribution.Digest(distribution.Random(3, 1<<20)) {
		t.Errorf("%v", bad)
	}
	noError(t, c.Fetch(t.Context(), opt))
	noError(t, create())
}

// testFaults: connections that break, registries that stumble, passwords and certificates
// that are wrong.
func testFaults(t *testing.T, f *fixture) {
	p := distribution.NewProxy(t, f.Server, 0)
	at := strings.Replace(f.refs()[0], f.Addr, p.Addr, 1)
	layer := distribution.Digest(distribution.Random(1, 3<<20))
	var tries, ranges atomic.Int64
	p.Fault = func(r *http.Request) distribution.Fault {
		if !strings.HasSuffix(r.URL.Path, layer) {
			return distribution.Fault{}
		}
		if r.Header.Get("Range") != "" {
			ranges.Add(1)
		}
		switch tries.Add(1) {
		case 1:
			return distribution.Fault{Cut: true, After: 1 << 20}
		case 2:
			return distribution.Fault{Status: http.StatusServiceUnavailable}
		case 3:
			return distribution.Fault{Cut: true, After: 1 << 20}
		}
		return distribution.Fault{}
	}
	config := f.registries(t, "", p.Addr)
	_, _, err := gather(t.Context(), t, manifest.Bundle{Images: []string{at}}, options(t, door(config), t.TempDir()))
	if err != nil || tries.Load() != 4 || ranges.Load() != 3 {
		t.Errorf("%v, %d tries, %d of them for the rest", err, tries.Load(), ranges.Load())
	}

	for what, c := range map[string]struct {
		yaml string
		kind error
		says string
	}{
		"no password":       {fmt.Sprintf("configs:\n  %q:\n    tls: {ca_file: %s}\n", f.Addr, f.CAFile), registry.ErrUnauthorised, "configs.\"" + f.Addr + "\".auth in "},
		"a wrong password":  {fmt.Sprintf("configs:\n  %q:\n    auth: {username: operator, password: x}\n    tls: {ca_file: %s}\n", f.Addr, f.CAFile), registry.ErrUnauthorised, "auth in "},
		"unknown authority": {fmt.Sprintf("configs:\n  %q:\n    auth: {username: operator, password: x}\n", f.Addr), registry.ErrUntrusted, "tls.ca_file in "},
		"a file that isn't": {fmt.Sprintf("configs:\n  %q:\n    tls: {ca_file: /nowhere.pem}\n", f.Addr), os.ErrNotExist, "configs.\"" + f.Addr + "\""},
	} {
		file := filepath.Join(t.TempDir(), "registries.yaml")
		noError(t, os.WriteFile(file, []byte(c.yaml), 0o600))
		config, err := mirrors.Load(file)
		noError(t, err)
		t.Setenv("DOCKER_CONFIG", t.TempDir())
		_, _, err = gather(t.Context(), t, manifest.Bundle{Images: f.refs()}, options(t, door(config), t.TempDir()))
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	p.Fault = func(r *http.Request) distribution.Fault {
		if strings.HasSuffix(r.URL.Path, layer) {
			cancel()
		}
		return distribution.Fault{}
	}
	if _, _, err := gather(ctx, t, manifest.Bundle{Images: []string{at}}, options(t, door(config), t.TempDir())); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// testArchives: a bundle made of a bundle is the same bundle, in whatever compression it
// came; a part of one is refused.
func testArchives(t *testing.T, f *fixture) {
	opt := options(t, nil, t.TempDir())
	layout := manifest.Bundle{Layouts: []manifest.Layout{{Path: f.layout}}}
	first, _, err := gather(t.Context(), t, layout, opt)
	noError(t, err)
	want := first["linux/amd64"]
	for _, format := range []string{"tar", "tar.zst", "tar.gz"} {
		p := v1.Platform{OS: "linux", Architecture: "amd64"}
		made, err := airgap.Create(t.Context(), []airgap.Order{{Name: "y", Source: airgap.Layout(f.layout), Selection: airgap.Selection{Platform: p}}},
			airgap.CreateOptions{OutputDir: t.TempDir(), Format: format})
		noError(t, err)
		got, _, err := gather(t.Context(), t, manifest.Bundle{Archives: []manifest.Archive{{Path: made[0].File}}}, options(t, nil, t.TempDir()))
		noError(t, err)
		if got["linux/amd64"].sum != want.sum {
			t.Errorf("%s: another bundle", format)
		}
	}
	one, _, err := gather(t.Context(), t, manifest.Bundle{Archives: []manifest.Archive{{Path: want.file, Images: f.refs()[1:]}}}, opt)
	noError(t, err)
	if i := one["linux/amd64"].archive.Images(); len(i) != 1 || i[0].Names()[0] != f.refs()[1] {
		t.Errorf("%+v", i)
	}
	if _, _, err := gather(t.Context(), t, manifest.Bundle{Archives: []manifest.Archive{{Path: want.file, Images: []string{"none"}}}}, opt); err == nil || !strings.Contains(err.Error(), "it has: "+f.refs()[1]) {
		t.Errorf("%v", err)
	}
	if _, _, err := gather(t.Context(), t, manifest.Bundle{Archives: []manifest.Archive{{Path: want.file}}, Platforms: []string{"linux/arm64"}}, opt); err == nil || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("another platform: %v", err)
	}
	both := manifest.Bundle{Archives: []manifest.Archive{{Path: want.file}}, Files: []manifest.File{{Path: list(t)}}, Platforms: []string{"linux/arm64"}}
	if _, _, err := gather(t.Context(), t, both, opt); err == nil || !strings.Contains(err.Error(), "not made for linux/arm64: "+f.refs()[1]+", "+f.refs()[0]) {
		t.Errorf("another platform, beside a file: %v", err)
	}
	parts, err := airgap.Create(t.Context(), []airgap.Order{{Name: "z", Source: airgap.Layout(f.layout), Selection: airgap.Selection{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}}}},
		airgap.CreateOptions{OutputDir: t.TempDir(), Split: 3_300_000})
	noError(t, err)
	if len(parts[0].Parts) < 2 {
		t.Fatalf("%+v", parts)
	}
	if _, _, err := gather(t.Context(), t, manifest.Bundle{Archives: []manifest.Archive{{Path: parts[0].Parts[0].File}}}, opt); err == nil || !strings.Contains(err.Error(), "part of a bundle") {
		t.Errorf("%v", err)
	}
}

// testLayouts: unsigned images of a layout are refused unless that is allowed; layouts of
// other tools name images in one annotation.
func testLayouts(t *testing.T, f *fixture) {
	dir := t.TempDir()
	noError(t, os.CopyFS(dir, os.DirFS(f.layout)))
	idx, err := airgap.Layout(dir).Index()
	noError(t, err)
	idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d v1.Descriptor) bool { return d.Annotations[airgap.AnnotationKind] != airgap.KindImage })
	for i := range idx.Manifests {
		idx.Manifests[i].Annotations = map[string]string{airgap.AnnotationRefName: idx.Manifests[i].Annotations[airgap.AnnotationRefName]}
	}
	b, err := json.Marshal(idx)
	noError(t, err)
	noError(t, os.WriteFile(filepath.Join(dir, "index.json"), b, 0o600))
	opt := options(t, nil, t.TempDir())
	l := manifest.Layout{Path: dir}
	if _, _, err := gather(t.Context(), t, manifest.Bundle{Layouts: []manifest.Layout{l}}, opt); err == nil || !strings.Contains(err.Error(), "has no signature") {
		t.Errorf("%v", err)
	}
	l.AllowUnsigned = true
	got, _, err := gather(t.Context(), t, manifest.Bundle{Layouts: []manifest.Layout{l}}, opt)
	noError(t, err)
	if n := len(got["linux/amd64"].archive.Images()); n != 2 {
		t.Errorf("%d images", n)
	}
	l.Sets = []string{"core"}
	if _, _, err := gather(t.Context(), t, manifest.Bundle{Layouts: []manifest.Layout{l}}, opt); err == nil || !strings.Contains(err.Error(), "no image of set core") {
		t.Errorf("%v", err)
	}
}

// TestOffline: nothing is dialled, and what would have to be is named.
func TestOffline(t *testing.T) {
	_, _, err := gather(t.Context(), t, manifest.Bundle{Images: []string{"busybox:1"}}, options(t, nil, t.TempDir()))
	if err == nil || !strings.Contains(err.Error(), "image docker.io/library/busybox:1 (asked for by name): no registry may be asked") || !strings.Contains(err.Error(), "--update-lock") {
		t.Errorf("%v", err)
	}
	_, _, err = gather(t.Context(), t, manifest.Bundle{Charts: []manifest.Chart{{Chart: "oci://127.0.0.1:1/x"}}}, options(t, nil, t.TempDir()))
	if err == nil || !strings.Contains(err.Error(), "nothing may be") {
		t.Errorf("%v", err)
	}
}

// TestFiles: what can't be carried as a file is named.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	noError(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	noError(t, os.WriteFile(filepath.Join(dir, "a"), nil, 0o600))
	opt := options(t, nil, t.TempDir())
	for what, c := range map[string]struct {
		files []manifest.File
		says  string
	}{
		"a link in a folder": {[]manifest.File{{Path: dir}}, "link is neither"},
		"nothing":            {[]manifest.File{{Path: filepath.Join(dir, "none")}}, "none"},
		"a device":           {[]manifest.File{{Path: "/dev/null"}}, "/dev/null is neither"},
		"one name twice":     {[]manifest.File{{Path: filepath.Join(dir, "a")}, {Path: list(t), To: "a"}}, "would both be a"},
		"a file as a folder": {[]manifest.File{{Path: filepath.Join(dir, "a")}, {Path: list(t), To: "a/b"}}, "is a file and a folder"},
	} {
		if _, _, err := gather(t.Context(), t, manifest.Bundle{Files: c.files}, opt); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func list(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "list")
	noError(t, os.WriteFile(file, []byte("x"), 0o600))
	return file
}
