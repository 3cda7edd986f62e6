package sign

import (
	"context"
	"encoding/base64"
	"fmt"
)

// SignBlob signs a file's content as cosign sign-blob does: the result is the signature in
// base64, as cosign verify-blob --signature and `openssl dgst -sha256 -verify` (once it is
// decoded) take it. With an ECDSA key in a file the same content gives the same signature.
func (k *Key) SignBlob(ctx context.Context, content []byte) ([]byte, error) {
	sig, err := k.sign(ctx, content)
	if err != nil {
		return nil, fmt.Errorf("signing a file: %w", err)
	}
	if err := k.verify(content, sig); err != nil {
		return nil, fmt.Errorf("signing a file: the signature does not verify with the key's public half: %w", err)
	}
	return []byte(base64.StdEncoding.EncodeToString(sig)), nil
}
