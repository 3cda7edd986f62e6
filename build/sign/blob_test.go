package sign

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
)

// A file's signature is the same each time, and is about exactly that file.
func TestSignBlob(t *testing.T) {
	k := newKey(t)
	content := []byte("sums\n")
	sig, err := k.SignBlob(ctx, content)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := k.SignBlob(ctx, content); err != nil || !bytes.Equal(sig, again) {
		t.Errorf("signed again: %s, %v; want %s", again, err, sig)
	}
	raw, err := base64.StdEncoding.DecodeString(string(sig))
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.LoadVerifier(k.public, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.VerifySignature(bytes.NewReader(raw), bytes.NewReader(content)); err != nil {
		t.Error(err)
	}
	if err := v.VerifySignature(bytes.NewReader(raw), bytes.NewReader([]byte("sums"))); err == nil {
		t.Error("it verifies for another file")
	}
}
