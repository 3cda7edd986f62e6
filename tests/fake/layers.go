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
	var files []file
	for _, seed := range seeds {
		files = append(files, noise(seed, LayerSize))
	}
	return image(architecture, v1.Config{}, files...)
}

// Large makes an OCI image of one layer of about that size, in bytes, that does not compress.
func Large(architecture string, size int64) (v1.Image, error) {
	return image(architecture, v1.Config{}, noise(1, size))
}

// file is a layer's only file.
type file struct {
	name    string
	size    int64
	content io.Reader
}

func noise(seed, size int64) file {
	return file{fmt.Sprintf("bin/file-%d", seed), size, rand.New(rand.NewSource(seed))}
}

// image makes an OCI image with a layer for each file, an executable one. Layers are gzip,
// as most tools write them.
func image(architecture string, c v1.Config, files ...file) (v1.Image, error) {
	image := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	for _, f := range files {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o755, Size: f.size}); err != nil {
			return nil, err
		}
		if _, err := io.CopyN(w, f.content, f.size); err != nil {
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
	config.Config.Entrypoint, config.Config.Cmd = c.Entrypoint, c.Cmd
	return mutate.ConfigFile(image, config)
}
