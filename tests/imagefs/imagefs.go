// Package imagefs unpacks images of an OCI layout (image-spec v1.1) into folders, so that
// tests can run what is in them as a container would: with nothing else around.
package imagefs

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// Annotations and their values, as they are in the layout.
const (
	refName   = "org.opencontainers.image.ref.name"
	kind      = "kind"
	kindImage = "dev.cosignproject.cosign/image"
)

// Image is an image for one platform.
type Image struct {
	Reference string // registry/repo/name:tag
	Name      string // the repository's last element
	Platform  v1.Platform
	Config    v1.Config

	layout   string
	manifest v1.Manifest
}

// List gives the images of a layout, one for each platform, in the order of its index.
func List(layout string) ([]Image, error) {
	var index v1.IndexManifest
	data, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err != nil {
		return nil, fmt.Errorf("reading layout %s: %w", layout, err)
	}
	var out []Image
	for _, d := range index.Manifests {
		if d.Annotations[kind] != kindImage {
			continue
		}
		ref := d.Annotations[refName]
		repository, _, _ := strings.Cut(path.Base(ref), ":")
		var platforms v1.IndexManifest
		if err := readJSON(layout, d.Digest, &platforms); err != nil {
			return nil, fmt.Errorf("image %s: %w", ref, err)
		}
		for _, p := range platforms.Manifests {
			i := Image{Reference: ref, Name: repository, layout: layout}
			if p.Platform != nil {
				i.Platform = *p.Platform
			}
			if err := readJSON(layout, p.Digest, &i.manifest); err != nil {
				return nil, fmt.Errorf("image %s: %w", ref, err)
			}
			var config v1.ConfigFile
			if err := readJSON(layout, i.manifest.Config.Digest, &config); err != nil {
				return nil, fmt.Errorf("image %s: %w", ref, err)
			}
			i.Config = config.Config
			out = append(out, i)
		}
	}
	return out, nil
}

// Find gives the image of that name for a platform of linux.
func Find(layout, name, arch string) (Image, error) {
	all, err := List(layout)
	if err != nil {
		return Image{}, err
	}
	var there []string
	for _, i := range all {
		if i.Name == name && i.Platform.OS == "linux" && i.Platform.Architecture == arch {
			return i, nil
		}
		there = append(there, i.Name+" "+i.Platform.String())
	}
	return Image{}, fmt.Errorf("layout %s has no image %s for linux/%s; it has: %s", layout, name, arch, strings.Join(there, ", "))
}

func readJSON(layout string, digest v1.Hash, out any) error {
	data, err := os.ReadFile(blob(layout, digest))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, out)
}

func blob(layout string, digest v1.Hash) string {
	return filepath.Join(layout, "blobs", digest.Algorithm, digest.Hex)
}

// Unpack writes the image's files below dir, owned by who runs it and with their modes
// whatever the umask. wanted chooses regular files by path in the image; nil is all.
func (i Image) Unpack(dir string, wanted func(path string) bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", i.Reference, err)
	}
	defer root.Close()
	for _, l := range i.manifest.Layers {
		if err := unpackLayer(root, blob(i.layout, l.Digest), wanted); err != nil {
			return fmt.Errorf("unpacking %s: layer %s: %w", i.Reference, l.Digest, err)
		}
	}
	return nil
}

func unpackLayer(root *os.Root, path string, wanted func(path string) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	t := tar.NewReader(z)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackEntry(root, h, t, wanted); err != nil {
			return fmt.Errorf("/%s: %w", h.Name, err)
		}
	}
}

func unpackEntry(root *os.Root, h *tar.Header, content io.Reader, wanted func(path string) bool) error {
	name := filepath.FromSlash(strings.Trim(h.Name, "/"))
	mode := fs.FileMode(h.Mode).Perm()
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return root.Chmod(name, mode)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		if wanted != nil && !wanted(strings.Trim(h.Name, "/")) {
			return nil
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, content); err != nil {
			_ = f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		return root.Chmod(name, mode)
	}
	return fmt.Errorf("type %q, which our layers don't have", h.Typeflag)
}
