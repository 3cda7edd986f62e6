package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/durable"
	"github.com/rancher/rke2/runtime/scan"
	"github.com/rancher/rke2/runtime/stage"
)

// runtimeRoot finds, verifies and stages the runtime image: from a bundle, from
// what an earlier start staged, or from a registry, in this order.
func runtimeRoot(ctx context.Context, c config.Config, policy trust.Policy, folder *scan.Folder, log *slog.Logger) (stage.Root, error) {
	wanted, err := c.Candidates(config.RoleRuntime)
	if err != nil {
		return stage.Root{}, err
	}
	found, err := folder.Find(wanted...)
	if err == nil {
		log.Info("found the runtime image", "image", found.Ref.String(), "digest", found.Image.Desc.Digest.String(), "file", found.File.Path)
		return fromBundle(ctx, c, policy, folder, found, log)
	}
	var missing *scan.NotFoundError
	if !errors.As(err, &missing) {
		return stage.Root{}, err
	}
	if root, ok, err := stagedBefore(c, policy, log); err != nil || ok {
		return root, err
	}
	if c.Offline {
		return stage.Root{}, fmt.Errorf("%w\n  offline is set: no registry is asked", missing)
	}
	log.Warn(missing.Error())
	root, err := fromRegistry(ctx, c, policy, log)
	if err != nil {
		return root, fmt.Errorf("%w\nand pulling it failed: %w\n  on a host without a registry, set `offline: true` in /etc/rancher/rke2/config.yaml to be told at once", missing, err)
	}
	return root, nil
}

func fromBundle(ctx context.Context, c config.Config, policy trust.Policy, folder *scan.Folder, found scan.Found, log *slog.Logger) (stage.Root, error) {
	archive := found.File.Archive
	refuse := func(err error) error {
		return fmt.Errorf("the runtime image in %s is refused: %w", found.File.Path, err)
	}
	if archive.Format() == airgap.FormatDockerArchive {
		return stage.Root{}, refuse(errors.New("a legacy docker-archive has no digests or signatures: save it as an OCI archive"))
	}
	admitted, err := admit(policy, archive, under(found.Image, found.Ref))
	if err != nil {
		return stage.Root{}, refuse(err)
	}
	manifest, _, err := archive.Manifest(found.Image.Desc.Digest)
	if err != nil {
		return stage.Root{}, refuse(err)
	}
	// Read the configuration too: its digest is part of what was signed.
	if err := drain(archive.Blob(manifest.Config.Digest)); err != nil {
		return stage.Root{}, refuse(err)
	}
	var layers []stage.Layer
	shelf := shelf{folder: folder, archive: archive, store: contentStore(c.DataDir)}
	for n, desc := range manifest.Layers {
		what := fmt.Sprintf("layer %d of %d", n+1, len(manifest.Layers))
		layers = append(layers, blobLayer{desc: desc, open: func() (io.ReadCloser, error) { return shelf.open(desc, what) }})
	}
	root, err := stage.Runtime(ctx, c.DataDir, admitted, layers)
	var absent *absentError
	switch {
	case errors.As(err, &absent):
		return root, fmt.Errorf("the runtime image in %s is not complete: %w", found.File.Path, absent)
	case err != nil:
		return root, refuse(err)
	}
	logStaged(root, admitted, log)
	return root, nil
}

// under is an image with just one name.
func under(image airgap.Image, ref name.Reference) airgap.Image {
	image.Refs, image.Digests = nil, nil
	switch ref := ref.(type) {
	case name.Tag:
		image.Refs = []name.Tag{ref}
	case name.Digest:
		image.Digests = []name.Digest{ref}
	}
	return image
}

func logStaged(root stage.Root, admitted trust.Admitted, log *slog.Logger) {
	switch {
	case len(root.Repaired) > 0:
		log.Warn("the staged runtime had changed on disk and was staged again", "dir", root.Dir, "changed", root.Repaired)
	case root.Staged:
		log.Info("staged the runtime", "dir", root.Dir, "trusted because", admitted.By())
	}
}

