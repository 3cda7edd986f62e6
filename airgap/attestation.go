package airgap

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

// Predicate types of the attestations that this project writes.
const (
	PredicateSPDX       = "https://spdx.dev/Document"
	PredicateProvenance = "https://slsa.dev/provenance/v1"
)

const (
	envelopeType        = "application/vnd.dsse.envelope.v1+json"
	predicateAnnotation = "predicateType" // of an envelope's layer, as cosign writes it
	maxEnvelope         = 32 << 20        // bytes of one attestation; real ones are below two million
	maxAttestations     = 64              // on one image
)

// AttestationInfo describes one attestation of an image: a DSSE envelope with an in-toto
// statement.
type AttestationInfo struct {
	// PredicateType says what is attested. Until Verified it is what the manifest claims.
	PredicateType string `json:"predicateType"`
	Digest        string `json:"digest"` // of the envelope
	Size          int64  `json:"size"`   // of the envelope, bytes
	Verified      bool   `json:"verified"`
	Key           string `json:"key,omitempty"`    // that signed it, if Verified
	KeyID         string `json:"keyID,omitempty"`  // hex SHA-256 of the SubjectPublicKeyInfo
	Reason        string `json:"reason,omitempty"` // why it is not Verified
	// Packages and Files are the numbers of what a Verified SPDX document lists.
	Packages int `json:"packages,omitempty"`
	Files    int `json:"files,omitempty"`
	// Absent: it is in what a delta was made from.
	Absent bool `json:"absent,omitempty"`
}

// sealed is an attestation that has not been opened.
type sealed struct {
	subject v1.Hash // the manifest, or image index, that it must be about
	desc    v1.Descriptor
	claimed string // predicate type
}

// envelopes lists an image's attestations, each once.
func (a *Archive) envelopes(img Image) ([]sealed, error) {
	var out []sealed
	for _, at := range a.attached {
		if at.kind != KindAttestations || at.subject == (v1.Hash{}) || at.subject != img.Desc.Digest && at.subject != img.Index {
			continue
		}
		if _, elsewhere := a.absent[at.desc.Digest]; elsewhere {
			out = append(out, sealed{at.subject, at.desc, ""})
			continue
		}
		m, _, err := a.manifest(at.desc.Digest)
		if err != nil {
			return nil, fmt.Errorf("attestations of %s: %w", at.subject, err)
		}
		for _, l := range m.Layers {
			if slices.ContainsFunc(out, func(s sealed) bool { return s.desc.Digest == l.Digest && s.subject == at.subject }) {
				continue
			}
			if len(out) == maxAttestations {
				return nil, fmt.Errorf("attestations of %s: %w: more than the %d that are read", at.subject, ErrRefusedContent, maxAttestations)
			}
			out = append(out, sealed{at.subject, l, l.Annotations[predicateAnnotation]})
		}
	}
	return out, nil
}

// open reads the envelopes and gives each to fn, one at a time, in the archive's order;
// err is why one can't be read.
func (a *Archive) open(ctx context.Context, all []sealed, fn func(s sealed, env []byte, err error) error) error {
	wanted := map[v1.Hash][]sealed{}
	for _, s := range all {
		var err error
		switch {
		case s.desc.MediaType != envelopeType:
			err = fmt.Errorf("it is of type %s, not %s", printable(string(s.desc.MediaType)), envelopeType)
		case s.desc.Size > maxEnvelope:
			err = fmt.Errorf("%w: it has %d bytes, more than the %d that are read", ErrRefusedContent, s.desc.Size, maxEnvelope)
		default:
			wanted[s.desc.Digest] = append(wanted[s.desc.Digest], s)
			continue
		}
		if err := fn(s, nil, err); err != nil {
			return err
		}
	}
	each := func(h v1.Hash, env []byte, err error) error {
		for _, s := range wanted[h] {
			if err := fn(s, env, err); err != nil {
				return err
			}
		}
		return nil
	}
	if a.comp == plain { // one that is damaged does not hide the others
		for _, h := range a.order {
			if err := ctx.Err(); err != nil {
				return err
			}
			if len(wanted[h]) == 0 {
				continue
			}
			env, err := a.readBlob(h, maxEnvelope)
			if err := each(h, env, err); err != nil {
				return err
			}
		}
		return nil
	}
	want := func(h v1.Hash) bool { return len(wanted[h]) > 0 }
	return a.Walk(ctx, want, func(d v1.Descriptor, r io.Reader) error {
		env, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return each(d.Digest, env, nil)
	})
}

// attestations verifies the attestations of images, in their order.
func (a *Archive) attestations(ctx context.Context, images []Image, policy trust.Policy) ([][]AttestationInfo, error) {
	out := make([][]AttestationInfo, len(images))
	type id struct{ subject, envelope v1.Hash }
	places := map[id][]*AttestationInfo{}
	var all []sealed
	for i, img := range images {
		found, err := a.envelopes(img)
		if err != nil {
			return nil, err
		}
		out[i] = make([]AttestationInfo, len(found))
		for j, s := range found {
			out[i][j] = AttestationInfo{PredicateType: s.claimed, Digest: s.desc.Digest.String(), Size: s.desc.Size}
			if _, elsewhere := a.absent[s.desc.Digest]; elsewhere {
				out[i][j].Absent, out[i][j].Reason = true, "it is not here: what the delta was made from has it"
				continue
			}
			key := id{s.subject, s.desc.Digest}
			if places[key] == nil {
				all = append(all, s)
			}
			places[key] = append(places[key], &out[i][j])
		}
	}
	err := a.open(ctx, all, func(s sealed, env []byte, err error) error {
		var att trust.Attested
		if err == nil {
			att, err = s.verify(policy, env)
		}
		for _, info := range places[id{s.subject, s.desc.Digest}] {
			if err != nil {
				info.Reason = err.Error()
				continue
			}
			info.PredicateType, info.Verified = att.Statement().PredicateType, true
			info.Key, info.KeyID = att.Key().String(), att.Key().ID()
			if doc, err := parseSPDX(att.Statement().Predicate); info.PredicateType == PredicateSPDX && err == nil {
				info.Packages, info.Files = len(doc.Packages), len(doc.Files)
			}
		}
		return nil
	})
	return out, err
}

// verify opens an envelope, which must state what its label says.
func (s sealed) verify(policy trust.Policy, env []byte) (trust.Attested, error) {
	att, err := policy.Attested(s.subject, env)
	if err != nil {
		return trust.Attested{}, err
	}
	if is := att.Statement().PredicateType; s.claimed != "" && s.claimed != is {
		return trust.Attested{}, fmt.Errorf("it is labelled %s, and %s signed %s", printable(s.claimed), att.Key(), printable(is))
	}
	return att, nil
}

// Label names an attestation for people: what it states, or its digest. What somebody
// else wrote can't reach a terminal unquoted or at length.
func (i AttestationInfo) Label() string {
	if i.PredicateType == "" {
		return i.Digest
	}
	return printable(i.PredicateType)
}

// printable quotes what is not plain text, and cuts what is long.
func printable(s string) string {
	const most = 120
	cut := s
	if len(cut) > most {
		cut = cut[:most] + "…"
	}
	if cut != s || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(cut)
	}
	return s
}
