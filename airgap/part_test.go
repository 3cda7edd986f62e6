package airgap

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

const wholeName = "rke2-images-core.linux-amd64.tar"

// split writes the parts of the core set into a folder.
func (f *fixture) split(size int64) []string {
	f.t.Helper()
	plan, err := NewPlan(Layout(f.dir), core())
	noError(f.t, err)
	parts, err := Split(f.t.Context(), plan, wholeName, size, nil)
	noError(f.t, err)
	dir := f.t.TempDir()
	var files []string
	for i, p := range parts {
		var b bytes.Buffer
		noError(f.t, p.Write(f.t.Context(), &b))
		if int64(b.Len()) != p.Size || p.Size > size {
			f.t.Errorf("part %d: %d bytes, planned %d, wanted at most %d", i+1, b.Len(), p.Size, size)
		}
		file := filepath.Join(dir, PartName(wholeName, i+1, len(parts)))
		noError(f.t, os.WriteFile(file, b.Bytes(), 0o600))
		files = append(files, file)
	}
	return files
}

func openAll(t testing.TB, files []string) []*Archive {
	t.Helper()
	var out []*Archive
	for _, f := range files {
		out = append(out, mustOpen(t, f))
	}
	return out
}

func TestSplitAndJoin(t *testing.T) {
	f := simple(t, 20_000)
	whole := f.bytes(core())
	files := f.split(45_000)
	if len(files) != 4 {
		t.Fatalf("parts %q", files)
	}
	if again := f.split(45_000); !bytes.Equal(mustRead(t, files[1]), mustRead(t, again[1])) {
		t.Error("a second split gave other bytes")
	}
	layers := map[v1.Hash]int{}
	for i, a := range openAll(t, files) {
		p, ok := a.Partial()
		if !ok || p.Part != i+1 || p.Of != 4 || p.IsDelta() || p.Whole.Name != wholeName || p.Whole.Size != int64(len(whole)) || "sha256:"+p.Whole.SHA256 != hashOf(whole).String() {
			t.Errorf("part %d says %+v", i+1, p)
		}
		for _, img := range a.Images() { // each part proves every image
			sigs, err := a.Signatures(img.Desc.Digest)
			noError(t, err)
			_, err = trust.Policy{ReleaseKeys: []trust.Key{f.key}}.Admit(img.Refs[0], img.Desc.Digest, sigs)
			noError(t, err)
			m, _, err := a.Manifest(img.Desc.Digest)
			noError(t, err)
			absent, err := a.Absent()
			noError(t, err)
			for _, l := range m.Layers {
				here, err := a.Has(l.Digest)
				noError(t, err)
				if _, not := absent[l.Digest]; not == here {
					t.Errorf("layer %s: absent %v, present %v", l.Digest, not, here)
				}
				if here {
					layers[l.Digest]++
				}
			}
		}
	}
	if len(layers) != 4 {
		t.Errorf("%d layers in the parts", len(layers))
	}
	for h, n := range layers {
		if n != 1 {
			t.Errorf("layer %s is in %d parts", h, n)
		}
	}
	slices.Reverse(files)
	joined, err := Join(openAll(t, append(files, files[0]))) // in any order, and twice is no harm
	noError(t, err)
	checkWhole(t, f, joined, whole)
	noError(t, joined.Close())

	out := filepath.Join(t.TempDir(), "joined.tar")
	made, err := Assemble(t.Context(), AssembleOptions{Parts: files, Output: out})
	noError(t, err)
	if !bytes.Equal(mustRead(t, out), whole) || made.Size != int64(len(whole)) || "sha256:"+made.SHA256 != hashOf(whole).String() {
		t.Errorf("assembled %+v", made)
	}
	made, err = Assemble(t.Context(), AssembleOptions{Parts: files, Output: filepath.Dir(out)})
	noError(t, err)
	if made.File != filepath.Join(filepath.Dir(out), wholeName) {
		t.Errorf("assembled %s", made.File)
	}
}

// checkWhole holds a joined archive to the whole's bytes and to all that one reads of it.
func checkWhole(t *testing.T, f *fixture, a *Archive, whole []byte) {
	t.Helper()
	if _, partial := a.Partial(); partial || !a.IsBundle() || filepath.Base(a.Path()) != wholeName || a.Size() != int64(len(whole)) {
		t.Errorf("joined: %s, %d bytes, bundle %v", a.Path(), a.Size(), a.IsBundle())
	}
	got, err := io.ReadAll(io.NewSectionReader(a.f, 0, a.size))
	noError(t, err)
	if !bytes.Equal(got, whole) {
		t.Error("joined: other bytes than the whole")
	}
	rnd := rand.New(rand.NewSource(1))
	for range 300 { // at any offset, of any length, over every seam
		off := rnd.Int63n(int64(len(whole)))
		b := make([]byte, rnd.Intn(3000))
		n, err := a.f.ReadAt(b, off)
		want := whole[off:min(int64(len(whole)), off+int64(len(b)))]
		if !bytes.Equal(b[:n], want) || (err == nil) != (n == len(b)) || err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("%d bytes at %d: %d, %v", len(b), off, n, err)
		}
	}
	checkSimple(t, f, a)
}

