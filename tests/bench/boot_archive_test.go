//go:build linux

package bench

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	klauspost "github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/airgap"
)

// dockerArchive writes a bundle's images as `docker save` does, layers not compressed and
// each once, with zstd around it: the form of RKE2's published archives.
func dockerArchive(b *testing.B, bundle string) string {
	b.Helper()
	archive, err := airgap.Open(bundle)
	if err != nil {
		b.Fatal(err)
	}
	defer archive.Close()
	path := filepath.Join(b.TempDir(), strings.TrimSuffix(filepath.Base(bundle), ".tar")+".tar.zst")
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	compressed, err := klauspost.NewWriter(file)
	if err != nil {
		b.Fatal(err)
	}
	w := &dockerWriter{archive: archive, tar: tar.NewWriter(compressed), written: map[string]bool{}}
	for _, image := range admittedImages(b, archive) {
		if err := w.add(image); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(w.finish(), compressed.Close(), file.Close()); err != nil {
		b.Fatal(err)
	}
	return path
}

// dockerWriter writes a docker-archive.
type dockerWriter struct {
	archive  *airgap.Archive
	tar      *tar.Writer
	written  map[string]bool
	manifest []dockerImage
}

type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (w *dockerWriter) add(image airgap.Image) error {
	manifest, _, err := w.archive.Manifest(image.Desc.Digest)
	if err != nil {
		return err
	}
	r, err := w.archive.Blob(manifest.Config.Digest)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	entry := dockerImage{Config: manifest.Config.Digest.Hex + ".json"}
	for _, ref := range image.Refs {
		entry.RepoTags = append(entry.RepoTags, ref.String())
	}
	if err := w.write(entry.Config, int64(len(raw)), bytes.NewReader(raw)); err != nil {
		return err
	}
	for i, layer := range manifest.Layers {
		name := config.RootFS.DiffIDs[i].Hex + ".tar"
		entry.Layers = append(entry.Layers, name)
		if err := w.layer(name, layer); err != nil {
			return err
		}
	}
	w.manifest = append(w.manifest, entry)
	return nil
}

// layer writes a layer as it is before compression; its size is known only at its end, so
// it goes through a file.
func (w *dockerWriter) layer(name string, desc v1.Descriptor) error {
	if w.written[name] {
		return nil
	}
	blob, err := w.archive.Blob(desc.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	var plain io.Reader = blob
	switch desc.MediaType {
	case types.OCILayerZStd:
		decoder, err := klauspost.NewReader(blob)
		if err != nil {
			return err
		}
		defer decoder.Close()
		plain = decoder
	case types.OCILayer, types.DockerLayer:
		if plain, err = gzip.NewReader(blob); err != nil {
			return err
		}
	}
	file, err := os.CreateTemp("", "layer-")
	if err != nil {
		return err
	}
	defer func() {
		_ = file.Close()
		_ = os.Remove(file.Name())
	}()
	size, err := io.Copy(file, plain)
	if err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return w.write(name, size, file)
}

func (w *dockerWriter) write(name string, size int64, r io.Reader) error {
	if w.written[name] {
		return nil
	}
	w.written[name] = true
	if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(w.tar, r)
	return err
}

func (w *dockerWriter) finish() error {
	text, err := json.Marshal(w.manifest)
	if err != nil {
		return err
	}
	return errors.Join(w.write("manifest.json", int64(len(text)), bytes.NewReader(text)), w.tar.Close())
}
