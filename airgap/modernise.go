package airgap

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Modernise gives an image of a legacy docker-archive, which has no manifest, the OCI
// manifest of its config and its layers as they are. The same image gives the same
// manifest. take is given every blob, the manifest last, and reads it to its end; it may
// be called concurrently. Layers are held to the digests that the config has of them.
func (a *Archive) Modernise(ctx context.Context, img Image, take func(d v1.Descriptor, r io.Reader) error) (v1.Descriptor, error) {
	d, err := a.modernise(ctx, img, take)
	if err != nil {
		return d, fmt.Errorf("reading %s: image %s: %w", a.file, img.label(), err)
	}
	return d, nil
}

func (a *Archive) modernise(ctx context.Context, img Image, take func(d v1.Descriptor, r io.Reader) error) (v1.Descriptor, error) {
	if img.legacy == nil {
		return v1.Descriptor{}, errors.New("it has a manifest")
	}
	config, err := a.rawConfig(ctx, img.legacy.id)
	if err != nil {
		return v1.Descriptor{}, err
	}
	layers, err := a.stored(img)
	if err != nil {
		return v1.Descriptor{}, err
	}
	byName, err := a.describeLayers(ctx, layers)
	if err != nil {
		return v1.Descriptor{}, err
	}
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: img.legacy.id},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, byName[l.name])
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return v1.Descriptor{}, err
	}
	err = a.visitStored(ctx, layers, func(_ context.Context, s stored, content io.Reader) error { return take(byName[s.name], content) })
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: m.MediaType, Size: int64(len(raw)), Digest: hashOf(raw)}
	return d, errors.Join(take(m.Config, bytes.NewReader(config)), take(d, bytes.NewReader(raw)))
}

// rawConfig finds the file whose content has a digest.
func (a *Archive) rawConfig(ctx context.Context, want v1.Hash) ([]byte, error) {
	r, c, err := a.stream(nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var found []byte
	done := errors.New("found")
	_, err = scanTar(ctx, r, a.tarSize(), func(e entry, _ []byte, content io.Reader) error {
		if e.kind != tar.TypeReg || e.size > maxManifest {
			return nil
		}
		b, err := io.ReadAll(content)
		if err != nil || hashOf(b) != want {
			return err
		}
		found = b
		return done
	})
	if found == nil && err == nil {
		err = fmt.Errorf("%w: its config %s is gone", ErrDamaged, want)
	}
	if found != nil {
		err = nil
	}
	return found, err
}

// describeLayers hashes layers, by the names of their files.
func (a *Archive) describeLayers(ctx context.Context, layers []stored) (map[string]v1.Descriptor, error) {
	var mu sync.Mutex
	out := map[string]v1.Descriptor{}
	err := a.visitStored(ctx, layers, func(_ context.Context, s stored, content io.Reader) error {
		start := make([]byte, 4)
		n, err := io.ReadFull(content, start)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		h := sha256.New()
		h.Write(start[:n])
		rest, err := io.Copy(h, content)
		if err != nil {
			return err
		}
		d := v1.Descriptor{MediaType: layerType(start[:n]), Size: int64(n) + rest, Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}}
		if d.MediaType == types.OCIUncompressedLayer && s.diffID != "" && s.diffID != d.Digest.String() {
			return fmt.Errorf("%w: it has the digest %s, and the image's config says %s: copy the file again", ErrDamaged, d.Digest, s.diffID)
		}
		mu.Lock()
		defer mu.Unlock()
		out[s.name] = d
		return nil
	})
	return out, err
}

// layerType tells by a layer's first bytes how it is compressed.
func layerType(start []byte) types.MediaType {
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		return types.OCILayer
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return types.OCILayerZStd
	}
	return types.OCIUncompressedLayer
}
