package collect

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/manifest"
	"github.com/rancher/rke2/airgap/mirrors"
	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/charts"
	"github.com/rancher/rke2/tests/distribution"
)

// writeChart makes a chart whose one pod runs an image that values choose.
func writeChart(t *testing.T, image string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "records")
	for file, text := range map[string]string{
		"Chart.yaml":         "apiVersion: v2\nname: records\nversion: 1.2.3\nannotations:\n  artifacthub.io/images: |\n    - name: x\n      image: example.com/perhaps:v1\n",
		"values.yaml":        "image: \"\"\nreplicas: 1\n",
		"templates/pod.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: records}\nspec:\n  containers:\n  - name: main\n    image: {{ .Values.image | default \"" + image + "\" }}\n",
	} {
		noError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
		noError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
	return dir
}

func testCharts(t *testing.T, f *fixture) {
	dir := writeChart(t, f.refs()[0])
	config := f.registries(t, "", f.Addr)
	opt := options(t, door(config), t.TempDir())
	charted := manifest.Bundle{Charts: []manifest.Chart{{Chart: dir}}}
	got, c, err := gather(t.Context(), t, charted, opt)
	noError(t, err)
	a := got["linux/amd64"].archive
	if i := a.Images(); len(i) != 1 || i[0].Names()[0] != f.refs()[0] {
		t.Errorf("%+v", i)
	}
	if art := a.Artifacts(); len(art) != 1 || art[0].Kind != airgap.KindChart || art[0].Ref != "charts.local/records:1.2.3" {
		t.Errorf("%+v", art)
	}
	if len(c.Charts) != 1 || !slices.Equal(c.Charts[0].Images, f.refs()[:1]) || !slices.Equal(c.Charts[0].Possible, []string{"example.com/perhaps:v1"}) ||
		!strings.Contains(c.Images[0].Why[0], "chart records: Pod/records, container main") {
		t.Errorf("%+v %+v", c.Charts, c.Images)
	}

	// Values choose another image.
	charted.Charts[0].Set = []string{"image=" + f.refs()[1]}
	got, _, err = gather(t.Context(), t, charted, opt)
	noError(t, err)
	if i := got["linux/amd64"].archive.Images(); len(i) != 1 || i[0].Names()[0] != f.refs()[1] {
		t.Errorf("%+v", i)
	}
	// An archive brings the image: no registry is asked for it.
	charted.Archives = []manifest.Archive{{Path: got["linux/amd64"].file}}
	_, c, err = gather(t.Context(), t, charted, options(t, nil, t.TempDir()))
	if err != nil || len(c.Images) != 0 {
		t.Errorf("%v", err)
	}
	charted = manifest.Bundle{Charts: []manifest.Chart{{Chart: dir, Set: []string{"image=Not an image"}}}}
	if _, _, err = gather(t.Context(), t, charted, opt); err == nil || !strings.Contains(err.Error(), `Pod/records would use "Not an image"`) {
		t.Errorf("%v", err)
	}
}

// testOtherTools: skopeo reads what is in a bundle beside what it always read: images with
// their index, names by digest, charts.
func testOtherTools(t *testing.T, f *fixture) {
	opt := options(t, door(f.registries(t, "", f.Addr)), t.TempDir())
	_, c, err := gather(t.Context(), t, manifest.Bundle{Images: f.refs()[:1]}, opt)
	noError(t, err)
	byDigest := strings.TrimSuffix(f.refs()[0], ":v1") + "@" + c.Images[0].Digest
	got, _, err := gather(t.Context(), t, manifest.Bundle{
		Images: []string{f.refs()[0], byDigest}, Charts: []manifest.Chart{{Chart: writeChart(t, f.refs()[1])}}, Files: []manifest.File{{Path: list(t)}},
	}, opt)
	noError(t, err)
	file := got["linux/amd64"].file
	for _, from := range []string{
		"oci-archive:" + file + ":" + f.refs()[0], "docker-archive:" + file + ":" + f.refs()[0],
		"oci-archive:" + file + ":" + f.refs()[1], "docker-archive:" + file + ":" + f.refs()[1],
		"oci-archive:" + file + ":charts.local/records:1.2.3",
	} {
		to := t.TempDir()
		if out, err := exec.CommandContext(t.Context(), "skopeo", "copy", "-q", from, "dir:"+to).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", from, err, out)
		}
	}
}

