package publish

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/registry"
)

// maxManifest bounds a manifest; registries take 4 MiB.
const maxManifest = 4 << 20

// source is an OCI image layout that is read, and not changed by anybody meanwhile.
type source struct {
	dir   string
	index *v1.IndexManifest
	lock  *os.File
}

// openSource waits for a build that writes the layout. The folder may be read-only.
func openSource(dir string) (*source, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening layout: %w (make the images with rke2-build all, or name another folder with --layout)", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH); err != nil {
		return nil, errors.Join(fmt.Errorf("opening layout %s: locking: %w", dir, err), f.Close())
	}
	s := &source{dir: dir, lock: f}
	if s.index, err = airgap.Layout(dir).Index(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// Close lets others write again.
func (s *source) Close() error { return s.lock.Close() }

func (s *source) blob(h v1.Hash) (io.ReadCloser, error) { return airgap.Layout(s.dir).Blob(h) }

// node is a manifest, or an index with the manifests that it names.
type node struct {
	desc     v1.Descriptor
	raw      []byte
	children []*node
	blobs    []v1.Descriptor // config and layers
}

// walk calls f for what n names before n itself.
func (n *node) walk(f func(*node) error) error {
	for _, c := range n.children {
		if err := c.walk(f); err != nil {
			return err
		}
	}
	return f(n)
}

// load reads a manifest and checks that all it names is there in its full size. Whether
// a layer's bytes are right shows when it is sent.
func (s *source) load(d v1.Descriptor, depth int) (*node, error) {
	raw, err := s.small(d)
	if err != nil {
		return nil, err
	}
	n := &node{desc: v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest, Platform: d.Platform}, raw: raw}
	switch {
	case d.MediaType.IsIndex() && depth == 0:
		return nil, fmt.Errorf("reading layout %s: index %s is nested too deep", s.dir, d.Digest)
	case d.MediaType.IsIndex():
		idx, err := v1.ParseIndexManifest(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("reading layout %s: index %s: %w", s.dir, d.Digest, err)
		}
		for _, m := range idx.Manifests {
			child, err := s.load(m, depth-1)
			if err != nil {
				return nil, err
			}
			n.children = append(n.children, child)
		}
	case d.MediaType.IsImage():
		m, err := v1.ParseManifest(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("reading layout %s: manifest %s: %w", s.dir, d.Digest, err)
		}
		for _, b := range append([]v1.Descriptor{m.Config}, m.Layers...) {
			if !b.MediaType.IsDistributable() && len(b.URLs) > 0 {
				continue // its maker's licence forbids to pass it on
			}
			if err := s.has(b, d.Digest); err != nil {
				return nil, err
			}
			n.blobs = append(n.blobs, b)
		}
	default:
		return nil, fmt.Errorf("reading layout %s: %s is of type %q, which is no image", s.dir, d.Digest, d.MediaType)
	}
	return n, nil
}

// small reads a manifest or config and checks its digest.
func (s *source) small(d v1.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, fmt.Errorf("reading layout %s: manifest %s has %d bytes, more than registries take", s.dir, d.Digest, d.Size)
	}
	f, err := s.blob(d.Digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("reading layout %s: %w", s.dir, err)
	}
	if got, _, err := v1.SHA256(bytes.NewReader(data)); err != nil || got != d.Digest || int64(len(data)) != d.Size {
		return nil, fmt.Errorf("reading layout: %w: %s has the content of %s; remove it and build again", registry.ErrDamaged, s.path(d.Digest), got)
	}
	return data, nil
}

func (s *source) has(b v1.Descriptor, of v1.Hash) error {
	st, err := os.Stat(s.path(b.Digest))
	if err != nil {
		return fmt.Errorf("reading layout: blob of manifest %s is missing: %w; build the image again", of, err)
	}
	if st.Size() != b.Size {
		return fmt.Errorf("reading layout: %w: %s has %d bytes, manifest %s says %d; remove it and build again", registry.ErrDamaged, s.path(b.Digest), st.Size(), of, b.Size)
	}
	return nil
}

func (s *source) path(h v1.Hash) string { return filepath.Join(s.dir, "blobs", h.Algorithm, h.Hex) }

// image is an image of the layout.
type image struct {
	ref  name.Tag // as the layout names it
	root *node
}

// images finds the images of these names, or all.
func (s *source) images(names []string) ([]image, error) {
	var all []image
	for _, d := range s.index.Manifests {
		kind := d.Annotations[airgap.AnnotationKind]
		if kind != "" && kind != airgap.KindImage {
			continue
		}
		full := d.Annotations[airgap.AnnotationImageName]
		if full == "" {
			full = d.Annotations[airgap.AnnotationRefName]
		}
		ref, err := airgap.ParseTag(full)
		if err != nil {
			return nil, fmt.Errorf("reading layout %s: %s has no full name: %w", s.dir, d.Digest, err)
		}
		all = append(all, image{ref: ref, root: &node{desc: d}})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("layout %s has no images: make them with rke2-build all", s.dir)
	}
	wanted, err := choose(all, names)
	if err != nil {
		return nil, fmt.Errorf("layout %s: %w", s.dir, err)
	}
	for i := range wanted {
		if wanted[i].root, err = s.load(wanted[i].root.desc, 2); err != nil {
			return nil, fmt.Errorf("image %s: %w", wanted[i].ref, err)
		}
	}
	return wanted, nil
}

// choose picks images by the last part of their names, or by their references.
func choose(all []image, names []string) ([]image, error) {
	if len(names) == 0 {
		return all, nil
	}
	var out []image
	for _, n := range names {
		found := false
		for _, i := range all {
			if i.called(n) && !slices.ContainsFunc(out, func(o image) bool { return o.ref == i.ref }) {
				out = append(out, i)
			}
			found = found || i.called(n)
		}
		if !found {
			var known []string
			for _, i := range all {
				known = append(known, i.short())
			}
			return nil, fmt.Errorf("there is no image %q; it has: %s", n, strings.Join(known, ", "))
		}
	}
	return out, nil
}

func (i image) called(n string) bool {
	return n == i.short() || n == i.short()+":"+i.ref.TagStr() || n == i.ref.RepositoryStr() || n == i.ref.String() || n == full(i.ref)
}

// short is the last part of the repository's name.
func (i image) short() string {
	path := i.ref.RepositoryStr()
	return path[strings.LastIndex(path, "/")+1:]
}

// full is the reference as people write it.
func full(t name.Tag) string {
	return strings.Replace(t.Name(), name.DefaultRegistry, "docker.io", 1)
}

// attached gives the layout's manifests of a kind (signatures, attestations) for a
// manifest.
func (s *source) attached(subject v1.Hash, kind string) ([]*node, error) {
	var out []*node
	for _, d := range s.index.Manifests {
		if d.Annotations[airgap.AnnotationKind] != kind || d.Annotations[airgap.AnnotationSigns] != subject.String() {
			continue
		}
		n, err := s.load(d, 0)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(out, func(o *node) bool { return o.desc.Digest == n.desc.Digest }) {
			out = append(out, n)
		}
	}
	return out, nil
}
