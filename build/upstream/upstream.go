// Package upstream takes images that somebody else built: by the digest in the lock, as
// they are, with every byte checked, and signed where a key is declared. Such an image is
// copied, or its files are a build context. Layers are never compressed again.
package upstream

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

// Maker makes components of KindUpstream. It may be used from several goroutines.
type Maker struct {
	cache   *cache.Cache
	mirrors images.Mirrors // what locks are checked with
	client  *registry.Client
	limits  limits
}

var (
	_ artifact.Maker = (*Maker)(nil)
	_ lock.Resolver  = (*Maker)(nil)
)

// New makes a maker that keeps what it fetches in the cache.
func New(c *cache.Cache, m images.Mirrors, client *registry.Client) *Maker {
	return &Maker{cache: c, mirrors: m, client: client, limits: defaultLimits}
}

// Digest asks what a reference with a tag stands for now: an image index or a manifest.
func (m *Maker) Digest(ctx context.Context, reference string) (v1.Hash, error) {
	tag, err := name.NewTag(reference, name.StrictValidation)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("upstream image %q: %w", reference, err)
	}
	repo, err := m.client.Repository(ctx, tag.Context(), registry.Pull)
	if err != nil {
		return v1.Hash{}, err
	}
	d, found, err := repo.Resolve(ctx, tag.TagStr())
	if err != nil {
		return v1.Hash{}, err
	}
	if !found {
		return v1.Hash{}, fmt.Errorf("upstream image %s: %w: the registry has no such tag", reference, registry.ErrNotFound)
	}
	return d.Digest, nil
}

// Resolve implements lock.Resolver. Where a key is declared what is locked is signed.
func (m *Maker) Resolve(ctx context.Context, c images.Component, old *lock.Lock, move func(name string) bool) (*lock.Lock, error) {
	l := lock.New(c, m.mirrors)
	reference := c.Upstream.Image
	if old != nil && old.Image != nil && old.Image.Reference == reference && !move(reference) && !move(c.Name) {
		l.Image = old.Image
		return l, nil
	}
	h, err := m.Digest(ctx, reference)
	if err != nil {
		return nil, fmt.Errorf("component %s: %w", c.Name, err)
	}
	l.Image = &lock.Image{Reference: reference, Digest: h.String()}
	s, err := m.subject(c, l)
	if err != nil {
		return nil, err
	}
	if err := m.verify(ctx, s); err != nil {
		return nil, fmt.Errorf("component %s: %w", c.Name, err)
	}
	return l, nil
}

// subject is a locked image.
type subject struct {
	c      images.Component
	tag    name.Tag
	digest v1.Hash // of the index, or of the manifest where there is none
}

func (m *Maker) subject(c images.Component, l *lock.Lock) (subject, error) {
	if l.Image == nil {
		return subject{}, fmt.Errorf("component %s: %s pins no image; resolve it with: rke2-build lock --update %s", c.Name, lock.Path(c), c.Name)
	}
	tag, err := name.NewTag(c.Upstream.Image, name.StrictValidation)
	if err != nil {
		return subject{}, fmt.Errorf("component %s: upstream image %q: %w", c.Name, c.Upstream.Image, err)
	}
	h, err := v1.NewHash(l.Image.Digest)
	if err != nil || h.Algorithm != "sha256" {
		return subject{}, fmt.Errorf("component %s: %s: %q is no sha256 digest; resolve it with: rke2-build lock --update %s", c.Name, lock.Path(c), l.Image.Digest, c.Name)
	}
	return subject{c: c, tag: tag, digest: h}, nil
}

func (s subject) String() string { return s.c.Upstream.Image + "@" + s.digest.String() }

// purl is the package URL of the image (purl-spec, type oci).
func (s subject) purl(p artifact.Platform) string {
	repository := strings.TrimSuffix(s.c.Upstream.Image, ":"+s.tag.TagStr())
	return fmt.Sprintf("pkg:oci/%s@%s?arch=%s&repository_url=%s&tag=%s", path.Base(repository),
		url.QueryEscape(s.digest.String()), p.Arch, url.QueryEscape(repository), s.tag.TagStr())
}

// fetched is an image of one platform in the cache.
type fetched struct {
	subject
	platform artifact.Platform
	parts
	cached bool
}

// get fetches what the cache lacks, and has the signature checked first.
func (m *Maker) get(ctx context.Context, c images.Component, p artifact.Platform, building func([]string)) (fetched, error) {
	l, err := lock.Read(c, m.mirrors)
	if err != nil {
		return fetched{}, err
	}
	s, err := m.subject(c, l)
	if err != nil {
		return fetched{}, err
	}
	f, err := m.fetch(ctx, s, p, building)
	if err != nil {
		return fetched{}, fmt.Errorf("component %s: %w", c.Name, err)
	}
	return f, nil
}

// Image gives the image of a platform as it was: manifest, config and layers have
// upstream's bytes.
func (m *Maker) Image(ctx context.Context, c images.Component, p artifact.Platform) (image.Image, error) {
	f, err := m.get(ctx, c, p, nil)
	if err != nil {
		return image.Image{}, err
	}
	files, _, err := m.tree(ctx, f)
	if err != nil {
		return image.Image{}, fmt.Errorf("component %s: %w", c.Name, err)
	}
	img := image.Image{Manifest: f.manifest, Config: f.config, Descriptor: f.desc, Files: files}
	img.Descriptor.Platform = &v1.Platform{OS: p.OS, Architecture: p.Arch}
	for i, d := range f.layers {
		img.Layers = append(img.Layers, layer.Layer{
			Digest: d.Digest, DiffID: f.diffIDs[i], Size: d.Size, Blob: f.blobs[i], Cached: f.cached,
		})
	}
	return img, nil
}

// Make implements artifact.Maker: the image's files are a build context that is named as
// the component. As in every layer here, they are root's and have no set-id bits or
// extended attributes.
func (m *Maker) Make(ctx context.Context, c images.Component, p artifact.Platform, building func([]string)) (artifact.Artifact, error) {
	start := time.Now()
	f, err := m.get(ctx, c, p, building)
	if err != nil {
		return artifact.Artifact{}, err
	}
	files, cached, err := m.tree(ctx, f)
	if err != nil {
		return artifact.Artifact{}, fmt.Errorf("component %s: %w", c.Name, err)
	}
	a := artifact.Artifact{
		Component: c.Name, Version: c.Version, Platform: p, Contexts: map[string][]layer.File{c.Name: files},
		Materials: []artifact.Material{{
			PURL: f.purl(p), URI: f.String(), SHA256: f.digest.Hex,
			Name: strings.TrimSuffix(c.Upstream.Image, ":"+f.tag.TagStr()), Version: f.tag.TagStr(), Arch: p.Arch,
		}},
		Cached: f.cached && cached,
	}
	for _, d := range f.layers {
		a.Size += d.Size
	}
	a.Elapsed = time.Since(start)
	return a, nil
}

// platforms lists what an index offers, for an error.
func platforms(idx *v1.IndexManifest) string {
	var out []string
	for _, d := range idx.Manifests {
		if d.Platform != nil && d.Platform.OS != "unknown" {
			out = append(out, d.Platform.String())
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

func short(h v1.Hash) string { return h.Algorithm + ":" + h.Hex[:12] }
