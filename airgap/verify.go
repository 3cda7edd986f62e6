package airgap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/airgap/trust"
)

// VerifyOptions says what a bundle is held against.
type VerifyOptions struct {
	// Policy's keys and pins; its mode is not looked at: every image must be signed.
	Policy trust.Policy
	// Release lists, by set, the references that the release has. If an archive holds
	// any image of the policy's pins, it must hold all of the sets it belongs to.
	Release map[string][]string
	// Progress is told the bytes verified so far, from several goroutines in turn.
	Progress func(done, total int64)
}

// Fault is one thing that is wrong with an archive.
type Fault struct {
	Subject string `json:"subject"` // a reference, a blob's digest, or the file
	Problem string `json:"problem"`
}

func (f Fault) String() string { return f.Subject + ": " + f.Problem }

// Verification is the outcome of Verify, as `rke2 bundle verify -o json` prints it.
type Verification struct {
	File   string      `json:"file"`
	OK     bool        `json:"ok"`
	Images []ImageInfo `json:"images,omitempty"`
	Blobs  int         `json:"blobs"`
	Bytes  int64       `json:"bytes"` // of blobs, all read and hashed
	Faults []Fault     `json:"faults,omitempty"`
}

// Verify reads an archive whole: its structure, each blob's digest, each image's
// signatures and attestations. What is wrong with the archive is in the Verification; the error is
// for what kept Verify from finding out, such as a cancelled context.
func Verify(ctx context.Context, file string, opt VerifyOptions) (Verification, error) {
	out := Verification{File: file}
	fault := func(subject string, err error) { out.Faults = append(out.Faults, Fault{subject, err.Error()}) }
	a, err := open(file)
	if err != nil {
		fault(file, err)
		return out, nil
	}
	defer a.Close()
	if a.format == FormatDockerArchive {
		fault(file, errors.New("a legacy docker-archive carries no manifests and no signatures, so nothing in it can be verified"))
		return out, nil
	}
	total := int64(0)
	if a.comp != plain {
		// One pass verifies every blob, and can't go on after the first fault.
		if err := a.read(ctx, opt.Progress); err != nil {
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
			fault(file, err)
			return out, nil
		}
	}
	for _, e := range a.blobs {
		total += e.size
	}
	out.Blobs, out.Bytes = len(a.blobs), total
	bad, err := a.verifyBlobs(ctx, total, opt.Progress)
	if err != nil {
		return out, err
	}
	for _, f := range bad {
		h, _ := v1.NewHash(f.Subject)
		f.Subject = a.part(h)
		out.Faults = append(out.Faults, f)
	}
	ins, err := a.Inspect(opt.Policy)
	if err != nil {
		fault(file, err)
		return out, nil
	}
	out.Images = ins.Images
	for _, img := range ins.Images {
		if img.Signature.State != SigVerified {
			fault(img.Names[0], errors.New(img.Signature.Reason))
		}
		for _, att := range img.Attestations {
			if !att.Verified {
				fault(img.Names[0], fmt.Errorf("its attestation %s: %s", att.Label(), att.Reason))
			}
		}
	}
	for _, ref := range missing(a.images, a.Sets(), opt) {
		fault(ref, fmt.Errorf("this release has it in the set, and the bundle does not"))
	}
	out.OK = len(out.Faults) == 0
	return out, nil
}

// verifyBlobs hashes every blob of a plain archive and reports each that is wrong.
func (a *Archive) verifyBlobs(ctx context.Context, total int64, progress func(done, total int64)) ([]Fault, error) {
	if a.comp != plain {
		return nil, nil
	}
	var mu sync.Mutex
	var faults []Fault
	var done int64
	var g errgroup.Group
	g.SetLimit(min(4, runtime.GOMAXPROCS(0)))
	for _, h := range a.order {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			e := a.blobs[h]
			r := verify(cancelable{ctx, io.NewSectionReader(a.f, e.off, e.size)}, h, e.size)
			_, err := io.CopyBuffer(struct{ io.Writer }{counting(func(n int) {
				if progress == nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				done += int64(n)
				progress(done, total)
			})}, r, make([]byte, 1<<20))
			if err == nil || ctx.Err() != nil {
				return ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			faults = append(faults, Fault{h.String(), err.Error()})
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err // of the context
	}
	slices.SortFunc(faults, func(x, y Fault) int { return cmp.Compare(x.Subject, y.Subject) })
	return faults, ctx.Err()
}

// part says for a person what a blob is.
func (a *Archive) part(h v1.Hash) string {
	for _, img := range a.images {
		switch m, _, err := a.manifest(img.Desc.Digest); {
		case h == img.Desc.Digest:
			return "manifest of " + img.label()
		case err != nil:
		case h == m.Config.Digest:
			return "config of " + img.label()
		default:
			for i, l := range m.Layers {
				if l.Digest == h {
					return fmt.Sprintf("layer %d of %d of %s", i+1, len(m.Layers), img.label())
				}
			}
		}
	}
	switch d, ok := a.descs[h]; {
	case ok && d.MediaType == envelopeType:
		return "an attestation"
	case ok:
		return "part of a signature"
	}
	return "blob"
}

// counting is a writer that only counts.
type counting func(n int)

func (c counting) Write(p []byte) (int, error) {
	c(len(p))
	return len(p), nil
}

// missing lists the release's images that an archive of this release lacks, of the
// sets that it was made of.
func missing(images []Image, sets []string, opt VerifyOptions) []string {
	have := map[string]bool{}
	ours := false
	for _, img := range images {
		for _, t := range img.Refs {
			have[t.String()] = true
			_, pinned := opt.Policy.Pins[t.String()]
			ours = ours || pinned
		}
	}
	var out []string
	for _, set := range sets {
		for _, ref := range opt.Release[set] {
			if ours && !have[ref] && !slices.Contains(out, ref) {
				out = append(out, ref)
			}
		}
	}
	slices.Sort(out)
	return out
}
