package airgap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// DeltaOptions says which bundles to make deltas of.
type DeltaOptions struct {
	// From are archives that the receiver has, of any number of bundles.
	From []string
	// New is a bundle, or all parts of a split one.
	New []string
	// Output is the file, or a folder to put it into as [DeltaName]. The ending .tar.zst
	// or .tar.gz compresses the tar as a whole, which seldom helps.
	Output string
	// Progress is told the bytes of what is read of New, then of what is written.
	Progress func(file string, done, total int64)
}

// Delta is a delta that was made.
type Delta struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Whole  Whole  `json:"whole"`
	Bases  []Base `json:"bases"`
	// Blobs and Bytes in the delta, of those the layers; and what the bases have.
	Blobs        int   `json:"blobs"`
	Layers       int   `json:"layers"`
	LayerBytes   int64 `json:"layerBytes"`
	LeftOut      int   `json:"leftOut"`
	LeftOutBytes int64 `json:"leftOutBytes"`
}

// MakeDelta writes a partial bundle with what the bases lack of a new one: its changed
// layers and attestations, and all of its manifests, configs and signatures, so that it
// is verified on its own. The same bundles give the same bytes.
func MakeDelta(ctx context.Context, opt DeltaOptions) (Delta, error) {
	made, err := makeDeltas(ctx, opt, 1)
	if err != nil {
		return Delta{}, err
	}
	return made[0], nil
}

// MakeDeltas is MakeDelta for any number of new bundles, a delta each. For more than one,
// the output is a folder. If it fails, the deltas that are done stay.
func MakeDeltas(ctx context.Context, opt DeltaOptions) ([]Delta, error) {
	return makeDeltas(ctx, opt, -1)
}

func makeDeltas(ctx context.Context, opt DeltaOptions, most int) ([]Delta, error) {
	fail := func(err error) ([]Delta, error) {
		return nil, fmt.Errorf("making a delta of %s: %w", strings.Join(opt.New, ", "), err)
	}
	if len(opt.From) == 0 || len(opt.New) == 0 {
		return fail(errors.New("a bundle, and one to make it from, are needed"))
	}
	news, err := OpenSet(opt.New...)
	if err != nil {
		return fail(err)
	}
	defer news.Close()
	if err := news.Complete(); err != nil {
		return fail(err)
	}
	for _, a := range news.Archives {
		if !a.IsBundle() {
			return fail(fmt.Errorf("%s was not written by rke2 bundle, so it can't be made again byte for byte: make a bundle of it first", a.Path()))
		}
	}
	if n := len(news.Archives); n > 1 {
		if info, err := os.Stat(opt.Output); most == 1 || err != nil || !info.IsDir() {
			return fail(fmt.Errorf("they are %d bundles, which give a delta each: name a folder that is there as the output, or all parts of one bundle", n))
		}
	}
	olds, err := OpenSet(opt.From...)
	if err != nil {
		return fail(err)
	}
	defer olds.Close()
	if err := olds.Complete(); err != nil {
		return fail(err)
	}
	var out []Delta
	for _, a := range news.Archives {
		d, err := writeDelta(ctx, opt, plainName(a.Path()), a, olds.Archives)
		if err != nil {
			return out, fmt.Errorf("making a delta of %s: %w", a.Path(), err)
		}
		out = append(out, d)
	}
	return out, nil
}

func writeDelta(ctx context.Context, opt DeltaOptions, name string, whole *Archive, olds []*Archive) (Delta, error) {
	file, ext, err := outputFile(opt.Output, DeltaName(name), append(opt.New, opt.From...))
	if err != nil {
		return Delta{}, err
	}
	plan, err := whole.wholeOf()
	if err != nil {
		return Delta{}, err
	}
	// A compressed bundle is read in order, once, by way of a temporary file.
	pool := newPool([]*Archive{whole})
	defer pool.Close()
	if err := pool.find(plan); err != nil {
		return Delta{}, err
	}
	plan.src = pooled{archiveBlobs{whole}, pool}
	out := Delta{File: file}
	keep, err := out.leaveOut(plan, olds)
	if err != nil {
		return out, err
	}
	if out.Whole, err = plan.identify(ctx, name, func(done, total int64) {
		if opt.Progress != nil {
			opt.Progress(whole.Path(), done, total)
		}
	}); err != nil {
		return out, err
	}
	delta, err := plan.partial(Partial{Whole: out.Whole, Bases: out.Bases}, keep)
	if err != nil {
		return out, err
	}
	out.Blobs = len(delta.blobs)
	sum, err := writeFile(file, delta.Size, func(w io.Writer) error {
		w, finish, err := compressor(w, ext)
		if err != nil {
			return err
		}
		return errors.Join(delta.Write(ctx, io.MultiWriter(w, progressOf(opt.Progress, file, delta.Size))), finish())
	})
	out.Size, out.SHA256 = sum.size, sum.hex
	return out, err
}

// leaveOut decides which of a bundle's blobs go into its delta.
func (d *Delta) leaveOut(plan *Plan, olds []*Archive) (func(v1.Hash) bool, error) {
	bulk, err := plan.bulk()
	if err != nil {
		return nil, err
	}
	have := map[v1.Hash]int64{}
	for _, a := range olds {
		if err := a.whole(); err != nil {
			return nil, err
		}
		if len(a.blobs) == 0 {
			return nil, fmt.Errorf("%s has no blobs with digests, so nothing can be left out for it", a.file)
		}
		for h, e := range a.blobs {
			have[h] = e.size
		}
		index, _ := a.Identity()
		d.Bases = append(d.Bases, Base{filepath.Base(a.file), index})
	}
	slices.SortFunc(d.Bases, func(x, y Base) int { return strings.Compare(x.String(), y.String()) })
	left := map[v1.Hash]bool{}
	for _, b := range plan.blobs {
		layer := bulk.layers[b.Digest]
		size, ok := have[b.Digest]
		switch {
		case ok && size == b.Size && (layer || bulk.evidence[b.Digest]):
			left[b.Digest] = true
			d.LeftOut++
			d.LeftOutBytes += b.Size
		case layer:
			d.Layers++
			d.LayerBytes += b.Size
		}
	}
	return func(h v1.Hash) bool { return !left[h] }, nil
}

// pooled is a source whose blobs are read at random from a compressed bundle too.
type pooled struct {
	archiveBlobs
	pool *pool
}

func (p pooled) Blob(h v1.Hash) (io.ReadCloser, error) {
	content, err := p.pool.section(h)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.NewSectionReader(content, 0, p.a.blobs[h].size)), nil
}
