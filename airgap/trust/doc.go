// Package trust decides whether an image may be used. It verifies cosign
// "simple signing" signatures (https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md)
// made with plain keys, with no network, no transparency log and no clock, and
// hands out an [Admitted] value, which only a [Policy] can make. In the same way it
// verifies attestations, which are in-toto statements in DSSE envelopes
// (https://github.com/secure-systems-lab/dsse), and hands out [Attested] values. It
// fails closed: the zero Policy admits nothing, and the zero Admitted and Attested
// are not valid.
package trust
