package fake

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// AddIndex puts an image into the store by way of an image index, as registries have it:
// the index lists also an image for another architecture, which nobody has. Names are full
// references; one that ends in "@" is completed with the index's digest, which comes back.
func (s *Store) AddIndex(image v1.Image, architecture string, names ...string) (v1.Hash, error) {
	d, err := s.put(image)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("adding %s: %w", names, err)
	}
	d.Platform = &v1.Platform{OS: "linux", Architecture: architecture}
	elsewhere := v1.Descriptor{
		MediaType: d.MediaType, Size: 1, Digest: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)},
		Platform: &v1.Platform{OS: "linux", Architecture: "s390x"},
	}
	raw, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{elsewhere, d}})
	if err != nil {
		return v1.Hash{}, err
	}
	h := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(raw))}
	s.blobs[h] = raw
	for _, name := range names {
		if strings.HasSuffix(name, "@") {
			name += h.String()
		}
		s.AddBase(v1.Descriptor{MediaType: types.OCIImageIndex, Size: int64(len(raw)), Digest: h}, name)
	}
	return h, nil
}
