package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/pull"
	"github.com/rancher/rke2/runtime/stage"
	"github.com/rancher/rke2/runtime/timeline"
)

// pulledPrefix names the folders of blobs that were pulled, or some of them: a run that is
// cut short leaves its, and the next goes on with it.
const pulledPrefix = ".pulled-"

// fromRegistry pulls the runtime image through registries.yaml's mirrors, verifies and
// stages it.
func (b *bootstrap) fromRegistry(ctx context.Context) (stage.Root, error) {
	client, err := pull.New(pull.Settings{
		Registries: b.config.PrivateRegistry, OnlyMirrors: b.config.OnlyMirrors, Log: b.log,
		Providers: b.config.CredentialProviders, ProviderBin: b.config.CredentialProviderBin,
	})
	if err != nil {
		return stage.Root{}, err
	}
	remote, err := b.findRemote(ctx, client)
	if err != nil {
		return stage.Root{}, err
	}
	image := stage.Image{
		Release: b.config.Release.Version,
		Proof:   stage.Proof{Signatures: remote.Signatures, Index: remote.Index},
	}
	if image.Admitted, err = remote.Admit(b.policy); err != nil {
		return stage.Root{}, fmt.Errorf("the runtime image %s at %s is refused: %w", remote.Ref, remote.From, err)
	}
	timeline.Of(ctx).Mark(timeline.Verify)
	data := filepath.Join(b.config.DataDir, "data")
	dir := filepath.Join(data, pulledPrefix+remote.Desc.Digest.Hex[:12])
	image.Layers = filesOf(dir, remote.Manifest)
	if _, err := os.Lstat(filepath.Join(data, stage.Key(image.Admitted))); err == nil {
		// It is there but for some files: just the layers that have them are wanted.
		image.Layers = fetched(remote, dir)
	} else if err := remote.Fetch(ctx, dir); err != nil {
		_ = os.Remove(dir)  // only if it is empty
		_ = os.Remove(data) // only if nothing else was ever staged
		return stage.Root{}, err
	}
	root, err := b.stage(ctx, image, remote.From.String())
	if err != nil {
		if errors.Is(err, stage.ErrTarget) {
			return root, err // what was pulled is good for the next start
		}
		return root, errors.Join(fmt.Errorf("the runtime image %s at %s is refused: %w", remote.Ref, remote.From, err), os.RemoveAll(dir))
	}
	removeAll(filepath.Join(data, pulledPrefix+"*"))
	return root, nil
}

// fetched are layers that are fetched when they are read.
func fetched(remote *pull.Remote, dir string) []stage.Layer {
	layers := filesOf(dir, remote.Manifest)
	for i, desc := range remote.Manifest.Layers {
		layers[i] = lazy{layers[i], func(ctx context.Context) error { return remote.FetchBlob(ctx, dir, desc) }}
	}
	return layers
}

// lazy is a layer that must be got first.
type lazy struct {
	stage.Layer
	get func(context.Context) error
}

func (l lazy) Open(ctx context.Context) (io.ReadCloser, error) {
	if err := l.get(ctx); err != nil {
		return nil, err
	}
	return l.Layer.Open(ctx)
}

// findRemote asks for the image: by the digest that the release pins it to, if it does,
// and then by its tag, so that another image under that tag is told for what it is.
func (b *bootstrap) findRemote(ctx context.Context, client *pull.Client) (*pull.Remote, error) {
	ref, err := b.config.Image(config.RoleRuntime)
	if err != nil {
		return nil, err
	}
	if tag, ok := ref.(name.Tag); ok {
		if pinned, ok := b.policy.Pinned(tag); ok {
			remote, err := client.Find(ctx, tag.Context().Digest(pinned.Digest().String()))
			if err == nil {
				return remote.As(tag), nil
			}
			if ctx.Err() != nil {
				return nil, err
			}
		}
	}
	return client.Find(ctx, ref)
}
