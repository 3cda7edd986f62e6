package fake

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
)

// Store is a set of images and signatures that a bundle can be written from. It
// may stand on another source and say something else about its blobs. The zero
// Store is empty.
type Store struct {
	// Base has blobs that the store itself has not; may be nil.
	Base  airgap.Source
	index []v1.Descriptor
	blobs map[v1.Hash][]byte
}

var _ airgap.Source = (*Store)(nil)

// Index lists what was added.
func (s *Store) Index() (*v1.IndexManifest, error) {
	return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: slices.Clone(s.index)}, nil
}

// Blob opens a blob of the store or of its base.
func (s *Store) Blob(h v1.Hash) (io.ReadCloser, error) {
	if b, ok := s.blobs[h]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	if s.Base == nil {
		return nil, fmt.Errorf("store has no blob %s", h)
	}
	return s.Base.Blob(h)
}

// Add puts an image into the store under a full reference.
func (s *Store) Add(image v1.Image, reference string) (v1.Hash, error) {
	d, err := s.put(image)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("adding %s: %w", reference, err)
	}
	s.AddBase(d, reference)
	return d.Digest, nil
}

// AddBase lists an image of the base, by its descriptor, under a reference of the
// caller's choice.
func (s *Store) AddBase(d v1.Descriptor, reference string) {
	d.Annotations = map[string]string{
		airgap.AnnotationKind: airgap.KindImage, airgap.AnnotationImageName: reference, airgap.AnnotationRefName: reference,
	}
	s.index = append(s.index, d)
}

// AddSignatures lists a signature manifest of the base.
func (s *Store) AddSignatures(d v1.Descriptor) { s.index = append(s.index, d) }

// Sign adds a signature by key: that image is reference.
func (s *Store) Sign(key Key, reference string, image v1.Hash) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return err
	}
	body, raw, err := key.sign(tag, image)
	if err != nil {
		return fmt.Errorf("signing %s: %w", reference, err)
	}
	plain := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	signature, err := mutate.Append(plain, mutate.Addendum{
		Layer:       static.NewLayer(body, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(raw)},
	})
	if err != nil {
		return fmt.Errorf("signing %s: %w", reference, err)
	}
	d, err := s.put(signature)
	if err != nil {
		return fmt.Errorf("signing %s: %w", reference, err)
	}
	d.Annotations = map[string]string{airgap.AnnotationKind: airgap.KindSignatures, airgap.AnnotationSigns: image.String()}
	s.AddSignatures(d)
	return nil
}

func (s *Store) put(image v1.Image) (v1.Descriptor, error) {
	if s.blobs == nil {
		s.blobs = map[v1.Hash][]byte{}
	}
	d, err := partial.Descriptor(image)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if s.blobs[d.Digest], err = image.RawManifest(); err != nil {
		return v1.Descriptor{}, err
	}
	config, err := image.ConfigName()
	if err != nil {
		return v1.Descriptor{}, err
	}
	if s.blobs[config], err = image.RawConfigFile(); err != nil {
		return v1.Descriptor{}, err
	}
	layers, err := image.Layers()
	if err != nil {
		return v1.Descriptor{}, err
	}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return v1.Descriptor{}, err
		}
		r, err := l.Compressed()
		if err != nil {
			return v1.Descriptor{}, err
		}
		b, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return v1.Descriptor{}, err
		}
		s.blobs[h] = b
	}
	return v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest}, nil
}

// WriteBundle writes the store as a bundle for linux on architecture to path,
// signed or not.
func (s *Store) WriteBundle(ctx context.Context, path, architecture string) error {
	return writeBundle(ctx, s, path, architecture)
}

// Find returns the descriptors of this platform's image of a source and of its
// signatures, by the end of its repository's name.
func Find(src airgap.Source, repository string) (reference string, image v1.Descriptor, signatures []v1.Descriptor, err error) {
	idx, err := src.Index()
	if err != nil {
		return "", image, nil, err
	}
	for _, d := range idx.Manifests {
		tag, err := airgap.ParseTag(d.Annotations[airgap.AnnotationImageName])
		if err == nil && strings.HasSuffix("/"+tag.RepositoryStr(), "/"+repository) {
			reference, image = tag.String(), d
		}
	}
	if reference == "" {
		return "", image, nil, fmt.Errorf("no image %s in the source", repository)
	}
	if image, err = ofPlatform(src, image); err != nil {
		return "", image, nil, fmt.Errorf("image %s: %w", reference, err)
	}
	for _, d := range idx.Manifests {
		if d.Annotations[airgap.AnnotationKind] == airgap.KindSignatures && d.Annotations[airgap.AnnotationSigns] == image.Digest.String() {
			signatures = append(signatures, d)
		}
	}
	return reference, image, signatures, nil
}

// ofPlatform finds this platform's manifest in an image index.
func ofPlatform(src airgap.Source, d v1.Descriptor) (v1.Descriptor, error) {
	if !d.MediaType.IsIndex() {
		return d, nil
	}
	r, err := src.Blob(d.Digest)
	if err != nil {
		return d, err
	}
	idx, err := v1.ParseIndexManifest(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return d, err
	}
	for _, m := range idx.Manifests {
		if m.Platform != nil && m.Platform.Architecture == runtime.GOARCH {
			return m, nil
		}
	}
	return d, fmt.Errorf("its index has no manifest for %s", runtime.GOARCH)
}
