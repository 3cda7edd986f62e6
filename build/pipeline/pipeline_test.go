package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/build/sign"
	"github.com/rancher/rke2/images"
)

var ctx = context.Background()

// project is a tree of two small components and three images, one of which shares a
// component with another.
func project(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"images/product.yaml": `version-of: app
release: rke2r1
fips140: v1.0.0
registry: docker.io
repo: rancher
image:
  name: runtime
  role: runtime
  dockerfile: ../Dockerfile.runtime
  sets: [core]
`,
		"Dockerfile.runtime":       "FROM scratch\nARG IMAGE_VERSION\nLABEL v=$IMAGE_VERSION\nCOPY --from=app / /bin/\nCOPY --from=ctl / /bin/\nWORKDIR /charts\n",
		"images/app/go.mod":        "module example.com/app\n\ngo 1.25.0\n\ntool (\n\texample.com/app\n\texample.com/app/ctl\n)\n",
		"images/app/main.go":       "package main\n\nfunc main() { println(\"app\") }\n",
		"images/app/ctl/main.go":   "package main\n\nfunc main() { println(\"ctl\") }\n",
		"images/app/image.yaml":    "description: app\nversion: v1.35.4\nimage:\n  name: hardened-app\n  role: app\n  sets: [core, app]\n",
		"images/app/Dockerfile":    "FROM scratch\nCOPY --from=app / /bin/\n",
		"images/pause/go.mod":      "module example.com/pause\n\ngo 1.25.0\n\ntool example.com/pause\n",
		"images/pause/main.go":     "package main\n\nfunc main() { select {} }\n",
		"images/pause/image.yaml":  "description: pause\nversion: v0.1.0\nimage:\n  name: mirrored-pause\n  role: pause\n  sets: [core]\n",
		"images/pause/Dockerfile":  "FROM scratch\nCOPY --from=pause / /\nENTRYPOINT [\"/pause\"]\n",
		"images/unused/go.mod":     "module example.com/unused\n\ngo 1.25.0\n\ntool example.com/unused\n",
		"images/unused/main.go":    "package main\n\nfunc main() { this does not compile }\n",
		"images/unused/image.yaml": "description: in no image\nversion: v0.2.0\n",
	} {
		put(t, filepath.Join(root, name), content)
	}
	return root
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

type run struct {
	*Pipeline
	root   string
	events []Event
}