func TestSetOfParts(t *testing.T) {
	f := simple(t, 20_000)
	whole, files := f.bytes(core()), f.split(45_000)
	other := file(t, "other.tar", f.bytes(Selection{Sets: []string{"other"}, Platform: amd64}))
	s, err := OpenSet(append([]string{other}, files...)...)
	noError(t, err)
	if len(s.Archives) != 2 || len(s.Loose) != 0 || s.Archives[0].Path() != other {
		t.Fatalf("set %+v", s)
	}
	noError(t, s.Complete())
	checkWhole(t, f, s.Archives[1], whole)
	noError(t, s.Close())

	// Compressed parts read the same.
	var packed []string
	for i, p := range files {
		packed = append(packed, compressed(t, p, []string{".tar.zst", ".tar.gz", ".tar", ".tar.zst"}[i]))
	}
	s, err = OpenSet(packed...)
	noError(t, err)
	if len(s.Archives) != 1 {
		t.Fatalf("set %+v", s)
	}
	checkWhole(t, f, s.Archives[0], whole)
	noError(t, s.Close())

	s, err = OpenSet(files[0], files[2], files[3])
	noError(t, err)
	if len(s.Archives) != 0 || len(s.Loose) != 3 {
		t.Fatalf("set %+v", s)
	}
	want := "rke2-images-core.linux-amd64.tar is not complete: part 2 of 4 (rke2-images-core.linux-amd64.part2of4.tar) is missing"
	if err := s.Complete(); err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	noError(t, s.Close())
}

// compressed makes a compressed copy of a file, of that kind.
func compressed(t testing.TB, path, ext string) string {
	t.Helper()
	var b bytes.Buffer
	w, finish, err := compressor(&b, ext)
	noError(t, err)
	_, err = w.Write(mustRead(t, path))
	noError(t, errors.Join(err, finish()))
	return file(t, strings.TrimSuffix(filepath.Base(path), ".tar")+ext, b.Bytes())
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	noError(t, err)
	return b
}

func TestSplitSizes(t *testing.T) {
	f := simple(t, 20_000)
	plan, err := NewPlan(Layout(f.dir), core())
	noError(t, err)
	parts, err := Split(t.Context(), plan, wholeName, plan.Size, nil)
	noError(t, err)
	if len(parts) != 1 || parts[0] != plan {
		t.Errorf("a bundle that fits became %d parts", len(parts))
	}
	_, err = Split(t.Context(), plan, wholeName, 20_000, nil)
	var small *PartTooSmallError
	if !errors.As(err, &small) || small.Size != 20_000 {
		t.Fatalf("too small: %v", err)
	}
	for _, at := range []int64{small.Least, small.Least - 1} { // what it says is exact
		if _, err := Split(t.Context(), plan, wholeName, at, nil); (err == nil) != (at == small.Least) {
			t.Errorf("parts of %d: %v", at, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Split(ctx, plan, wholeName, small.Least, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestPartsMixed: what does not belong together, or is not all there, is named.
func TestPartsMixed(t *testing.T) {
	f, g := simple(t, 20_000), simple(t, 21_000)
	ours, theirs := f.split(45_000), g.split(45_000)
	plain := file(t, "plain.tar", f.bytes(core()))
	for name, c := range map[string]struct {
		parts []string
		want  []string
	}{
		"two wholes":  {[]string{ours[0], theirs[1], ours[2], ours[3]}, []string{ours[0], theirs[1], "part 1 of 4", "part 2 of 4", "do not belong together"}},
		"missing":     {ours[1:], []string{"part 1 of 4", PartName(wholeName, 1, 4), "missing"}},
		"two missing": {ours[2:], []string{"part 1 of 4", "part 2 of 4", "are missing"}},
		"no part":     {[]string{ours[0], plain}, []string{plain, "not a part"}},
		"none":        {nil, []string{"there is none"}},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "x.tar")
			_, err := Assemble(t.Context(), AssembleOptions{Parts: c.parts, Output: out})
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("want %q: %v", w, err)
				}
			}
			nothing(t, filepath.Dir(out))
		})
	}
}

