package closure

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/runtime/config"
)

const (
	maxWindow   = 32 << 20 // of zstd layers, as a node takes them
	maxPackaged = 64 << 20 // manifests of a runtime image
	maxRuntime  = 4 << 30  // what its layers may unpack to, as a node takes them
)

// packaged reads the manifests that the runtime image brings to a server: its /charts.
// Without that image nothing is said: that it is absent is a gap of its own.
func (p *prover) packaged(ctx context.Context) ([]manifest, error) {
	if len(p.in.Release.Images) == 0 {
		return nil, nil
	}
	candidates, err := p.nodeConfig().Candidates(config.RoleRuntime)
	if err != nil {
		return nil, err
	}
	at, ref, ok := p.shelf.runtime(candidates)
	if !ok {
		p.fault("the runtime image is in no bundle, so it is not known which charts come with the node")
		return nil, nil
	}
	found := p.shelf.images[at]
	where := fmt.Sprintf("%s in %s", ref, found.archive.Path())
	if found.archive.Format() == airgap.FormatDockerArchive {
		p.fault("the runtime image %s is in the legacy docker-archive format, of which no node takes it: save it as an OCI archive", where)
		return nil, nil
	}
	p.step("reading the charts of " + ref.String())
	files, err := p.shelf.charts(ctx, found)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		p.fault("the charts that come with the node cannot be read from %s: %v", where, err)
		return nil, nil
	}
	var out []manifest
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if isManifest(file) {
			out = append(out, manifest{name: ref.String() + ":/charts/" + file, text: files[file], packaged: true})
		}
	}
	return out, nil
}

func (s *shelf) runtime(candidates []name.Reference) (int, name.Reference, bool) {
	for _, c := range candidates {
		if at, ok := s.byRef[c.String()]; ok {
			return at, c, true
		}
		if named, err := reference.ParseDockerRef(c.String()); err == nil {
			if at, ok := s.byDigest(named, c.Identifier()); ok {
				return at, c, true
			}
		}
	}
	return 0, nil, false
}

// charts reads the files of /charts, flat, a later layer's over an earlier one's.
func (s *shelf) charts(ctx context.Context, from stored) (map[string][]byte, error) {
	m, _, err := from.archive.Manifest(from.image.Desc.Digest)
	if err != nil {
		return nil, err
	}
	// One decoder for all layers: each would take the memory of its window anew.
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	x := layerReader{shelf: s, from: from.archive, zstd: d, files: map[string][]byte{}, left: maxPackaged, unpacked: maxRuntime}
	for _, l := range m.Layers {
		if err := x.layer(ctx, l); err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.Digest, err)
		}
	}
	return x.files, nil
}

// layerReader takes the charts out of an image's layers.
type layerReader struct {
	shelf    *shelf
	from     *airgap.Archive
	zstd     *zstd.Decoder
	files    map[string][]byte
	left     int64 // bytes that the charts may have yet
	unpacked int64 // bytes that the layers may unpack to yet
}

func (x *layerReader) layer(ctx context.Context, l v1.Descriptor) error {
	blob, err := x.shelf.open(l.Digest, x.from)
	if err != nil {
		return err
	}
	defer blob.Close()
	content, err := x.uncompressed(blob, l.MediaType)
	if err != nil {
		return err
	}
	limited := &io.LimitedReader{R: content, N: x.unpacked}
	err = x.entries(ctx, limited)
	if x.unpacked = limited.N; x.unpacked <= 0 {
		return fmt.Errorf("the image unpacks to more than %d bytes", int64(maxRuntime))
	}
	// The digest is known good, or is what is wrong, only after the last byte.
	if _, verdict := io.Copy(io.Discard, blob); verdict != nil {
		return verdict
	}
	return err
}

func (x *layerReader) entries(ctx context.Context, r io.Reader) error {
	for tr := tar.NewReader(r); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		file, ok := strings.CutPrefix(path.Clean("/"+h.Name), "/charts/")
		if !ok || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > x.left {
			return fmt.Errorf("its charts have more than %d bytes", maxPackaged)
		}
		x.left -= h.Size
		text := make([]byte, h.Size)
		if _, err := io.ReadFull(tr, text); err != nil {
			return err
		}
		x.files[path.Base(file)] = text
	}
}

func (x *layerReader) uncompressed(r io.Reader, t types.MediaType) (io.Reader, error) {
	switch t {
	case types.OCILayerZStd:
		return x.zstd, x.zstd.Reset(r)
	case types.OCILayer, types.DockerLayer:
		return gzip.NewReader(r)
	case types.OCIUncompressedLayer, types.DockerUncompressedLayer:
		return r, nil
	}
	return nil, fmt.Errorf("unknown media type %q", t)
}
