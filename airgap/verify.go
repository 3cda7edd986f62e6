package airgap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

// Requirement is what every image must come with to be right.
type Requirement string

// The requirements.
const (
	RequireSignature  Requirement = "signature"  // by a trusted key, on this image under this name
	RequireSBOM       Requirement = "SBOM"       // an SPDX document, signed
	RequireProvenance Requirement = "provenance" // SLSA provenance, signed
)

// VerifyOptions says what a bundle is held against.
type VerifyOptions struct {
	// Policy's keys and pins; its mode is not looked at: every image must be signed.
	Policy trust.Policy
	// Release lists, by set, the references that the release has. If an archive holds
	// any image of the policy's pins, it must hold all of the sets it belongs to.
	Release map[string][]string
	// Require is what images must come with; nil: a signature, for charts and files too.
	Require []Requirement
	// Unsigned accepts what has no signature at all, and legacy docker-archives, where
	// none can be. A signature or attestation that is there must be right all the same.
	Unsigned bool
	// Contents unpacks every layer, in memory, and holds it against what its image's
	// config says: digest, names and sizes.
	Contents bool
	// Progress is told the bytes verified so far, from several goroutines in turn.
	Progress func(done, total int64)
}

func (o VerifyOptions) requires(r Requirement) bool {
	if o.Require == nil {
		return r == RequireSignature && !o.Unsigned
	}
	return slices.Contains(o.Require, r)
}

// Fault is one thing that is wrong with an archive.
type Fault struct {
	Subject string `json:"subject"` // a reference, a blob's digest, or the file
	Problem string `json:"problem"`
}

func (f Fault) String() string { return f.Subject + ": " + f.Problem }

// Verification is the outcome of Verify, as `rke2 bundle verify -o json` prints it.
type Verification struct {
	File      string         `json:"file"`
	OK        bool           `json:"ok"`
	Partial   *Partial       `json:"partial,omitempty"` // what it is a part of
	Images    []ImageInfo    `json:"images,omitempty"`
	Artifacts []ArtifactInfo `json:"artifacts,omitempty"`
	Blobs     int            `json:"blobs"`
	Bytes     int64          `json:"bytes"`            // of blobs, all read and hashed
	Layers    int            `json:"layers,omitempty"` // unpacked, with Contents
	Faults    []Fault        `json:"faults,omitempty"`
}

func (v *Verification) fault(subject string, err error) {
	v.Faults = append(v.Faults, Fault{subject, err.Error()})
}

// Verify opens an archive and verifies it. What keeps it from being opened is a fault.
func Verify(ctx context.Context, file string, opt VerifyOptions) (Verification, error) {
	a, err := open(file)
	if err != nil {
		out := Verification{File: file}
		out.fault(file, err)
		return out, nil
	}
	defer a.Close()
	return a.Verify(ctx, opt)
}

// Verify reads an archive whole: its structure, each blob's digest, each image's
// signatures and attestations. What is wrong with the archive is in the Verification; the
// error is for what kept Verify from finding out, such as a cancelled context.
func (a *Archive) Verify(ctx context.Context, opt VerifyOptions) (Verification, error) {
	out := Verification{File: a.file}
	if p, ok := a.Partial(); ok {
		out.Partial = &p
	}
	if a.format == FormatDockerArchive && !opt.Unsigned {
		out.fault(a.file, errors.New("a legacy docker-archive carries no manifests and no signatures, so nothing in it can be verified"))
		return out, nil
	}
	if a.comp != plain {
		// One pass verifies every blob, and can't go on after the first fault.
		if err := a.read(ctx, opt.Progress); err != nil {
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
			out.fault(a.file, err)
			return out, nil
		}
	}
	if err := a.verifyBytes(ctx, &out, opt); err != nil {
		return out, err
	}
	ins, err := a.Inspect(opt.Policy)
	if err != nil {
		out.fault(a.file, err)
		return out, nil
	}
	out.Images, out.Artifacts = ins.Images, ins.Artifacts
	for _, img := range ins.Images {
		opt.judge(&out, img)
	}
	for _, art := range ins.Artifacts {
		opt.judgeSignature(&out, art.Ref, art.Signature)
	}
	for _, ref := range missing(a.images, a.Sets(), opt) {
		out.fault(ref, fmt.Errorf("this release has it in the set, and the bundle does not"))
	}
	out.OK = len(out.Faults) == 0
	return out, nil
}

// judge notes what an image lacks.
func (o VerifyOptions) judge(out *Verification, img ImageInfo) {
	o.judgeSignature(out, img.Names[0], img.Signature)
	found := map[Requirement]bool{}
	for _, att := range img.Attestations {
		switch {
		case att.Absent:
		case !att.Verified:
			if !o.Unsigned || len(o.Policy.ReleaseKeys)+len(o.Policy.OperatorKeys) > 0 {
				out.fault(img.Names[0], fmt.Errorf("its attestation %s: %s", att.Label(), att.Reason))
			}
		case att.PredicateType == PredicateSPDX:
			found[RequireSBOM] = true
		case strings.HasPrefix(att.PredicateType, "https://slsa.dev/provenance/"):
			found[RequireProvenance] = true
		}
	}
	for _, r := range []Requirement{RequireSBOM, RequireProvenance} {
		if o.requires(r) && !found[r] {
			out.fault(img.Names[0], fmt.Errorf("it has no %s that a trusted key signed, which is required", r))
		}
	}
}

func (o VerifyOptions) judgeSignature(out *Verification, name string, s SigInfo) {
	switch {
	case s.State == SigVerified:
	case o.Unsigned && (s.State == SigNone || s.State == SigUnverifiable):
	default:
		out.fault(name, errors.New(s.Reason))
	}
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
	for _, art := range a.artifacts {
		if h == art.Desc.Digest {
			return "manifest of " + art.Ref
		}
		m, _, err := a.manifest(art.Desc.Digest)
		if err != nil {
			continue
		}
		for _, l := range m.Layers {
			switch {
			case l.Digest != h:
			case art.Kind == KindFiles:
				return "file " + printable(l.Annotations[AnnotationTitle]) + " of " + art.Ref
			default:
				return "chart " + art.Ref
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
