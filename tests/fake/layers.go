package fake

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// LayerSize is about the size, in bytes, of one of the layers of [Layers].
const LayerSize = 100_000

// Layers makes an OCI image with a layer for each seed: an executable file
// /bin/file-SEED of bytes that do not compress. The same seed is the same layer.
func Layers(architecture string, seeds ...int64) (v1.Image, error) {
	image := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	for _, seed := range seeds {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("bin/file-%d", seed), Mode: 0o755, Size: LayerSize}); err != nil {
			return nil, err
		}
		if _, err := io.CopyN(w, rand.New(rand.NewSource(seed)), LayerSize); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b.Bytes())), nil
		}, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, err
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return nil, err
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	return mutate.ConfigFile(image, config)
}
