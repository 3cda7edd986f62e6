package main

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/tests/distribution"
)

// trustAll is a client of servers whose certificates a test made.
func trustAll(connections int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: connections,
	}}
}

// appsBundle is a bundle of three signed images that share a layer, 10 MiB in all.
func appsBundle(t *testing.T) (bundle, layout, key string, refs []string) {
	t.Helper()
	layout = filepath.Join(t.TempDir(), "oci")
	refs = []string{"docker.io/rancher/one:v1", "docker.io/rancher/three:v1", "docker.io/rancher/two:v1"}
	var images []distribution.Image
	for i, r := range refs {
		images = append(images, distribution.Image{
			Ref: r, Platforms: []string{"amd64"},
			Layers: [][]byte{distribution.Random(100, 1<<20), distribution.Random(byte(i), 2<<20), distribution.Random(byte(i+10), 1<<20)},
		})
	}
	key = distribution.WriteLayout(t, layout, images...)
	bundle = filepath.Join(t.TempDir(), "apps.tar")
	writeBundleOf(t, bundle, layout)
	return bundle, layout, key, refs
}

// pushedJSON is what bundle push -o json prints.
type pushedJSON struct {
	Bundles []string
	Sent    int64
	Images  []struct {
		Source, Reference, Digest, Outcome string
		Signatures, Attestations           int
		Blobs                              struct{ Sent, Mounted, Present int }
	}
}

