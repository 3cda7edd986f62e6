package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
)

// store is an open archive or layout.
type store interface {
	file() string
	identity() string
	list(ctx context.Context) ([]found, []airgap.Attachment, error)
	size(v1.Hash) (int64, bool)
	lacks() string
	where(v1.Hash) string
	open(v1.Hash) (io.ReadCloser, error)
	io.Closer
}

// placed is a store whose blobs are bytes of files.
type placed interface {
	// place opens the file that has the blob, at its first byte.
	place(v1.Hash) (*os.File, error)
}

// walker is a store that is best read in one pass.
type walker interface {
	walk(context.Context, func(v1.Hash) bool, func(v1.Descriptor, io.Reader) error) error
}

// found is a manifest that a store lists under a name.
type found struct {
	kind     string
	name     Name
	desc     v1.Descriptor // of a manifest
	platform *v1.Platform
	index    v1.Hash // the image index that it was found in, or zero
	in       store
}

func openStore(path string, opt Options) (store, error) {
	if isLayout(path) {
		return &layout{airgap.Layout(path), Identity(path)}, nil
	}
	a, err := airgap.Open(path)
	if err != nil {
		return nil, err
	}
	if a.Format() == airgap.FormatDockerArchive {
		return nil, errors.Join(fmt.Errorf("reading bundle %s: a legacy docker-archive carries no manifests and no signatures: "+
			"load it into a registry or a daemon, and save it as an OCI archive", path), a.Close())
	}
	s := &archive{a: a, id: Identity(path), progress: opt.Progress}
	switch {
	case a.Compression() == "none":
		return &plain{s}, nil
	case opt.Unpack == "":
		return &compressed{s}, nil
	}
	u, err := unpack(s, opt.Unpack)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return u, nil
}

// archive is what plain and compressed archives have in common.
type archive struct {
	a        *airgap.Archive
	id       string
	progress func(what, file string, done, total int64)
}

func (s *archive) file() string { return s.a.Path() }

func (s *archive) identity() string { return s.id }

func (s *archive) Close() error { return s.a.Close() }

func (s *archive) tell(what string) func(done, total int64) {
	if s.progress == nil {
		return nil
	}
	return func(done, total int64) { s.progress(what, s.a.Path(), done, total) }
}

func (s *archive) list(ctx context.Context) ([]found, []airgap.Attachment, error) {
	// First, as it reads a compressed archive to its end, with progress.
	attached, err := s.a.Attachments(ctx, s.tell("reading"))
	if err != nil {
		return nil, nil, err
	}
	var out []found
	for _, img := range s.a.Images() {
		for _, t := range img.Refs {
			out = append(out, found{kind: airgap.KindImage, name: nameOf(t), desc: img.Desc, platform: img.Platform, index: img.Index})
		}
		for _, d := range img.Digests {
			out = append(out, found{kind: airgap.KindImage, name: nameOfDigest(d), desc: img.Desc, platform: img.Platform, index: img.Index})
		}
	}
	for _, art := range s.a.Artifacts() {
		n, err := ParseName(art.Kind, art.Ref)
		if err != nil {
			return nil, nil, fmt.Errorf("reading bundle %s: %w", s.a.Path(), err)
		}
		out = append(out, found{kind: art.Kind, name: n, desc: art.Desc})
	}
	return out, attached, nil
}

func (s *archive) size(h v1.Hash) (int64, bool) {
	p, ok := s.a.Locate(h)
	return p.Size, ok
}

func (s *archive) where(v1.Hash) string { return s.file() }

// lacks says why a blob may be missing: what the file is a part of.
func (s *archive) lacks() string {
	if p, ok := s.a.Partial(); ok {
		rest := "give the other parts with it"
		if p.IsDelta() {
			rest = "give what it was made from with it:"
			for _, b := range p.Bases {
				rest += " " + b.String()
			}
		}
		return fmt.Sprintf("%s is %s: %s", s.file(), p, rest)
	}
	return s.file() + " is incomplete"
}

func (s *archive) open(h v1.Hash) (io.ReadCloser, error) { return s.a.Blob(h) }

// plain is an archive that is not compressed.
type plain struct{ *archive }

