package airgap

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/rancher/rke2/airgap/trust"
)

func TestRoundTrip(t *testing.T) {
	f := simple(t, 3000)
	a := mustOpen(t, file(t, "b.tar", f.bytes(core())))
	checkSimple(t, f, a)
	if !a.IsBundle() || !slices.Equal(a.Sets(), []string{"core"}) {
		t.Errorf("bundle %v of sets %q", a.IsBundle(), a.Sets())
	}
	if _, err := a.Blob(v1.Hash{Algorithm: "sha256", Hex: "00"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown blob: %v", err)
	}
}

// checkSimple reads the core set of the simple fixture back in every way.
func checkSimple(t *testing.T, f *fixture, a *Archive) {
	t.Helper()
	if a.Format() != FormatOCI {
		t.Errorf("format %s", a.Format())
	}
	var got []string
	layers := map[v1.Hash]bool{}
	for _, img := range a.Images() {
		got = append(got, img.Refs[0].String())
		if img.Platform.String() != "linux/amd64" {
			t.Errorf("%s: platform %s", img.Refs[0], img.Platform)
		}
		sigs, err := a.Signatures(img.Desc.Digest)
		noError(t, err)
		adm, err := trust.Policy{ReleaseKeys: []trust.Key{f.key}}.Admit(img.Refs[0], img.Desc.Digest, sigs)
		noError(t, err)
		if !adm.Valid() || !adm.Verified() {
			t.Errorf("%s: %+v", img.Refs[0], adm)
		}
		m, raw, err := a.Manifest(img.Desc.Digest)
		noError(t, err)
		if hashOf(raw) != img.Desc.Digest {
			t.Errorf("manifest of %s has other bytes", img.Refs[0])
		}
		for _, l := range m.Layers {
			layers[l.Digest] = true
			want, err := f.dir.Bytes(l.Digest)
			noError(t, err)
			r, err := a.Blob(l.Digest)
			noError(t, err)
			have, err := io.ReadAll(r)
			noError(t, errors.Join(err, r.Close()))
			if !bytes.Equal(have, want) {
				t.Errorf("layer %s differs", l.Digest)
			}
		}
	}
	if want := []string{"docker.io/rancher/hardened-etcd:v3.6.8-rke2r1", "docker.io/rancher/rke2-runtime:v1.35.4-rke2r1"}; !slices.Equal(got, want) {
		t.Errorf("images %q", got)
	}
	last := ""
	noError(t, a.Walk(t.Context(), func(h v1.Hash) bool { return layers[h] }, func(d v1.Descriptor, r io.Reader) error {
		if d.Digest.Hex <= last || !d.MediaType.IsLayer() {
			t.Errorf("walk: %s %s after %s", d.MediaType, d.Digest, last)
		}
		last = d.Digest.Hex
		delete(layers, d.Digest)
		n, err := io.Copy(io.Discard, r)
		if n != d.Size {
			t.Errorf("walk: %d of %d bytes", n, d.Size)
		}
		return err
	}))
	if len(layers) > 0 {
		t.Errorf("walk left out %v", layers)
	}
	stop := errors.New("stop")
	if err := a.Walk(t.Context(), nil, func(v1.Descriptor, io.Reader) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("walk changed the error of its function: %v", err)
	}
}

// TestForm holds the archive to its documented form, read by archive/tar alone.
func TestForm(t *testing.T) {
	b := simple(t, 3000).bytes(core())
	tr := tar.NewReader(bytes.NewReader(b))
	var names []string
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		noError(t, err)
		names = append(names, h.Name)
		if h.Uid != 0 || h.Gid != 0 || h.Mode != 0o644 || !h.ModTime.Equal(epoch()) || h.Typeflag != tar.TypeReg {
			t.Errorf("%s: %+v", h.Name, h)
		}
		content, err := io.ReadAll(tr)
		noError(t, err)
		if strings.HasPrefix(h.Name, blobPrefix) && hashOf(content).Hex != path.Base(h.Name) {
			t.Errorf("%s is called wrongly", h.Name)
		}
		if h.Name == manifestFile && !bytes.Contains(content, []byte(`"RepoTags":["docker.io/rancher/rke2-runtime:v1.35.4-rke2r1"]`)) {
			t.Errorf("manifest.json: %s", content)
		}
	}
	if !slices.Equal(names[:3], []string{layoutFile, indexFile, manifestFile}) || !slices.IsSorted(names[3:]) {
		t.Errorf("order %q", names)
	}
	if c := slices.Compact(slices.Clone(names)); len(c) != len(names) {
		t.Error("a blob is in it twice")
	}
	// 2 images of manifest, config, 2 layers; 2 signatures of manifest, config, payload.
	// Identical (empty) signature configs are one blob.
	if len(names) < 3+8+4 || len(names) > 3+8+6 {
		t.Errorf("%d entries", len(names))
	}
}

