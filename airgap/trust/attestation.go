package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// intotoType is the payload type of an envelope with an in-toto statement.
	intotoType = "application/vnd.in-toto+json"
	// maxSigners bounds the signatures on one envelope.
	maxSigners = 16
)

// Statement is an in-toto statement about an image (v1, or v0.1, which the cosign CLI
// writes): https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md.
type Statement struct {
	PredicateType string
	Predicate     json.RawMessage // what is said: a JSON object
	Subjects      []v1.Hash       // sha256 digests of the manifests that it is about
}

// Attested stands for a statement that a trusted key signed about one manifest. Only
// [Policy.Attested] makes a valid one.
type Attested struct {
	statement Statement
	key       Key
}

// Valid is false for the zero Attested.
func (a Attested) Valid() bool { return a.key.verifier != nil }

// Statement is what was signed. The caller must not change it.
func (a Attested) Statement() Statement { return a.statement }

// Key is the key that signed it.
func (a Attested) Key() Key { return a.key }

// envelope is a DSSE envelope: https://github.com/secure-systems-lab/dsse/blob/master/envelope.md.
// The keyid of a signature is an unsigned hint and is not read.
type envelope struct {
	PayloadType string `json:"payloadType"`
	Payload     string `json:"payload"`
	Signatures  []struct {
		Sig string `json:"sig"`
	} `json:"signatures"`
}

// Attested verifies a DSSE envelope with an in-toto statement about a manifest: that one
// of the policy's keys signed it, and that it is about that manifest. The mode is not
// looked at. The caller bounds the envelope's size; about three times that much memory is
// used.
func (p Policy) Attested(manifest v1.Hash, env []byte) (Attested, error) {
	if manifest.Algorithm != "sha256" || len(manifest.Hex) != 64 {
		return Attested{}, fmt.Errorf("%s: a sha256 digest is needed", ReasonPolicy)
	}
	e, payload, err := open(env)
	if err != nil {
		return Attested{}, err
	}
	key, err := p.attester(e, payload)
	if err != nil {
		return Attested{}, err
	}
	// From here on the payload is what a trusted key signed.
	s, err := parseStatement(payload)
	if err != nil {
		return Attested{}, fmt.Errorf("%s signed %w", key, err)
	}
	if !s.About(manifest) {
		return Attested{}, fmt.Errorf("%s: %s signed it for %s", ReasonWrongDigest, key, digests(s.Subjects))
	}
	return Attested{statement: s, key: key}, nil
}

// UnverifiedStatement reads an envelope without checking its signature. It is for showing
// to people who insist, never for a decision.
func UnverifiedStatement(env []byte) (Statement, error) {
	_, payload, err := open(env)
	if err != nil {
		return Statement{}, err
	}
	return parseStatement(payload)
}

// About tells whether the statement is about the manifest.
func (s Statement) About(manifest v1.Hash) bool {
	for _, h := range s.Subjects {
		if h == manifest {
			return true
		}
	}
	return false
}

// open decodes an envelope that may hold a statement.
func open(env []byte) (envelope, []byte, error) {
	var e envelope
	if err := json.Unmarshal(env, &e); err != nil {
		return e, nil, fmt.Errorf("it is no DSSE envelope: %w", err)
	}
	if e.PayloadType != intotoType {
		return e, nil, fmt.Errorf("its payload is of type %q, not %s", short(e.PayloadType), intotoType)
	}
	payload, err := decode(e.Payload)
	if err != nil || len(payload) == 0 {
		return e, nil, errors.New("its payload is empty or not base64")
	}
	return e, payload, nil
}

// attester returns the trusted key that signed the envelope.
func (p Policy) attester(e envelope, payload []byte) (Key, error) {
	if len(e.Signatures) == 0 {
		return Key{}, errors.New(string(ReasonUnsigned))
	}
	if len(e.Signatures) > maxSigners {
		return Key{}, fmt.Errorf("%d signatures on one envelope, more than the %d that are read", len(e.Signatures), maxSigners)
	}
	// What is signed: the pre-authentication encoding of the DSSE protocol.
	pae := fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(e.PayloadType), e.PayloadType, len(payload))
	known := p.keyNames()
	if known == "" {
		return Key{}, errors.New(string(ReasonNoKeys))
	}
	for _, s := range e.Signatures {
		raw, err := decode(s.Sig)
		if err != nil || len(raw) == 0 {
			continue // it can't be of a trusted key
		}
		for _, keys := range [][]Key{p.ReleaseKeys, p.OperatorKeys} {
			for _, k := range keys {
				if k.verifier == nil {
					continue
				}
				message := io.MultiReader(bytes.NewReader(pae), bytes.NewReader(payload))
				if k.verifier.VerifySignature(bytes.NewReader(raw), message) == nil {
					return k, nil
				}
			}
		}
	}
	return Key{}, fmt.Errorf("%s (trusted: %s)", ReasonWrongKey, known)
}

// decode reads base64 in either alphabet, as the DSSE protocol asks of readers.
func decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, "-_") {
		return base64.URLEncoding.DecodeString(s)
	}
	return base64.StdEncoding.DecodeString(s)
}

func parseStatement(payload []byte) (Statement, error) {
	var raw struct {
		Type    string `json:"_type"`
		Subject []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
		PredicateType string          `json:"predicateType"`
		Predicate     json.RawMessage `json:"predicate"`
	}
	if err := json.Unmarshal(payload, &raw); err != nil {
		return Statement{}, fmt.Errorf("no in-toto statement: %w", err)
	}
	if raw.Type != "https://in-toto.io/Statement/v1" && raw.Type != "https://in-toto.io/Statement/v0.1" {
		return Statement{}, fmt.Errorf("no in-toto statement of a known version: its type is %q", short(raw.Type))
	}
	if raw.PredicateType == "" || !bytes.HasPrefix(raw.Predicate, []byte("{")) {
		return Statement{}, errors.New("an in-toto statement without a predicate")
	}
	s := Statement{PredicateType: raw.PredicateType, Predicate: raw.Predicate}
	for _, sub := range raw.Subject {
		if h, err := v1.NewHash("sha256:" + sub.Digest["sha256"]); err == nil {
			s.Subjects = append(s.Subjects, h)
		}
	}
	return s, nil
}

func digests(all []v1.Hash) string {
	if len(all) == 0 {
		return "no image"
	}
	if len(all) > 1 {
		return fmt.Sprintf("%s and %d more", all[0], len(all)-1)
	}
	return all[0].String()
}

// short keeps what others wrote out of messages at length.
func short(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
