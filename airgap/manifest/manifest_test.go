package manifest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const head = "apiVersion: rke2.rancher.io/v1\nkind: Bundle\n"

// refused are manifests (after the head, so that their first line is 3) and what is said.
// Those whose names begin with (content) are right in form.
var refused = map[string]struct{ body, says string }{
	"an unknown key":              {"images: [a]\nimage: [b]\n", `x.yaml:4: unknown key "image"`},
	"an unknown key within":       {"charts:\n- chart: a\n  valueFiles: [b]\n", `x.yaml:5: unknown key "valueFiles"`},
	"a wrong type":                {"images:\n  a: b\n", "x.yaml:4: cannot unmarshal"},
	"a wrong type within":         {"layouts:\n- path: [a]\n", "x.yaml:4: cannot unmarshal"},
	"a repeated key":              {"images: [a]\nimages: [b]\n", `x.yaml:4: mapping key "images" already defined at line 3`},
	"an unknown format":           {"images: [a]\nformat: zip\n", `x.yaml:4: format "zip" is not known`},
	"a name with a path":          {"images: [a]\nname: ../a\n", `x.yaml:4: the name "../a"`},
	"a size in words":             {"images: [a]\nsplit: large\n", `x.yaml:4: size "large"`},
	"a layout without path":       {"layouts:\n- sets: [core]\n", "x.yaml:4: a layout needs its path"},
	"a chart without chart":       {"charts:\n- version: 1.0.0\n", "x.yaml:4: a chart needs"},
	"(content) a platform":        {"images: [a]\nplatforms:\n- linux/amd64\n- linux\n", `x.yaml:6: platform "linux"`},
	"(content) an image":          {"images:\n- a\n- B:c\n", `x.yaml:5: image "B:c"`},
	"(content) a set":             {"layouts:\n- path: a\n  sets:\n  - a/b\n", `x.yaml:6: set "a/b"`},
	"(content) split of a zst":    {"images: [a]\nformat: tar.zst\nsplit: 1GB\n", "x.yaml:5: parts are plain tars"},
	"(content) nothing":           {"name: a\n", "nothing is to be bundled"},
	"(content) a path that leads": {"files:\n- path: a\n  to: ../b\n", `x.yaml:5: to "../b"`},
	"(content) OCI and repo":      {"charts:\n- chart: oci://a/b\n  repo: https://c\n", "x.yaml:4: an oci:// chart has no repo"},
	"(content) two documents":     {"images: [a]\n---\nimages: [b]\n", "x.yaml:4: a second document"},
}

