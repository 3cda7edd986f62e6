package collect

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/manifest"
	"github.com/rancher/rke2/airgap/mirrors"
	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/tests/distribution"
)

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture is a distribution registry with images, and a way there.
type fixture struct {
	*distribution.Server
	key    string // of the signatures
	layout string // that the images are from
}

// images of the fixture: one for two platforms, one for one. Theirs are the layers that
// take long.
func (f *fixture) refs() []string { return []string{f.Addr + "/apps/two:v1", f.Addr + "/apps/one:v1"} }

func serve(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{Server: distribution.Start(t, distribution.Options{}), layout: t.TempDir()}
	f.key = distribution.WriteLayout(t, f.layout,
		distribution.Image{Ref: f.refs()[0], Platforms: []string{"amd64", "arm64"}, Layers: [][]byte{distribution.Random(1, 3<<20), distribution.Random(2, 50_000)}},
		distribution.Image{Ref: f.refs()[1], Platforms: []string{"amd64"}, Flat: true, Layers: [][]byte{distribution.Random(2, 50_000), distribution.Random(3, 1<<20)}},
	)
	f.Seed(t, f.layout)
	return f
}

// registries writes a registries.yaml with the credentials and authority for addresses.
func (f *fixture) registries(t testing.TB, more string, addresses ...string) *mirrors.Config {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%sconfigs:\n", more)
	for _, a := range addresses {
		fmt.Fprintf(&b, "  %q:\n    auth: {username: %s, password: %s}\n    tls: {ca_file: %s}\n", a, distribution.User, distribution.Password, f.CAFile)
	}
	file := filepath.Join(t.TempDir(), "registries.yaml")
	noError(t, os.WriteFile(file, []byte(b.String()), 0o600))
	c, err := mirrors.Load(file)
	noError(t, err)
	return c
}

// distantPast is another time than now.
var distantPast = time.Unix(1e9, 0)

func door(c *mirrors.Config) *mirrors.Door {
	return mirrors.NewDoor(c, registry.Settings{Retries: 3, Pause: time.Millisecond}, nil)
}

func options(t testing.TB, d *mirrors.Door, cacheDir string) Options {
	t.Helper()
	c, err := OpenCache(cacheDir)
	noError(t, err)
	return Options{Cache: c, Door: d}
}

// made is a bundle that was written, by its platform.
type made struct {
	file, sum string
	archive   *airgap.Archive
}

// gather makes bundles of a declaration, and opens them.
func gather(ctx context.Context, t testing.TB, b manifest.Bundle, opt Options) (map[string]made, *Collection, error) {
	t.Helper()
	if len(b.Platforms) == 0 {
		b.Platforms = []string{"linux/amd64"}
	}
	noError(t, b.Check())
	c, err := Gather(ctx, &b, opt)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	if err := c.Fetch(ctx, opt); err != nil {
		return nil, nil, err
	}
	all, err := airgap.Create(ctx, c.Orders("x"), airgap.CreateOptions{OutputDir: t.TempDir()})
	if err != nil {
		return nil, nil, err
	}
	out := map[string]made{}
	for _, one := range all {
		f, err := os.Open(one.File)
		noError(t, err)
		h := sha256.New()
		_, err = io.Copy(h, f)
		noError(t, err)
		f.Close()
		a, err := airgap.Open(one.File)
		noError(t, err)
		t.Cleanup(func() { noError(t, a.Close()) })
		out[one.Platform] = made{one.File, fmt.Sprintf("%x", h.Sum(nil)), a}
	}
	return out, c, nil
}

func testRegistry(t *testing.T, f *fixture) {
	opt := options(t, door(f.registries(t, "", f.Addr)), t.TempDir())
	got, c, err := gather(t.Context(), t, manifest.Bundle{Images: f.refs()}, opt)
	noError(t, err)
	images := got["linux/amd64"].archive.Images()
	if len(images) != 2 {
		t.Fatalf("%+v", images)
	}
	two := images[1]
	if two.Refs[0].String() != f.refs()[0] || two.Index == (v1.Hash{}) || two.Platform.Architecture != "amd64" {
		t.Errorf("%+v", two)
	}
	// The index's and the manifest's signatures, and the manifest's attestation.
	for _, h := range []v1.Hash{two.Desc.Digest, two.Index} {
		sigs, err := got["linux/amd64"].archive.Signatures(h)
		noError(t, err)
		if len(sigs) != 1 {
			t.Errorf("%d signatures of %s", len(sigs), h)
		}
	}
	if len(c.Images) != 2 || c.Images[1].Digest != two.Index.String() || c.Images[1].Signatures != 2 || c.Images[1].Statements != 1 || c.Images[1].From != "https://"+f.Addr {
		t.Errorf("%+v", c.Images)
	}
}

// TestDistribution gathers from one distribution registry, with TLS and a password.
func TestDistribution(t *testing.T) {
	f := serve(t)
	for name, test := range map[string]func(*testing.T, *fixture){
		"OtherTools":         testOtherTools,
		"Charts":             testCharts,
		"ChartsOfRegistries": testChartsOfRegistries,
		"Archives":           testArchives,
		"DamagedCache":       testDamagedCache,
		"Faults":             testFaults,
		"Layouts":            testLayouts,
		"Mirrors":            testMirrors,
		"NamesByDigest":      testNamesByDigest,
		"Platforms":          testPlatforms,
		"Referrers":          testReferrers,
		"Registry":           testRegistry,
		"RequireSigned":      testRequireSigned,
		"SameBytes":          testSameBytes,
	} {
		t.Run(name, func(t *testing.T) { test(t, f) })
	}
}
