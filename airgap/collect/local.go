package collect

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/manifest"
)

// layouts takes images of OCI layouts in folders.
func (g *gatherer) layouts(context.Context) error {
	for _, l := range g.bundle.Layouts {
		idx, err := airgap.Layout(l.Path).Index()
		if err != nil {
			return err
		}
		wanted, taken, have := l.Sets, 0, map[string]bool{}
		if len(wanted) == 0 {
			wanted = []string{airgap.AllSets}
		}
		for _, d := range idx.Manifests {
			kind := d.Annotations[airgap.AnnotationKind]
			if kind == airgap.KindSignatures || kind == airgap.KindAttestations || kind == airgap.KindReferrer {
				g.add("", d) // those of images that are not taken are left out when the bundle is planned
				continue
			}
			sets := airgap.SetsOf(d)
			for _, s := range sets {
				have[s] = true
			}
			if !airgap.InSets(wanted, sets) {
				continue
			}
			if d, err = layoutEntry(l.Path, d); err != nil {
				return err
			}
			taken++
			g.add("", d)
			if ref := d.Annotations[airgap.AnnotationImageName]; ref != "" {
				w, err := parseWanted(ref, "")
				if err != nil {
					return fmt.Errorf("layout %s: %w", l.Path, err)
				}
				ref = w.names()[0]
				g.out.signed[ref] = !l.AllowUnsigned
				g.content = append(g.content, manifest.LockedDigest{What: "image " + ref + " of layout " + l.Path, Digest: d.Digest.String()})
			}
		}
		if taken == 0 {
			return fmt.Errorf("layout %s has no image of set %s: it has the sets %q", l.Path, strings.Join(wanted, ", "), slices.Sorted(keys(have)))
		}
		g.pool.local = append(g.pool.local, airgap.Layout(l.Path))
	}
	return nil
}

// layoutEntry is an image of a layout as a bundle is planned from; other tools' layouts
// name images in one annotation only.
func layoutEntry(dir string, d v1.Descriptor) (v1.Descriptor, error) {
	kind := d.Annotations[airgap.AnnotationKind]
	if kind == airgap.KindImage || kind == airgap.KindChart || kind == airgap.KindFiles {
		return d, nil
	}
	named := d.Annotations[airgap.AnnotationImageName]
	if named == "" {
		named = d.Annotations[airgap.AnnotationRefName]
	}
	if !strings.ContainsAny(named, "/:@") {
		return d, fmt.Errorf("layout %s: manifest %s has no full name (annotation %s): name it, such as with skopeo copy … oci:%s:docker.io/library/busybox:1.36", dir, d.Digest, airgap.AnnotationRefName, dir)
	}
	w, err := parseWanted(named, "")
	if err != nil {
		return d, fmt.Errorf("layout %s: %w", dir, err)
	}
	ref := w.names()[0]
	d.Annotations = map[string]string{airgap.AnnotationKind: airgap.KindImage, airgap.AnnotationImageName: ref, airgap.AnnotationRefName: ref}
	return d, nil
}

func keys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// archives takes images, charts and files of archives.
func (g *gatherer) archives(ctx context.Context) error {
	for _, a := range g.bundle.Archives {
		if err := g.archive(ctx, a); err != nil {
			return fmt.Errorf("archive %s: %w", a.Path, err)
		}
	}
	return nil
}

func (g *gatherer) archive(ctx context.Context, from manifest.Archive) error {
	a, err := airgap.Open(from.Path)
	if err != nil {
		return err
	}
	g.out.close = append(g.out.close, a.Close)
	attached, err := a.Attachments(ctx, nil)
	if err != nil {
		return err
	}
	absent, err := a.Absent()
	if err != nil {
		return err
	}
	if n := len(absent); n > 0 {
		return fmt.Errorf("it is a part of a bundle, %d layers are in others: make the whole first with rke2 bundle join or apply", n)
	}
	chosen, err := choose(a.Images(), from.Images)
	if err != nil {
		return err
	}
	var list []v1.Descriptor
	for _, img := range chosen {
		if img.Desc.Digest == (v1.Hash{}) { // docker's old format
			img.Desc, err = a.Modernise(ctx, img, func(d v1.Descriptor, r io.Reader) error { return g.Cache.Take(ctx, d, r) })
			if err != nil {
				return err
			}
		}
		entries, err := archived(img)
		if err != nil {
			return err
		}
		list = append(list, entries...)
		g.content = append(g.content, manifest.LockedDigest{What: "image " + img.Names()[0] + " of archive " + from.Path, Digest: img.Desc.Digest.String()})
	}
	if len(from.Images) == 0 {
		for _, art := range a.Artifacts() {
			d := art.Desc
			d.Annotations = map[string]string{airgap.AnnotationKind: art.Kind, airgap.AnnotationRefName: art.Ref, airgap.AnnotationSets: strings.Join(art.Sets, ",")}
			list = append(list, d)
			g.content = append(g.content, manifest.LockedDigest{What: art.Ref + " of archive " + from.Path, Digest: art.Desc.Digest.String()})
		}
	}
	for _, at := range attached {
		d := at.Desc
		d.Annotations = map[string]string{airgap.AnnotationKind: at.Kind, airgap.AnnotationSigns: at.Subject.String()}
		list = append(list, d)
	}
	g.add("", list...)
	if a.Format() == airgap.FormatDockerArchive {
		return nil // all of it is in the cache
	}
	if a.Compression() == "none" {
		g.pool.local = append(g.pool.local, a)
		return nil
	}
	// Its blobs can only be had in one pass from start to end.
	return a.Walk(ctx, func(h v1.Hash) bool { return true }, func(d v1.Descriptor, r io.Reader) error {
		return g.Cache.Take(ctx, d, r)
	})
}