// TestDeterminism: nothing but the images' names, sets and bytes counts.
func TestDeterminism(t *testing.T) {
	f := simple(t, 3000)
	want := f.bytes(core())
	if !bytes.Equal(want, f.bytes(core())) {
		t.Fatal("written twice, it differs")
	}
	p, err := NewPlan(Layout(f.dir), core())
	noError(t, err)
	if p.Size != int64(len(want)) {
		t.Errorf("planned %d bytes, wrote %d", p.Size, len(want))
	}

	t.Run("environment", func(t *testing.T) {
		t.Setenv("TZ", "Asia/Kathmandu")
		t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
		t.Chdir(t.TempDir())
		defer syscall.Umask(syscall.Umask(0o077))
		if !bytes.Equal(want, f.bytes(core())) {
			t.Error("it depends on the environment")
		}
	})
	t.Run("order and strangers in the index", func(t *testing.T) {
		other := f.add(image(t, 99, 100, 1, amd64), "docker.io/x/y:z", "unrelated")
		f.sign("docker.io/x/y:z", other, nil)
		idx, err := Layout(f.dir).Index()
		noError(t, err)
		rand.New(rand.NewSource(1)).Shuffle(len(idx.Manifests), func(i, j int) {
			idx.Manifests[i], idx.Manifests[j] = idx.Manifests[j], idx.Manifests[i]
		})
		for i := range idx.Manifests {
			idx.Manifests[i].Annotations["org.example.note"] = "ignored"
		}
		b, err := json.MarshalIndent(idx, "", "\t")
		noError(t, err)
		noError(t, os.WriteFile(path.Join(string(f.dir), indexFile), b, 0o600))
		if !bytes.Equal(want, f.bytes(core())) {
			t.Error("it depends on the layout's order or other images")
		}
	})
	t.Run("names that mean the same", func(t *testing.T) {
		g := &fixture{t: t, dir: layout.Path(t.TempDir()), priv: f.priv}
		noError(t, os.CopyFS(string(g.dir), os.DirFS(string(f.dir))))
		b, err := os.ReadFile(path.Join(string(g.dir), indexFile))
		noError(t, err)
		b = bytes.ReplaceAll(b, []byte("docker.io/rancher/"), []byte("rancher/"))
		noError(t, os.WriteFile(path.Join(string(g.dir), indexFile), b, 0o600))
		if !bytes.Equal(want, g.bytes(core())) {
			t.Error("it depends on the spelling of docker.io")
		}
	})
}

// TestEveryByte flips bytes of a small bundle: every one of the head, and a sample
// of the rest. Open must refuse it in the head, headers, padding and end; in a blob,
// reading must.
func TestEveryByte(t *testing.T) {
	b := simple(t, 300).bytes(core())
	path := file(t, "b.tar", b)
	noError(t, readAll(path))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	noError(t, err)
	defer f.Close()
	blobs := int(headEnd(t, b))
	step := 1
	for i := 0; i < len(b); i += step {
		if i >= blobs {
			step = 5
		}
		for _, flip := range []byte{0x01, 0x20, 0x80} {
			_, err := f.WriteAt([]byte{b[i] ^ flip}, int64(i))
			noError(t, err)
			err = readAll(path)
			if err == nil {
				t.Fatalf("byte %d: %q ^ %#x went unnoticed", i, b[i], flip)
			}
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("byte %d: the error does not name the file: %v", i, err)
			}
		}
		_, err := f.WriteAt(b[i:i+1], int64(i))
		noError(t, err)
	}
	noError(t, readAll(path))
}

