package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/build/artifact"
)

const (
	blobKind = "upstream-blob" // by digest; an entry has the one file content
	content  = "content"
	// maxSmall bounds manifests and configs, which are held in memory.
	maxSmall = 4 << 20
	// parallel is how many blobs are fetched at a time.
	parallel = 4
)

// parts are an image's pieces, as upstream made them.
type parts struct {
	desc     v1.Descriptor // of the manifest
	manifest []byte
	config   []byte
	layers   []v1.Descriptor
	diffIDs  []v1.Hash
	blobs    []string // paths of the layers in the cache
}

// fetch gives the image of one platform from the cache, fetching what is not there.
func (m *Maker) fetch(ctx context.Context, s subject, p artifact.Platform, building func([]string)) (fetched, error) {
	f := fetched{subject: s, platform: p, cached: true}
	if err := m.verify(ctx, s); err != nil {
		return f, err
	}
	root, err := m.read(ctx, &f, v1.Descriptor{Digest: s.digest})
	if err != nil {
		return f, err
	}
	if err := m.choose(ctx, &f, root); err != nil {
		return f, err
	}
	man, err := v1.ParseManifest(bytes.NewReader(f.manifest))
	if err != nil {
		return f, fmt.Errorf("upstream image %s: manifest %s: %w", s, f.desc.Digest, err)
	}
	if f.config, err = m.read(ctx, &f, man.Config); err != nil {
		return f, err
	}
	if err := f.check(man); err != nil {
		return f, fmt.Errorf("upstream image %s: %w", s, err)
	}
	f.layers = man.Layers
	return f, m.fetchLayers(ctx, &f, building)
}

// choose finds the manifest of the platform: in an index, or the one that there is.
func (m *Maker) choose(ctx context.Context, f *fetched, root []byte) error {
	mt := typeOf(root)
	f.desc = v1.Descriptor{MediaType: mt, Size: int64(len(root)), Digest: f.digest}
	switch {
	case mt.IsImage():
		f.manifest = root
		return nil
	case !mt.IsIndex():
		return fmt.Errorf("upstream image %s is of type %q, which is no image that can be copied", f.subject, mt)
	}
	idx, err := v1.ParseIndexManifest(bytes.NewReader(root))
	if err != nil {
		return fmt.Errorf("upstream image %s: %w", f.subject, err)
	}
	for _, d := range idx.Manifests {
		// Of an architecture's variants the first is the one that all of its machines run.
		if d.Platform == nil || d.Platform.OS != f.platform.OS || d.Platform.Architecture != f.platform.Arch {
			continue
		}
		if !d.MediaType.IsImage() {
			return fmt.Errorf("upstream image %s: %s for %s is of type %q, which is no image", f.subject, d.Digest, f.platform, d.MediaType)
		}
		f.desc = v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest}
		f.manifest, err = m.read(ctx, f, d)
		return err
	}
	return fmt.Errorf("upstream image %s is not made for %s; it has: %s", f.subject, f.platform, platforms(idx))
}

// check holds manifest and config to each other and to the platform.
func (f *fetched) check(man *v1.Manifest) error {
	config, err := v1.ParseConfigFile(bytes.NewReader(f.config))
	if err != nil {
		return fmt.Errorf("config %s: %w", man.Config.Digest, err)
	}
	if config.OS != f.platform.OS || config.Architecture != f.platform.Arch {
		return fmt.Errorf("manifest %s is for %s/%s, not for %s", f.desc.Digest, config.OS, config.Architecture, f.platform)
	}
	if len(config.RootFS.DiffIDs) != len(man.Layers) {
		return fmt.Errorf("manifest %s has %d layers, its config %d", f.desc.Digest, len(man.Layers), len(config.RootFS.DiffIDs))
	}
	for _, l := range man.Layers {
		if !named(l) || l.Size < 0 {
			return fmt.Errorf("manifest %s names a layer by %q, size %d", f.desc.Digest, l.Digest, l.Size)
		}
		if !l.MediaType.IsDistributable() {
			return fmt.Errorf("layer %s may not be passed on, by its maker's licence (%s): such an image can't be in a bundle", l.Digest, l.MediaType)
		}
	}
	f.diffIDs = config.RootFS.DiffIDs
	return nil
}

