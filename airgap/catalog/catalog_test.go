package catalog

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/tests/distribution"
)

const (
	etcd = "docker.io/rancher/etcd:v1"
	kube = "docker.io/rancher/kubernetes:v1"
)

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// layoutOf writes a layout of two signed images for two platforms.
func layoutOf(t testing.TB, seed byte) (dir, key string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "oci")
	both := []string{"amd64", "arm64"}
	key = distribution.WriteLayout(t, dir,
		distribution.Image{Ref: etcd, Platforms: both, Layers: [][]byte{distribution.Random(seed, 100_000)}},
		distribution.Image{Ref: kube, Platforms: both, Layers: [][]byte{distribution.Random(seed, 100_000), distribution.Random(seed+1, 100_000)}},
	)
	return dir, key
}

func bundle(t testing.TB, path, layout, architecture string) string {
	t.Helper()
	var b bytes.Buffer
	noError(t, airgap.Write(t.Context(), &b, airgap.Layout(layout), airgap.Selection{Platform: v1.Platform{OS: "linux", Architecture: architecture}, AllowUnsigned: true}))
	noError(t, os.WriteFile(path, b.Bytes(), 0o600))
	return path
}

func trusting(t testing.TB, keys ...string) trust.Policy {
	t.Helper()
	p := trust.Policy{Mode: trust.ModeAll}
	for _, k := range keys {
		key, err := trust.LoadKey(k)
		noError(t, err)
		p.OperatorKeys = append(p.OperatorKeys, key)
	}
	return p
}

func open(t testing.TB, opt Options, paths ...string) *Catalog {
	t.Helper()
	files, err := Files(paths)
	noError(t, err)
	c, err := Open(t.Context(), files, opt)
	noError(t, err)
	t.Cleanup(func() { noError(t, c.Close()) })
	return c
}

// readable: every blob that the catalog's repositories lead to can be read and is right.
func readable(t *testing.T, c *Catalog) {
	t.Helper()
	n := 0
	for _, r := range c.Repositories() {
		for h, d := range r.Blobs {
			rc, err := c.Blob(h)
			noError(t, err)
			got, size, err := v1.SHA256(rc)
			noError(t, err)
			rc.Close()
			if got != h || size != d.Size {
				t.Errorf("%s: blob %s is %s with %d bytes", r.Name, h, got, size)
			}
			n++
		}
		for _, d := range r.Manifests {
			_, err := c.Manifest(d)
			noError(t, err)
		}
		for tag, d := range r.Tags {
			if _, ok := r.Manifests[d.Digest]; !ok {
				t.Errorf("%s:%s leads to %s, which is not there", r.Name, tag, d.Digest)
			}
		}
	}
	if n == 0 {
		t.Error("there is nothing: this tested nothing")
	}
}