// headEnd is the offset of the first blob's header.
func headEnd(t *testing.T, b []byte) int64 {
	t.Helper()
	var end int64
	n := 0
	_, err := scanTar(t.Context(), bytes.NewReader(b), int64(len(b)), func(e entry, _ []byte, _ io.Reader) error {
		if n++; n == 3 {
			end = e.off + e.size + padding(e.size)
		}
		return nil
	})
	noError(t, err)
	return end
}

// TestTruncation cuts a bundle at many lengths.
func TestTruncation(t *testing.T) {
	b := simple(t, 300).bytes(core())
	path := file(t, "b.tar", b)
	for n := len(b) - 1; n >= 0; n -= 1 + n%3 {
		noError(t, os.Truncate(path, int64(n)))
		_, err := Open(path)
		if err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(b))
		}
		if n >= blockSize && !errors.Is(err, ErrTruncated) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
}

// TestAppended: nothing may follow a bundle's end, not even zeros.
func TestAppended(t *testing.T) {
	b := simple(t, 300).bytes(core())
	for _, tail := range [][]byte{{0}, make([]byte, 512), []byte("x"), b} {
		if _, err := Open(file(t, "b.tar", append(slices.Clone(b), tail...))); err == nil {
			t.Errorf("%d bytes more were accepted", len(tail))
		}
	}
}

func TestSelection(t *testing.T) {
	f := simple(t, 100)
	for i, one := range []struct{ ref, sets string }{{"docker.io/rancher/echo:v1", TestSet}, {"docker.io/rancher/shared:v1", "other," + TestSet}, {"docker.io/rancher/single:v1", ""}} {
		f.sign(one.ref, f.add(image(t, int64(i+10), 100, 1, amd64), one.ref, one.sets), nil)
	}
	released := []string{"docker.io/rancher/extra:v1", "docker.io/rancher/hardened-etcd:v3.6.8-rke2r1", "docker.io/rancher/rke2-runtime:v1.35.4-rke2r1", "docker.io/rancher/shared:v1", "docker.io/rancher/single:v1"}
	for _, c := range []struct {
		what string
		sel  Selection
		refs []string
		err  string
	}{
		{"one set", core(), []string{"docker.io/rancher/hardened-etcd:v3.6.8-rke2r1", "docker.io/rancher/rke2-runtime:v1.35.4-rke2r1"}, ""},
		{"another set", Selection{Sets: []string{"other"}, Platform: amd64}, []string{"docker.io/rancher/extra:v1", "docker.io/rancher/hardened-etcd:v3.6.8-rke2r1", "docker.io/rancher/shared:v1"}, ""},
		{"all sets", Selection{Sets: []string{AllSets}, Platform: amd64}, released, ""},
		{"what tests need", Selection{Sets: []string{TestSet}, Platform: amd64}, []string{"docker.io/rancher/echo:v1", "docker.io/rancher/shared:v1"}, ""},
		{"all sets, and what tests need", Selection{Sets: []string{AllSets, TestSet}, Platform: amd64}, slices.Insert(slices.Clone(released), 0, "docker.io/rancher/echo:v1"), ""},
		{"whatever is there", Selection{Platform: amd64}, slices.Insert(slices.Clone(released), 0, "docker.io/rancher/echo:v1"), ""},
		{"another platform", Selection{Sets: []string{"core"}, Platform: v1.Platform{OS: "linux", Architecture: "arm64"}}, []string{"docker.io/rancher/rke2-runtime:v1.35.4-rke2r1-arm64"}, ""},
		{"a set that is not there", Selection{Sets: []string{"nope"}, Platform: amd64}, nil, `no image of set nope for linux/amd64: the layout has the sets ["core" "other" "test"]`},
		{"a platform that is not there", Selection{Sets: []string{"core"}, Platform: v1.Platform{OS: "linux", Architecture: "s390x"}}, nil, "linux/s390x"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p, err := NewPlan(Layout(f.dir), c.sel)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v", err)
				}
				return
			}
			noError(t, err)
			if !slices.Equal(p.References(), c.refs) {
				t.Errorf("%q", p.References())
			}
		})
	}
}

