// Package layer makes OCI layers (application/vnd.oci.image.layer.v1.tar+zstd, OCI
// image-spec v1.1) whose bytes depend on nothing but the files that go in: entries are
// sorted, owned by root, dated by the given epoch, and compressed by one deterministic
// encoder. A layer is compressed once and then kept under the hash of its files.
package layer

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/build/cache"
)

const (
	cacheKind = "layer"
	infoFile  = "info.json"
	blobFile  = "blob"
	// scheme is part of every key: raise it when this package writes other bytes.
	scheme = 1
	// window is how far back the encoder looks, and what every decoder must have in
	// memory. Decoders in the field stop at 32 MiB (K3s's importer).
	window = 16 << 20
	// level costs a minute once for all images, and saves a tenth of every bundle against
	// zstd's default. It makes no difference to decoders.
	level = zstd.SpeedBestCompression
)

// File is an entry of a layer. Exactly one of Dir, Link and Source says what it is.
type File struct {
	Path   string      // in the image: slash-separated, relative to its root
	Mode   fs.FileMode // permission bits, and fs.ModeSticky; programs that change who they run as are not for images
	Dir    bool
	Link   string // target of a symbolic link
	Source string // path of the content on this machine
	SHA256 string // hex, of the content, where it is known: it is checked while reading
	// Package is the package URL of what the file came from, for the SBOM. The layer
	// doesn't depend on it.
	Package string
}

// Layer is a finished layer.
type Layer struct {
	Digest v1.Hash // of the compressed blob
	DiffID v1.Hash // of the tar
	Size   int64   // bytes, of the blob
	Blob   string  // path of the blob in the cache: not to be changed
	Cached bool
}

// Descriptor describes the blob for a manifest.
func (l Layer) Descriptor() v1.Descriptor {
	return v1.Descriptor{MediaType: types.OCILayerZStd, Digest: l.Digest, Size: l.Size}
}

// Builder makes layers with one modification time for all entries. It may be used from
// several goroutines.
type Builder struct {
	cache *cache.Cache
	epoch time.Time
	busy  chan struct{} // as many as layers may be compressed at a time
}

// NewBuilder makes a builder. epoch is SOURCE_DATE_EPOCH; parallel is how many layers
// are compressed at a time, each by one core.
func NewBuilder(c *cache.Cache, epoch time.Time, parallel int) *Builder {
	return &Builder{cache: c, epoch: epoch.UTC().Truncate(time.Second), busy: make(chan struct{}, max(parallel, 1))}
}

// entry is what the bytes of one tar entry depend on.
type entry struct {
	Path   string
	Mode   fs.FileMode
	Dir    bool   `json:",omitempty"`
	Link   string `json:",omitempty"`
	SHA256 string `json:",omitempty"`
	source string
}

type info struct {
	Digest, DiffID string
	Size           int64
}

// Build gives the layer of these files, in any order. Folders above a file are added
// with mode 0755 where they are not listed.
func (b *Builder) Build(files []File) (Layer, error) {
	entries, err := normalise(files)
	if err != nil {
		return Layer{}, err
	}
	key, err := cache.Key(struct {
		Scheme  int
		Encoder string
		Epoch   int64
		Entries []entry
	}{scheme, encoder(), b.epoch.Unix(), entries})
	if err != nil {
		return Layer{}, err
	}
	for {
		dir, hit, err := b.cache.Fill(cacheKind, key, func(dir string) error { return b.write(dir, entries) })
		if err != nil {
			return Layer{}, err
		}
		l, err := read(dir)
		if err == nil {
			l.Cached = hit
			return l, nil
		}
		if !hit {
			return Layer{}, err
		}
		if err := b.cache.Drop(cacheKind, key); err != nil {
			return Layer{}, err
		}
	}
}

func normalise(files []File) ([]entry, error) {
	byPath := map[string]entry{}
	for _, f := range files {
		p := strings.Trim(path.Clean("/"+f.Path), "/")
		if p == "" {
			continue // the root itself
		}
		if other, ok := byPath[p]; ok && (!other.Dir || !f.Dir) {
			return nil, fmt.Errorf("layer has two entries for /%s", p)
		}
		e := entry{Path: p, Mode: f.Mode & (fs.ModePerm | fs.ModeSticky), Dir: f.Dir, Link: f.Link, SHA256: f.SHA256, source: f.Source}
		if !f.Dir && f.Link == "" && e.SHA256 == "" {
			sum, err := cache.Sum(f.Source)
			if err != nil {
				return nil, fmt.Errorf("hashing a layer's file: %w", err)
			}
			e.SHA256 = sum
		}
		byPath[p] = e
	}
	for p := range byPath {
		for up := path.Dir(p); up != "."; up = path.Dir(up) {
			above, ok := byPath[up]
			if ok && !above.Dir {
				return nil, fmt.Errorf("layer has /%s, which is no folder, and /%s in it", up, p)
			}
			if !ok {
				byPath[up] = entry{Path: up, Mode: 0o755, Dir: true}
			}
		}
	}
	entries := make([]entry, 0, len(byPath))
	for _, e := range byPath {
		entries = append(entries, e)
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Path < entries[j].Path })
	return entries, nil
}

