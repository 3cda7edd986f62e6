package airgap

import (
	"bytes"
	"context"
	"errors"
	"io"
	mrand "math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap/trust"
)

// bump is img with its last layer replaced, as a new version of its one binary would.
func bump(t testing.TB, img v1.Image, size int64) v1.Image {
	t.Helper()
	layers, err := img.Layers()
	noError(t, err)
	fresh, err := random.Layer(size, types.OCIUncompressedLayer, random.WithSource(mrand.NewSource(99)))
	noError(t, err)
	cfg, err := img.ConfigFile()
	noError(t, err)
	out := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	out, err = mutate.AppendLayers(out, append(layers[:len(layers)-1], fresh)...)
	noError(t, err)
	is, err := out.ConfigFile()
	noError(t, err)
	is = is.DeepCopy()
	is.OS, is.Architecture = cfg.OS, cfg.Architecture
	out, err = mutate.ConfigFile(out, is)
	noError(t, err)
	return out
}

const etcdRef = "docker.io/rancher/hardened-etcd:v3.6.8-rke2r1"

// bumped is the simple fixture with another etcd under the same tag.
func bumped(t testing.TB, layerSize int64) *fixture {
	t.Helper()
	f := newFixture(t)
	for i, ref := range []string{"docker.io/rancher/rke2-runtime:v1.35.4-rke2r1", etcdRef} {
		img := image(t, int64(i+1), layerSize, 2, amd64)
		if ref == etcdRef {
			img = bump(t, img, layerSize)
		}
		h := f.add(img, ref, "core")
		_, tag, _ := strings.Cut(ref, ":")
		f.sign(ref, h, map[string]any{trust.ClaimTag: tag})
	}
	return f
}

func TestDelta(t *testing.T) {
	const size = 50_000
	old, new := simple(t, size).bytes(core()), bumped(t, size)
	whole := new.bytes(core())
	base, next := file(t, "old.tar", old), file(t, wholeName, whole)
	dir := t.TempDir()
	made, err := MakeDelta(t.Context(), DeltaOptions{From: []string{base}, New: []string{next}, Output: dir})
	noError(t, err)
	if made.File != filepath.Join(dir, "rke2-images-core.linux-amd64.delta.tar") || made.Layers != 1 || made.LeftOut != 3 || made.Size > size+40_000 {
		t.Errorf("delta %+v", made)
	}
	again, err := MakeDelta(t.Context(), DeltaOptions{From: []string{base}, New: []string{next}, Output: filepath.Join(dir, "again.tar")})
	noError(t, err)
	if again.SHA256 != made.SHA256 || !bytes.Equal(mustRead(t, again.File), mustRead(t, made.File)) {
		t.Error("a second delta has other bytes")
	}
	again, err = MakeDelta(t.Context(), DeltaOptions{From: []string{compressed(t, base, ".tar.zst")}, New: []string{compressed(t, next, ".tar.gz")}, Output: filepath.Join(dir, "third.tar")})
	noError(t, err)
	if again.Whole != made.Whole || again.Layers != made.Layers || again.Size != made.Size {
		t.Errorf("of compressed bundles: %+v", again)
	}
	a := mustOpen(t, made.File)
	p, ok := a.Partial()
	if !ok || !p.IsDelta() || len(p.Bases) != 1 || p.Bases[0].Name != "old.tar" || p.Whole.Name != wholeName {
		t.Errorf("delta says %+v", p)
	}

	for _, from := range []string{base, compressed(t, base, ".tar.zst"), compressed(t, base, ".tar.gz")} {
		out := filepath.Join(t.TempDir(), "new.tar")
		got, err := Assemble(t.Context(), AssembleOptions{Parts: []string{made.File}, From: []string{from}, Output: out})
		noError(t, err)
		if !bytes.Equal(mustRead(t, out), whole) || "sha256:"+got.SHA256 != hashOf(whole).String() {
			t.Errorf("from %s: %+v", from, got)
		}
	}
	out := filepath.Join(t.TempDir(), "new.tar.zst")
	_, err = Assemble(t.Context(), AssembleOptions{Parts: []string{made.File}, From: []string{base}, Output: out})
	noError(t, err)
	if !bytes.Equal(mustRead(t, out), mustRead(t, compressed(t, next, ".tar.zst"))) {
		t.Error("compressed while it was put together, it is not what bundle airgap makes")
	}

	s, err := OpenSet(base, made.File)
	noError(t, err)
	if len(s.Archives) != 2 || len(s.Loose) != 0 {
		t.Fatalf("set %+v", s)
	}
	joined := s.Archives[1]
	noError(t, readJoined(joined, new))
	noError(t, s.Close())
}

func readJoined(a *Archive, f *fixture) error {
	for _, img := range a.Images() {
		sigs, err := a.Signatures(img.Desc.Digest)
		if err != nil {
			return err
		}
		if _, err := (trust.Policy{ReleaseKeys: []trust.Key{f.key}}).Admit(img.Refs[0], img.Desc.Digest, sigs); err != nil {
			return err
		}
	}
	return a.Walk(context.Background(), nil, func(v1.Descriptor, io.Reader) error { return nil })
}

// TestDeltaOfSeveral: bases and the new bundle may each be several files, of any kind, and
// a delta may follow on another.
func TestDeltaOfSeveral(t *testing.T) {
	const size = 50_000
	f, g := simple(t, size), bumped(t, size)
	parts := f.split(120_000)
	if len(parts) < 2 {
		t.Fatal("not split")
	}
	next := file(t, wholeName, g.bytes(core()))
	dir := t.TempDir()
	first := filepath.Join(dir, "first.delta.tar")
	made, err := MakeDelta(t.Context(), DeltaOptions{From: parts, New: []string{next}, Output: first})
	noError(t, err)
	if made.Layers != 1 || len(made.Bases) != 1 || made.Bases[0].Name != wholeName {
		t.Errorf("delta %+v", made)
	}
	// The next release changes the runtime image too.
	h := newFixture(t)
	for i, ref := range []string{"docker.io/rancher/rke2-runtime:v1.35.4-rke2r1", etcdRef} {
		img := image(t, int64(i+1), size, 2, amd64)
		if ref == etcdRef {
			img = bump(t, img, size)
		} else {
			img = bump(t, img, size+1)
		}
		d := h.add(img, ref, "core")
		_, tag, _ := strings.Cut(ref, ":")
		h.sign(ref, d, map[string]any{trust.ClaimTag: tag})
	}
	last := file(t, wholeName, h.bytes(core()))
	from := append([]string{first}, parts...)
	second := filepath.Join(dir, "second.delta.tar.zst")
	made, err = MakeDelta(t.Context(), DeltaOptions{From: from, New: []string{compressed(t, last, ".tar.zst")}, Output: second})
	noError(t, err)
	if made.Layers != 1 || made.Whole.Name != wholeName {
		t.Errorf("second delta %+v", made)
	}
	out := filepath.Join(dir, "out.tar")
	_, err = Assemble(t.Context(), AssembleOptions{Parts: []string{second}, From: from, Output: out})
	noError(t, err)
	if !bytes.Equal(mustRead(t, out), mustRead(t, last)) {
		t.Error("other bytes")
	}
	if _, err := MakeDelta(t.Context(), DeltaOptions{From: parts[:1], New: []string{next}, Output: dir}); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("from a part alone: %v", err)
	}
	other := file(t, "other.tar", f.bytes(Selection{Sets: []string{"other"}, Platform: amd64}))
	two := DeltaOptions{From: parts, New: []string{next, other}, Output: dir}
	if _, err := MakeDelta(t.Context(), two); err == nil || !strings.Contains(err.Error(), "2 bundles") {
		t.Errorf("of two bundles: %v", err)
	}
	each, err := MakeDeltas(t.Context(), two)
	noError(t, err)
	if len(each) != 2 || filepath.Base(each[0].File) != DeltaName(wholeName) || filepath.Base(each[1].File) != "other.delta.tar" {
		t.Errorf("of two bundles: %+v", each)
	}
	two.Output = filepath.Join(dir, "x.tar")
	if _, err := MakeDeltas(t.Context(), two); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("two bundles into one file: %v", err)
	}
}

// TestDeltaWrongBase: the base that is wanted is named, and so is what took its name.
func TestDeltaWrongBase(t *testing.T) {
	const size = 50_000
	f := simple(t, size)
	base, next := file(t, "old.tar", f.bytes(core())), file(t, wholeName, bumped(t, size).bytes(core()))
	delta := filepath.Join(t.TempDir(), "d.tar")
	made, err := MakeDelta(t.Context(), DeltaOptions{From: []string{base}, New: []string{next}, Output: delta})
	noError(t, err)
	wants := "old.tar (its index.json is " + made.Bases[0].Index.String() + ")"
	damaged := bytes.Clone(mustRead(t, base))
	a := mustOpen(t, base)
	m, _, err := a.Manifest(a.Images()[0].Desc.Digest)
	noError(t, err)
	damaged[a.blobs[m.Layers[0].Digest].off+10] ^= 1
	for name, c := range map[string]struct {
		from []string
		want []string
	}{
		"none":        {nil, []string{wants, "it leaves out 3 ("}},
		"another":     {[]string{file(t, "x.tar", simple(t, size+1).bytes(core()))}, []string{wants, "it leaves out 3 ("}},
		"its name":    {[]string{file(t, "old.tar", simple(t, size+1).bytes(core()))}, []string{wants, "has that name and is another bundle"}},
		"itself":      {[]string{delta}, []string{wants}},
		"changed":     {[]string{file(t, "old.tar", damaged)}, []string{"old.tar", "damaged", m.Layers[0].Digest.String()}},
		"cut":         {[]string{file(t, "old.tar", damaged[:len(damaged)/2])}, []string{"old.tar", "truncated"}},
		"not a delta": {[]string{"-"}, []string{"not a part of another bundle"}},
	} {
		t.Run(name, func(t *testing.T) {
			parts := []string{delta}
			if name == "not a delta" {
				parts, c.from = []string{base}, nil
			}
			dir := t.TempDir()
			_, err := Assemble(t.Context(), AssembleOptions{Parts: parts, From: c.from, Output: filepath.Join(dir, "x.tar")})
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("want %q: %v", w, err)
				}
			}
			nothing(t, dir)
		})
	}
}