func TestRefused(t *testing.T) {
	for what, c := range refused {
		if _, err := parse("x.yaml", []byte(head+c.body)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for text, says := range map[string]string{
		"apiVersion: rke2.rancher.io/v9\nkind: Bundle\nimages: [a]\n": `x.yaml:1: apiVersion "rke2.rancher.io/v9" is not known`,
		"apiVersion: rke2.rancher.io/v1\nkind: Bag\nimages: [a]\n":    `x.yaml:2: kind "Bag" is not known`, "": "x.yaml: it is empty", "a: [": "x.yaml:1: ", head + "kind2: x": `x.yaml:3: unknown key "kind2"`} {
		if _, err := parse("x.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	full, err := os.ReadFile(filepath.Join("testdata", "full.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "m.yaml")
	if err := os.WriteFile(file, full, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ got, want string }{
		{b.Layouts[0].Path, filepath.Join(dir, "dist/oci")},
		{b.ImageLists[0], filepath.Join(dir, "images.txt")},
		{b.Archives[0].Path, filepath.Join(dir, "vendor.tar.zst")},
		{b.Charts[0].Chart, "oci://registry.example.com/charts/records"},
		{b.Charts[0].ValuesFiles[0], filepath.Join(dir, "records.yaml")},
		{b.Charts[1].Chart, "ingress"},
		{b.Files[0].Path, filepath.Join(dir, "runbook")},
		{b.Files[0].To, "runbook"},
		{b.Files[1].Path, "/etc/ssl/site.pem"},
		{b.Keys[0], filepath.Join(dir, "site.pub")},
	} {
		if c.got != c.want {
			t.Errorf("%s instead of %s", c.got, c.want)
		}
	}
	if _, err := Load(filepath.Join(dir, "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"1": 1, "700MiB": 700 << 20, "4GB": 4e9, "4 GB": 4e9, "4G": 4e9, "4.7GB": 4_700_000_000, "1k": 1000, "1kiB": 1024, "2TiB": 2 << 40, "100B": 100,
		"": 0, "0": 0, "-1": 0, "1iB": 0, "1XB": 0, "9999999TB": 0, "GB": 0, "1e9": 0,
	} {
		got, err := ParseSize(s)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
}

func locked() *Lock {
	d := func(c string) v1.Descriptor {
		return v1.Descriptor{MediaType: "x", Size: 1, Digest: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(c, 64)}}
	}
	return &Lock{
		Inputs: "sha256:1", Platforms: []string{"linux/arm64", "linux/amd64"},
		Images: []LockedImage{
			{Image: "b", Root: d("b"), Manifests: map[string]v1.Descriptor{"linux/amd64": d("c")}, Attached: []LockedAttachment{{"k", d("c").Digest, d("e")}, {"k", d("c").Digest, d("d")}}},
			{Image: "a", Root: d("a"), Manifests: map[string]v1.Descriptor{"linux/amd64": d("a")}},
		},
		Charts:  []LockedChart{{Chart: "c", Name: "c", Version: "1", Manifest: d("f")}},
		Content: []LockedDigest{{"file b", "sha256:b"}, {"file a", "sha256:a"}},
	}
}

// TestLockRoundTrip: in whatever order things were found, the lock is the same.
func TestLockRoundTrip(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.lock")
	if err := locked().Write(file); err != nil {
		t.Fatal(err)
	}
	l, err := ReadLock(file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := l.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	was, _ := os.ReadFile(file)
	if string(was) != string(again) || l.Images[0].Image != "a" || l.Images[1].Attached[0].Descriptor.Digest.Hex[0] != 'd' {
		t.Errorf("%s", again)
	}
	if names, _ := os.ReadDir(filepath.Dir(file)); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

func TestReadLockRefuses(t *testing.T) {
	dir := t.TempDir()
	good, err := locked().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ text, says string }{
		"not JSON":         {"version: 1", ":1: not a lock"},
		"truncated":        {string(good[:len(good)/2]), "not a lock"},
		"an unknown key":   {strings.Replace(string(good), `"inputs"`, `"input"`, 1), `unknown field "input"`},
		"another version":  {strings.Replace(string(good), `"lockVersion": 1`, `"lockVersion": 7`, 1), "lock version 7"},
		"more after it":    {string(good) + "{}", "something follows"},
		"a digest is gone": {strings.Replace(string(good), `"size": 1`, `"size": 0`, 1), "has no digest or size"},
	} {
		file := filepath.Join(dir, "x.lock")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadLock(file); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestChanges(t *testing.T) {
	now := locked()
	now.Images[0].Root.Digest.Hex = strings.Repeat("0", 64)
	now.Images[1].Image = "z"
	now.Charts[0].Version = "2"
	now.Content = now.Content[:1]
	got := strings.Join(locked().Changes(now), "\n")
	for _, want := range []string{
		"image a: no longer asked for", "image b: sha256:bbbb", "image z: new, not in the lock", "chart c: c 1 sha256:", "c 2 sha256:", "file a: no longer asked for",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if same := locked().Changes(locked()); len(same) != 0 {
		t.Errorf("%q", same)
	}
	other := locked()
	other.Inputs = "sha256:2"
	if c := locked().Changes(other); len(c) != 1 {
		t.Errorf("%q", c)
	}
	if InputsDigest([]string{"a", "b"}, []string{"c"}) != InputsDigest([]string{"b", "a"}, []string{"c"}) || InputsDigest([]string{"a"}, []string{"b"}) == InputsDigest([]string{"a", "b"}, nil) {
		t.Error("the digest of inputs")
	}
}