// archived lists an image of an archive.
func archived(img airgap.Image) ([]v1.Descriptor, error) {
	if len(img.Refs)+len(img.Digests) == 0 {
		return nil, fmt.Errorf("image %s has no name, and nothing could use it: name it when it is saved", img.Desc.Digest)
	}
	var out []v1.Descriptor
	for _, n := range img.Names() {
		d := img.Desc
		d.Platform = nil
		d.Annotations = map[string]string{airgap.AnnotationKind: airgap.KindImage, airgap.AnnotationImageName: n, airgap.AnnotationRefName: n}
		if len(img.Sets) > 0 {
			d.Annotations[airgap.AnnotationSets] = strings.Join(img.Sets, ",")
		}
		if img.Index != (v1.Hash{}) {
			d.Annotations[airgap.AnnotationIndex] = img.Index.String()
		}
		out = append(out, d)
	}
	return out, nil
}

// choose picks images by reference; no references pick all.
func choose(all []airgap.Image, refs []string) ([]airgap.Image, error) {
	if len(refs) == 0 {
		return all, nil
	}
	var out []airgap.Image
	for _, ref := range refs {
		w, err := parseWanted(ref, "")
		if err != nil {
			return nil, err
		}
		n := len(out)
		for _, img := range all {
			if slices.Contains(img.Names(), w.names()[0]) {
				out = append(out, img)
			}
		}
		if len(out) == n {
			var have []string
			for _, img := range all {
				have = append(have, img.Names()...)
			}
			return nil, fmt.Errorf("there is no image %s; it has: %s", ref, strings.Join(have, ", "))
		}
	}
	return out, nil
}

// plainFiles makes one artifact of all files: each a layer, with its path as title.
func (g *gatherer) plainFiles(ctx context.Context) error {
	if len(g.bundle.Files) == 0 {
		return nil
	}
	found := map[string]string{} // path in the bundle: path here
	for _, f := range g.bundle.Files {
		if err := walk(f, found); err != nil {
			return err
		}
	}
	var titles []string
	for t := range found {
		titles = append(titles, t)
	}
	sort.Strings(titles)
	empty := []byte("{}")
	m := filesManifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: airgap.TypeFiles,
		Config: v1.Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: g.pool.keep(empty), Size: int64(len(empty))},
		Layers: []v1.Descriptor{},
	}
	for _, t := range titles {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, err := hashFile(found[t])
		if err != nil {
			return fmt.Errorf("file %s: %w", found[t], err)
		}
		g.pool.at(d.Digest, found[t])
		d.MediaType = "application/octet-stream"
		d.Annotations = map[string]string{airgap.AnnotationTitle: t}
		m.Layers = append(m.Layers, d)
		g.content = append(g.content, manifest.LockedDigest{What: "file " + t, Digest: d.Digest.String()})
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	h := g.pool.keep(raw)
	name := g.bundle.Name
	if name == "" {
		name = DefaultName
	}
	g.add("", v1.Descriptor{
		MediaType: types.OCIManifestSchema1, Digest: h, Size: int64(len(raw)),
		// Tagged by its content: the files of two bundles can be pushed to one registry.
		Annotations: map[string]string{airgap.AnnotationKind: airgap.KindFiles, airgap.AnnotationRefName: "files/" + strings.ToLower(name) + ":" + h.Hex[:12]},
	})
	return nil
}

// DefaultName is what a bundle is called that nobody named.
const DefaultName = "rke2-bundle"

// filesManifest is an OCI 1.1 artifact manifest.
type filesManifest struct {
	SchemaVersion int64           `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	ArtifactType  string          `json:"artifactType"`
	Config        v1.Descriptor   `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
}

// walk finds a file, or the files below a folder. Links below a folder are refused: what
// they mean on another host nobody knows.
func walk(f manifest.File, found map[string]string) error {
	add := func(title, file string) error {
		if other, ok := found[title]; ok {
			return fmt.Errorf("files %s and %s would both be %s: set \"to\" of one", other, file, title)
		}
		found[title] = file
		return nil
	}
	st, err := os.Stat(f.Path)
	if err != nil {
		return fmt.Errorf("a file to carry along: %w", err)
	}
	to := f.To
	if to == "" {
		to = path.Base(filepath.ToSlash(filepath.Clean(f.Path)))
	}
	if st.Mode().IsRegular() {
		return add(to, f.Path)
	}
	if !st.IsDir() {
		return fmt.Errorf("file %s is neither a regular file nor a folder", f.Path)
	}
	return filepath.WalkDir(f.Path, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return nil
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("file %s is neither a regular file nor a folder: leave it out, or put a copy of what it means in its place", p)
		}
		rel, err := filepath.Rel(f.Path, p)
		if err != nil {
			return err
		}
		return add(path.Join(to, filepath.ToSlash(rel)), p)
	})
}

func hashFile(file string) (v1.Descriptor, error) {
	f, err := os.Open(file)
	if err != nil {
		return v1.Descriptor{}, errors.Unwrap(err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}, Size: n}, err
}
