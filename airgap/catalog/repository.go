package catalog

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
)

// Repository is what is in the catalog under one repository's name: exactly what its
// items and what is attached to them lead to.
type Repository struct {
	// Name is its path with the registry in front, if it has one.
	Name      string
	Registry  string
	Path      string                   // without the registry
	Tags      map[string]v1.Descriptor // cosign's tags too
	Manifests map[v1.Hash]v1.Descriptor
	Blobs     map[v1.Hash]v1.Descriptor
	// Referrers are the manifests that name another as their subject, by that, in the
	// form of the referrers API.
	Referrers map[v1.Hash][]v1.Descriptor
}

// Repositories are the catalog's, by name.
func (c *Catalog) Repositories() []*Repository {
	var out []*Repository
	for _, n := range slices.Sorted(maps.Keys(c.repos)) {
		out = append(out, c.repos[n])
	}
	return out
}

// enter puts an item into the catalog's index and its repository.
func (b *builder) enter(item Item, g *group) error {
	r := b.c.repos[g.name.Path()]
	if r == nil {
		r = &Repository{
			Name: g.name.Path(), Registry: g.name.Registry, Path: g.name.Repository,
			Tags: map[string]v1.Descriptor{}, Manifests: map[v1.Hash]v1.Descriptor{},
			Blobs: map[v1.Hash]v1.Descriptor{}, Referrers: map[v1.Hash][]v1.Descriptor{},
		}
		b.c.repos[g.name.Path()] = r
	}
	b.c.items = append(b.c.items, item)
	d := item.Root
	d.Annotations = map[string]string{airgap.AnnotationKind: item.Kind, airgap.AnnotationRefName: g.name.String()}
	if item.Kind == airgap.KindImage {
		d.Annotations[airgap.AnnotationImageName] = g.name.String()
	}
	b.c.index.Manifests = append(b.c.index.Manifests, d)
	if g.name.Tag != "" {
		r.Tags[g.name.Tag] = item.Root
	}
	subjects := []v1.Hash{item.Root.Digest}
	if item.Root.MediaType.IsIndex() {
		r.Manifests[item.Root.Digest] = item.Root
	}
	for _, m := range item.Manifests {
		if err := b.reach(r, m); err != nil {
			return err
		}
		if m.Digest != item.Root.Digest {
			subjects = append(subjects, m.Digest)
		}
	}
	// An index of several platforms may be signed though another stands for the name.
	for _, f := range g.all {
		if f.index != (v1.Hash{}) && !slices.Contains(subjects, f.index) {
			subjects = append(subjects, f.index)
		}
	}
	for _, s := range subjects {
		if err := b.attach(r, s); err != nil {
			return err
		}
	}
	return nil
}

// attach puts what is attached to a manifest into the index and the repository.
func (b *builder) attach(r *Repository, subject v1.Hash) error {
	all, err := b.gather(subject)
	if err != nil {
		return err
	}
	for _, at := range all {
		if err := b.reach(r, at.Desc); err != nil {
			return err
		}
		if Suffix(at.Kind) != "" {
			r.Tags[AttachedTag(subject, at.Kind)] = at.Desc
		}
		d := bare(at.Desc)
		d.Annotations = map[string]string{airgap.AnnotationKind: at.Kind, airgap.AnnotationSigns: subject.String()}
		if !slices.ContainsFunc(b.c.index.Manifests, func(o v1.Descriptor) bool {
			return o.Digest == d.Digest && maps.Equal(o.Annotations, d.Annotations)
		}) {
			b.c.index.Manifests = append(b.c.index.Manifests, d)
		}
	}
	return nil
}

// reach notes a manifest and its blobs in the repository.
func (b *builder) reach(r *Repository, d v1.Descriptor) error {
	if _, ok := r.Manifests[d.Digest]; ok {
		return nil
	}
	m, err := b.manifest(d)
	if err != nil {
		return err
	}
	for _, p := range m.parts() {
		r.Blobs[p.Digest] = bare(p)
	}
	out := bare(d)
	if out.MediaType == "" {
		if out.MediaType = m.MediaType; out.MediaType == "" {
			out.MediaType = types.OCIManifestSchema1
		}
	}
	r.Manifests[d.Digest] = out
	if m.Subject == nil {
		return nil
	}
	// As the distribution specification wants its descriptors.
	if out.ArtifactType = m.ArtifactType; out.ArtifactType == "" {
		out.ArtifactType = string(m.Config.MediaType)
	}
	out.Annotations = m.Annotations
	r.Referrers[m.Subject.Digest] = append(r.Referrers[m.Subject.Digest], out)
	return nil
}

// Manifest is the content of a manifest of the catalog.
func (c *Catalog) Manifest(d v1.Descriptor) ([]byte, error) { return c.read(d, maxManifest) }

// Content is where the bytes of a blob are: in File from its position on, or in Data.
type Content struct {
	File *os.File // the caller closes it; nil: Data has it
	Data []byte
	Size int64
	From string // the file that it is in, for messages
	ID   string // of the file in its present state, as in Identities
}

// Open opens a blob for sending. It is for catalogs that were opened with a folder to
// unpack compressed archives into.
func (c *Catalog) Open(h v1.Hash) (Content, error) {
	if data, ok := c.memory[h]; ok {
		return Content{Data: data, Size: int64(len(data)), From: "memory", ID: "memory"}, nil
	}
	s, size := c.holder(h)
	p, ok := s.(placed)
	if !ok {
		return Content{}, fmt.Errorf("blob %s is in no file that can be read anywhere", h)
	}
	f, err := p.place(h)
	return Content{File: f, Size: size, From: s.where(h), ID: s.identity()}, err
}

// Identities are those of the files as they were when they were opened.
func (c *Catalog) Identities() []string {
	var out []string
	for _, s := range c.stores {
		out = append(out, s.identity())
	}
	return out
}

// Summary says in a line how much is in the catalog.
func (c *Catalog) Summary() string {
	counts := map[string]int{}
	for _, i := range c.items {
		counts[i.Kind]++
	}
	out := []string{plural(counts[airgap.KindImage], "image")}
	for _, k := range []struct{ kind, word string }{{airgap.KindChart, "chart"}, {airgap.KindFiles, "set of files"}} {
		if n := counts[k.kind]; n > 0 {
			out = append(out, plural(n, k.word))
		}
	}
	return strings.Join(out, ", ")
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	if word == "set of files" {
		return fmt.Sprintf("%d sets of files", n)
	}
	return fmt.Sprintf("%d %ss", n, word)
}