// stagedBefore uses the root of the release's runtime image if an earlier start
// staged it, also after the bundle was removed. The digest comes from the
// release, so nothing has to be read to know which root is meant.
func stagedBefore(c config.Config, policy trust.Policy, log *slog.Logger) (stage.Root, bool, error) {
	ref, err := c.Image(config.RoleRuntime)
	if err != nil {
		return stage.Root{}, false, err
	}
	wanted, _ := ref.(name.Tag) // nothing is pinned by digest
	admitted, ok := policy.Pinned(wanted)
	if !ok {
		return stage.Root{}, false, nil
	}
	root, err := stage.Existing(c.DataDir, admitted)
	var drift *stage.DriftError
	switch {
	case err == nil:
		log.Info("no bundle has the runtime image; using what was staged before", "dir", root.Dir)
		return root, true, nil
	case errors.As(err, &drift):
		log.Warn("the runtime that was staged before has changed on disk and is not used", "error", err)
		return root, false, nil
	case errors.Is(err, fs.ErrNotExist):
		return root, false, nil
	}
	return root, false, err
}

func drain(r io.ReadCloser, err error) error {
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// blobLayer is a layer in its compressed form; open verifies while it reads.
type blobLayer struct {
	desc v1.Descriptor
	open func() (io.ReadCloser, error)
}

// maxWindow is the largest zstd window that is decoded: what the builder writes.
const maxWindow = 32 << 20

func (l blobLayer) Open(context.Context) (io.ReadCloser, error) {
	blob, err := l.open()
	if err != nil {
		return nil, err
	}
	layer := &layerStream{blob: blob}
	switch l.desc.MediaType {
	case types.OCIUncompressedLayer, types.DockerUncompressedLayer:
		layer.Reader = blob
	case types.OCILayerZStd:
		decoder, err := zstd.NewReader(blob, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, errors.Join(err, blob.Close())
		}
		layer.Reader, layer.close = decoder, decoder.Close
	case types.OCILayer, types.DockerLayer:
		decoder, err := gzip.NewReader(blob)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reading layer %s: %w", l.desc.Digest, err), blob.Close())
		}
		layer.Reader = decoder
	default:
		return nil, errors.Join(fmt.Errorf("layer %s: unknown media type %q", l.desc.Digest, l.desc.MediaType), blob.Close())
	}
	return layer, nil
}

type layerStream struct {
	io.Reader
	blob   io.ReadCloser
	close  func()
	failed bool // Read has said what is wrong
}

// Read prefers the digest's verdict to the decompressor's: what a decoder makes
// of damaged bytes helps nobody.
func (s *layerStream) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed = true
		if _, verdict := io.Copy(io.Discard, s.blob); verdict != nil {
			err = verdict
		}
	}
	return n, err
}

// Close reads the blob to its end first: bytes after the compressed stream are
// part of its digest.
func (s *layerStream) Close() error {
	var err error
	if !s.failed {
		_, err = io.Copy(io.Discard, s.blob)
	}
	if s.close != nil {
		s.close()
	}
	return errors.Join(err, s.blob.Close())
}

// deliverCharts copies the staged charts to where the deploy controller looks.
// Only servers have one, and what the user put there stays.
func deliverCharts(root stage.Root, c config.Config) error {
	if c.Role != config.Server {
		return nil
	}
	entries, err := os.ReadDir(root.Charts())
	if err != nil {
		return fmt.Errorf("delivering charts: %w", err)
	}
	target := filepath.Join(c.DataDir, "server", "manifests")
	if err := os.MkdirAll(target, 0o700); err != nil {
		return fmt.Errorf("delivering charts: %w", err)
	}
	for _, entry := range entries {
		raw, err := os.ReadFile(filepath.Join(root.Charts(), entry.Name()))
		if err != nil {
			return fmt.Errorf("delivering charts: %w", err)
		}
		if err := durable.WriteFile(filepath.Join(target, entry.Name()), raw, 0o600); err != nil {
			return fmt.Errorf("delivering charts: %w", err)
		}
	}
	return nil
}
