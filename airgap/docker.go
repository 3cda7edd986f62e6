package airgap

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// legacyImage is where a legacy docker-archive has an image's parts. There are no
// manifests; but the config's name is its digest, and it lists the layers' digests
// before compression.
type legacyImage struct {
	id     v1.Hash // of the config
	config *v1.ConfigFile
	layers []entry
}

// resolveDocker lists the images of a legacy docker-archive. Links between layers are
// its own convention and stay inside.
func (a *Archive) resolveDocker(s *scanner) error {
	for _, l := range s.links {
		to := path.Join(path.Dir(l.name), l.link)
		if path.IsAbs(l.link) || to == ".." || strings.HasPrefix(to, "../") {
			return fmt.Errorf("%w: the link %s leads outside the archive, to %q", ErrRefusedContent, l.name, l.link)
		}
		if e, ok := s.names[to]; ok {
			s.names[l.name] = e
		}
	}
	var docker []dockerImage
	if err := unmarshal(s.head.manifest, &docker, manifestFile); err != nil {
		return err
	}
	for _, d := range docker {
		img, err := a.legacy(s, d)
		if err != nil {
			return err
		}
		a.images = append(a.images, img)
	}
	if len(a.images) == 0 {
		return fmt.Errorf("%w: %w", ErrNotArchive, errNoImages)
	}
	sortImages(a.images)
	return nil
}

func (a *Archive) legacy(s *scanner, d dockerImage) (Image, error) {
	img := Image{Desc: v1.Descriptor{MediaType: types.DockerManifestSchema2}, legacy: &legacyImage{}}
	for _, t := range d.RepoTags {
		tag, err := ParseTag(t)
		if err != nil {
			return img, fmt.Errorf("%w: %s: %w", ErrDamaged, manifestFile, err)
		}
		img.Refs = append(img.Refs, tag)
	}
	img.sortRefs()
	what := "image " + strings.Join(d.RepoTags, ", ")
	for _, part := range append([]string{d.Config}, d.Layers...) {
		e, ok := s.names[path.Clean(part)]
		if !ok {
			return img, fmt.Errorf("%w: %s: its part %q is missing", ErrDamaged, what, part)
		}
		img.legacy.layers = append(img.legacy.layers, e)
	}
	config := img.legacy.layers[0]
	img.legacy.layers = img.legacy.layers[1:]
	b, err := a.legacyConfig(s, config)
	if err != nil {
		return img, fmt.Errorf("%s: %w", what, err)
	}
	img.legacy.id = hashOf(b)
	// Old tools named it otherwise.
	if named := configDigest(config.name); named != (v1.Hash{}) && named != img.legacy.id {
		return img, fmt.Errorf("%w: %s: its config has the digest %s: copy the file again", ErrDamaged, what, img.legacy.id)
	}
	if img.legacy.config, err = v1.ParseConfigFile(bytes.NewReader(b)); err != nil {
		return img, fmt.Errorf("%w: %s: its config %s: %w", ErrDamaged, what, config.name, err)
	}
	if n := len(img.legacy.config.RootFS.DiffIDs); n > 0 && n != len(d.Layers) {
		return img, fmt.Errorf("%w: %s: its config speaks of %d layers and %s of %d", ErrDamaged, what, n, manifestFile, len(d.Layers))
	}
	if c := img.legacy.config; c.OS != "" || c.Architecture != "" {
		img.Platform = c.Platform()
	}
	return img, nil
}

// legacyConfig reads a config, which in a compressed archive has passed by.
func (a *Archive) legacyConfig(s *scanner, e entry) ([]byte, error) {
	if a.comp == plain {
		return readLimited(io.NewSectionReader(a.f, e.off, e.size), e.name, e.size, maxManifest)
	}
	b, ok := s.configs[e.name]
	if h, blob := parseBlobName(e.name); blob {
		b, ok = a.small[h]
	}
	if !ok {
		return nil, fmt.Errorf("%w: its config %s is no .json file, or has more than %d bytes", ErrRefusedContent, e.name, maxLegacyConfig)
	}
	return b, nil
}

// Bounds on the configs of a compressed legacy archive, which are kept when they pass.
const (
	maxLegacyConfig  = 256 << 10
	maxLegacyConfigs = 16 << 20
)

// other takes a file that is no part of an OCI layout.
func (s *scanner) other(e entry, r io.Reader) error {
	if s.a.comp == plain || s.ours || !strings.HasSuffix(e.name, ".json") || e.size > maxLegacyConfig {
		return nil
	}
	kept := int64(0)
	for _, b := range s.configs {
		kept += int64(len(b))
	}
	if kept+e.size > maxLegacyConfigs {
		return nil
	}
	b, err := readLimited(r, e.name, e.size, maxLegacyConfig)
	if err != nil {
		return err
	}
	if s.configs == nil {
		s.configs = map[string][]byte{}
	}
	s.configs[e.name] = b
	return nil
}
