package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/airgap/registry"
)

// maxManifest bounds a manifest; registries take 4 MiB.
const maxManifest = 4 << 20

// Source is what images are pushed from. Nobody changes it meanwhile.
type Source interface {
	// Source lists images, artifacts and what is attached to them. Blobs need not be
	// checked: that happens as they are sent.
	airgap.Source
	// Size is a blob's length; fs.ErrNotExist if it is not there.
	Size(v1.Hash) (int64, error)
	// Where names the place of a blob for messages.
	Where(v1.Hash) string
}

// Streamer is a source some of whose blobs are best read in one pass.
type Streamer interface {
	// Streamed tells whether that is so of a blob.
	Streamed(v1.Hash) bool
	// Stream calls fn with each such blob that want accepts. Its content is checked, and
	// of no use after fn returned.
	Stream(ctx context.Context, want func(v1.Hash) bool, fn func(v1.Descriptor, io.Reader) error) error
}

// source is a Source with how to talk about it.
type source struct {
	Source
	what  string // "layout DIR"
	mend  string // what to do about a blob that is damaged
	build bool   // it is what a build wrote, not what somebody chose of it
	index *v1.IndexManifest
	close func() error
}

// layout is an OCI image layout in a folder.
type layout struct{ airgap.Layout }

func (l layout) Where(h v1.Hash) string {
	return filepath.Join(string(l.Layout), "blobs", h.Algorithm, h.Hex)
}

func (l layout) Size(h v1.Hash) (int64, error) {
	st, err := os.Stat(l.Where(h))
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// openSource opens what the options say. It waits for a build that writes the layout. The
// folder may be read-only.
func openSource(o Options) (*source, error) {
	if o.Source != nil {
		idx, err := o.Source.Index()
		return &source{Source: o.Source, what: "the bundles", mend: "copy the file again", index: idx, close: func() error { return nil }}, err
	}
	f, err := os.Open(o.Layout)
	if err != nil {
		return nil, fmt.Errorf("opening layout: %w (make the images with rke2-build all, or name another folder with --layout)", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH); err != nil {
		return nil, errors.Join(fmt.Errorf("opening layout %s: locking: %w", o.Layout, err), f.Close())
	}
	s := &source{Source: layout{airgap.Layout(o.Layout)}, what: "layout " + o.Layout, mend: "remove it and build the image again", build: true, close: f.Close}
	if s.index, err = s.Index(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// Close lets others write the layout again.
func (s *source) Close() error { return s.close() }

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
		return nil, fmt.Errorf("reading %s: index %s is nested too deep", s.what, d.Digest)
	case d.MediaType.IsIndex():
		idx, err := v1.ParseIndexManifest(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("reading %s: index %s: %w", s.what, d.Digest, err)
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
			return nil, fmt.Errorf("reading %s: manifest %s: %w", s.what, d.Digest, err)
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
		return nil, fmt.Errorf("reading %s: %s is of type %q, which is no image", s.what, d.Digest, d.MediaType)
	}
	return n, nil
}

// small reads a manifest or config and checks its digest.
func (s *source) small(d v1.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, fmt.Errorf("reading %s: manifest %s has %d bytes, more than registries take", s.what, d.Digest, d.Size)
	}
	f, err := s.Blob(d.Digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.what, err)
	}
	if got, _, err := v1.SHA256(bytes.NewReader(data)); err != nil || got != d.Digest || int64(len(data)) != d.Size {
		return nil, fmt.Errorf("reading %s: %w: manifest %s in %s has the content of %s; %s", s.what, registry.ErrDamaged, d.Digest, s.Where(d.Digest), got, s.mend)
	}
	return data, nil
}

func (s *source) has(b v1.Descriptor, of v1.Hash) error {
	size, err := s.Size(b.Digest)
	if err != nil {
		return fmt.Errorf("reading %s: blob of manifest %s is missing: %w; %s", s.what, of, err, s.mend)
	}
	if size != b.Size {
		return fmt.Errorf("reading %s: %w: blob %s in %s has %d bytes, manifest %s says %d; %s", s.what, registry.ErrDamaged, b.Digest, s.Where(b.Digest), size, of, b.Size, s.mend)
	}
	return nil
}

// image is an image, or another artifact with a name.
type image struct {
	name catalog.Name // as the source calls it
	kind string
	root *node
}

// images finds the images of these names, or all: of a layout, which has what tests alone
// need too, all others.
func (s *source) images(names []string) ([]image, error) {
	var all []image
	for _, d := range s.index.Manifests {
		kind := d.Annotations[airgap.AnnotationKind]
		if kind == "" {
			kind = airgap.KindImage
		}
		if kind != airgap.KindImage && kind != airgap.KindChart && kind != airgap.KindFiles {
			continue
		}
		full := d.Annotations[airgap.AnnotationImageName]
		if full == "" {
			full = d.Annotations[airgap.AnnotationRefName]
		}
		n, err := catalog.ParseName(kind, full)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %s has no full name: %w", s.what, d.Digest, err)
		}
		if s.build && len(names) == 0 && airgap.TestOnly(airgap.SetsOf(d)) {
			continue
		}
		all = append(all, image{name: n, kind: kind, root: &node{desc: d}})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no images: make them with rke2-build all", s.what)
	}
	wanted, err := choose(all, names)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.what, err)
	}
	for i := range wanted {
		if wanted[i].root, err = s.load(wanted[i].root.desc, 2); err != nil {
			return nil, fmt.Errorf("image %s: %w", wanted[i].name, err)
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
			if i.called(n) && !slices.ContainsFunc(out, func(o image) bool { return o.name == i.name }) {
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
	return n == i.short() || n == i.short()+":"+i.name.Tag || n == i.name.Repository || n == i.name.Repository+":"+i.name.Tag ||
		n == i.name.String() || strings.Replace(n, name.DefaultRegistry, "docker.io", 1) == i.name.String()
}

// short is the last part of the repository's name.
func (i image) short() string { return path.Base(i.name.Repository) }

// attached gives the source's manifests of a kind (signatures, attestations) for a
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
