package upstream

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/build/cache"
)

const (
	signatureKind = "upstream-signatures"
	// What cosign writes (cosign's signature specification).
	payloadType         = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	maxSignatures       = 64
	maxPayload          = 64 << 10
)

// verify checks that the declared key signed the locked digest as the declared image.
// Nothing but the key is asked: no transparency log, no clock.
func (m *Maker) verify(ctx context.Context, s subject) error {
	if s.c.Upstream.Key == "" {
		return nil
	}
	key, err := trust.LoadKey(s.c.Upstream.Key)
	if err != nil {
		return err
	}
	id, err := cache.Key([]string{s.tag.Context().Name(), s.digest.String(), key.ID()})
	if err != nil {
		return err
	}
	dir, _, err := m.cache.Fill(signatureKind, id, func(dir string) error {
		sigs, err := m.fetchSignatures(ctx, s)
		if err != nil {
			return err
		}
		if err := admit(s, key, sigs); err != nil {
			return err // only what verifies is kept
		}
		data, err := json.Marshal(sigs)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, content), data, 0o644)
	})
	if err != nil {
		return fmt.Errorf("upstream image %s: checking its signature: %w", s, err)
	}
	// What the cache has is not believed either.
	data, err := os.ReadFile(filepath.Join(dir, content))
	if err != nil {
		return fmt.Errorf("upstream image %s: reading its cached signature: %w", s, err)
	}
	var sigs []trust.Signature
	if err := json.Unmarshal(data, &sigs); err != nil {
		return fmt.Errorf("upstream image %s: its cached signature %s is damaged: remove that and build again: %w", s, dir, err)
	}
	if err := admit(s, key, sigs); err != nil {
		return fmt.Errorf("upstream image %s: its cached signature %s: %w", s, dir, err)
	}
	return nil
}

func admit(s subject, key trust.Key, sigs []trust.Signature) error {
	_, err := trust.Policy{Mode: trust.ModeAll, OperatorKeys: []trust.Key{key}}.Admit(s.tag, s.digest, sigs)
	var refused *trust.RefusedError
	if errors.As(err, &refused) && refused.Reason == trust.ReasonWrongKey {
		return fmt.Errorf("it is signed, but not by %s, which image.yaml declares: %w", key, err)
	}
	return err
}

// fetchSignatures gets what cosign stored for the digest.
func (m *Maker) fetchSignatures(ctx context.Context, s subject) ([]trust.Signature, error) {
	repo, err := m.client.Repository(ctx, s.tag.Context(), registry.Pull)
	if err != nil {
		return nil, err
	}
	tag := strings.Replace(s.digest.String(), ":", "-", 1) + ".sig"
	data, _, err := repo.Manifest(ctx, tag)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, fmt.Errorf("it is not signed: the registry has no %s; image.yaml declares the key %s: %w", tag, s.c.Upstream.Key, err)
	}
	if err != nil {
		return nil, err
	}
	man, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", tag, err)
	}
	if len(man.Layers) > maxSignatures {
		return nil, fmt.Errorf("reading %s: %d signatures, more than the %d that are read", tag, len(man.Layers), maxSignatures)
	}
	var out []trust.Signature
	for _, l := range man.Layers {
		if l.MediaType != payloadType || l.Size > maxPayload {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(l.Annotations[signatureAnnotation])
		if err != nil {
			continue
		}
		payload, err := m.small(ctx, repo, l)
		if err != nil {
			return nil, err
		}
		out = append(out, trust.Signature{Payload: payload, Raw: raw})
	}
	return out, nil
}

func (m *Maker) small(ctx context.Context, repo *registry.Repository, d v1.Descriptor) (data []byte, err error) {
	dir, err := m.cache.TempDir()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	err = create(filepath.Join(dir, content), func(f *os.File) error {
		if err := repo.FetchBlob(ctx, d, f, nil); err != nil {
			return err
		}
		data, err = readAll(f)
		return err
	})
	return data, err
}