func (b *Builder) write(dir string, entries []entry) (err error) {
	b.busy <- struct{}{}
	defer func() { <-b.busy }()
	f, err := os.OpenFile(filepath.Join(dir, blobFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("writing layer: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("writing layer: %w", cerr)
		}
	}()
	blob := &counted{w: f, h: sha256.New()}
	buffered := bufio.NewWriterSize(blob, 1<<20)
	// One encoder goroutine: with more, where a block ends would still be the same, but
	// that is nowhere promised. Several layers are made at a time instead.
	enc, err := zstd.NewWriter(buffered, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level),
		zstd.WithWindowSize(window), zstd.WithEncoderCRC(true))
	if err != nil {
		return fmt.Errorf("writing layer: %w", err)
	}
	defer enc.Close()
	diff := sha256.New()
	tw := tar.NewWriter(io.MultiWriter(diff, enc))
	for _, e := range entries {
		if err := b.writeEntry(tw, e); err != nil {
			return fmt.Errorf("writing layer: /%s: %w", e.Path, err)
		}
	}
	for _, finish := range []func() error{tw.Close, enc.Close, buffered.Flush} {
		if err := finish(); err != nil {
			return fmt.Errorf("writing layer: %w", err)
		}
	}
	data, err := json.Marshal(info{Digest: sumOf(blob.h), DiffID: sumOf(diff), Size: blob.n})
	if err != nil {
		return fmt.Errorf("writing layer: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, infoFile), data, 0o644)
}

func (b *Builder) writeEntry(tw *tar.Writer, e entry) error {
	h := &tar.Header{Name: e.Path, Mode: int64(e.Mode.Perm()), ModTime: b.epoch, Format: tar.FormatPAX}
	if e.Mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	switch {
	case e.Dir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
		return tw.WriteHeader(h)
	case e.Link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.Link, 0o777
		return tw.WriteHeader(h)
	}
	f, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(tw, sum), f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != e.SHA256 {
		return fmt.Errorf("%s has sha256 %s, expected %s: it was changed; remove it and build again", e.source, got, e.SHA256)
	}
	return nil
}

// read gives the layer of a cache entry, or an error if somebody damaged it.
func read(dir string) (Layer, error) {
	data, err := os.ReadFile(filepath.Join(dir, infoFile))
	if err != nil {
		return Layer{}, fmt.Errorf("reading cached layer: %w", err)
	}
	var i info
	if err := json.Unmarshal(data, &i); err != nil {
		return Layer{}, fmt.Errorf("reading cached layer %s: %w", dir, err)
	}
	l := Layer{Size: i.Size, Blob: filepath.Join(dir, blobFile)}
	if l.Digest, err = v1.NewHash(i.Digest); err != nil {
		return Layer{}, fmt.Errorf("reading cached layer %s: %w", dir, err)
	}
	if l.DiffID, err = v1.NewHash(i.DiffID); err != nil {
		return Layer{}, fmt.Errorf("reading cached layer %s: %w", dir, err)
	}
	st, err := os.Stat(l.Blob)
	if err != nil {
		return Layer{}, fmt.Errorf("reading cached layer: %w", err)
	}
	if st.Size() != l.Size {
		return Layer{}, fmt.Errorf("cached layer %s has %d bytes, expected %d", l.Blob, st.Size(), l.Size)
	}
	return l, nil
}

// encoder names the compressor in this program and its settings: another version may
// write other bytes.
func encoder() string {
	const module = "github.com/klauspost/compress"
	version := ""
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, d := range bi.Deps {
			if d.Path == module {
				version = d.Version
			}
		}
	}
	return fmt.Sprintf("%s %s, level %s, window %d", module, version, level, window)
}

type counted struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.h.Write(p[:n])
	c.n += int64(n)
	return n, err
}

func sumOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }
