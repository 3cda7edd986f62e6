package buildkit

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
)

// A cache entry has the image's blobs under their digests, and what names them.
const (
	blobsName = "blobs"
	indexName = "index.json" // the descriptor of the manifest
	// maxDocument is more than any manifest or config has.
	maxDocument = 8 << 20
)

var blobPath = regexp.MustCompile(`^blobs/sha256/[0-9a-f]{64}$`)

// keep reads the OCI layout in a tar that BuildKit writes. Each blob goes to its place
// while it is hashed; nothing is held in memory.
func (j *job) keep(r io.Reader, dir string) error {
	if err := os.Mkdir(filepath.Join(dir, blobsName), 0o755); err != nil {
		return fmt.Errorf("keeping BuildKit's image: %w", err)
	}
	var index []byte
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			switch {
			case h.Name == "index.json":
				index, err = io.ReadAll(io.LimitReader(t, maxDocument))
			case blobPath.MatchString(h.Name):
				err = keepBlob(t, filepath.Join(dir, blobsName), filepath.Base(h.Name))
			}
		}
		if err != nil {
			return fmt.Errorf("keeping BuildKit's image: %w", err)
		}
	}
	// What follows the end of the tar is padding.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("keeping BuildKit's image: %w", err)
	}
	if err := j.finish(index, dir); err != nil {
		return fmt.Errorf("keeping BuildKit's image: %w", err)
	}
	return nil
}

func keepBlob(r io.Reader, dir, name string) (err error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), r); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != name {
		return fmt.Errorf("blob sha256:%s has digest sha256:%s", name, got)
	}
	return nil
}

// finish looks for the one manifest and drops blobs that it doesn't name.
func (j *job) finish(index []byte, dir string) error {
	var layout v1.IndexManifest
	if err := json.Unmarshal(index, &layout); err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	if len(layout.Manifests) != 1 || layout.Manifests[0].MediaType != types.OCIManifestSchema1 {
		return fmt.Errorf("index.json names %d manifests, or none of an image: expected one", len(layout.Manifests))
	}
	d := layout.Manifests[0]
	data, err := json.Marshal(v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, indexName), data, 0o644); err != nil {
		return err
	}
	img, _, err := parse(dir)
	if err != nil {
		return err
	}
	wanted := map[string]bool{d.Digest.Hex: true}
	var m v1.Manifest
	if err := json.Unmarshal(img.Manifest, &m); err != nil {
		return err
	}
	for _, b := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		wanted[b.Digest.Hex] = true
	}
	blobs, err := os.ReadDir(filepath.Join(dir, blobsName))
	if err != nil {
		return err
	}
	for _, b := range blobs {
		if !wanted[b.Name()] {
			if err := os.Remove(filepath.Join(dir, blobsName, b.Name())); err != nil {
				return err
			}
		}
	}
	return j.list(img, dir)
}

// parse gives the image of a cache entry. Blobs were checked when they came; here it is
// seen to that they are whole.
func parse(dir string) (image.Image, v1.ConfigFile, error) {
	var (
		img    image.Image
		config v1.ConfigFile
		m      v1.Manifest
	)
	data, err := os.ReadFile(filepath.Join(dir, indexName))
	if err != nil {
		return img, config, err
	}
	if err := json.Unmarshal(data, &img.Descriptor); err != nil {
		return img, config, fmt.Errorf("%s: %w", indexName, err)
	}
	if img.Manifest, err = document(dir, img.Descriptor); err != nil {
		return img, config, err
	}
	if err := json.Unmarshal(img.Manifest, &m); err != nil {
		return img, config, fmt.Errorf("manifest %s: %w", img.Descriptor.Digest, err)
	}
	if img.Config, err = document(dir, m.Config); err != nil {
		return img, config, err
	}
	if err := json.Unmarshal(img.Config, &config); err != nil {
		return img, config, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	if len(m.Layers) != len(config.RootFS.DiffIDs) {
		return img, config, fmt.Errorf("manifest %s has %d layers, its config %d", img.Descriptor.Digest, len(m.Layers), len(config.RootFS.DiffIDs))
	}
	for i, d := range m.Layers {
		if d.MediaType != types.OCILayerZStd {
			return img, config, fmt.Errorf("layer %s is %s, expected %s", d.Digest, d.MediaType, types.OCILayerZStd)
		}
		l := layer.Layer{Digest: d.Digest, DiffID: config.RootFS.DiffIDs[i], Size: d.Size, Blob: filepath.Join(dir, blobsName, d.Digest.Hex)}
		st, err := os.Stat(l.Blob)
		if err != nil {
			return img, config, err
		}
		if st.Size() != l.Size {
			return img, config, fmt.Errorf("layer %s has %d bytes, expected %d", l.Blob, st.Size(), l.Size)
		}
		img.Layers = append(img.Layers, l)
	}
	return img, config, nil
}

// document reads a manifest or config and checks it.
func document(dir string, d v1.Descriptor) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, blobsName, d.Digest.Hex))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	if d.Digest.Algorithm != "sha256" || hex.EncodeToString(sum[:]) != d.Digest.Hex || int64(len(data)) != d.Size {
		return nil, fmt.Errorf("blob %s is damaged", d.Digest)
	}
	return data, nil
}

// load gives the image of a finished cache entry.
func (j *job) load(dir string, hit bool) (image.Image, error) {
	img, config, err := parse(dir)
	if err != nil {
		return img, fmt.Errorf("reading cached image %s: %w", dir, err)
	}
	if config.OS != j.platform.OS || config.Architecture != j.platform.Architecture {
		return img, fmt.Errorf("BuildKit made an image for %s/%s, asked for was %s", config.OS, config.Architecture, j.platform.String())
	}
	platform := j.platform
	img.Descriptor.Platform = &platform
	for i := range img.Layers {
		img.Layers[i].Cached = hit
	}
	if img.Files, err = j.files(dir); err != nil {
		return img, fmt.Errorf("reading cached image %s: %w", dir, err)
	}
	return img, nil
}
