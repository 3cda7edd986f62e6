package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore/pkg/signature/payload"
)

// Mode says which images must be signed.
type Mode string

const (
	// ModeSystem wants signatures for the distribution's own images, and for all
	// while the policy names none of them.
	ModeSystem Mode = "system"
	// ModeAll wants one for every image. The zero Mode means the same.
	ModeAll Mode = "all"
	// ModeOff admits everything.
	ModeOff Mode = "off"
)

// Optional claims in a payload that this project writes and checks.
const (
	// ClaimTag is the tag that the image was signed for.
	ClaimTag = "tag"
	// ClaimDevelopment is "true" in what a development key signed.
	ClaimDevelopment = "development"
)

// ParseMode reads a Mode as an operator writes it; the empty string is the default, system.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return ModeSystem, nil
	case ModeSystem, ModeAll, ModeOff:
		return m, nil
	}
	return "", fmt.Errorf("image-verification %q is not known: use system, all or off", s)
}

// Policy says whom to trust for what. The zero Policy refuses everything.
type Policy struct {
	Mode Mode
	// ReleaseKeys came with the program, OperatorKeys from the host's administrator.
	// Both may sign any image.
	ReleaseKeys, OperatorKeys []Key
	// Pins maps a full reference to the digests that its manifest may have, one a
	// platform, whoever signed it. The registry is not compared: a mirror may carry the image.
	Pins map[string][]v1.Hash
	// System names further references whose repositories count as system images;
	// the repositories in Pins always do.
	System []string
}

// Signature is one cosign signature: the simple signing payload, and the raw
// (not base64) signature over its bytes.
type Signature struct {
	Payload, Raw []byte
}

// Admitted stands for "this image, under this name, may be used". Only a Policy
// makes a valid one: [Policy.Admit], and [Policy.Pinned] for a digest that came with
// the program.
type Admitted struct {
	ref         name.Tag
	named       name.Digest // in place of ref, if admitted by digest
	digest      v1.Hash
	by          string
	key         Key
	development bool
	valid       bool
}

// Valid is false for the zero Admitted, which must not be used.
func (a Admitted) Valid() bool { return a.valid }

// Ref is the reference that the image was admitted under; zero if by digest.
func (a Admitted) Ref() name.Tag { return a.ref }

// Name is the reference, or name@digest, that the image was admitted under.
func (a Admitted) Name() string {
	if a.ref == (name.Tag{}) {
		return a.named.String()
	}
	return a.ref.String()
}

// Repository is that of the name.
func (a Admitted) Repository() name.Repository {
	if a.ref == (name.Tag{}) {
		return a.named.Context()
	}
	return a.ref.Context()
}

// Digest is the manifest's digest.
func (a Admitted) Digest() v1.Hash { return a.digest }

// By says on what ground: the key, "not required" or "verification off".
func (a Admitted) By() string { return a.by }

// Verified is true when a trusted key's signature was the ground, and not a
// policy that asked for none.
func (a Admitted) Verified() bool { return a.key.verifier != nil }

// Key is the key whose signature admitted the image, if Verified.
func (a Admitted) Key() Key { return a.key }

// Development is true when the signer claims to be a development key.
func (a Admitted) Development() bool { return a.development }

// Admit decides about one image: the reference it is to be used under, its
// manifest's digest, and the signatures that came with it. A refusal is a
// [*RefusedError].
//
// Admit does not read the image: whoever holds the Admitted must use bytes that
// have been checked against its Digest.
func (p Policy) Admit(ref name.Tag, manifest v1.Hash, sigs []Signature) (Admitted, error) {
	return p.AdmitOf(ref, manifest, sigs, Index{})
}

// AdmitOf is Admit for an image that may have been taken out of an image index: a
// signature of the index is one of all that it lists, as cosign signs what a tag names.
func (p Policy) AdmitOf(ref name.Tag, manifest v1.Hash, sigs []Signature, of Index) (Admitted, error) {
	if ref.RepositoryStr() == "" || ref.TagStr() == "" {
		return Admitted{}, &RefusedError{Ref: ref.String(), Digest: manifest.String(), Reason: ReasonPolicy, Detail: "a reference with a tag is needed"}
	}
	return p.admit(candidate{Admitted{ref: ref, digest: manifest}, sigs, of})
}