// built lists the steps that had something to do.
func (r *run) built() string {
	var out []string
	for _, e := range r.events {
		if e.Done && !e.Cached {
			out = append(out, string(e.Step)+" "+e.Name)
		}
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

func start(t *testing.T, root, cacheDir string) *run {
	return startFor(t, root, cacheDir, []artifact.Platform{{OS: "linux", Arch: runtime.GOARCH}})
}

func startFor(t *testing.T, root, cacheDir string, platforms []artifact.Platform) *run {
	t.Helper()
	tree, err := images.Load(filepath.Join(root, "images"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{root: root}
	r.Pipeline, err = New(ctx, Settings{
		Tree: tree, Cache: c, Out: filepath.Join(root, "dist"),
		Naming:    images.Naming{Registry: tree.Product.Registry, Repo: tree.Product.Repo},
		Epoch:     time.Unix(0, 0),
		Platforms: platforms, Jobs: 2,
		Report: func(e Event) { r.events = append(r.events, e) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func key(t *testing.T) *sign.Key {
	t.Helper()
	k, err := sign.LoadDevelopment(ctx, filepath.Join(t.TempDir(), "development.key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// all makes everything and gives the index.
func all(t *testing.T, r *run, k *sign.Key) v1.IndexManifest {
	t.Helper()
	if _, err := r.Images(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Sign(ctx, k); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Release(k); err != nil {
		t.Fatal(err)
	}
	return index(t, r)
}

func index(t *testing.T, r *run) v1.IndexManifest {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.Layout(), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// files reads a folder whole.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.Walk(dir, func(p string, st os.FileInfo, err error) error {
		if err != nil || st.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		out[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Two machines: other folders, other caches, the same key. The same bytes.
func TestReproducible(t *testing.T) {
	k := key(t)
	a, b := start(t, project(t), t.TempDir()), start(t, project(t), t.TempDir())
	all(t, a, k)
	all(t, b, k)
	// The two images of app share its layer: whichever comes second finds it made.
	built := b.built()
	for _, want := range []string{
		"compile app", "compile pause", "image mirrored-pause", "sign docker.io/rancher/hardened-app:v1.35.4-rke2r1",
		"sign docker.io/rancher/mirrored-pause:v0.1.0-rke2r1", "sign docker.io/rancher/runtime:v1.35.4-rke2r1",
	} {
		if !strings.Contains(built, want) {
			t.Errorf("the second machine built: %s; not %s", built, want)
		}
	}
	if !strings.Contains(built, "image hardened-app") && !strings.Contains(built, "image runtime") {
		t.Errorf("the second machine built: %s; no image of app", built)
	}
	one, two := files(t, a.Layout()), files(t, b.Layout())
	if len(one) < 10 || len(one) != len(two) {
		t.Fatalf("%d and %d files", len(one), len(two))
	}
	for n, data := range one {
		if two[n] != data {
			t.Errorf("%s differs", n)
		}
	}
	for _, n := range []string{"release.json", "cosign.pub"} {
		x, errX := os.ReadFile(filepath.Join(a.root, "dist", n))
		y, errY := os.ReadFile(filepath.Join(b.root, "dist", n))
		if errX != nil || errY != nil || !bytes.Equal(x, y) {
			t.Errorf("%s differs: %v %v", n, errX, errY)
		}
	}
}

func TestSecondRunDoesNothing(t *testing.T) {
	root, dir, k := project(t), t.TempDir(), key(t)
	first := start(t, root, dir)
	all(t, first, k)
	before := map[string]time.Time{}
	for n := range files(t, filepath.Join(root, "dist")) {
		st, err := os.Stat(filepath.Join(root, "dist", n))
		if err != nil {
			t.Fatal(err)
		}
		before[n] = st.ModTime()
	}
	second := start(t, root, dir)
	all(t, second, k)
	if second.built() != "" {
		t.Errorf("built again: %s", second.built())
	}
	for n, at := range before {
		if st, err := os.Stat(filepath.Join(root, "dist", n)); err != nil || !st.ModTime().Equal(at) {
			t.Errorf("%s was written again (%v)", n, err)
		}
	}
}

func TestIndex(t *testing.T) {
	r := start(t, project(t), t.TempDir())
	m := all(t, r, key(t))
	var refs []string
	var want []string // subjects of signatures and attestations, in order
	layers := map[string]int{}
	for i, d := range m.Manifests[:3] {
		refs = append(refs, d.Annotations[layout.RefName])
		if d.Annotations[layout.Kind] != layout.KindImage || d.Annotations[layout.ImageName] != d.Annotations[layout.RefName] || !d.MediaType.IsIndex() {
			t.Errorf("entry %d: %s %v", i, d.MediaType, d.Annotations)
		}
		of := platforms(t, r, d)
		if len(of) != 1 || of[0].Platform == nil || of[0].Platform.Architecture != runtime.GOARCH {
			t.Errorf("platforms %+v", of)
		}
		want = append(want, "sigs "+d.Digest.String(), "sigs "+of[0].Digest.String(), "atts "+of[0].Digest.String())
		// One component, one layer, in both images.
		for _, l := range manifest(t, r, of[0]).Layers {
			layers[l.Digest.String()]++
		}
	}
	var got []string
	for _, d := range m.Manifests[3:] {
		if d.Annotations[layout.RefName] != "" {
			t.Errorf("what is attached has a name: %v", d.Annotations)
		}
		got = append(got, filepath.Base(d.Annotations[layout.Kind])+" "+d.Annotations[layout.Signs])
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("attached\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if strings.Join(refs, " ") != "docker.io/rancher/hardened-app:v1.35.4-rke2r1 docker.io/rancher/mirrored-pause:v0.1.0-rke2r1 docker.io/rancher/runtime:v1.35.4-rke2r1" {
		t.Errorf("images %v", refs)
	}
	if got := m.Manifests[0].Annotations[layout.Sets]; got != "app,core" {
		t.Errorf("sets %q", got)
	}
	shared := 0
	for _, n := range layers {
		if n == 2 {
			shared++
		}
	}
	if shared != 1 {
		t.Errorf("%d layers are shared: %v", shared, layers)
	}
}

func platforms(t *testing.T, r *run, d v1.Descriptor) []v1.Descriptor {
	t.Helper()
	index, err := ggcr.Path(r.Layout()).ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	below, err := index.ImageIndex(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := below.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return m.Manifests
}

func manifest(t *testing.T, r *run, d v1.Descriptor) v1.Manifest {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.Layout(), "blobs", d.Digest.Algorithm, d.Digest.Hex))
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// what gives the subject of an index entry: its own name, or that of the image that it
// is attached to.
func what(t *testing.T, r *run, m v1.IndexManifest, d v1.Descriptor) string {
	t.Helper()
	for _, img := range m.Manifests[:3] {
		for _, s := range append(platforms(t, r, img), img) {
			if s.Digest == d.Digest || s.Digest.String() == d.Annotations[layout.Signs] {
				return img.Annotations[layout.RefName]
			}
		}
	}
	return ""
}

// A change goes as far as it must: its component, the images with it, their signatures.
func TestChange(t *testing.T) {
	root, dir, k := project(t), t.TempDir(), key(t)
	before := all(t, start(t, root, dir), k)
	put(t, filepath.Join(root, "images/pause/main.go"), "package main\n\nfunc main() { println(1); select {} }\n")
	r := start(t, root, dir)
	after := all(t, r, k)
	if got := r.built(); got != "compile pause, image mirrored-pause, sign docker.io/rancher/mirrored-pause:v0.1.0-rke2r1" {
		t.Errorf("built: %s", got)
	}
	for i := range before.Manifests {
		changed := before.Manifests[i].Digest != after.Manifests[i].Digest
		if pause := strings.Contains(what(t, r, after, after.Manifests[i]), "pause"); changed != pause {
			t.Errorf("entry %d changed: %v", i, changed)
		}
	}
	// Nothing of the old image stays.
	if left := files(t, r.Layout()); len(left) != len(reachable(t, r, after))+2 {
		t.Errorf("%d files for %d blobs", len(left), len(reachable(t, r, after)))
	}
}

func reachable(t *testing.T, r *run, m v1.IndexManifest) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for todo := m.Manifests; len(todo) > 0; todo = todo[1:] {
		d := todo[0]
		out[d.Digest.Hex] = true
		if d.MediaType.IsIndex() {
			todo = append(todo, platforms(t, r, d)...)
			continue
		}
		m := manifest(t, r, d)
		for _, b := range append(m.Layers, m.Config) {
			out[b.Digest.Hex] = true
		}
	}
	return out
}

func TestOneImage(t *testing.T) {
	root, dir, k := project(t), t.TempDir(), key(t)
	r := start(t, root, dir)
	if _, err := r.Release(k); err == nil || !strings.Contains(err.Error(), "is not in the layout; run rke2-build image") {
		t.Errorf("release of nothing: %v", err)
	}
	if _, err := r.Sign(ctx, k); err == nil || !strings.Contains(err.Error(), "make them with rke2-build image") {
		t.Errorf("signing nothing: %v", err)
	}
	built, err := r.Images(ctx, []string{"mirrored-pause"})
	if err != nil || len(built) != 1 || built[0].Platforms[0].Layers != 1 || built[0].Platforms[0].Size == 0 {
		t.Fatalf("%+v, %v", built, err)
	}
	if got := r.built(); got != "compile pause, image mirrored-pause" {
		t.Errorf("built %s", got)
	}
	if _, err := r.Images(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Release(k); err == nil || !strings.Contains(err.Error(), "is not signed by this key") {
		t.Errorf("release of unsigned images: %v", err)
	}
	if _, err := r.Sign(ctx, k); err != nil {
		t.Fatal(err)
	}
	// Building one again leaves the others and their signatures alone.
	before := index(t, r)
	if _, err := r.Images(ctx, []string{"mirrored-pause"}); err != nil {
		t.Fatal(err)
	}
	if after := index(t, r); len(after.Manifests) != 12 || len(before.Manifests) != 12 {
		t.Errorf("%d entries, then %d", len(before.Manifests), len(after.Manifests))
	}
	if _, err := r.Release(key(t)); err == nil || !strings.Contains(err.Error(), "is not signed by this key") {
		t.Errorf("release with another key: %v", err)
	}
}

// Another key's signatures are replaced, so a development signature never gets into a
// release.
func TestAnotherKey(t *testing.T) {
	root, dir := project(t), t.TempDir()
	r := start(t, root, dir)
	dev := all(t, r, key(t))
	keys := t.TempDir()
	if err := sign.Generate(filepath.Join(keys, "k.key"), filepath.Join(keys, "k.pub"), nil); err != nil {
		t.Fatal(err)
	}
	release, err := sign.Load(ctx, filepath.Join(keys, "k.key"), func() ([]byte, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	m := all(t, r, release)
	if len(m.Manifests) != 12 {
		t.Fatalf("%d entries", len(m.Manifests))
	}
	for i := range m.Manifests {
		if same := m.Manifests[i].Digest == dev.Manifests[i].Digest; same != (i < 3) {
			t.Errorf("entry %d is the same: %v", i, same)
		}
	}
	got, err := os.ReadFile(filepath.Join(root, "dist", "release.json"))
	if err != nil {
		t.Fatal(err)
	}
	rel, err := images.ParseRelease(got)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(keys, "k.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if rel.Development || len(rel.PublicKeys) != 1 || rel.PublicKeys[0] != string(pem) {
		t.Errorf("release %+v", rel)
	}
}

func TestRelease(t *testing.T) {
	r := start(t, project(t), t.TempDir())
	k := key(t)
	m := all(t, r, k)
	rel, err := r.Release(k)
	if err != nil {
		t.Fatal(err)
	}
	if rel.Version != "v1.35.4+rke2r1" || rel.Kubernetes != "v1.35.4" || rel.Registry != "docker.io" || rel.Repo != "rancher" || !rel.Development || len(rel.Images) != 3 {
		t.Errorf("%+v", rel)
	}
	app, ok := rel.Image("app")
	if !ok || app.Index != m.Manifests[0].Digest.String() || app.Digest() != platforms(t, r, m.Manifests[0])[0].Digest.String() || app.Reference != m.Manifests[0].Annotations[layout.RefName] || strings.Join(app.Sets, ",") != "app,core" {
		t.Errorf("%+v", app)
	}
	// The overlay names both files absolutely, as go build wants them.
	var overlay struct{ Replace map[string]string }
	data, err := os.ReadFile(filepath.Join(r.root, "dist", "overlay.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &overlay); err != nil {
		t.Fatal(err)
	}
	if got := overlay.Replace[filepath.Join(r.root, "images", "release.json")]; got != filepath.Join(r.root, "dist", "release.json") || len(overlay.Replace) != 1 {
		t.Errorf("overlay %s", data)
	}
}

func TestMistakes(t *testing.T) {
	root := project(t)
	put(t, filepath.Join(root, "images/pause/Dockerfile"), "FROM scratch\nCOPY --from=paws / /\n")
	r := start(t, root, t.TempDir())
	if _, err := r.Images(ctx, nil); err == nil || !strings.Contains(err.Error(), "Dockerfile:2: build context \"paws\": no component makes a binary") {
		t.Errorf("got %v", err)
	}
	if len(r.events) > 0 {
		t.Errorf("found out only after %+v", r.events)
	}
	if _, err := r.Images(ctx, []string{"nothing"}); err == nil || !strings.Contains(err.Error(), "known are: hardened-app, mirrored-pause, runtime") {
		t.Errorf("got %v", err)
	}
	if _, err := r.Components([]string{"nothing"}); err == nil || !strings.Contains(err.Error(), "known are: app, pause, unused") {
		t.Errorf("got %v", err)
	}
	put(t, filepath.Join(root, "images/pause/Dockerfile"), "FROM scratch\nCOPY --from=unused / /\n")
	if _, err := r.Images(ctx, nil); err == nil || !strings.Contains(err.Error(), "compiling unused") {
		t.Errorf("a component that doesn't compile: %v", err)
	}
	if _, err := os.Stat(filepath.Join(r.Layout(), "index.json")); err == nil {
		t.Error("a failed build wrote an index")
	}
}

// Both architectures in one index an image, each with its own statements; one of them
// again leaves nothing of the other.
func TestPlatforms(t *testing.T) {
	root, dir, k := project(t), t.TempDir(), key(t)
	both, err := artifact.ParsePlatforms("linux/arm64,linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	r := startFor(t, root, dir, both)
	m := all(t, r, k)
	if len(m.Manifests) != 3+3*5 {
		t.Errorf("%d entries", len(m.Manifests))
	}
	var seen []string
	for _, d := range platforms(t, r, m.Manifests[1]) {
		seen = append(seen, d.Platform.String())
		if n := len(manifest(t, r, d).Layers); n != 1 {
			t.Errorf("%s has %d layers", d.Platform, n)
		}
	}
	if strings.Join(seen, " ") != "linux/amd64 linux/arm64" {
		t.Errorf("platforms %v", seen)
	}
	rel, err := r.Release(k)
	if err != nil {
		t.Fatal(err)
	}
	if app, _ := rel.Image("app"); len(app.Digests) != 2 || app.Digests["linux/amd64"] == app.Digests["linux/arm64"] {
		t.Errorf("release %+v", app)
	}
	said := func() int {
		return len(files(t, filepath.Join(root, "dist", "sbom"))) + len(files(t, filepath.Join(root, "dist", "provenance")))
	}
	if said() != 12 {
		t.Errorf("%d statements", said())
	}
	one := start(t, root, dir)
	if after := all(t, one, k); len(after.Manifests) != 3+3*3 || said() != 6 {
		t.Errorf("%d entries, %d statements", len(after.Manifests), said())
	}
	if one.built() != "sign docker.io/rancher/hardened-app:v1.35.4-rke2r1, sign docker.io/rancher/mirrored-pause:v0.1.0-rke2r1, sign docker.io/rancher/runtime:v1.35.4-rke2r1" {
		t.Errorf("built again: %s", one.built())
	}
	if _, err := startFor(t, root, dir, both).Release(k); err == nil || !strings.Contains(err.Error(), "is not in the layout for linux/") {
		t.Errorf("release of a platform that is not there: %v", err)
	}
}

// What is attested must be about what is in the layout, whoever wrote it.
func TestStatementsAreChecked(t *testing.T) {
	root, dir, k := project(t), t.TempDir(), key(t)
	r := start(t, root, dir)
	if _, err := r.Images(ctx, nil); err != nil {
		t.Fatal(err)
	}
	host := artifact.Platform{OS: "linux", Arch: runtime.GOARCH}
	other, err := os.ReadFile(r.SBOM("runtime", host))
	if err != nil {
		t.Fatal(err)
	}
	origin, err := os.ReadFile(r.statementFile(1, "runtime", host))
	if err != nil || !strings.Contains(string(origin), `"assembly":"daemonless"`) {
		t.Errorf("provenance doesn't say what made the image (%v): %s", err, origin)
	}
	put(t, r.SBOM("hardened-app", host), string(other))
	if _, err := r.Sign(ctx, k); err == nil || !strings.Contains(err.Error(), "is about another image than") {
		t.Errorf("an SBOM of another image was signed: %v", err)
	}
	if err := os.Remove(r.SBOM("hardened-app", host)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Sign(ctx, k); err == nil || !strings.Contains(err.Error(), "run rke2-build image hardened-app") {
		t.Errorf("signed without an SBOM: %v", err)
	}
	if m := index(t, r); len(m.Manifests) != 3 {
		t.Errorf("%d entries", len(m.Manifests))
	}
}