func TestOneBundle(t *testing.T) {
	dir, key := layoutOf(t, 1)
	c := open(t, Options{Policy: trusting(t, key)}, bundle(t, filepath.Join(t.TempDir(), "a.tar"), dir, "amd64"))
	if len(c.Items()) != 2 || len(c.Refused()) != 0 {
		t.Fatalf("%+v %+v", c.Items(), c.Refused())
	}
	i := c.Items()[0]
	if i.Name.String() != etcd || !i.Verified || !strings.HasPrefix(i.By, "key ") || i.Root.MediaType != types.OCIManifestSchema1 || i.Manifests[0].Platform.String() != "linux/amd64" {
		t.Errorf("%+v", i)
	}
	r := c.Repositories()[0]
	var tags []string
	for tag := range r.Tags {
		tags = append(tags, tag[max(0, len(tag)-4):])
	}
	slices.Sort(tags)
	if !slices.Equal(tags, []string{".att", ".sig", "v1"}) {
		t.Errorf("%q", tags)
	}
	readable(t, c)
	if _, err := c.Size(v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestPlatforms: bundles of two platforms make an index; it is the signed one, if a file
// has that, and always the same otherwise.
func TestPlatforms(t *testing.T) {
	dir, key := layoutOf(t, 1)
	amd, arm := bundle(t, filepath.Join(t.TempDir(), "a.tar"), dir, "amd64"), bundle(t, filepath.Join(t.TempDir(), "b.tar"), dir, "arm64")
	opt := Options{Policy: trusting(t, key), Whole: true}
	one, other := open(t, opt, amd, arm), open(t, opt, arm, amd)
	if len(one.Items()[0].Manifests) != 2 || !one.Items()[0].Root.MediaType.IsIndex() || one.Items()[0].Root.Digest != other.Items()[0].Root.Digest {
		t.Errorf("%+v %+v", one.Items()[0], other.Items()[0])
	}
	readable(t, one)
	idx, err := airgap.Layout(dir).Index()
	noError(t, err)
	whole := open(t, opt, amd, dir)
	if got := whole.Items()[0].Root.Digest; got != idx.Manifests[0].Digest {
		t.Errorf("with the layout the name stands for %s, not the signed %s", got, idx.Manifests[0].Digest)
	}
	readable(t, whole)
}

func TestCompressed(t *testing.T) {
	dir, key := layoutOf(t, 1)
	plain := bundle(t, filepath.Join(t.TempDir(), "a.tar"), dir, "amd64")
	b, err := os.ReadFile(plain)
	noError(t, err)
	z, err := zstd.NewWriter(nil)
	noError(t, err)
	packed := filepath.Join(t.TempDir(), "a.tar.zst")
	noError(t, os.WriteFile(packed, z.EncodeAll(b, nil), 0o600))
	work := t.TempDir()
	var told []string
	opt := Options{Policy: trusting(t, key), Unpack: work, Progress: func(what, _ string, done, total int64) {
		if done == total {
			told = append(told, what)
		}
	}}
	c := open(t, opt, packed)
	readable(t, c)
	for _, r := range c.Repositories() {
		for h, d := range r.Blobs {
			content, err := c.Open(h)
			noError(t, err)
			if got, _, err := v1.SHA256(io.LimitReader(content.File, d.Size)); err != nil || got != h {
				t.Errorf("%s is %s, %v", h, got, err)
			}
			content.File.Close()
		}
	}
	if !slices.Contains(told, "expanding") {
		t.Errorf("told %q", told)
	}
	told = nil
	readable(t, open(t, opt, packed))
	if slices.Contains(told, "expanding") {
		t.Error("it was expanded twice")
	}
	inPlace := open(t, Options{Policy: trusting(t, key)}, packed)
	readable(t, inPlace)
	seen := 0
	noError(t, inPlace.Stream(t.Context(), func(v1.Hash) bool { return true }, func(d v1.Descriptor, r io.Reader) error {
		seen++
		if !inPlace.Streamed(d.Digest) {
			t.Errorf("%s", d.Digest)
		}
		return nil
	}))
	if seen == 0 || len(c.Items()) != 2 {
		t.Errorf("%d blobs, %d items", seen, len(c.Items()))
	}
}

// TestRefused: what is not trusted, not complete or not clear is not in the catalog, and
// the reason is told.
func TestRefused(t *testing.T) {
	dir, key := layoutOf(t, 1)
	dir2, key2 := layoutOf(t, 7) // the same names, other images
	folder := t.TempDir()
	a := bundle(t, filepath.Join(folder, "a.tar"), dir, "amd64")
	refusal := func(c *Catalog, want string) {
		t.Helper()
		if len(c.Items()) != 0 || len(c.Refused()) != 2 || !strings.Contains(c.Refused()[0].Err.Error(), want) {
			t.Errorf("%d items, refused %+v, want %q", len(c.Items()), c.Refused(), want)
		}
		for _, r := range c.Repositories() {
			t.Errorf("%s is there", r.Name)
		}
	}
	refusal(open(t, Options{Policy: trusting(t, key2)}, a), "signed by a key that is not trusted")
	refusal(open(t, Options{}, a), "no trusted keys")
	if c := open(t, Options{Policy: trust.Policy{Mode: trust.ModeOff}}, a); len(c.Items()) != 2 || c.Items()[0].Verified {
		t.Errorf("%+v", c.Items())
	}
	b := bundle(t, filepath.Join(folder, "b.tar"), dir2, "amd64")
	refusal(open(t, Options{Policy: trusting(t, key, key2)}, folder), "have different images of this name for linux/amd64")
	noError(t, os.Remove(b))

	raw, err := os.ReadFile(a)
	noError(t, err)
	broken := filepath.Join(folder, "broken.tar")
	noError(t, os.WriteFile(broken, raw[:len(raw)/2], 0o600))
	noError(t, os.WriteFile(filepath.Join(folder, ".hidden.tar"), raw[:10], 0o600))
	noError(t, os.WriteFile(filepath.Join(folder, "notes.txt"), []byte("x"), 0o600))
	c := open(t, Options{Policy: trusting(t, key)}, folder)
	if len(c.Items()) != 2 || len(c.Refused()) != 1 || c.Refused()[0].Subject != broken || !errors.Is(c.Refused()[0].Err, airgap.ErrTruncated) {
		t.Errorf("%+v", c.Refused())
	}
	if _, err := Open(t.Context(), []File{{broken, true}}, Options{}); !errors.Is(err, airgap.ErrTruncated) {
		t.Errorf("named: %v", err)
	}
	if _, err := Files([]string{filepath.Join(folder, "absent.tar")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestParts: a part or a delta alone is refused with what is missing; together with the
// rest it is whole.
func TestParts(t *testing.T) {
	dir, key := layoutOf(t, 1)
	work := t.TempDir()
	whole := bundle(t, filepath.Join(t.TempDir(), "apps.tar"), dir, "amd64")
	made, err := airgap.SplitFile(t.Context(), airgap.SplitOptions{File: whole, Size: 140_000, OutputDir: work})
	noError(t, err)
	var parts []string
	for _, p := range made {
		parts = append(parts, p.File)
	}
	if len(parts) < 2 {
		t.Fatalf("%d parts", len(parts))
	}
	policy := Options{Policy: trusting(t, key)}
	all := open(t, policy, parts...)
	if len(all.Items()) != 2 || len(all.Refused()) != 0 {
		t.Fatalf("%+v", all.Refused())
	}
	readable(t, all)
	some := open(t, policy, parts[0])
	if len(some.Refused()) == 0 || !strings.Contains(some.Refused()[0].Err.Error(), "is part 1 of") {
		t.Errorf("%+v", some.Refused())
	}

	dir2, key2 := layoutOf(t, 2) // its first layer is the old one's second
	next := bundle(t, filepath.Join(t.TempDir(), "apps.tar"), dir2, "amd64")
	d, err := airgap.MakeDelta(t.Context(), airgap.DeltaOptions{From: []string{whole}, New: []string{next}, Output: filepath.Join(work, "d.tar")})
	noError(t, err)
	if d.LeftOut == 0 {
		t.Errorf("the delta leaves nothing out: %+v", d)
	}
	only := Options{Policy: trusting(t, key2)} // the old images have the same names
	alone := open(t, only, d.File)
	if len(alone.Refused()) == 0 || !strings.Contains(alone.Refused()[0].Err.Error(), "give what it was made from with it: apps.tar") {
		t.Errorf("%+v", alone.Refused())
	}
	both := open(t, only, d.File, whole)
	if len(both.Items()) != 2 {
		t.Errorf("%+v", both.Refused())
	}
	readable(t, both)
}

func TestNames(t *testing.T) {
	hex := strings.Repeat("a", 64)
	for _, c := range []struct{ kind, ref, want, path string }{
		{airgap.KindImage, "busybox", "docker.io/library/busybox:latest", "docker.io/library/busybox"},
		{airgap.KindImage, "quay.io/x/y:v1", "quay.io/x/y:v1", "quay.io/x/y"},
		{airgap.KindImage, "quay.io/x/y@sha256:" + hex, "quay.io/x/y@sha256:" + hex, "quay.io/x/y"},
		{airgap.KindChart, "docker.io/charts/app:1.2.3", "docker.io/charts/app:1.2.3", "docker.io/charts/app"},
		{airgap.KindFiles, "site-config:v1", "site-config:v1", "site-config"},
		{airgap.KindFiles, "team/site-config:v1", "team/site-config:v1", "team/site-config"},
		{airgap.KindFiles, "example.com/site:v1", "example.com/site:v1", "example.com/site"},
		{airgap.KindImage, "UPPER", "", ""},
		{airgap.KindFiles, "site", "", ""},
	} {
		n, err := ParseName(c.kind, c.ref)
		if (err != nil) != (c.want == "") {
			t.Errorf("%s: %v", c.ref, err)
		}
		if err == nil && (n.String() != c.want || n.Path() != c.path) {
			t.Errorf("%s: %s, %s", c.ref, n, n.Path())
		}
	}
}