// testChartsOfRegistries: by OCI reference and from a repository, locked, and again with
// nothing to dial.
func testChartsOfRegistries(t *testing.T, f *fixture) {
	loaded, err := charts.Load(t.Context(), charts.Ref{Chart: writeChart(t, f.refs()[1])}, nil)
	noError(t, err)
	f.pushChart(t, loaded)
	repository := f.chartRepository(t, loaded)
	host := strings.TrimPrefix(strings.TrimSuffix(repository, "/charts"), "http://")

	for _, spec := range []manifest.Chart{
		{Chart: "oci://" + f.Addr + "/charts/records", Version: "1.2.3"},
		{Chart: "oci://" + f.Addr + "/charts/records", Version: "^1.0.0"},
		{Chart: "records", Repo: repository},
	} {
		b := manifest.Bundle{Charts: []manifest.Chart{spec}}
		opt := options(t, mirrors.NewDoor(f.registries(t, "", f.Addr, host), registry.Settings{PlainHTTP: true}, nil), t.TempDir())
		got, c, err := gather(t.Context(), t, b, opt)
		if err != nil {
			t.Errorf("%s: %v", spec.Chart, err)
			continue
		}
		want := "charts/records:1.2.3"
		if art := got["linux/amd64"].archive.Artifacts(); len(art) != 1 || !strings.HasSuffix(art[0].Ref, want) {
			t.Errorf("%+v", art)
		}
		file := filepath.Join(t.TempDir(), "x.lock")
		noError(t, c.Lock.Write(file))
		lock, err := manifest.ReadLock(file)
		noError(t, err)
		offline := options(t, nil, opt.Cache.Dir())
		offline.Lock, offline.LockFile = lock, file
		again, _, err := gather(t.Context(), t, b, offline)
		if err != nil {
			t.Errorf("%s offline: %v", spec.Chart, err)
		} else if again["linux/amd64"].sum != got["linux/amd64"].sum {
			t.Errorf("%s offline: another bundle", spec.Chart)
		}
		opt.Lock, opt.LockFile = lock, file
		opt.Cache = options(t, nil, t.TempDir()).Cache
		if anew, _, err := gather(t.Context(), t, b, opt); err != nil || anew["linux/amd64"].sum != got["linux/amd64"].sum {
			t.Errorf("%s by the lock, with an empty cache: %v", spec.Chart, err)
		}
		b.Charts[0].Set = []string{"image=" + f.refs()[0]}
		if _, _, err := gather(t.Context(), t, b, offline); err == nil || !strings.Contains(err.Error(), "image "+f.refs()[0]+": new, not in the lock") {
			t.Errorf("%s with other values: %v", spec.Chart, err)
		}
	}
}

// pushChart puts a chart into the registry, as helm push does.
func (f *fixture) pushChart(t *testing.T, c *charts.Chart) {
	t.Helper()
	a, err := c.Artifact()
	noError(t, err)
	tag, err := name.NewTag(f.Addr + "/charts/records:" + c.Tag())
	noError(t, err)
	opts := []ggcr.Option{ggcr.WithTransport(f.HTTP().Transport), ggcr.WithAuth(authn.Anonymous)}
	for _, b := range append([][]byte{a.Config}, layers(a)...) {
		noError(t, ggcr.WriteLayer(tag.Repository, blobLayer(b), opts...))
	}
	noError(t, ggcr.Put(tag, rawManifest(a.Manifest), opts...))
}

// chartRepository serves a chart and its index, with the password.
func (f *fixture) chartRepository(t *testing.T, c *charts.Chart) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != distribution.User || password != distribution.Password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/charts/index.yaml":
			fmt.Fprintf(w, "apiVersion: v1\nentries:\n  records:\n  - name: records\n    version: 1.2.3\n    digest: %s\n    urls: [records-1.2.3.tgz]\n", c.Digest().Hex)
		case "/charts/records-1.2.3.tgz":
			_, _ = w.Write(c.Archive())
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL + "/charts"
}

type rawManifest []byte

func (r rawManifest) RawManifest() ([]byte, error)        { return r, nil }
func (r rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func blobLayer(b []byte) *rawLayer { return &rawLayer{bytes.Clone(b)} }
