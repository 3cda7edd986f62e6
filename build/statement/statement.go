// Package statement writes in-toto Statements v1
// (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md): who says what
// (the predicate) about which image (the subject, by the digest of its manifest).
package statement

import (
	"bytes"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// Type is the _type of every statement that this package writes and reads.
	Type = "https://in-toto.io/Statement/v1"
	// SPDX is the predicate type of an SPDX document (SBOM).
	SPDX = "https://spdx.dev/Document"
	// Provenance is the predicate type of SLSA provenance v1.
	Provenance = "https://slsa.dev/provenance/v1"
)

// Statement is an in-toto Statement v1.
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Subject is what a statement is about.
type Subject struct {
	Name   string            `json:"name"`   // registry/repo/name, without tag
	Digest map[string]string `json:"digest"` // by algorithm, hex
}

// Encode gives the bytes of a statement about one image: compact JSON, the same for the
// same input. repository is registry/repo/name, digest "sha256:…", of the manifest.
func Encode(predicateType, repository, digest string, predicate []byte) ([]byte, error) {
	h, err := v1.NewHash(digest)
	if err != nil || h.Algorithm != "sha256" {
		return nil, fmt.Errorf("making a statement about %s: %q is no sha256 digest", repository, digest)
	}
	if repository == "" {
		return nil, fmt.Errorf("making a statement about %s: the image has no name", digest)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err = enc.Encode(Statement{
		Type:          Type,
		Subject:       []Subject{{Name: repository, Digest: map[string]string{h.Algorithm: h.Hex}}},
		PredicateType: predicateType,
		Predicate:     predicate,
	})
	if err != nil {
		return nil, fmt.Errorf("making a statement about %s: %w", repository, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Decode reads a statement and refuses what is none.
func Decode(data []byte) (Statement, error) {
	var s Statement
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("reading an in-toto statement: %w", err)
	}
	if s.Type != Type {
		return s, fmt.Errorf("reading an in-toto statement: its type is %q, not %s", s.Type, Type)
	}
	if s.PredicateType == "" || len(s.Predicate) == 0 || len(s.Subject) == 0 {
		return s, fmt.Errorf("reading an in-toto statement: it lacks a subject or a predicate")
	}
	return s, nil
}
