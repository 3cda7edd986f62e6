package airgap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

// creation is what the tests of Create vary.
type creation struct {
	CreateOptions
	Layout string
	Sets   []string
}

func createOptions(f *fixture, dir string) creation {
	return creation{CreateOptions{OutputDir: dir}, string(f.dir), []string{"core"}}
}

func create(ctx context.Context, c creation) ([]Created, error) {
	orders, err := SetOrders(c.Layout, c.Sets, amd64, false)
	if err != nil {
		return nil, err
	}
	return Create(ctx, orders, c.CreateOptions)
}

func TestCreate(t *testing.T) {
	f := simple(t, 3000)
	dir := filepath.Join(t.TempDir(), "out")
	var last, total int64
	opt := createOptions(f, dir)
	opt.Progress = func(_ string, d, n int64) { last, total = d, n }
	made, err := create(t.Context(), opt)
	noError(t, err)
	bundle := filepath.Join(dir, "rke2-images-core.linux-amd64.tar")
	b, err := os.ReadFile(bundle)
	noError(t, err)
	if !bytes.Equal(b, f.bytes(core())) {
		t.Error("the file is not the bundle")
	}
	if made[0].File != bundle || made[0].Size != int64(len(b)) || last != total || total != int64(len(b)) || made[0].SHA256 != fmt.Sprintf("%x", sha256.Sum256(b)) {
		t.Errorf("%+v, progress %d of %d", made, last, total)
	}
	list, err := os.ReadFile(filepath.Join(dir, "rke2-images-core.linux-amd64.txt"))
	noError(t, err)
	if string(list) != "docker.io/rancher/hardened-etcd:v3.6.8-rke2r1\ndocker.io/rancher/rke2-runtime:v1.35.4-rke2r1\n" {
		t.Errorf("list %q", list)
	}
	sums := filepath.Join(dir, "sha256sum-amd64.txt")
	want := fmt.Sprintf("%x  rke2-images-core.linux-amd64.tar\n%x  rke2-images-core.linux-amd64.txt\n", sha256.Sum256(b), sha256.Sum256(list))
	if got, _ := os.ReadFile(sums); string(got) != want {
		t.Errorf("sums %q", got)
	}

	t.Run("a bundle that is there is left alone", func(t *testing.T) {
		before, err := os.Stat(bundle)
		noError(t, err)
		again, err := create(t.Context(), createOptions(f, dir))
		noError(t, err)
		after, err := os.Stat(bundle)
		noError(t, err)
		if !again[0].Kept || again[0].SHA256 != made[0].SHA256 || !os.SameFile(before, after) {
			t.Errorf("%+v, the same file: %v", again[0], os.SameFile(before, after))
		}
		for what, spoil := range map[string]func(){
			"truncated":      func() { noError(t, os.Truncate(bundle, int64(len(b)-1))) },
			"another head":   func() { noError(t, os.WriteFile(bundle, make([]byte, len(b)), 0o600)) },
			"no sum":         func() { noError(t, os.Remove(sums)) },
			"another list":   func() { noError(t, os.WriteFile(made[0].List, nil, 0o600)) },
			"nothing at all": func() { noError(t, os.Remove(bundle)) },
		} {
			spoil()
			again, err := create(t.Context(), createOptions(f, dir))
			noError(t, err)
			got, err := os.ReadFile(bundle)
			noError(t, err)
			if again[0].Kept || !bytes.Equal(got, b) {
				t.Errorf("%s: kept %v, right %v", what, again[0].Kept, bytes.Equal(got, b))
			}
		}
	})

	t.Run("sums of others are kept while their files are there", func(t *testing.T) {
		x := strings.Repeat("0", 64)
		noError(t, os.WriteFile(filepath.Join(dir, "rke2.linux-amd64"), nil, 0o600))
		noError(t, os.WriteFile(sums, []byte(x+"  rke2.linux-amd64\n"+x+"  gone.tar\n"+x+"  rke2-images-core.linux-amd64.tar\n"), 0o600))
		opt.Sets = []string{"core", "other"}
		_, err := create(t.Context(), opt)
		noError(t, err)
		got, _ := os.ReadFile(sums)
		var names []string
		for line := range strings.Lines(string(got)) {
			names = append(names, strings.Fields(line)[1])
		}
		if !slices.Equal(names, []string{"rke2-images-core.linux-amd64.tar", "rke2-images-core.linux-amd64.txt",
			"rke2-images-other.linux-amd64.tar", "rke2-images-other.linux-amd64.txt", "rke2.linux-amd64"}) || !strings.Contains(string(got), want[:64]) {
			t.Errorf("sums %s", got)
		}
	})
	t.Run("compressed", func(t *testing.T) {
		for _, how := range []string{"tar.zst", "tar.gz"} {
			opt := createOptions(f, t.TempDir())
			opt.Format = how
			made, err := create(t.Context(), opt)
			noError(t, err)
			again, err := create(t.Context(), opt)
			noError(t, err)
			if made[0].SHA256 != again[0].SHA256 {
				t.Errorf("%s: written twice, it differs", how)
			}
			checkSimple(t, f, mustOpen(t, made[0].File))
		}
	})
}