// A push that is killed half-way, wherever that is, leaves no tag that leads nowhere, and
// the next one completes it without sending again what had arrived: from a plain bundle
// and from a compressed one, with TLS and a password.
func TestPushKilled(t *testing.T) {
	plain, _, key, refs := appsBundle(t)
	raw, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := filepath.Join(t.TempDir(), "apps.tar.zst")
	if err := os.WriteFile(packed, z.EncodeAll(raw, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bundle := range []string{plain, packed} {
		t.Run(filepath.Base(bundle), func(t *testing.T) { pushKilled(t, bundle, key, refs) })
	}
}

func pushKilled(t *testing.T, bundle, key string, refs []string) {
	s := distribution.Start(t, distribution.Options{})
	slow := distribution.NewProxy(t, s, 4<<20)
	env := []string{"DOCKER_CONFIG=" + distribution.DockerConfig(t, slow.Addr, s.Addr)}
	args := func(addr string, more ...string) []string {
		return append([]string{"bundle", "push", bundle, addr + "/apps", "--key", key, "--ca-file", s.CAFile, "--jobs", "2", "--rewrite", "docker.io/rancher=mirror"}, more...)
	}
	const total = 10 << 20 // the first layer is shared
	for _, part := range []int64{total / 10, total * 3 / 10, total * 6 / 10, total * 9 / 10} {
		cmd, _, errs := rke2(t, env, args(slow.Addr)...)
		slow.KillAt(t, s, cmd, part, errs)
		for _, r := range refs {
			s.Whole(t, mirrored(r), "v1", false)
		}
	}
	before := s.Stored(t)
	if before == 0 {
		t.Error("nothing had arrived: this tested little")
	}
	cmd, out, errs := rke2(t, env, args(s.Addr, "-o", "json")...)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	var res pushedJSON
	if err := json.Unmarshal([]byte(out.String()), &res); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if res.Sent > total-before+64<<10 {
		t.Errorf("%d bytes were sent though %d of %d were there", res.Sent, before, total)
	}
	if len(res.Images) != len(refs) || res.Images[0].Signatures != 1 || res.Images[0].Attestations != 1 || res.Bundles[0] != bundle {
		t.Errorf("%+v", res)
	}
	for _, r := range refs {
		s.Whole(t, mirrored(r), "v1", true)
	}
	for _, i := range res.Images {
		for _, suffix := range []string{".sig", ".att"} {
			s.Whole(t, strings.TrimSuffix(strings.TrimPrefix(i.Reference, s.Addr+"/"), ":v1"), strings.Replace(i.Digest, ":", "-", 1)+suffix, true)
		}
	}
	again, out, errs := rke2(t, env, args(s.Addr, "-o", "json")...)
	if err := again.Run(); err != nil || json.Unmarshal([]byte(out.String()), &res) != nil || res.Sent != 0 {
		t.Errorf("again: %v, %d bytes\n%s", err, res.Sent, errs)
	}
}

// mirrored is what the rewrite makes of a name.
func mirrored(ref string) string {
	return "apps/mirror/" + strings.TrimSuffix(strings.TrimPrefix(ref, "docker.io/rancher/"), ":v1")
}

// TestPushCommand: what it prints, and what it refuses before it sends anything.
func TestPushCommand(t *testing.T) {
	bundle, _, key, _ := appsBundle(t)
	_, _, other, _ := appsBundle(t)
	s := distribution.Start(t, distribution.Options{})
	p := distribution.NewProxy(t, s, 0)
	t.Setenv("DOCKER_CONFIG", distribution.DockerConfig(t, p.Addr))
	push := func(args ...string) (string, error) {
		return run(append([]string{"bundle", "push", "--ca-file", s.CAFile}, args...)...)
	}
	for _, c := range []struct {
		what string
		args []string
		want string // in the output or the error
		ok   bool
	}{
		{"another key", []string{bundle, p.Addr, "--key", other}, "FAULT  docker.io/rancher/one:v1 (" + bundle + "): image docker.io/rancher/one:v1", false},
		{"nothing was pushed", []string{bundle, p.Addr, "--key", other}, "3 faults found, nothing was pushed", false},
		{"dry run", []string{bundle, p.Addr, "--key", key, "--dry-run"}, p.Addr + "/rancher/one:v1    would push  ", true},
		{"no bundles", []string{t.TempDir(), p.Addr}, "no bundles are there", false},
		{"no registry", []string{bundle, bundle}, "want HOST[:PORT]", false},
		{"two prefixes", []string{bundle, p.Addr + "/a", "--prefix", "b"}, "has a prefix already", false},
		{"no rewrite", []string{bundle, p.Addr, "--rewrite", "x"}, "want FROM=TO", false},
		{"contradiction", []string{bundle, p.Addr, "--rewrite", "rancher=a", "--rewrite", "rancher=b"}, "rancher is to be rewritten", false},
		{"mode", []string{bundle, p.Addr, "--image-verification", "off"}, "--insecure-unverified", false},
		{"jobs", []string{bundle, p.Addr, "--jobs", "0", "--key", key}, "--jobs is at least 1", false},
		{"no such image", []string{bundle, p.Addr, "--key", key, "--image", "four"}, "it has: one, three, two", false},
	} {
		out, err := push(c.args...)
		said := out
		if err != nil {
			said += err.Error()
		}
		if (err == nil) != c.ok || !strings.Contains(said, c.want) {
			t.Errorf("%s: %v\n%s", c.what, err, out)
		}
	}
	if n := p.Requests(); n["PUT"]+n["POST"]+n["PATCH"] > 0 {
		t.Errorf("something was sent: %v", n)
	}
	out, err := push(bundle, p.Addr, "--key", key, "--image", "one", "--prefix", "x/y", "--rewrite", "docker.io/rancher/one=z", "--rewrite", "rancher=never")
	if err != nil || !strings.Contains(out, p.Addr+"/x/y/z:v1  pushed") {
		t.Errorf("%v\n%s", err, out)
	}
	s.Whole(t, "x/y/z", "v1", true)
	out, err = push(bundle, p.Addr, "--trust-dir", t.TempDir(), "--insecure-unverified")
	if err != nil || !strings.Contains(out, p.Addr+"/rancher/two:v1    pushed") {
		t.Errorf("unverified: %v\n%s", err, out)
	}
}