func TestWriteRefuses(t *testing.T) {
	const ref = "docker.io/rancher/x:v1"
	for what, c := range map[string]struct {
		make func(f *fixture)
		err  string
	}{
		"an unsigned image": {func(f *fixture) { f.add(image(f.t, 1, 10, 1, amd64), ref, "core") }, "has no signature"},
		"one name for two images": {func(f *fixture) {
			f.sign(ref, f.add(image(f.t, 1, 10, 1, amd64), ref, "core"), nil)
			f.sign(ref, f.add(image(f.t, 2, 10, 1, amd64), ref, "core"), nil)
		}, "two images are called " + ref},
		"a name by digest": {func(f *fixture) {
			f.add(image(f.t, 1, 10, 1, amd64), "docker.io/x@sha256:"+strings.Repeat("a", 64), "core")
		}, "is named by a digest, and has another"},
		"a damaged blob": {func(f *fixture) {
			img := image(f.t, 1, 10, 1, amd64)
			f.sign(ref, f.add(img, ref, "core"), nil)
			m, err := img.Manifest()
			noError(f.t, err)
			p := path.Join(string(f.dir), blobName(m.Layers[0].Digest))
			b, err := os.ReadFile(p)
			noError(f.t, err)
			b[0] ^= 1
			noError(f.t, errors.Join(os.Chmod(p, 0o600), os.WriteFile(p, b, 0o600)))
		}, "damaged: blob sha256:"},
		"a missing blob": {func(f *fixture) {
			img := image(f.t, 1, 10, 1, amd64)
			f.sign(ref, f.add(img, ref, "core"), nil)
			m, err := img.Manifest()
			noError(f.t, err)
			noError(f.t, os.Remove(path.Join(string(f.dir), blobName(m.Layers[0].Digest))))
		}, "no such file"},
		"no layout": {func(f *fixture) { noError(f.t, os.Remove(path.Join(string(f.dir), layoutFile))) }, "reading layout"},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			c.make(f)
			err := Write(t.Context(), io.Discard, Layout(f.dir), core())
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestTwoNames: an image under two names, in different sets.
func TestTwoNames(t *testing.T) {
	f := newFixture(t)
	img := image(t, 1, 1000, 2, amd64)
	for ref, sets := range map[string]string{"docker.io/rancher/x:v1": "core,more", "docker.io/rancher/x:latest": "core,also"} {
		f.sign(ref, f.add(img, ref, sets), nil)
	}
	a := mustOpen(t, file(t, "b.tar", f.bytes(core())))
	if len(a.Images()) != 1 || len(a.Images()[0].Refs) != 2 || !slices.Equal(a.Images()[0].Sets, []string{"also", "core", "more"}) {
		t.Errorf("%+v", a.Images())
	}
	sigs, err := a.Signatures(a.Images()[0].Desc.Digest)
	noError(t, err)
	for _, ref := range a.Images()[0].Refs { // one signature serves both names: it claims no tag
		_, err := trust.Policy{ReleaseKeys: []trust.Key{f.key}}.Admit(ref, a.Images()[0].Desc.Digest, sigs)
		noError(t, err)
	}
	if again := rewrite(t, a); !bytes.Equal(again, f.bytes(core())) {
		t.Error("rewritten, it differs")
	}
}
