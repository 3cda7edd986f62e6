package trust

import (
	"github.com/google/go-containerregistry/pkg/name"
)

// Pinned admits a reference with the digest that the policy pins it to, without
// any signature: the digest came with the program, so bytes that match it are
// the release's. It is false where nothing is pinned, or more than one digest.
func (p Policy) Pinned(ref name.Tag) (Admitted, bool) {
	_, pins, err := p.look(ref.Context(), ref.TagStr())
	if err != nil || len(pins) != 1 {
		return Admitted{}, false
	}
	return Admitted{ref: ref, digest: pins[0], by: "pinned by the release", valid: true}, true
}

// Required reports whether an image must carry a trusted signature to be
// admitted under ref.
func (p Policy) Required(ref name.Tag) bool {
	if p.Mode == ModeOff {
		return false
	}
	system, _, err := p.look(ref.Context(), ref.TagStr())
	return err != nil || p.Mode != ModeSystem || system || len(p.Pins)+len(p.System) == 0
}