// TestCreateLeavesNothing: whatever goes wrong, the folder is as it was.
func TestCreateLeavesNothing(t *testing.T) {
	f := simple(t, 200_000)
	img, err := f.dir.Image(descOf(t, image(t, 1, 200_000, 2, amd64)).Digest)
	noError(t, err)
	m, err := img.Manifest()
	noError(t, err)
	dir := t.TempDir()
	bundle := filepath.Join(dir, "rke2-images-core.linux-amd64.tar")
	noError(t, os.WriteFile(bundle, []byte("the one before"), 0o600))
	check := func(what string) {
		t.Helper()
		if b, _ := os.ReadFile(bundle); string(b) != "the one before" {
			t.Errorf("%s: the bundle before is gone", what)
		}
		if names, _ := os.ReadDir(dir); len(names) != 1 {
			t.Errorf("%s: left behind %v", what, names)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	opt := createOptions(f, dir)
	opt.Progress = func(string, int64, int64) { cancel() }
	if _, err := create(ctx, opt); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	check("interrupted")

	noError(t, os.Truncate(filepath.Join(string(f.dir), blobName(m.Layers[1].Digest)), 100))
	if _, err := create(t.Context(), createOptions(f, dir)); !errors.Is(err, ErrTruncated) || !strings.Contains(err.Error(), m.Layers[1].Digest.String()) {
		t.Errorf("a truncated blob: %v", err)
	}
	check("a truncated blob")

	for what, bad := range map[string]func(*creation){
		"a set with a path": func(o *creation) { o.Sets = []string{"../x"} },
		"a compression":     func(o *creation) { o.Format = "rar" },
		"an unknown set":    func(o *creation) { o.Sets = []string{"core", "nope"} },
		"no layout":         func(o *creation) { o.Layout = "/nonexistent" },
	} {
		opt := createOptions(f, dir)
		bad(&opt)
		if _, err := create(t.Context(), opt); err == nil {
			t.Errorf("%s was accepted", what)
		}
		check(what)
	}
}

func TestTwoWriters(t *testing.T) {
	p := filepath.Join(t.TempDir(), "x")
	_, err := writeFile(p, 0, func(w io.Writer) error {
		_, inner := writeFile(p, 0, func(io.Writer) error { return nil })
		if inner == nil || !strings.Contains(inner.Error(), "another process is writing it") {
			t.Errorf("the second writer: %v", inner)
		}
		_, err := w.Write([]byte("first"))
		return err
	})
	noError(t, err)
	if b, _ := os.ReadFile(p); string(b) != "first" {
		t.Errorf("content %q", b)
	}
	if _, err := writeFile(p, 1<<60, nil); err == nil || !strings.Contains(err.Error(), "are free in") {
		t.Errorf("a full disk: %v", err)
	}
}

func TestUpdateSumsRefusesWhatItDoesNotKnow(t *testing.T) {
	p := file(t, "sums.txt", []byte("hello\n"))
	if err := UpdateSums(p, nil); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("error %v", err)
	}
}

func TestInspect(t *testing.T) {
	f := simple(t, 3000)
	const dev = "docker.io/rancher/dev:v1"
	f.sign(dev, f.add(image(t, 50, 10, 1, amd64), dev, "core"), map[string]any{trust.ClaimDevelopment: "true"})
	f.add(image(t, 51, 10, 1, amd64), "docker.io/rancher/plain:v1", "core")
	sel := core()
	sel.AllowUnsigned = true
	for _, how := range []compression{plain, gz} {
		a := mustOpen(t, file(t, "b.tar", compress(t, f.bytes(sel), how)))
		ins, err := a.Inspect(trust.Policy{ReleaseKeys: []trust.Key{f.key}})
		noError(t, err)
		var got []string
		for _, i := range ins.Images {
			got = append(got, fmt.Sprintf("%s %s %v", i.Names[0], i.Signature.State, i.Signature.Development))
			if i.Size == 0 || len(i.Layers) == 0 || i.Platform != "linux/amd64" || !slices.Contains(i.Sets, "core") {
				t.Errorf("%+v", i)
			}
		}
		if !slices.Equal(got, []string{dev + " verified true", "docker.io/rancher/hardened-etcd:v3.6.8-rke2r1 verified false",
			"docker.io/rancher/plain:v1 unsigned false", "docker.io/rancher/rke2-runtime:v1.35.4-rke2r1 verified false"}) {
			t.Errorf("%q", got)
		}
		ins, err = a.Inspect(trust.Policy{})
		noError(t, err)
		if s := ins.Images[0].Signature; s.State != SigUntrusted || !s.Development || s.Reason == "" {
			t.Errorf("without keys: %+v", s)
		}
	}
}

func TestVerify(t *testing.T) {
	f := simple(t, 3000)
	b := f.bytes(core())
	runtime := descOf(t, image(t, 1, 3000, 2, amd64)).Digest
	const name = "docker.io/rancher/rke2-runtime:v1.35.4-rke2r1"
	mine := VerifyOptions{
		Policy:  trust.Policy{ReleaseKeys: []trust.Key{f.key}, Pins: map[string][]v1.Hash{name: {runtime}}},
		Release: map[string][]string{"core": {name}},
	}
	with := func(change func(*VerifyOptions)) VerifyOptions { o := mine; change(&o); return o }
	layer := func() v1.Hash {
		m, err := image(t, 1, 3000, 2, amd64).Manifest()
		noError(t, err)
		return m.Layers[0].Digest
	}()
	damaged := bytes.Clone(b)
	at := blobOffset(t, b, layer)
	damaged[at] ^= 1
	twice := bytes.Clone(damaged)
	otherLayer := func() v1.Hash {
		m, err := image(t, 2, 3000, 2, amd64).Manifest()
		noError(t, err)
		return m.Layers[0].Digest
	}()
	twice[blobOffset(t, b, otherLayer)] ^= 1
	payload := bytes.Clone(b)
	i := bytes.Index(payload, []byte(`"tag":"v1.35.4`))
	payload[i+8] ^= 1

	for _, c := range []struct {
		what   string
		b      []byte
		opt    VerifyOptions
		faults []string // a part of each
	}{
		{"sound", b, mine, nil},
		{"sound, no pins", b, VerifyOptions{Policy: trust.Policy{OperatorKeys: []trust.Key{f.key}}}, nil},
		{"no keys", b, VerifyOptions{}, []string{"hardened-etcd:v3.6.8-rke2r1: no trusted keys", name + ": no trusted keys"}},
		{"another key", b, VerifyOptions{Policy: trust.Policy{ReleaseKeys: []trust.Key{newFixture(t).key}}}, []string{"not trusted", "not trusted"}},
		{"other pins", b, with(func(o *VerifyOptions) { o.Policy.Pins = map[string][]v1.Hash{name: {layer}} }), []string{name + ": not the image of this release"}},
		{"an image of the set is missing", b, with(func(o *VerifyOptions) {
			o.Release = map[string][]string{"core": {name, "docker.io/rancher/absent:v1"}, "other": {"docker.io/rancher/elsewhere:v1"}}
		}), []string{"docker.io/rancher/absent:v1: this release has it"}},
		{"one flipped byte", damaged, mine, []string{"layer 1 of 2 of " + name + ": damaged: blob " + layer.String()}},
		{"two flipped bytes", twice, mine, []string{": damaged: blob sha256:", ": damaged: blob sha256:"}},
		{"a flipped byte in a payload", payload, mine, []string{"part of a signature: damaged: blob sha256:", "damaged: blob sha256:"}},
		{"truncated", b[:len(b)-700], mine, []string{"truncated"}},
		{"no archive", []byte("hello"), mine, []string{"not an image archive"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			var done, total int64
			c.opt.Progress = func(d, n int64) { done, total = d, n }
			v, err := Verify(t.Context(), file(t, "b.tar", c.b), c.opt)
			noError(t, err)
			if v.OK != (len(c.faults) == 0) || len(v.Faults) != len(c.faults) {
				t.Fatalf("%+v", v)
			}
			for i, part := range c.faults {
				if s := v.Faults[i].String(); !strings.Contains(s, part) || strings.Contains(s, "\n") {
					t.Errorf("fault %q, want %q", s, part)
				}
			}
			if v.OK && (done != total || done != v.Bytes || v.Blobs == 0 || len(v.Images) != 2) {
				t.Errorf("%d of %d, %+v", done, total, v)
			}
		})
		if len(c.b) < 1000 {
			continue
		}
		t.Run(c.what+", compressed", func(t *testing.T) {
			v, err := Verify(t.Context(), file(t, "b.tar.zst", compress(t, c.b, zst)), c.opt)
			noError(t, err)
			if v.OK != (len(c.faults) == 0) {
				t.Fatalf("%+v", v)
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, how := range []compression{plain, zst} {
			if _, err := Verify(ctx, file(t, "b.tar", compress(t, b, how)), mine); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", how, err)
			}
		}
	})
}

func blobOffset(t *testing.T, b []byte, h v1.Hash) int64 {
	t.Helper()
	a := mustOpen(t, file(t, "b.tar", b))
	return a.blobs[h].off
}

func TestUnpack(t *testing.T) {
	f := simple(t, 3000)
	b := f.bytes(core())
	bundle := file(t, "b.tar", b)
	dir := filepath.Join(t.TempDir(), "a", "layout")
	noError(t, Unpack(t.Context(), bundle, UnpackOptions{Dir: dir}))
	// A bundle of what was unpacked is the same bundle.
	var again bytes.Buffer
	noError(t, Write(t.Context(), &again, Layout(dir), core()))
	if !bytes.Equal(again.Bytes(), b) {
		t.Error("unpacked and bundled again, it differs")
	}
	info, err := os.Stat(dir)
	noError(t, err)
	if info.Mode().Perm() != 0o755 {
		t.Errorf("mode %s", info.Mode())
	}

	one := filepath.Join(t.TempDir(), "one")
	noError(t, os.Mkdir(one, 0o755)) // empty is fine
	noError(t, Unpack(t.Context(), bundle, UnpackOptions{Dir: one, Image: "rancher/hardened-etcd:v3.6.8-rke2r1"}))
	idx, err := Layout(one).Index()
	noError(t, err)
	if len(idx.Manifests) != 2 || idx.Manifests[0].Annotations[AnnotationKind] != KindImage || idx.Manifests[1].Annotations[AnnotationKind] != KindSignatures {
		t.Errorf("%+v", idx.Manifests)
	}
	blobs, err := os.ReadDir(filepath.Join(one, blobPrefix))
	noError(t, err)
	if len(blobs) != 7 { // manifest, config, 2 layers; manifest, config, payload
		t.Errorf("%d blobs", len(blobs))
	}
	for _, b := range blobs {
		c, err := os.ReadFile(filepath.Join(one, blobPrefix, b.Name()))
		noError(t, err)
		if hashOf(c).Hex != b.Name() {
			t.Errorf("blob %s has other bytes", b.Name())
		}
	}

	damaged := bytes.Clone(b)
	damaged[len(damaged)-trailer-100] ^= 1 // the last blob or its padding
	for _, c := range []struct {
		what, file string
		opt        UnpackOptions
		says       string
	}{
		{"a folder with something in it", bundle, UnpackOptions{Dir: one}, "is not empty"},
		{"an image that is not there", bundle, UnpackOptions{Image: "rancher/x:v1"}, "it has:\n  docker.io/rancher/hardened-etcd"},
		{"no reference", bundle, UnpackOptions{Image: "X Y"}, "image reference"},
		{"damage", file(t, "d.tar", damaged), UnpackOptions{}, "damaged"},
	} {
		parent := t.TempDir()
		if c.opt.Dir == "" {
			c.opt.Dir = filepath.Join(parent, "out")
		}
		if err := Unpack(t.Context(), c.file, c.opt); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
		if names, _ := os.ReadDir(parent); len(names) > 0 {
			t.Errorf("%s: left behind %v", c.what, names)
		}
	}
}