// AdmitDigest is AdmitOf for an image that is to be used as name@digest, of its manifest
// or of the image index. No tag is compared: a signature says nothing wrong about it.
func (p Policy) AdmitDigest(ref name.Digest, manifest v1.Hash, sigs []Signature, of Index) (Admitted, error) {
	if is := ref.DigestStr(); is != manifest.String() && (len(of.Raw) == 0 || is != of.digest().String()) {
		return Admitted{}, &RefusedError{Ref: ref.String(), Digest: manifest.String(), Reason: ReasonWrongDigest, Detail: "the name is of something else"}
	}
	return p.admit(candidate{Admitted{named: ref, digest: manifest}, sigs, of})
}

// Index is an image index that an image was taken out of: its bytes and what signs it.
// The zero Index is none.
type Index struct {
	Raw        []byte
	Signatures []Signature
}

func (i Index) digest() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(i.Raw))}
}

// lists tells whether the index has the manifest.
func (i Index) lists(manifest v1.Hash) bool {
	idx, err := v1.ParseIndexManifest(bytes.NewReader(i.Raw))
	return err == nil && slices.ContainsFunc(idx.Manifests, func(d v1.Descriptor) bool { return d.Digest == manifest })
}

// candidate is an image that has not been decided about.
type candidate struct {
	Admitted
	sigs []Signature
	of   Index
}

func (p Policy) admit(c candidate) (Admitted, error) {
	refuse := func(r Reason, format string, args ...any) (Admitted, error) {
		return Admitted{}, &RefusedError{Ref: c.Name(), Digest: c.digest.String(), Reason: r, Detail: fmt.Sprintf(format, args...)}
	}
	ground := func(by string) (Admitted, error) {
		c.by, c.valid = by, true
		return c.Admitted, nil
	}
	if c.digest.Algorithm != "sha256" || len(c.digest.Hex) != 64 {
		return refuse(ReasonPolicy, "a sha256 digest is needed")
	}
	if len(c.of.Raw) > 0 && !c.of.lists(c.digest) {
		return refuse(ReasonMalformed, "the image index %s that came with it does not list it", c.of.digest())
	}
	switch p.Mode {
	case ModeOff:
		return ground("verification off")
	case ModeSystem, ModeAll, "":
	default:
		return refuse(ReasonPolicy, "verification mode %q is not known: use system, all or off", string(p.Mode))
	}
	system, pins, err := p.look(c.Repository(), c.ref.TagStr())
	if err != nil {
		return refuse(ReasonPolicy, "%v", err)
	}
	if len(pins) > 0 && !slices.Contains(pins, c.digest) {
		return refuse(ReasonPinned, "this release has %s under that name; use the bundle of this release, or the rke2 of that one", join(pins))
	}
	// With nothing to tell system images by, every image might be one.
	required := p.Mode != ModeSystem || system || len(p.Pins)+len(p.System) == 0

	closest := &RefusedError{Reason: ReasonUnsigned, Detail: "no signature came with it"}
	type about struct {
		digest v1.Hash
		sigs   []Signature
	}
	all := []about{{c.digest, c.sigs}}
	if len(c.of.Raw) > 0 {
		all = append(all, about{c.of.digest(), c.of.Signatures})
	}
	for _, signed := range all {
		for _, s := range signed.sigs {
			adm, fault := p.check(c.Admitted, signed.digest, s)
			if fault == nil {
				return adm, nil
			}
			if fault.Reason.rank() > closest.Reason.rank() {
				closest = fault
			}
		}
	}
	if !required {
		return ground("not required")
	}
	return refuse(closest.Reason, "%s", closest.Detail)
}

