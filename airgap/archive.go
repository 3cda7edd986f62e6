package airgap

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

// Format is what kind of archive a file is.
type Format string

const (
	// FormatOCI is an OCI image layout, alone or with a docker-archive's manifest.json.
	FormatOCI Format = "oci"
	// FormatDockerArchive is the legacy output of docker save, which has no manifests:
	// its images have no digest, so nothing in it can be verified.
	FormatDockerArchive Format = "docker-archive"
)

// Archive is an open image archive. Its methods may be called concurrently.
//
// A plain tar is read by seeking, and Open reads its headers, index and manifests
// only. A compressed one must be streamed: Open stops after the head of a bundle of
// ours, and the first call that needs more reads it whole once, verifying every blob.
type Archive struct {
	file string
	f    source
	size int64 // of the file
	comp compression

	format    Format
	ours      bool
	images    []Image
	artifacts []Artifact
	listed    bool // the two above are final

	mu       sync.Mutex // guards what a late scan fills in
	scanned  bool
	scanErr  error
	head     head
	blobs    map[v1.Hash]entry
	order    []v1.Hash // of blobs in the file
	descs    map[v1.Hash]v1.Descriptor
	absent   map[v1.Hash]v1.Descriptor // that a partial bundle leaves out
	attached []attachment
	small    map[v1.Hash][]byte // small blobs of compressed archives
	smallLen int64
}

// head is what precedes or describes the blobs.
type head struct {
	layout, index, manifest []byte
	idx                     *v1.IndexManifest // of index, in bundles of ours
	sets                    []string          // the same
	partial                 *Partial          // of partial bundles
}

// attachment is a manifest that is about another: signatures or attestations.
type attachment struct {
	kind    string
	subject v1.Hash
	desc    v1.Descriptor
}

// Open opens an image archive and checks its structure. Every way in which it is
// not sound is an error that wraps one of this package's Err values: truncation,
// damage, paths that lead outside, links, duplicates, oversized parts, an index and
// a manifest.json that contradict each other, blobs that are missing.
//
// What Open leaves to the reading of blobs is only their content, which [Archive.Blob]
// and [Archive.Walk] verify.
func Open(file string) (*Archive, error) {
	a, err := open(file)
	if err != nil {
		return nil, fmt.Errorf("reading bundle %s: %w", file, err)
	}
	return a, nil
}

func open(file string) (_ *Archive, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, errors.Unwrap(err) // the path is in our own message
	}
	if info.IsDir() {
		return openFolder(file)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular file", ErrNotArchive)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	if info.Size() == 0 {
		return nil, fmt.Errorf("%w: the file is empty: copy it again", ErrTruncated)
	}
	return openSource(file, f, info.Size())
}

// source is an open file, or what stands for one.
type source interface {
	io.ReaderAt
	io.Closer
}

