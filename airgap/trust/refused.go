package trust

import "fmt"

// Reason is why an image was refused; callers branch on it.
type Reason string

// The reasons, from the one that says least about an image to the one that says most.
const (
	ReasonPolicy      Reason = "policy can not decide"
	ReasonUnsigned    Reason = "unsigned"
	ReasonMalformed   Reason = "signature is malformed"
	ReasonNoKeys      Reason = "no trusted keys"
	ReasonWrongKey    Reason = "signed by a key that is not trusted"
	ReasonWrongDigest Reason = "signature is for another image"
	ReasonWrongRepo   Reason = "signed for another repository"
	ReasonWrongTag    Reason = "signed for another tag"
	ReasonPinned      Reason = "not the image of this release"
)

// rank orders reasons so that, of several signatures, the refusal tells of the
// one that came closest.
func (r Reason) rank() int {
	for i, known := range [...]Reason{
		ReasonPolicy, ReasonUnsigned, ReasonMalformed, ReasonNoKeys, ReasonWrongKey,
		ReasonWrongDigest, ReasonWrongRepo, ReasonWrongTag, ReasonPinned,
	} {
		if r == known {
			return i
		}
	}
	return -1
}

// RefusedError says which image was refused and why.
type RefusedError struct {
	Ref    string // as it was asked for
	Digest string // of the manifest, "sha256:…"
	Reason Reason
	Detail string // what was found, and what to do
}

func (e *RefusedError) Error() string {
	s := fmt.Sprintf("image %s (%s) refused: %s", e.Ref, e.Digest, e.Reason)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}