// look finds out whether a repository is of a system image, and the digests that the tag
// in it is pinned to, if any: one a platform. Pins for exactly that name win over pins of
// the same path and tag at other registries; those must agree among themselves. No tag: no
// pins.
func (p Policy) look(repo name.Repository, tag string) (system bool, pins []v1.Hash, err error) {
	var exact, elsewhere [][]v1.Hash
	for full, digests := range p.Pins {
		t, err := name.NewTag(full, name.StrictValidation)
		if err != nil {
			return false, nil, fmt.Errorf("pinned reference %q: %w", full, err)
		}
		if len(digests) == 0 {
			return false, nil, fmt.Errorf("pinned reference %q has no digest", full)
		}
		for _, h := range digests {
			if h.Algorithm != "sha256" || len(h.Hex) != 64 {
				return false, nil, fmt.Errorf("pinned reference %q has no sha256 digest", full)
			}
		}
		if t.RepositoryStr() != repo.RepositoryStr() {
			continue
		}
		system = true
		switch {
		case t.TagStr() != tag:
		case t.RegistryStr() == repo.RegistryStr():
			exact = append(exact, digests)
		default:
			elsewhere = append(elsewhere, digests)
		}
	}
	for _, s := range p.System {
		r, err := name.ParseReference(s)
		if err != nil {
			return false, nil, fmt.Errorf("system image %q: %w", s, err)
		}
		system = system || r.Context().RepositoryStr() == repo.RepositoryStr()
	}
	found := exact
	if len(found) == 0 {
		found = elsewhere
	}
	for _, digests := range found {
		if !slices.Equal(digests, found[0]) {
			return false, nil, fmt.Errorf("%s:%s is pinned to different digests", repo.RepositoryStr(), tag)
		}
		pins = digests
	}
	return system, pins, nil
}

func join(digests []v1.Hash) string {
	var out []string
	for _, d := range digests {
		out = append(out, d.String())
	}
	return strings.Join(out, " or ")
}

// check verifies one signature of what has that digest with every key, and then what it
// claims about the image.
func (p Policy) check(image Admitted, signed v1.Hash, s Signature) (Admitted, *RefusedError) {
	fault := func(r Reason, format string, args ...any) (Admitted, *RefusedError) {
		return Admitted{}, &RefusedError{Reason: r, Detail: fmt.Sprintf(format, args...)}
	}
	if len(s.Payload) == 0 || len(s.Raw) == 0 {
		return fault(ReasonMalformed, "its payload or its signature is empty")
	}
	key, ok := p.signer(s)
	if !ok {
		known := p.keyNames()
		if known == "" {
			return fault(ReasonNoKeys, "this program carries no release key; add the signer's public key as a *.pub file to the host's trust folder")
		}
		return fault(ReasonWrongKey, "none of the trusted keys made its signature (%s); if you trust the signer, add its public key as a *.pub file to the host's trust folder", known)
	}
	// From here on the payload is what a trusted key signed.
	var claim payload.Cosign
	if err := json.Unmarshal(s.Payload, &claim); err != nil {
		return fault(ReasonMalformed, "%s signed a payload that is not a cosign signature payload: %v", key, err)
	}
	if got := claim.Image.DigestStr(); got != signed.String() {
		return fault(ReasonWrongDigest, "%s signed %s", key, got)
	}
	if got := claim.Image.RepositoryStr(); got != image.Repository().RepositoryStr() {
		return fault(ReasonWrongRepo, "%s signed it as %s", key, claim.ClaimedIdentity)
	}
	// cosign may put the tag into the identity; ours is an optional claim.
	identity := claim.ClaimedIdentity
	tag := image.ref.TagStr()
	if i := strings.LastIndexByte(identity, ':'); tag != "" && i > strings.LastIndexByte(identity, '/') && identity[i+1:] != tag {
		return fault(ReasonWrongTag, "%s signed it as %s", key, identity)
	}
	if v, ok := claim.Annotations[ClaimTag]; ok && tag != "" && v != tag {
		return fault(ReasonWrongTag, "%s signed it for tag %v", key, v)
	}
	image.by, image.key, image.valid = key.String(), key, true
	image.development = fmt.Sprint(claim.Annotations[ClaimDevelopment]) == "true"
	return image, nil
}

// signer returns the first trusted key that made the signature.
func (p Policy) signer(s Signature) (Key, bool) {
	for _, keys := range [][]Key{p.ReleaseKeys, p.OperatorKeys} {
		for _, k := range keys {
			if k.verifier == nil {
				continue
			}
			if err := k.verifier.VerifySignature(bytes.NewReader(s.Raw), bytes.NewReader(s.Payload)); err == nil {
				return k, true
			}
		}
	}
	return Key{}, false
}

func (p Policy) keyNames() string {
	var names []string
	for _, keys := range [][]Key{p.ReleaseKeys, p.OperatorKeys} {
		for _, k := range keys {
			if k.verifier != nil {
				names = append(names, k.String())
			}
		}
	}
	return strings.Join(names, ", ")
}