func (m *Maker) fetchLayers(ctx context.Context, f *fetched, building func([]string)) error {
	f.blobs = make([]string, len(f.layers))
	var missing []string
	for _, d := range f.layers {
		if _, ok := m.have(d); !ok {
			missing = append(missing, short(d.Digest))
		}
	}
	if len(missing) > 0 {
		f.cached = false
		if building != nil {
			building(missing)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, d := range f.layers {
		g.Go(func() (err error) {
			f.blobs[i], err = m.blob(ctx, f, d)
			return err
		})
	}
	return g.Wait()
}

// named tells whether a descriptor has a digest that can be checked.
func named(d v1.Descriptor) bool { return d.Digest.Algorithm == "sha256" && len(d.Digest.Hex) == 64 }

// have finds a blob in the cache. One that lost bytes is dropped.
func (m *Maker) have(d v1.Descriptor) (string, bool) {
	dir, ok := m.cache.Lookup(blobKind, d.Digest.Hex)
	if !ok {
		return "", false
	}
	p := filepath.Join(dir, content)
	if st, err := os.Stat(p); err == nil && (d.Size == 0 || st.Size() == d.Size) {
		return p, true
	}
	_ = m.cache.Drop(blobKind, d.Digest.Hex) // if that fails, filling it says why
	return "", false
}

// blob gives the path of a blob in the cache. It is fetched as a stream; one that is
// whole stays when another fails.
func (m *Maker) blob(ctx context.Context, f *fetched, d v1.Descriptor) (string, error) {
	if p, ok := m.have(d); ok {
		return p, nil
	}
	repo, err := m.client.Repository(ctx, f.tag.Context(), registry.Pull)
	if err != nil {
		return "", err
	}
	dir, _, err := m.cache.Fill(blobKind, d.Digest.Hex, func(dir string) error {
		return create(filepath.Join(dir, content), func(w *os.File) error { return repo.FetchBlob(ctx, d, w, nil) })
	})
	if err != nil {
		return "", m.gone(f.subject, err)
	}
	return filepath.Join(dir, content), nil
}

// read gives a manifest or a config, whose bytes have its digest.
func (m *Maker) read(ctx context.Context, f *fetched, d v1.Descriptor) ([]byte, error) {
	if !named(d) {
		return nil, fmt.Errorf("upstream image %s: a manifest names a part by %q, which is no sha256 digest", f.subject, d.Digest)
	}
	if d.Size > maxSmall {
		return nil, fmt.Errorf("upstream image %s: %s has %d bytes, more than a manifest or config may have", f.subject, d.Digest, d.Size)
	}
	isManifest := d.MediaType == "" || d.MediaType.IsIndex() || d.MediaType.IsImage()
	p, ok := m.have(d)
	var err error
	switch {
	case ok:
	case isManifest:
		p, err = m.fetchManifest(ctx, f, d)
	default:
		f.cached = false
		p, err = m.blob(ctx, f, d)
	}
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(p)
	if err != nil {
		return nil, fmt.Errorf("reading the cached %s of upstream image %s: %w", d.Digest, f.subject, err)
	}
	if got, _, err := v1.SHA256(bytes.NewReader(data)); err != nil || got != d.Digest {
		return nil, fmt.Errorf("cached %s has the content of %s: remove it and build again", p, got)
	}
	return data, nil
}

func (m *Maker) fetchManifest(ctx context.Context, f *fetched, d v1.Descriptor) (string, error) {
	f.cached = false
	repo, err := m.client.Repository(ctx, f.tag.Context(), registry.Pull)
	if err != nil {
		return "", err
	}
	dir, _, err := m.cache.Fill(blobKind, d.Digest.Hex, func(dir string) error {
		data, _, err := repo.Manifest(ctx, d.Digest.String())
		if err != nil {
			return err
		}
		return create(filepath.Join(dir, content), func(w *os.File) error {
			_, err := w.Write(data)
			return err
		})
	})
	if err != nil {
		return "", m.gone(f.subject, err)
	}
	return filepath.Join(dir, content), nil
}

// gone says what to do where the registry no longer has what is locked.
func (m *Maker) gone(s subject, err error) error {
	if errors.Is(err, registry.ErrNotFound) {
		return fmt.Errorf("upstream image %s: the registry no longer has what is locked; lock what the tag stands for now with: rke2-build lock --update %s: %w", s, s.c.Name, err)
	}
	return fmt.Errorf("upstream image %s: %w", s, err)
}

// typeOf is what a manifest says of itself; OCI's may be silent.
func typeOf(data []byte) types.MediaType {
	if idx, err := v1.ParseIndexManifest(bytes.NewReader(data)); err == nil && (idx.MediaType != "" || len(idx.Manifests) > 0) {
		if idx.MediaType != "" {
			return idx.MediaType
		}
		return types.OCIImageIndex
	}
	if man, err := v1.ParseManifest(bytes.NewReader(data)); err == nil && man.SchemaVersion == 2 && man.Config.Digest.Hex != "" {
		return types.OCIManifestSchema1
	}
	return ""
}

func create(p string, write func(*os.File) error) error {
	f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// readAll reads a small blob of the registry.
func readAll(f *os.File) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxSmall))
}