// TestAssembleStopped: what is cancelled half way, or has no room, leaves nothing, and
// inputs are never written over.
func TestAssembleStopped(t *testing.T) {
	const size = 5 << 20
	base, next := file(t, "old.tar", simple(t, size).bytes(core())), file(t, wholeName, bumped(t, size).bytes(core()))
	delta := filepath.Join(t.TempDir(), "d.tar")
	_, err := MakeDelta(t.Context(), DeltaOptions{From: []string{base}, New: []string{next}, Output: delta})
	noError(t, err)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Assemble(ctx, AssembleOptions{Parts: []string{delta}, From: []string{base}, Output: dir, Progress: func(_ string, done, total int64) {
		if done > total/2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	nothing(t, dir)
	for _, out := range []string{base, delta} {
		before := mustRead(t, out)
		if _, err := Assemble(t.Context(), AssembleOptions{Parts: []string{delta}, From: []string{base}, Output: out}); err == nil || !strings.Contains(err.Error(), "another name") {
			t.Errorf("onto %s: %v", out, err)
		}
		if !bytes.Equal(before, mustRead(t, out)) {
			t.Errorf("%s was written over", out)
		}
	}
	if _, err := MakeDelta(t.Context(), DeltaOptions{From: []string{base}, New: []string{next}, Output: base}); err == nil || !strings.Contains(err.Error(), "another name") {
		t.Errorf("delta onto its base: %v", err)
	}
	if _, err := Assemble(t.Context(), AssembleOptions{Parts: []string{delta}, From: []string{base}, Output: filepath.Join(dir, "x.zip")}); err == nil || !strings.Contains(err.Error(), ".tar.zst") {
		t.Errorf("to a zip: %v", err)
	}
	tmp := filepath.Join(t.TempDir(), "absent")
	t.Setenv("TMPDIR", tmp)
	_, err = Assemble(t.Context(), AssembleOptions{Parts: []string{delta}, From: []string{compressed(t, base, ".tar.zst")}, Output: dir})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "set TMPDIR") {
		t.Errorf("no temporary folder: %v", err)
	}
	nothing(t, dir)
}

// TestDeltaOfAttestations: what the base has of SBOMs is left out too, and is absent, not
// missing.
func TestDeltaOfAttestations(t *testing.T) {
	b := newHandmade(t)
	img := b.image("layer")
	b.named(img, imageRef)
	b.list(b.manifest("", b.blob("{ }"), b.blob("signature")), AnnotationKind, KindSignatures, AnnotationSigns, img.Digest.String())
	b.list(b.manifest("", b.blob("{  }"), b.blob("envelope")), AnnotationKind, KindAttestations, AnnotationSigns, img.Digest.String())
	a, err := b.open()
	noError(t, err)
	out := filepath.Join(t.TempDir(), "d.tar")
	made, err := MakeDelta(t.Context(), DeltaOptions{From: []string{a.Path()}, New: []string{a.Path()}, Output: out})
	noError(t, err)
	if made.LeftOut != 2 || made.Layers != 0 {
		t.Errorf("delta %+v", made)
	}
	absent, err := mustOpen(t, out).Absent()
	noError(t, err)
	if _, ok := absent[hashOf([]byte("envelope"))]; !ok || len(absent) != 2 {
		t.Errorf("absent %v", absent)
	}
	if _, ok := absent[hashOf([]byte("signature"))]; ok {
		t.Error("the signature was left out")
	}
}

// TestAssembleKilled: a process that is killed half way leaves no bundle, and nothing that
// stands in the next one's way.
func TestAssembleKilled(t *testing.T) {
	const env = "AIRGAP_TEST_ASSEMBLE"
	if args := os.Getenv(env); args != "" { // the process to be killed
		f := strings.Split(args, "\n")
		_, _ = Assemble(t.Context(), AssembleOptions{Parts: f[:1], From: f[1:2], Output: f[2], Progress: func(string, int64, int64) {
			time.Sleep(5 * time.Millisecond)
		}})
		return
	}
	const size = 20 << 20
	base, next := file(t, "old.tar", simple(t, size).bytes(core())), file(t, wholeName, bumped(t, size).bytes(core()))
	delta := filepath.Join(t.TempDir(), "d.tar")
	_, err := MakeDelta(t.Context(), DeltaOptions{From: []string{base}, New: []string{next}, Output: delta})
	noError(t, err)
	dir := t.TempDir()
	out, partial := filepath.Join(dir, "new.tar"), filepath.Join(dir, ".new.tar.partial")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAssembleKilled$")
	cmd.Env = append(os.Environ(), env+"="+strings.Join([]string{delta, base, out}, "\n"))
	noError(t, cmd.Start())
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if info, err := os.Stat(partial); err == nil && info.Size() > size {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it never began to write")
		}
	}
	noError(t, cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		t.Fatal("it ended before it was killed")
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a bundle: %v", err)
	}
	_, err = Assemble(t.Context(), AssembleOptions{Parts: []string{delta}, From: []string{base}, Output: out})
	noError(t, err)
	if !bytes.Equal(mustRead(t, out), mustRead(t, next)) {
		t.Error("other bytes")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
