package stage

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
)

// admitted is an image as the policy "off" admits it.
func admitted(t *testing.T, digit string) trust.Admitted {
	t.Helper()
	tag, err := airgap.ParseTag("docker.io/rancher/rke2-runtime:v1.35.4-rke2r1")
	if err != nil {
		t.Fatal(err)
	}
	a, err := trust.Policy{Mode: trust.ModeOff}.Admit(tag, v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(digit, 64)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

type entry struct {
	name    string
	content string
	kind    byte // tar.TypeReg if zero
	mode    int64
	link    string
}

// layer is a Layer over a tar made of entries. fault, if set, is what reading
// fails with at the end, as a verifying reader does.
type layer struct {
	entries []entry
	fault   error
	opened  *int
}

func (l layer) Open(context.Context) (io.ReadCloser, error) {
	if l.opened != nil {
		*l.opened++
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range l.entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: e.mode, Size: int64(len(e.content)), Linkname: e.link}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	r := io.Reader(&b)
	if l.fault != nil {
		r = io.MultiReader(&b, failing{l.fault})
	}
	return io.NopCloser(r), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// tree lists every path below dir, hidden ones too.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		paths = append(paths, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// image is what is staged in these tests.
func image(t *testing.T, digit string, layers ...Layer) Image {
	t.Helper()
	return Image{Admitted: admitted(t, digit), Layers: layers, Release: "v1.35.4+rke2r1"}
}

// stage stages an image and switches to it.
func stage(t *testing.T, dir string, image Image) Root {
	t.Helper()
	root, err := Runtime(t.Context(), dir, image)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Activate(dir, root); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestRuntime(t *testing.T) {
	dir := t.TempDir()
	root := stage(t, dir, image(t, "a",
		layer{entries: []entry{{name: "bin/", kind: tar.TypeDir}, {name: "bin/kubelet", content: "one", mode: 0o777}, {name: "etc/passwd", content: "no"}}},
		layer{entries: []entry{{name: "./bin/aux/socat", content: "two", mode: 0o4755}, {name: "/charts/a.yaml", content: "three", mode: 0o644}, {name: "bin/kubelet", content: "newer"}}},
	))
	if !root.Staged || root.Dir != filepath.Join(dir, "data", "v1.35.4-rke2r1-aaaaaaaaaaaa") {
		t.Errorf("staged %v in %s", root.Staged, root.Dir)
	}
	want := []string{".", "bin", "data", "data/v1.35.4-rke2r1-aaaaaaaaaaaa",
		"data/v1.35.4-rke2r1-aaaaaaaaaaaa/.files.json",
		"data/v1.35.4-rke2r1-aaaaaaaaaaaa/bin", "data/v1.35.4-rke2r1-aaaaaaaaaaaa/bin/kubelet", "data/v1.35.4-rke2r1-aaaaaaaaaaaa/bin/socat",
		"data/v1.35.4-rke2r1-aaaaaaaaaaaa/charts", "data/v1.35.4-rke2r1-aaaaaaaaaaaa/charts/a.yaml"}
	if got := tree(t, dir); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for path, content := range map[string]string{"bin/kubelet": "newer", "bin/socat": "two"} {
		got, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || string(got) != content {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if info, _ := os.Stat(filepath.Join(root.Bin(), "socat")); info.Mode() != 0o755 {
		t.Errorf("socat has mode %v: set-id bits must go", info.Mode())
	}
	all, err := All(dir)
	if err != nil || len(all) != 1 || !all[0].Linked || all[0].Release != "v1.35.4+rke2r1" || all[0].Name != "docker.io/rancher/rke2-runtime:v1.35.4-rke2r1" || all[0].Dir != root.Dir {
		t.Errorf("staged: %+v, %v", all, err)
	}
}

func TestKeyOfADigest(t *testing.T) {
	ref, err := name.NewDigest("example.com/own/runtime@sha256:" + strings.Repeat("a", 64))
	if err != nil {
		t.Fatal(err)
	}
	a, err := trust.Policy{Mode: trust.ModeOff}.AdmitDigest(ref, v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("a", 64)}, nil, trust.Index{})
	if err != nil {
		t.Fatal(err)
	}
	if got := Key(a); got != "sha256-aaaaaaaaaaaa" {
		t.Errorf("key %s", got)
	}
}

func TestRuntimeIsNotStagedTwice(t *testing.T) {
	dir, opened := t.TempDir(), 0
	for range 3 {
		stage(t, dir, image(t, "a", layer{entries: []entry{{name: "bin/kubelet", content: "x"}}, opened: &opened}))
	}
	if opened != 1 {
		t.Errorf("the layer was read %d times", opened)
	}
}

func TestRuntimeRefuses(t *testing.T) {
	damaged := errors.New("digest does not match")
	cases := map[string]struct {
		layer layer
		want  string
	}{
		"damaged":        {layer{entries: []entry{{name: "bin/kubelet", content: "x"}}, fault: damaged}, "digest does not match"},
		"symbolic link":  {layer{entries: []entry{{name: "bin/kubelet", kind: tar.TypeSymlink, link: "/etc/shadow"}}}, "regular files"},
		"hard link":      {layer{entries: []entry{{name: "bin/kubelet", kind: tar.TypeLink, link: "/etc/shadow"}}}, "regular files"},
		"device":         {layer{entries: []entry{{name: "bin/null", kind: tar.TypeChar}}}, "regular files"},
		"path traversal": {layer{entries: []entry{{name: "bin/../../x/bin/kubelet", content: "x"}}}, "leaves the image's root"},
		"whiteout":       {layer{entries: []entry{{name: "bin/.wh.kubelet"}}}, "cannot remove"},
		"nothing in bin": {layer{entries: []entry{{name: "charts/x.yaml", content: "x"}}}, "not a runtime image"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Runtime(t.Context(), dir, image(t, "a", c.layer))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q in it", err, c.want)
			}
			if got := tree(t, dir); !slices.Equal(got, []string{"."}) {
				t.Errorf("left behind: %q", got)
			}
		})
	}
}

func TestRuntimeNeedsAdmission(t *testing.T) {
	if _, err := Runtime(t.Context(), t.TempDir(), Image{}); err == nil {
		t.Error("an image that nobody admitted was staged")
	}
}

func TestUnfinishedStagingIsRemoved(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "data", unfinishedPrefix+"killed")
	if err := os.MkdirAll(filepath.Join(left, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Runtime(t.Context(), dir, image(t, "a", layer{entries: []entry{{name: "bin/k", content: "x"}}})); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v)", left, err)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	var roots []Root
	for _, digit := range []string{"a", "b", "c"} {
		roots = append(roots, stage(t, dir, image(t, digit, layer{entries: []entry{{name: "bin/k", content: "x"}}})))
	}
	foreign, unfinished := filepath.Join(dir, "data", "keep-000000000000"), filepath.Join(dir, "data", unfinishedPrefix+"1")
	for _, d := range []string{foreign, unfinished} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := Prune(dir, roots[2], func(d string) bool { return d == roots[1].Dir })
	if err != nil || !slices.Equal(removed, []string{roots[0].Dir}) {
		t.Errorf("removed %q, %v", removed, err)
	}
	if _, err := os.Stat(unfinished); err == nil {
		t.Error("what a killed run left is still there")
	}
	for _, stays := range []string{roots[1].Dir, roots[2].Dir, foreign} {
		if _, err := os.Stat(stays); err != nil {
			t.Error(err)
		}
	}
}