func nothing(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	noError(t, err)
	if len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestPartDamage: a flipped bit anywhere in a part is an error when it is opened or read,
// or when the whole is made, and then the file at fault is named and nothing is left. Every
// fifth byte is tried.
func TestPartDamage(t *testing.T) {
	f := simple(t, 700)
	whole := f.bytes(core())
	files := f.split(int64(len(whole)) - 1000)
	if len(files) != 2 {
		t.Fatalf("%d parts", len(files))
	}
	good := mustRead(t, files[1])
	dir := t.TempDir()
	spoiled := filepath.Join(dir, "spoiled.tar")
	for at := 0; at < len(good); at += 5 {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at % 8)
		noError(t, os.WriteFile(spoiled, bad, 0o600))
		if at%505 == 0 {
			out := filepath.Join(dir, "out.tar")
			_, err := Assemble(t.Context(), AssembleOptions{Parts: []string{files[0], spoiled}, Output: out})
			switch {
			case err == nil: // a blob that the other part has as well
				if !bytes.Equal(mustRead(t, out), whole) {
					t.Fatalf("bit of byte %d flipped, assembled to other bytes", at)
				}
				noError(t, os.Remove(out))
			case !strings.Contains(err.Error(), spoiled):
				t.Fatalf("bit of byte %d flipped, assembled: %v", at, err)
			}
		}
		if err := readAll(spoiled); err == nil {
			t.Fatalf("bit of byte %d flipped and nobody noticed", at)
		}
	}
	for _, cut := range []int{0, 511, 512, 1024, len(good) / 2, len(good) - 1024, len(good) - 1} {
		noError(t, os.WriteFile(spoiled, good[:cut], 0o600))
		if err := readAll(spoiled); err == nil {
			t.Errorf("cut to %d bytes and nobody noticed", cut)
		}
	}
	noError(t, os.Remove(spoiled))
	nothing(t, dir)
}

// TestPartLies: a sealed index that says what is not so.
func TestPartLies(t *testing.T) {
	f := simple(t, 20_000)
	plan, err := NewPlan(Layout(f.dir), core())
	noError(t, err)
	whole, err := plan.identify(t.Context(), wholeName, nil)
	noError(t, err)
	bulk, err := plan.bulk()
	noError(t, err)
	small := func(h v1.Hash) bool { return !bulk.layers[h] }
	sound := Partial{Whole: whole, Part: 1, Of: 2}
	write := func(t *testing.T, p *Plan) error {
		var b bytes.Buffer
		noError(t, p.Write(t.Context(), &b))
		return readAll(file(t, "p.tar", b.Bytes()))
	}
	p, err := plan.partial(sound, small)
	noError(t, err)
	noError(t, write(t, p))

	for name, change := range map[string]func(p *Partial){
		"another index": func(p *Partial) { p.Whole.Index = hashOf(nil) },
		"another size":  func(p *Partial) { p.Whole.Size += 512 },
	} {
		t.Run(name, func(t *testing.T) {
			lie := sound
			change(&lie)
			p, err := plan.partial(lie, small)
			noError(t, err)
			if err := write(t, p); !errors.Is(err, ErrDamaged) {
				t.Errorf("taken: %v", err)
			}
		})
	}
	for name, change := range map[string]func(p *Partial){
		"no part":        func(p *Partial) { p.Part = 0 },
		"part too high":  func(p *Partial) { p.Part = 3 },
		"part and delta": func(p *Partial) { p.Bases = []Base{{"b.tar", hashOf(nil)}} },
		"neither":        func(p *Partial) { p.Part, p.Of = 0, 0 },
		"no sum":         func(p *Partial) { p.Whole.SHA256 = "x" },
		"path":           func(p *Partial) { p.Whole.Name = "../x.tar" },
		"escape":         func(p *Partial) { p.Whole.Name = "\x1b[2J.tar" },
		"base's path":    func(p *Partial) { p.Part, p.Of, p.Bases = 0, 0, []Base{{"/etc/x", hashOf(nil)}} },
	} {
		t.Run(name, func(t *testing.T) {
			lie := sound
			change(&lie)
			if _, err := plan.partial(lie, small); err == nil {
				t.Error("planned")
			}
			// As if another program had sealed it.
			idx, err := parseIndex(plan.index())
			noError(t, err)
			about, err := partialMarker(lie, nil)
			noError(t, err)
			about[annotationSets] = "core"
			raw, err := sealWith(*idx, about)
			noError(t, err)
			idx, err = parseIndex(raw)
			noError(t, err)
			if _, _, err := checkSeal(raw, idx); !errors.Is(err, ErrDamaged) {
				t.Errorf("taken: %v", err)
			}
		})
	}
	t.Run("a config is left out", func(t *testing.T) {
		m, err := plan.manifest(plan.Images[0].Desc.Digest)
		noError(t, err)
		p, err := plan.partial(sound, func(h v1.Hash) bool { return h != m.Config.Digest })
		noError(t, err)
		if err := write(t, p); !errors.Is(err, ErrDamaged) {
			t.Errorf("taken: %v", err)
		}
	})
	t.Run("a layer more than it says", func(t *testing.T) {
		p, err := plan.partial(sound, small)
		noError(t, err)
		p.blobs = plan.blobs
		if err := write(t, p); !errors.Is(err, ErrDamaged) {
			t.Errorf("taken: %v", err)
		}
	})
}
