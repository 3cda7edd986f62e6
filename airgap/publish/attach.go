package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/airgap/registry"
)

// kinds are what cosign looks for under tags.
var kinds = []string{airgap.KindSignatures, airgap.KindAttestations}

// statements are the signatures or the attestations of one manifest, in one manifest.
type statements struct {
	subject v1.Hash
	tag     string
	raw     []byte
	layers  []v1.Descriptor
	memory  map[v1.Hash][]byte // blobs that the source doesn't have
}

// statementsOf gathers what the source says about a manifest. Cosign looks in one place
// only, so several manifests of signatures are made into one.
func (s *source) statementsOf(subject v1.Hash, kind string) (*statements, error) {
	nodes, err := s.attached(subject, kind)
	if err != nil || len(nodes) == 0 {
		return nil, err
	}
	st := &statements{subject: subject, tag: catalog.AttachedTag(subject, kind)}
	for _, n := range nodes {
		m, err := v1.ParseManifest(bytes.NewReader(n.raw))
		if err != nil {
			return nil, fmt.Errorf("reading signatures of %s: %w", subject, err)
		}
		st.add(m.Layers)
	}
	if len(nodes) == 1 {
		st.raw = nodes[0].raw
		return st, nil
	}
	return st, st.wrap()
}

// add appends the layers that are not there yet.
func (st *statements) add(layers []v1.Descriptor) (added bool) {
	before := len(st.layers)
	st.layers = catalog.AddStatements(st.layers, layers)
	return len(st.layers) > before
}

// wrap makes the manifest of the layers, as cosign would.
func (st *statements) wrap() error {
	manifest, config, err := catalog.WrapStatements(st.layers)
	if err != nil {
		return fmt.Errorf("wrapping signatures of %s: %w", st.subject, err)
	}
	digest, _, err := v1.SHA256(bytes.NewReader(config))
	if err != nil {
		return fmt.Errorf("wrapping signatures of %s: %w", st.subject, err)
	}
	st.memory, st.raw = map[v1.Hash][]byte{digest: config}, manifest
	return nil
}

// unite adds what the registry has under the tag already: another's signature is not
// taken away. It tells whether the registry has all of ours.
func (st *statements) unite(ctx context.Context, repo *registry.Repository) (complete bool, was v1.Hash, err error) {
	d, found, err := repo.Resolve(ctx, st.tag)
	if err != nil || !found {
		return false, v1.Hash{}, err
	}
	if ours, _, err := v1.SHA256(bytes.NewReader(st.raw)); err != nil || ours == d.Digest {
		return true, d.Digest, err
	}
	data, d, err := repo.Manifest(ctx, st.tag)
	if errors.Is(err, registry.ErrNotFound) {
		return false, v1.Hash{}, nil // it went meanwhile
	}
	if err != nil {
		return false, v1.Hash{}, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil || len(m.Layers) == 0 {
		return false, d.Digest, nil // nothing that cosign could read
	}
	theirs := &statements{subject: st.subject, tag: st.tag, layers: m.Layers}
	if !theirs.add(st.layers) {
		return true, d.Digest, nil
	}
	st.layers = theirs.layers
	return false, d.Digest, st.wrap()
}

// blobs are what the manifest needs.
func (st *statements) blobs(s *source) ([]registry.Blob, error) {
	m, err := v1.ParseManifest(bytes.NewReader(st.raw))
	if err != nil {
		return nil, fmt.Errorf("reading signatures of %s: %w", st.subject, err)
	}
	var out []registry.Blob
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		open := func() (io.ReadCloser, error) { return s.Blob(d.Digest) }
		if data, ok := st.memory[d.Digest]; ok {
			open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
		}
		out = append(out, registry.Blob{Descriptor: d, Open: open})
	}
	return out, nil
}