func (s *plain) place(h v1.Hash) (*os.File, error) {
	p, ok := s.a.Locate(h)
	if !ok {
		return nil, fmt.Errorf("reading bundle %s: blob %s: %w", s.a.Path(), h, airgap.ErrNotFound)
	}
	f, err := s.a.Reopen()
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(p.Offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// compressed is an archive that is read as a stream.
type compressed struct{ *archive }

func (s *compressed) walk(ctx context.Context, want func(v1.Hash) bool, fn func(v1.Descriptor, io.Reader) error) error {
	return s.a.Walk(ctx, want, fn)
}

// layout is an OCI image layout in a folder.
type layout struct {
	dir airgap.Layout
	id  string
}

func (l *layout) file() string { return string(l.dir) }

func (l *layout) identity() string { return l.id }

func (l *layout) Close() error { return nil }

func (l *layout) where(h v1.Hash) string { return l.path(h) }

func (l *layout) lacks() string { return "the layout " + l.file() + " is incomplete" }

func (l *layout) path(h v1.Hash) string {
	return filepath.Join(string(l.dir), "blobs", h.Algorithm, h.Hex)
}

func (l *layout) size(h v1.Hash) (int64, bool) {
	st, err := os.Stat(l.path(h))
	if err != nil || !st.Mode().IsRegular() {
		return 0, false
	}
	return st.Size(), true
}

func (l *layout) open(h v1.Hash) (io.ReadCloser, error) { return l.dir.Blob(h) }

func (l *layout) place(h v1.Hash) (*os.File, error) { return os.Open(l.path(h)) }

func (l *layout) list(context.Context) ([]found, []airgap.Attachment, error) {
	// A build may be writing it: its index must not change between two looks.
	f, err := os.Open(string(l.dir))
	if err != nil {
		return nil, nil, fmt.Errorf("opening layout: %w", err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH); err != nil {
		return nil, nil, fmt.Errorf("opening layout %s: locking: %w", l.dir, err)
	}
	idx, err := l.dir.Index()
	if err != nil {
		return nil, nil, err
	}
	var out []found
	var attached []airgap.Attachment
	for _, d := range idx.Manifests {
		switch kind := d.Annotations[airgap.AnnotationKind]; kind {
		case "", airgap.KindImage, airgap.KindChart, airgap.KindFiles:
			if kind == "" {
				kind = airgap.KindImage
			}
			more, err := l.named(kind, d)
			if err != nil {
				return nil, nil, fmt.Errorf("reading layout %s: %w", l.dir, err)
			}
			out = append(out, more...)
		default:
			subject, err := v1.NewHash(d.Annotations[airgap.AnnotationSigns])
			if err == nil {
				attached = append(attached, airgap.Attachment{Kind: kind, Subject: subject, Desc: bare(d)})
			}
		}
	}
	return out, attached, nil
}

// named are the manifests of one entry of the layout's index.
func (l *layout) named(kind string, d v1.Descriptor) ([]found, error) {
	ref := d.Annotations[airgap.AnnotationImageName]
	if ref == "" {
		ref = d.Annotations[airgap.AnnotationRefName]
	}
	n, err := ParseName(kind, ref)
	if err != nil {
		return nil, fmt.Errorf("%s has no full name: %w", d.Digest, err)
	}
	if !d.MediaType.IsIndex() {
		return []found{{kind: kind, name: n, desc: bare(d), platform: d.Platform}}, nil
	}
	if d.Size > maxManifest {
		return nil, fmt.Errorf("index %s has %d bytes, more than are read", d.Digest, d.Size)
	}
	r, err := l.dir.Blob(d.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	idx, err := v1.ParseIndexManifest(io.LimitReader(r, maxManifest))
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", d.Digest, err)
	}
	var out []found
	for _, m := range idx.Manifests {
		if m.MediaType.IsIndex() {
			return nil, fmt.Errorf("index %s is nested", d.Digest)
		}
		out = append(out, found{kind: kind, name: n, desc: bare(m), platform: m.Platform, index: d.Digest})
	}
	return out, nil
}

// bare is a descriptor without what an index says about it beside its bytes.
func bare(d v1.Descriptor) v1.Descriptor {
	return v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest, ArtifactType: d.ArtifactType}
}
