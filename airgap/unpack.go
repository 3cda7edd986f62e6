package airgap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// UnpackOptions says what to unpack of an archive, and where to.
type UnpackOptions struct {
	// Dir is the layout's folder. It must be empty or not exist.
	Dir string
	// Image, if set, unpacks only that reference, with what is attached to it, in the
	// form of `cosign save`, which `cosign verify --local-image` reads.
	Image string
	// Progress is told the bytes of blobs written.
	Progress func(done, total int64)
}

// Unpack writes an archive's images as an OCI image layout. Every blob is verified,
// and the folder appears whole or not at all.
func Unpack(ctx context.Context, file string, opt UnpackOptions) (err error) {
	a, err := Open(file)
	if err != nil {
		return err
	}
	defer a.Close()
	return a.Unpack(ctx, opt)
}

// Unpack is the function Unpack of an archive that is open. Of a partial bundle on its own
// only images can be unpacked that it has all layers of.
func (a *Archive) Unpack(ctx context.Context, opt UnpackOptions) (err error) {
	file := a.file
	if err := a.whole(); err != nil {
		return err
	}
	if a.format == FormatDockerArchive {
		return fmt.Errorf("unpacking %s: a legacy docker-archive has no manifests to make a layout of", file)
	}
	index, blobs, err := a.unpackPlan(opt.Image)
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", file, err)
	}
	if names, err := os.ReadDir(opt.Dir); err == nil && len(names) > 0 {
		return fmt.Errorf("unpacking %s: folder %s is not empty", file, opt.Dir)
	}
	parent := filepath.Dir(filepath.Clean(opt.Dir))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("unpacking %s: %w", file, err)
	}
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(opt.Dir)+".partial-")
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := a.unpackTo(ctx, tmp, index, blobs, opt.Progress); err != nil {
		return err
	}
	// The system's rename replaces an empty folder; os.Rename would refuse to.
	if err := errors.Join(os.Chmod(tmp, 0o755), unix.Rename(tmp, opt.Dir), syncDir(parent)); err != nil {
		return fmt.Errorf("unpacking %s: %w", file, err)
	}
	return nil
}

// unpackPlan returns the layout's index and the blobs that it needs.
func (a *Archive) unpackPlan(image string) ([]byte, map[v1.Hash]bool, error) {
	blobs := map[v1.Hash]bool{}
	if image == "" {
		if len(a.absent) > 0 {
			return nil, nil, a.incomplete()
		}
		for h := range a.blobs {
			blobs[h] = true
		}
		idx, err := parseIndex(a.head.index)
		if err != nil {
			return nil, nil, err
		}
		// The folder is no bundle: whoever makes a tar of it makes another's.
		for k := range idx.Annotations {
			if strings.HasPrefix(k, markerPrefix) {
				delete(idx.Annotations, k)
			}
		}
		b, err := json.Marshal(idx)
		return b, blobs, err
	}
	img, ref, err := a.find(image)
	if err != nil {
		return nil, nil, err
	}
	desc := img.Desc
	desc.Annotations = map[string]string{AnnotationKind: KindImage, AnnotationImageName: ref, AnnotationRefName: ref}
	out := v1.IndexManifest{SchemaVersion: 2, MediaType: "application/vnd.oci.image.index.v1+json", Manifests: []v1.Descriptor{desc}}
	for _, at := range a.attached {
		if at.subject == img.Desc.Digest {
			d := at.desc
			d.Annotations = map[string]string{AnnotationKind: at.kind, AnnotationSigns: at.subject.String()}
			out.Manifests = append(out.Manifests, d)
		}
	}
	for _, d := range out.Manifests {
		m, _, err := a.manifest(d.Digest)
		if err != nil {
			return nil, nil, err
		}
		for _, b := range append([]v1.Descriptor{d, m.Config}, m.Layers...) {
			if _, ok := a.absent[b.Digest]; ok {
				return nil, nil, a.incomplete()
			}
			if _, ok := a.blobs[b.Digest]; ok {
				blobs[b.Digest] = true
			}
		}
	}
	b, err := json.Marshal(out)
	return b, blobs, err
}

// incomplete says what a partial bundle lacks.
func (a *Archive) incomplete() error {
	missing, err := Missing([]*Archive{a}, nil)
	if err != nil || missing == nil {
		return err
	}
	return missing
}

// find returns the image that carries a reference.
func (a *Archive) find(image string) (Image, string, error) {
	tag, err := ParseTag(image)
	if err != nil {
		return Image{}, "", err
	}
	var have []string
	for _, img := range a.images {
		if img.Has(tag) {
			return img, tag.String(), nil
		}
		have = append(have, img.Names()...)
	}
	return Image{}, "", fmt.Errorf("image %s is not in it; it has:\n  %s", tag, strings.Join(have, "\n  "))
}

func (a *Archive) unpackTo(ctx context.Context, dir string, index []byte, blobs map[v1.Hash]bool, progress func(done, total int64)) error {
	fail := func(err error) error { return fmt.Errorf("unpacking %s: %w", a.file, err) }
	if err := os.MkdirAll(filepath.Join(dir, blobPrefix), 0o755); err != nil {
		return fail(err)
	}
	var done, total int64
	for h := range blobs {
		total += a.blobs[h].size
	}
	if free, err := freeBytes(dir); err == nil && total > free {
		return fail(fmt.Errorf("%d bytes are needed and %d are free in %s", total, free, filepath.Dir(dir)))
	}
	left := len(blobs)
	buf := make([]byte, 1<<20)
	err := a.Walk(ctx, func(h v1.Hash) bool { return blobs[h] }, func(d v1.Descriptor, r io.Reader) error {
		left--
		f, err := os.OpenFile(filepath.Join(dir, blobName(d.Digest)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return fail(err)
		}
		defer f.Close()
		w := io.MultiWriter(f, counting(func(n int) {
			if done += int64(n); progress != nil {
				progress(done, total)
			}
		}))
		if _, err := io.CopyBuffer(w, cancelable{ctx, r}, buf); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return fail(err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if left != 0 {
		return fail(fmt.Errorf("%w: %d blobs are gone: the file changed while it was open", ErrDamaged, left))
	}
	for name, b := range map[string][]byte{layoutFile: []byte(layoutContent), indexFile: index} {
		if _, err := writeFile(filepath.Join(dir, name), int64(len(b)), func(w io.Writer) error {
			_, err := w.Write(b)
			return err
		}); err != nil {
			return fail(err)
		}
	}
	return nil
}
