package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/tests/distribution"
)

// asMain makes this test's binary the command itself, so that it can be killed.
const asMain = "RKE2_TEST_AS_MAIN"

func init() {
	if os.Getenv(asMain) != "" {
		main()
		os.Exit(0)
	}
}

// process is the command as a process of its own.
func process(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// TestTestSet: declarations and layouts call what tests alone need the same.
func TestTestSet(t *testing.T) {
	if airgap.TestSet != images.TestSet {
		t.Errorf("%q in layouts, %q in declarations", airgap.TestSet, images.TestSet)
	}
}

// seeded is a distribution registry with images, behind a tap, and what to say to reach it.
type seeded struct {
	*distribution.Server
	tap        *distribution.Tap
	key        string
	registries string
	refs       []string // as they are named at the tap
}

// seed fills a registry. Images are named after the tap's address.
func seed(t *testing.T, images ...distribution.Image) *seeded {
	t.Helper()
	s := &seeded{Server: distribution.Start(t, distribution.Options{})}
	s.tap = distribution.NewTap(t, s.Server)
	for i := range images {
		images[i].Ref = s.tap.Addr + "/" + images[i].Ref
		s.refs = append(s.refs, images[i].Ref)
	}
	layout := t.TempDir()
	s.key = distribution.WriteLayout(t, layout, images...)
	s.Seed(t, layout)
	s.registries = filepath.Join(t.TempDir(), "registries.yaml")
	writeFile(t, s.registries, fmt.Sprintf("configs:\n  %q:\n    auth: {username: %s, password: %s}\n    tls: {ca_file: %s}\n", s.tap.Addr, distribution.User, distribution.Password, s.CAFile))
	return s
}

func writeFile(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func sum(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// TestAirgapKilled: a run that is killed in the middle of a layer leaves nothing where
// bundles go, and the next goes on with the byte that comes next.
func TestAirgapKilled(t *testing.T) {
	const size = 24 << 20
	layer := distribution.Random(7, size)
	s := seed(t, distribution.Image{Ref: "apps/large:v1", Platforms: []string{"amd64", "arm64"}, Layers: [][]byte{layer}})
	dir := t.TempDir()
	cache, out := filepath.Join(dir, "cache"), filepath.Join(dir, "out")
	args := func(cache, out string) []string {
		return []string{"bundle", "airgap", "--image", s.refs[0], "--registries", s.registries, "--cache-dir", cache, "--output-dir", out, "--name", "apps"}
	}

	s.tap.Rate.Store(8 << 20)
	cmd, log := process(t, args(cache, out)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	partial := filepath.Join(cache, "partial", strings.TrimPrefix(distribution.Digest(layer), "sha256:"))
	there := func() int64 {
		st, err := os.Stat(partial)
		if err != nil {
			return 0
		}
		return st.Size()
	}
	for limit := time.Now().Add(60 * time.Second); there() < size/3; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("no part of the layer came in\n%s", log)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	had := there()
	if had < size/3 || had > size*9/10 {
		t.Fatalf("killed at %d of %d bytes: not half way", had, size)
	}
	if names, _ := os.ReadDir(out); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}

	s.tap.Rate.Store(0)
	s.tap.Sent.Store(0)
	cmd, log = process(t, args(cache, out)...)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	// What is small comes again, in TLS: manifests, signatures, handshakes.
	if sent, rest := s.tap.Sent.Load(), size-had; sent < rest || sent > rest+200<<10 {
		t.Errorf("%d bytes were there, %d came for the other %d", had, sent, rest)
	}
	t.Logf("killed at %d of %d bytes; the registry then sent %d", had, int64(size), s.tap.Sent.Load())

	// Nothing of it shows in the bundle.
	cmd, log = process(t, args(filepath.Join(dir, "other"), filepath.Join(dir, "at once"))...)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	bundle := filepath.Join(out, "apps.linux-amd64.tar")
	if a, b := sum(t, bundle), sum(t, filepath.Join(dir, "at once", "apps.linux-amd64.tar")); a != b {
		t.Errorf("resumed %s, at once %s", a, b)
	}
	if got, err := run("bundle", "verify", "--key", s.key, bundle); err != nil {
		t.Errorf("%v\n%s", err, got)
	}

	s.tap.Sent.Store(0)
	cmd, log = process(t, args(cache, out)...)
	if err := cmd.Run(); err != nil || !strings.Contains(log.String(), "(unchanged)") {
		t.Errorf("again: %v\n%s", err, log)
	}
	if sent := s.tap.Sent.Load(); sent > 100<<10 {
		t.Errorf("again: %d bytes came though all was there", sent)
	}
}

// TestAirgapLock: a lock makes the same bundle after a tag has moved, and with nothing to
// dial; one that does not fit what is asked for is refused with what changed.
func TestAirgapLock(t *testing.T) {
	s := seed(t,
		distribution.Image{Ref: "apps/a:v1", Platforms: []string{"amd64"}, Flat: true, Layers: [][]byte{distribution.Random(1, 100_000)}},
		distribution.Image{Ref: "apps/b:v1", Platforms: []string{"amd64", "arm64"}, Layers: [][]byte{distribution.Random(2, 100_000)}})
	dir := t.TempDir()
	lock, cache := filepath.Join(dir, "apps.lock"), filepath.Join(dir, "cache")
	list := filepath.Join(dir, "images.txt")
	writeFile(t, list, "# ours\n"+s.refs[0]+"\n\n"+s.refs[1]+" # two platforms\n")
	airgap := func(out string, more ...string) (string, error) {
		return run(append([]string{"bundle", "airgap", "--image-list", list, "--registries", s.registries, "--cache-dir", cache, "--output-dir", filepath.Join(dir, out), "--name", "apps", "--lock", lock}, more...)...)
	}
	if got, err := airgap("out"); err == nil || !strings.Contains(err.Error(), "--update-lock") {
		t.Fatalf("without a lock: %v\n%s", err, got)
	}
	got, err := airgap("out", "--update-lock", "-o", "json")
	if err != nil {
		t.Fatalf("%v\n%s", err, got)
	}
	var result airgapResult
	if err := json.Unmarshal([]byte(got[strings.Index(got, "{"):]), &result); err != nil || len(result.Images) != 2 || result.Lock != lock {
		t.Fatalf("%v\n%s", err, got)
	}
	want := sum(t, filepath.Join(dir, "out", "apps.linux-amd64.tar"))

	// The tag moves.
	moved := t.TempDir()
	distribution.WriteLayout(t, moved, distribution.Image{Ref: s.refs[0], Platforms: []string{"amd64"}, Flat: true, Layers: [][]byte{distribution.Random(9, 50_000)}})
	s.Seed(t, moved)
	for what, more := range map[string][]string{"online": nil, "offline": {"--offline"}} {
		if got, err := airgap(what, more...); err != nil {
			t.Errorf("%s: %v\n%s", what, err, got)
		} else if is := sum(t, filepath.Join(dir, what, "apps.linux-amd64.tar")); is != want {
			t.Errorf("%s: %s is not %s", what, is, want)
		}
	}
	s.tap.Sent.Store(0)
	if _, err := airgap("dials", "--offline"); err != nil || s.tap.Sent.Load() != 0 {
		t.Errorf("offline: %v, %d bytes came", err, s.tap.Sent.Load())
	}
	// From nothing but the lock: an empty cache, and the registry has the old one still.
	cache = filepath.Join(dir, "empty")
	if got, err := airgap("anew"); err != nil {
		t.Errorf("%v\n%s", err, got)
	} else if is := sum(t, filepath.Join(dir, "anew", "apps.linux-amd64.tar")); is != want {
		t.Errorf("anew: %s is not %s", is, want)
	}
	got, err = airgap("updated", "--update-lock")
	if err != nil || !strings.Contains(got, "image "+s.refs[0]+": sha256:") || !strings.Contains(got, " locked, sha256:") {
		t.Errorf("%v\n%s", err, got)
	}
	if sum(t, filepath.Join(dir, "updated", "apps.linux-amd64.tar")) == want {
		t.Error("the lock was not updated")
	}

	for what, c := range map[string]struct {
		list string
		more []string
		says string
	}{
		"an image more":     {s.refs[0] + "\n" + s.refs[1] + "\n" + s.tap.Addr + "/apps/a:v2\n", nil, "image " + s.tap.Addr + "/apps/a:v2: new, not in the lock"},
		"an image less":     {s.refs[0] + "\n", nil, "image " + s.refs[1] + ": no longer asked for"},
		"another platform":  {s.refs[0] + "\n" + s.refs[1] + "\n", []string{"--platform", "linux/arm64"}, "platforms: linux/amd64 locked, linux/arm64 now"},
		"a file beside it":  {s.refs[0] + "\n" + s.refs[1] + "\n", []string{"--file", list}, "file images.txt: new"},
		"a list that lies":  {"bad reference\n", nil, list + ":1: image"},
		"a list of nothing": {"# none\n", nil, "names no image"},
	} {
		writeFile(t, list, c.list)
		if got, err := airgap("stale", c.more...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v\n%s", what, err, got)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "stale")); err == nil {
		t.Error("something was written all the same")
	}
}

// TestAirgapManifest: what a file declares, in parts and for two platforms; a blob that was
// damaged in the cache is fetched again in the same run; what is wrong says where.
func TestAirgapManifest(t *testing.T) {
	layer := distribution.Random(3, 600_000)
	s := seed(t, distribution.Image{Ref: "apps/b:v1", Platforms: []string{"amd64", "arm64"}, Layers: [][]byte{layer, distribution.Random(4, 600_000)}})
	dir := t.TempDir()
	cache, file := filepath.Join(dir, "cache"), filepath.Join(dir, "rke2-bundle.yaml")
	writeFile(t, filepath.Join(dir, "notes"), "read me")
	declared := "apiVersion: rke2.rancher.io/v1\nkind: Bundle\nname: clinic\nplatforms: [linux/amd64, linux/arm64]\nimages:\n- " + s.refs[0] +
		"\nfiles:\n- path: notes\nrequireSigned: true\nkeys: [" + s.key + "]\n"
	writeFile(t, file, declared)
	airgap := func(out string, more ...string) (string, error) {
		return run(append([]string{"bundle", "airgap", "--manifest", file, "--registries", s.registries, "--cache-dir", cache, "--output-dir", filepath.Join(dir, out)}, more...)...)
	}
	got, err := airgap("out")
	if err != nil || !strings.Contains(got, "clinic.linux-amd64.tar  1.2 MB  1 image, 1 artifact  sha256:") || !strings.Contains(got, "clinic.linux-arm64.tar") ||
		!strings.Contains(got, s.refs[0]+"  sha256:") || !strings.Contains(got, "  signed, attested\n") {
		t.Fatalf("%v\n%s", err, got)
	}

	cached := filepath.Join(cache, "blobs", "sha256", strings.TrimPrefix(distribution.Digest(layer), "sha256:"))
	if err := os.Remove(cached); err != nil {
		t.Fatal(err)
	}
	writeFile(t, cached, strings.Repeat("x", len(layer)))
	got, err = airgap("again")
	if err != nil || !strings.Contains(got, "1 blob in the cache "+cache+" damaged: fetched again") ||
		sum(t, filepath.Join(dir, "again", "clinic.linux-amd64.tar")) != sum(t, filepath.Join(dir, "out", "clinic.linux-amd64.tar")) {
		t.Errorf("%v\n%s", err, got)
	}

	got, err = airgap("parts", "--split", "700kB")
	if err != nil || !strings.Contains(got, "1 image, 1 artifact in 2 parts") {
		t.Errorf("%v\n%s", err, got)
	}
	for _, part := range []string{"1", "2"} {
		file := filepath.Join(dir, "parts", "clinic.linux-amd64.part"+part+"of2.tar")
		if got, err := run("bundle", "verify", "--unsigned", "--key", s.key, file); err != nil {
			t.Errorf("%v\n%s", err, got)
		}
	}
	if got, err := airgap("parts", "--split", "700kB"); err != nil || strings.Count(got, "(unchanged)") != 4 {
		t.Errorf("%v\n%s", err, got)
	}

	for what, c := range map[string]struct {
		text string
		more []string
		says string
	}{
		"an unknown key":        {declared + "image: x\n", nil, file + `:11: unknown key "image"`},
		"parts too small":       {declared, []string{"--split", "100kB"}, "split into parts of at least"},
		"parts of a zst":        {declared, []string{"--split", "1GB", "--format", "tar.zst"}, "parts are plain tars"},
		"a platform that isn't": {declared, []string{"--platform", "linux/s390x"}, "it has linux/amd64, linux/arm64"},
		"a lock without a file": {declared, []string{"--update-lock"}, "name the file with --lock"},
		"values for no chart":   {declared, []string{"--set-value", "a=b"}, "about one --chart"},
	} {
		writeFile(t, file, c.text)
		if got, err := airgap("wrong", c.more...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v\n%s", what, err, got)
		}
	}
	if got, err := run("bundle", "airgap", "--schema"); err != nil || !json.Valid([]byte(got)) || !strings.Contains(got, "imageLists") {
		t.Errorf("%v\n%s", err, got)
	}
}
