package node

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/rancher/wharfie/pkg/registries"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/stage"
)

// fromRegistry pulls the runtime image through registries.yaml's mirrors. Its
// signature is looked for beside it, where cosign puts it: tag sha256-<hex>.sig.
func fromRegistry(ctx context.Context, c config.Config, policy trust.Policy, log *slog.Logger) (stage.Root, error) {
	ref, err := c.Image(config.RoleRuntime)
	if err != nil {
		return stage.Root{}, err
	}
	wanted, ok := ref.(name.Tag)
	if !ok {
		return stage.Root{}, fmt.Errorf("pulling %s: a tag is needed", ref)
	}
	registry, err := registries.GetPrivateRegistries(c.PrivateRegistry)
	if err != nil {
		return stage.Root{}, fmt.Errorf("reading %s: %w", c.PrivateRegistry, err)
	}
	options := []remote.Option{
		remote.WithContext(ctx),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: goarch}),
	}
	log.Info("pulling the runtime image", "image", wanted.String())
	image, err := registry.Image(wanted, options...)
	if err != nil {
		return stage.Root{}, fmt.Errorf("pulling %s: %w", wanted.String(), err)
	}
	digest, err := image.Digest()
	if err != nil {
		return stage.Root{}, fmt.Errorf("pulling %s: %w", wanted.String(), err)
	}
	signatures, err := registrySignatures(wanted, digest, func(ref name.Reference) (v1.Image, error) {
		return registry.Image(ref, options...)
	})
	if err != nil {
		return stage.Root{}, err
	}
	admitted, err := policy.Admit(wanted, digest, signatures)
	if err != nil {
		return stage.Root{}, fmt.Errorf("the runtime image %s is refused: %w", wanted.String(), err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		return stage.Root{}, fmt.Errorf("pulling %s: %w", wanted.String(), err)
	}
	var layers []stage.Layer
	for _, desc := range manifest.Layers {
		layers = append(layers, blobLayer{desc: desc, open: func() (io.ReadCloser, error) {
			layer, err := image.LayerByDigest(desc.Digest)
			if err != nil {
				return nil, err
			}
			return layer.Compressed() // verified by the client library
		}})
	}
	root, err := stage.Runtime(ctx, c.DataDir, admitted, layers)
	if err != nil {
		return root, err
	}
	logStaged(root, admitted, log)
	return root, nil
}

// registrySignatures reads the signatures of an image; none is not an error
// here, the policy decides.
func registrySignatures(image name.Tag, digest v1.Hash, get func(name.Reference) (v1.Image, error)) ([]trust.Signature, error) {
	ref := image.Context().Tag(digest.Algorithm + "-" + digest.Hex + ".sig")
	signed, err := get(ref)
	var status *transport.Error
	if errors.As(err, &status) && status.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pulling the signature %s: %w", ref.Name(), err)
	}
	manifest, err := signed.Manifest()
	if err != nil {
		return nil, fmt.Errorf("pulling the signature %s: %w", ref.Name(), err)
	}
	var signatures []trust.Signature
	for _, desc := range manifest.Layers {
		raw, err := base64.StdEncoding.DecodeString(desc.Annotations["dev.cosignproject.cosign/signature"])
		if err != nil || len(raw) == 0 || desc.Size > maxPayload {
			continue
		}
		layer, err := signed.LayerByDigest(desc.Digest)
		if err != nil {
			return nil, fmt.Errorf("pulling the signature %s: %w", ref.Name(), err)
		}
		blob, err := layer.Compressed()
		if err != nil {
			return nil, fmt.Errorf("pulling the signature %s: %w", ref.Name(), err)
		}
		payload, err := io.ReadAll(blob)
		if err := errors.Join(err, blob.Close()); err != nil {
			return nil, fmt.Errorf("pulling the signature %s: %w", ref.Name(), err)
		}
		signatures = append(signatures, trust.Signature{Payload: payload, Raw: raw})
	}
	return signatures, nil
}

// maxPayload bounds a simple-signing payload; real ones are 300 bytes.
const maxPayload = 64 << 10
