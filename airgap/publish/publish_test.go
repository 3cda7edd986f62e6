package publish

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/tests/distribution"
	"github.com/rancher/rke2/tests/tools"
)

type login authn.AuthConfig

func (l login) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(l)), nil
}

var known = login{Username: distribution.User, Password: distribution.Password}

// client reaches a registry with its password.
func client(t *testing.T, s *distribution.Server) *registry.Client {
	t.Helper()
	c, err := registry.New(registry.Settings{CAFile: s.CAFile, Keychain: known, Retries: 3, Stall: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func to(t *testing.T, s string) Destination {
	t.Helper()
	d, err := ParseDestination(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const (
	etcd    = "docker.io/rancher/etcd:v1"
	kube    = "docker.io/rancher/kubernetes:v1"
	runtime = "docker.io/rancher/runtime:v1"
)

// fixture is a layout whose images share a layer, one of them without an index.
func fixture(t *testing.T) (dir, key string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "oci")
	shared := distribution.Random(1, 3<<20)
	both := []string{"amd64", "arm64"}
	key = distribution.WriteLayout(t, dir,
		distribution.Image{Ref: etcd, Platforms: both, Layers: [][]byte{distribution.Random(2, 1<<20)}},
		distribution.Image{Ref: kube, Platforms: both, Layers: [][]byte{shared, distribution.Random(3, 2<<20)}},
		distribution.Image{Ref: runtime, Platforms: []string{"amd64"}, Flat: true, Layers: [][]byte{shared, distribution.Random(4, 100)}},
	)
	return dir, key
}

func TestPublish(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	p := distribution.NewProxy(t, s, 0)
	dir, key := fixture(t)
	o := Options{Layout: dir, To: to(t, p.Addr+"/mirror"), Client: client(t, s), Jobs: 3}

	dry := o
	dry.DryRun = true
	res, err := Publish(t.Context(), dry)
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Requests(); n["PUT"]+n["POST"]+n["PATCH"] > 0 || res.Sent != 0 {
		t.Errorf("a dry run sent something: %v", n)
	}
	if len(res.Images) != 3 || res.Images[0].Outcome != registry.Sent || res.Images[2].Blobs.Sent+res.Images[1].Blobs.Sent != 6 || res.Images[2].Blobs.Mounted+res.Images[1].Blobs.Mounted != 1 {
		t.Errorf("dry run: %+v", res.Images)
	}

	var events []Event
	var last Progress
	o.Report = func(e Event) { events = append(events, e) }
	o.Progress = func(p Progress) { last = p }
	res, err = Publish(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if last.Done != last.Total || last.Total != res.Bytes || last.Sent != res.Sent {
		t.Errorf("progress ends with %+v, result %+v", last, res)
	}
	// The shared layer went out once; the other repository mounted it.
	if want := int64(6<<20 + 100); res.Sent < want || res.Sent > want+4096 {
		t.Errorf("%d bytes were sent, not about %d", res.Sent, want)
	}
	if got := p.Bytes(); got < res.Sent || got > res.Sent+64<<10 {
		t.Errorf("%d bytes went through the proxy, %d were said", got, res.Sent)
	}
	ordered(t, events)
	for _, i := range res.Images {
		if i.Outcome != registry.Sent || i.Signatures == 0 || i.Attestations == 0 {
			t.Errorf("%+v", i)
		}
	}

	t.Run("the registry has the same bytes", func(t *testing.T) { identical(t, s, dir, "mirror/") })

	t.Run("again", func(t *testing.T) {
		p.Reset()
		res, err := Publish(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if n := p.Requests(); n["PUT"]+n["POST"]+n["PATCH"] > 0 || n["HEAD"] == 0 || res.Sent != 0 {
			t.Errorf("something was sent again: %v, %d bytes", n, res.Sent)
		}
		for _, i := range res.Images {
			if i.Outcome != registry.Present {
				t.Errorf("%+v", i)
			}
		}
	})

	t.Run("cosign", func(t *testing.T) { cosigned(t, s, p.Addr+"/mirror/", dir, key) })
}

// ordered: an image's tag comes last.
func ordered(t *testing.T, events []Event) {
	t.Helper()
	rank := map[Step]int{Layer: 0, Manifest: 1, Signatures: 2, Attestations: 2, Tag: 3}
	at := map[string]int{}
	for _, e := range events {
		if rank[e.Step] < at[e.Image] {
			t.Errorf("%s %s came too late", e.Step, e.What)
		}
		at[e.Image] = rank[e.Step]
	}
	if len(at) != 3 {
		t.Errorf("events of %d images", len(at))
	}
}

// identical reads everything from the registry and compares it with the layout.
func identical(t *testing.T, s *distribution.Server, dir, prefix string) {
	t.Helper()
	src, err := openSource(Options{Layout: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	images, err := src.images(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		repo := prefix + i.name.Repository
		if got := get(t, s, "%s/manifests/%s", repo, i.name.Tag); !bytes.Equal(got, i.root.raw) {
			t.Errorf("%s: the tag gives %s", i.name, got)
		}
		_ = i.root.walk(func(n *node) error {
			if got := get(t, s, "%s/manifests/%s", repo, n.desc.Digest); !bytes.Equal(got, n.raw) {
				t.Errorf("%s: manifest %s is another", i.name, n.desc.Digest)
			}
			for _, b := range n.blobs {
				if got := get(t, s, "%s/blobs/%s", repo, b.Digest); distribution.Digest(got) != b.Digest.String() {
					t.Errorf("%s: blob %s is another", i.name, b.Digest)
				}
			}
			for _, kind := range kinds {
				nodes, err := src.attached(n.desc.Digest, kind)
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range nodes {
					tag := catalog.AttachedTag(n.desc.Digest, kind)
					if got := get(t, s, "%s/manifests/%s", repo, tag); !bytes.Equal(got, a.raw) {
						t.Errorf("%s: %s is %s", i.name, tag, got)
					}
				}
			}
			return nil
		})
	}
}

func get(t *testing.T, s *distribution.Server, format string, args ...any) []byte {
	t.Helper()
	data, status := s.Read(t, http.MethodGet, s.URL(format, args...))
	if status != http.StatusOK {
		t.Fatalf("%s: status %d %s", s.URL(format, args...), status, data)
	}
	return data
}

// cosigned verifies with the real cosign, against the registry.
func cosigned(t *testing.T, s *distribution.Server, prefix, dir, key string) {
	t.Helper()
	cosign := tools.Build(t, "airgap/testdata/tools/cosign", "cosign")
	other := distribution.WriteLayout(t, filepath.Join(t.TempDir(), "other"), distribution.Image{Ref: etcd, Platforms: []string{"amd64"}})
	env := append(os.Environ(), "HOME="+t.TempDir(), "SSL_CERT_FILE="+s.CAFile,
		"DOCKER_CONFIG="+distribution.DockerConfig(t, strings.SplitN(prefix, "/", 2)[0], s.Addr))
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), cosign, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, ref := range []string{etcd, kube, runtime} {
		at := prefix + strings.TrimPrefix(ref, "docker.io/")
		out, err := run("verify", "--key", key, "--private-infrastructure=true", "-a", "tag=v1", at)
		if err != nil || !strings.Contains(out, "rancher/") {
			t.Errorf("cosign verify %s: %v\n%s", at, err, out)
		}
		if out, err := run("verify", "--key", other, "--private-infrastructure=true", at); err == nil {
			t.Errorf("cosign verifies %s with another key:\n%s", at, out)
		}
		for _, m := range manifests(t, dir, ref) {
			by := at[:strings.LastIndex(at, ":")] + "@" + m
			if out, err := run("verify", "--key", key, "--private-infrastructure=true", by); err != nil {
				t.Errorf("cosign verify %s: %v\n%s", by, err, out)
			}
			if out, err := run("verify-attestation", "--key", key, "--private-infrastructure=true", "--type", "https://slsa.dev/provenance/v1", by); err != nil {
				t.Errorf("cosign verify-attestation %s: %v\n%s", by, err, out)
			}
			if out, err := run("verify-attestation", "--key", other, "--private-infrastructure=true", "--type", "https://slsa.dev/provenance/v1", by); err == nil {
				t.Errorf("cosign verifies an attestation with another key:\n%s", out)
			}
		}
	}
}

// manifests gives the digests of an image's platform manifests.
func manifests(t *testing.T, dir, ref string) []string {
	t.Helper()
	src, err := openSource(Options{Layout: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	images, err := src.images([]string{ref})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	_ = images[0].root.walk(func(n *node) error {
		if len(n.children) == 0 {
			out = append(out, n.desc.Digest.String())
		}
		return nil
	})
	return out
}

// What tests alone need is left in the layout unless it is named.
func TestLeavesTestImages(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	dir := filepath.Join(t.TempDir(), "oci")
	image := func(name, sets string) distribution.Image {
		return distribution.Image{Ref: "docker.io/rancher/" + name + ":v1", Sets: sets, Platforms: []string{"amd64"}, Layers: [][]byte{[]byte(name)}}
	}
	distribution.WriteLayout(t, dir, image("core", "core"), image("echo", airgap.TestSet), image("single", ""))
	for _, c := range []struct{ named, want []string }{
		{nil, []string{"docker.io/rancher/core:v1", "docker.io/rancher/single:v1"}},
		{[]string{"echo"}, []string{"docker.io/rancher/echo:v1"}},
	} {
		res, err := Publish(t.Context(), Options{Layout: dir, To: to(t, s.Addr), Client: client(t, s), Images: c.named})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range res.Images {
			got = append(got, i.Source)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("named %q: pushed %q, want %q", c.named, got, c.want)
		}
	}
}

// Another's signature on the same digest stays when ours is pushed, and ours is added
// once.
func TestSignaturesUnite(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	image := distribution.Image{Ref: etcd, Platforms: []string{"amd64"}, Flat: true, Layers: [][]byte{distribution.Random(9, 100)}}
	var dirs []string
	for range 2 {
		dir := filepath.Join(t.TempDir(), "oci")
		distribution.WriteLayout(t, dir, image) // each with a key of its own
		dirs = append(dirs, dir)
	}
	o := Options{To: to(t, s.Addr), Client: client(t, s)}
	for _, i := range []int{0, 1, 0, 1} {
		o.Layout = dirs[i]
		if _, err := Publish(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	digest := strings.Replace(manifests(t, dirs[0], etcd)[0], ":", "-", 1)
	for _, suffix := range []string{"sig", "att"} {
		m, err := v1.ParseManifest(bytes.NewReader(get(t, s, "rancher/etcd/manifests/%s.%s", digest, suffix)))
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Layers) != 2 {
			t.Errorf("%d layers in .%s", len(m.Layers), suffix)
		}
		var config v1.ConfigFile
		if err := json.Unmarshal(get(t, s, "rancher/etcd/blobs/%s", m.Config.Digest), &config); err != nil || len(config.RootFS.DiffIDs) != 2 {
			t.Errorf("config %+v, %v", config, err)
		}
	}
}

// A layer that an earlier run left in one repository is mounted by all that share it,
// whichever comes first.
func TestLeftElsewhere(t *testing.T) {
	s := distribution.Start(t, distribution.Options{})
	shared := distribution.Random(1, 3<<20)
	var images []distribution.Image
	for i, ref := range []string{"docker.io/rancher/a:v1", "docker.io/rancher/b:v1", "docker.io/rancher/c:v1", "docker.io/rancher/last:v1"} {
		images = append(images, distribution.Image{Ref: ref, Platforms: []string{"amd64"}, Layers: [][]byte{shared, {byte(i)}}})
	}
	dir := filepath.Join(t.TempDir(), "oci")
	distribution.WriteLayout(t, dir, images...)
	o := Options{Layout: dir, To: to(t, s.Addr), Client: client(t, s), Images: []string{"last"}}
	if _, err := Publish(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	o.Images = nil
	res, err := Publish(t.Context(), o)
	if err != nil || res.Sent > 1<<20 {
		t.Errorf("%d bytes were sent, %v", res.Sent, err)
	}
	for _, i := range res.Images[:3] {
		if i.Blobs.Mounted != 1 {
			t.Errorf("%+v", i)
		}
	}
	identical(t, s, dir, "")
}

func TestTagMoves(t *testing.T) {
	s := distribution.Start(t, distribution.Options{NoAuth: true})
	o := Options{To: to(t, s.Addr), Client: client(t, s)}
	var was string
	for i := range byte(2) {
		o.Layout = filepath.Join(t.TempDir(), "oci")
		distribution.WriteLayout(t, o.Layout, distribution.Image{Ref: etcd, Platforms: []string{"amd64"}, Layers: [][]byte{{i}}})
		res, err := Publish(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if got := res.Images[0].Replaced; got != was {
			t.Errorf("replaced %q, want %q", got, was)
		}
		was = res.Images[0].Digest
	}
}

func TestWhatIsWrongInTheLayout(t *testing.T) {
	dir, _ := fixture(t)
	s := distribution.Start(t, distribution.Options{})
	o := Options{To: to(t, s.Addr), Client: client(t, s), Layout: dir}
	layer := filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(distribution.Digest(distribution.Random(3, 2<<20)), "sha256:"))
	good, err := os.ReadFile(layer)
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		what, want string
		content    []byte
		is         error
	}{
		{"another byte", "has the content of sha256:", flipped, registry.ErrDamaged},
		{"too short", "bytes, manifest sha256:", good[:100], registry.ErrDamaged},
		{"gone", "build the image again", nil, os.ErrNotExist},
	} {
		t.Run(c.what, func(t *testing.T) {
			if c.content == nil {
				err = os.Remove(layer)
			} else {
				err = os.WriteFile(layer, c.content, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err := Publish(t.Context(), o)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "build") || !strings.Contains(err.Error(), layer) {
				t.Errorf("%v", err)
			}
			if _, status := s.Read(t, http.MethodGet, s.URL("rancher/kubernetes/manifests/v1")); status != http.StatusNotFound {
				t.Errorf("the tag is there: %d", status)
			}
		})
	}
	if err := os.WriteFile(layer, good, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Publish(t.Context(), o); err != nil {
		t.Errorf("mended: %v", err)
	}
	unsigned := o
	index := filepath.Join(dir, "index.json")
	data, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(index, bytes.ReplaceAll(data, []byte("cosign/sigs"), []byte("cosign/none")), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Publish(t.Context(), unsigned); err == nil || !strings.Contains(err.Error(), "has no signature") {
		t.Errorf("unsigned: %v", err)
	}
	unsigned.AllowUnsigned = true
	if _, err := Publish(t.Context(), unsigned); err != nil {
		t.Errorf("unsigned, allowed: %v", err)
	}
	unsigned.Images = []string{"nope"}
	if _, err := Publish(t.Context(), unsigned); err == nil || !strings.Contains(err.Error(), "it has: etcd, kubernetes, runtime") {
		t.Errorf("unknown image: %v", err)
	}
	unsigned.Layout = t.TempDir() + "/nowhere"
	if _, err := Publish(t.Context(), unsigned); err == nil || !strings.Contains(err.Error(), "--layout") {
		t.Errorf("no layout: %v", err)
	}
}

func called(t *testing.T, ref string) catalog.Name {
	t.Helper()
	n, err := catalog.ParseName(airgap.KindImage, ref)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDestination(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"registry.example.com", "registry.example.com/rancher/etcd:v1"},
		{"registry.example.com:5000/a/b/", "registry.example.com:5000/a/b/rancher/etcd:v1"},
		{"https://registry.example.com", "without https://"},
		{"registry.example.com/UPPER", "want HOST[:PORT][/PREFIX]"},
		{"", "want HOST[:PORT][/PREFIX]"},
		{"bad host", "want HOST[:PORT][/PREFIX]"},
	} {
		d, err := ParseDestination(c.in)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			tag, terr := d.Tag(called(t, etcd))
			if terr != nil {
				t.Fatal(terr)
			}
			got = tag.Name()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%q: %s", c.in, got)
		}
	}
}