func openSource(file string, f source, size int64) (*Archive, error) {
	start := make([]byte, blockSize)
	n, err := f.ReadAt(start, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	a := &Archive{file: file, f: f, size: size}
	if a.comp, err = sniff(start[:n]); err != nil {
		return nil, err
	}
	if a.comp == plain && n < blockSize {
		return nil, fmt.Errorf("%w: %d bytes are no tar", ErrNotArchive, n)
	}
	if err := a.scan(context.Background(), a.comp != plain, nil); err != nil {
		return nil, err
	}
	return a, nil
}

// Close closes the file. Readers of its blobs must not be used after.
func (a *Archive) Close() error { return a.f.Close() }

// Path is the file's name as it was opened.
func (a *Archive) Path() string { return a.file }

// Size is the length of the file in bytes.
func (a *Archive) Size() int64 { return a.size }

// Format says what kind of archive it is.
func (a *Archive) Format() Format { return a.format }

// IsBundle reports whether this package wrote the archive, and so whether its
// structure was held to the last bit.
func (a *Archive) IsBundle() bool { return a.ours }

// Sets are the sets of images that a bundle of ours was made of.
func (a *Archive) Sets() []string { return a.head.sets }

// Compression is "none", or how the whole tar is compressed.
func (a *Archive) Compression() string { return string(a.comp) }

// Images lists the archive's images, sorted by name. The caller must not change them.
func (a *Archive) Images() []Image { return a.images }

// IndexOf returns the image index that an image of the archive was taken out of, with what
// signs it, for [trust.Policy.AdmitOf]. It is zero if there is none in the archive.
func (a *Archive) IndexOf(img Image) (trust.Index, error) {
	if img.Index == (v1.Hash{}) {
		return trust.Index{}, nil
	}
	if err := a.whole(); err != nil {
		return trust.Index{}, err
	}
	raw, err := a.readBlob(img.Index, maxManifest)
	if err != nil {
		return trust.Index{}, fmt.Errorf("reading bundle %s: image index of %s: %w", a.file, img.label(), err)
	}
	signatures, err := a.Signatures(img.Index)
	return trust.Index{Raw: raw, Signatures: signatures}, err
}

// stream opens the uncompressed tar from its start.
func (a *Archive) stream(progress func(done, total int64)) (io.Reader, io.Closer, error) {
	sec := io.NewSectionReader(a.f, 0, a.size)
	if a.comp == plain {
		return sec, io.NopCloser(nil), nil
	}
	d, err := decompress(progressReader{sec, a.size, progress}, a.comp)
	if err != nil {
		return nil, nil, err
	}
	// Without the type, so that archive/tar finds nothing to seek with.
	return struct{ io.Reader }{d}, d, nil
}

// Tar opens the uncompressed tar from its start, for readers of tars that this package
// does not stand for; nothing of it is verified. The caller closes it.
func (a *Archive) Tar() (io.ReadCloser, error) {
	r, c, err := a.stream(nil)
	if err != nil {
		return nil, fmt.Errorf("reading bundle %s: %w", a.file, err)
	}
	return reader{r, c}, nil
}

// progressReader tells how much of a file has been read.
type progressReader struct {
	s     *io.SectionReader
	total int64
	tell  func(done, total int64)
}

func (p progressReader) Read(b []byte) (int, error) {
	n, err := p.s.Read(b)
	if p.tell != nil {
		at, _ := p.s.Seek(0, io.SeekCurrent)
		p.tell(at, p.total)
	}
	return n, err
}

// tarSize is the length of the tar if it is known without reading, else -1.
func (a *Archive) tarSize() int64 {
	if a.comp == plain {
		return a.size
	}
	return -1
}

// errHeadDone stops a scan after the head.
var errHeadDone = errors.New("head read")

// scan reads the archive's structure. With headOnly it stops after the head of a
// bundle of ours, if the head comes first.
func (a *Archive) scan(ctx context.Context, headOnly bool, progress func(done, total int64)) error {
	r, c, err := a.stream(progress)
	if err != nil {
		return err
	}
	defer c.Close()
	a.blobs, a.order = map[v1.Hash]entry{}, nil
	a.small, a.smallLen = map[v1.Hash][]byte{}, 0
	s := &scanner{a: a, headOnly: headOnly, names: map[string]entry{}}
	end, err := scanTar(ctx, r, a.tarSize(), s.visit)
	if errors.Is(err, errHeadDone) {
		c, err := bundleContents(s.head.idx)
		if err != nil {
			return err
		}
		a.head, a.ours = s.head, true
		a.list(c)
		return nil
	}
	if err != nil {
		return err
	}
	if s.ours && !bytes.Equal(end, make([]byte, padding(s.lastSize)+trailer)) {
		return fmt.Errorf("%w: its end is not as it was written", ErrDamaged)
	}
	if a.ours && !bytes.Equal(a.head.index, s.head.index) {
		return fmt.Errorf("%w: the file changed while it was open", ErrDamaged)
	}
	if !a.ours {
		a.head, a.ours = s.head, s.ours
	}
	if err := a.resolve(s); err != nil {
		return err
	}
	a.scanned = true
	return nil
}

// whole makes sure that the archive's structure has been read to its end.
func (a *Archive) whole() error {
	if err := a.read(context.Background(), nil); err != nil {
		return fmt.Errorf("reading bundle %s: %w", a.file, err)
	}
	return nil
}

// read is whole with a context and progress, in compressed bytes. A cancelled
// context is not remembered as the archive's fault.
func (a *Archive) read(ctx context.Context, progress func(done, total int64)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.scanned || a.scanErr != nil {
		return a.scanErr
	}
	err := a.scan(ctx, false, progress)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	a.scanErr = err
	return err
}

// scanner collects what one pass over a tar shows.
type scanner struct {
	a        *Archive
	headOnly bool
	n        int // entries so far
	head     head
	ours     bool
	names    map[string]entry  // of regular files
	configs  map[string][]byte // of legacy images, where they can only pass by
	links    []entry
	first    []byte // header of the first entry, until it is known whether it is ours
	lastSize int64
	lastName string
}

func (s *scanner) visit(e entry, gap []byte, r io.Reader) error {
	if s.ours {
		if err := s.checkOurs(e, gap); err != nil {
			return err
		}
	}
	err := s.take(e, gap, r)
	s.n++
	s.lastSize, s.lastName = e.size, e.name
	if err == nil && s.headOnly && s.ours && s.n == 3 {
		return errHeadDone
	}
	return err
}

func (s *scanner) take(e entry, gap []byte, r io.Reader) (err error) {
	switch e.kind {
	case tar.TypeDir:
		return nil
	case tar.TypeSymlink:
		s.links = append(s.links, e)
		return nil
	}
	s.names[e.name] = e
	if s.n == 0 {
		s.first = bytes.Clone(gap)
	}
	switch e.name {
	case layoutFile:
		s.head.layout, err = readLimited(r, e.name, e.size, 4<<10)
		return err
	case manifestFile:
		s.head.manifest, err = readLimited(r, e.name, e.size, maxIndex)
		return err
	case indexFile:
		if s.head.index, err = readLimited(r, e.name, e.size, maxIndex); err != nil {
			return err
		}
		if claimsBundle(s.head.index) {
			return s.begin(e, gap)
		}
		return nil
	}
	h, ok := parseBlobName(e.name)
	if !ok {
		return s.other(e, r)
	}
	s.a.blobs[h] = e
	s.a.order = append(s.a.order, h)
	if s.a.comp == plain {
		return nil
	}
	return s.a.takeStreamed(h, e, r)
}

// begin turns on strict reading at the index.json of a bundle of ours, and checks
// what came before it.
func (s *scanner) begin(e entry, gap []byte) (err error) {
	if s.head.idx, err = parseIndex(s.head.index); err != nil {
		return err
	}
	if s.head.sets, s.head.partial, err = checkSeal(s.head.index, s.head.idx); err != nil {
		return err
	}
	s.ours = true
	if s.n != 1 || string(s.head.layout) != layoutContent {
		return fmt.Errorf("%w: %s is not as it was written", ErrDamaged, layoutFile)
	}
	layout := entry{name: layoutFile, size: int64(len(layoutContent))}
	if err := checkGap(0, layout, s.first); err != nil {
		return err
	}
	return checkGap(layout.size, e, gap)
}

// checkOurs holds the entries after index.json to the order and headers of Write.
func (s *scanner) checkOurs(e entry, gap []byte) error {
	switch _, blob := parseBlobName(e.name); {
	case s.n == 2 && e.name != manifestFile,
		s.n > 2 && !blob,
		s.n > 3 && e.name <= s.lastName:
		return fmt.Errorf("%w: %s is not where it was written", ErrDamaged, e.name)
	}
	return checkGap(s.lastSize, e, gap)
}

// checkGap compares the bytes between two contents with what Write makes.
func checkGap(previous int64, e entry, gap []byte) error {
	want, err := header(e.name, e.size)
	if err != nil {
		return err
	}
	want = append(make([]byte, padding(previous)), want...)
	if !bytes.Equal(gap, want) {
		return fmt.Errorf("%w: the tar header of %s is not as it was written", ErrDamaged, e.name)
	}
	return nil
}

// takeStreamed verifies a blob that passes by, and keeps it if it is small enough
// to be a manifest.
func (a *Archive) takeStreamed(h v1.Hash, e entry, r io.Reader) error {
	const maxSmall, maxSmallTotal = 256 << 10, 32 << 20
	v := verify(r, h, e.size)
	if e.size > maxSmall || a.smallLen+e.size > maxSmallTotal {
		_, err := io.Copy(io.Discard, v)
		return err
	}
	b, err := io.ReadAll(v)
	if err != nil {
		return err
	}
	a.small[h] = b
	a.smallLen += e.size
	return nil
}

func readLimited(r io.Reader, name string, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than the %d that are read", ErrRefusedContent, name, size, limit)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, tarFault(err, "in "+name, -1)
	}
	return b, nil
}
