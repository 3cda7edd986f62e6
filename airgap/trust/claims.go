package trust

import (
	"encoding/json"
	"fmt"

	"github.com/sigstore/sigstore/pkg/signature/payload"
)

// Claims is what a signature's payload says. Nobody has verified it: it is for
// showing to people, never for a decision.
type Claims struct {
	Reference   string // docker-reference: the repository, perhaps with a tag
	Digest      string // of the manifest
	Tag         string
	Development bool
}

// UnverifiedClaims reads a payload without checking its signature.
func (s Signature) UnverifiedClaims() (Claims, error) {
	var p payload.Cosign
	if err := json.Unmarshal(s.Payload, &p); err != nil {
		return Claims{}, fmt.Errorf("reading signature payload: %w", err)
	}
	c := Claims{Reference: p.ClaimedIdentity, Digest: p.Image.DigestStr(), Development: fmt.Sprint(p.Annotations[ClaimDevelopment]) == "true"}
	if t, ok := p.Annotations[ClaimTag]; ok {
		c.Tag = fmt.Sprint(t)
	}
	return c, nil
}
