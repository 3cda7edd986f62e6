package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/registry"
)

// signatureAnnotation is where cosign keeps a signature.
const signatureAnnotation = "dev.cosignproject.cosign/signature"

// suffixes are the ends of cosign's tags, sha256-<digest of the subject>.<suffix>
// (cosign's signature specification, "tag-based discovery").
var suffixes = []struct{ kind, suffix string }{
	{airgap.KindSignatures, "sig"},
	{airgap.KindAttestations, "att"},
}

// statements are the signatures or the attestations of one manifest, in one manifest.
type statements struct {
	subject v1.Hash
	tag     string
	raw     []byte
	layers  []v1.Descriptor
	memory  map[v1.Hash][]byte // blobs that the layout doesn't have
}

// statementsOf gathers what the layout says about a manifest. Cosign looks in one place
// only, so several manifests of signatures are made into one.
func (s *source) statementsOf(subject v1.Hash, kind, suffix string) (*statements, error) {
	nodes, err := s.attached(subject, kind)
	if err != nil || len(nodes) == 0 {
		return nil, err
	}
	st := &statements{subject: subject, tag: strings.Replace(subject.String(), ":", "-", 1) + "." + suffix}
	for _, n := range nodes {
		m, err := v1.ParseManifest(bytes.NewReader(n.raw))
		if err != nil {
			return nil, fmt.Errorf("reading %s of %s: %w", suffix, subject, err)
		}
		st.add(m.Layers)
	}
	if len(nodes) == 1 {
		st.raw = nodes[0].raw
		return st, nil
	}
	return st, st.wrap()
}

func same(a, b v1.Descriptor) bool {
	return a.Digest == b.Digest && a.Annotations[signatureAnnotation] == b.Annotations[signatureAnnotation]
}

// add appends the layers that are not there yet.
func (st *statements) add(layers []v1.Descriptor) (added bool) {
	for _, l := range layers {
		if !slices.ContainsFunc(st.layers, func(o v1.Descriptor) bool { return same(o, l) }) {
			st.layers = append(st.layers, l)
			added = true
		}
	}
	return added
}

// wrap makes the manifest of the layers, as cosign would.
func (st *statements) wrap() error {
	config := v1.ConfigFile{RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range st.layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Digest)
		config.History = append(config.History, v1.History{})
	}
	data, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("wrapping signatures of %s: %w", st.subject, err)
	}
	digest, size, err := v1.SHA256(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("wrapping signatures of %s: %w", st.subject, err)
	}
	st.memory = map[v1.Hash][]byte{digest: data}
	st.raw, err = json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON, Size: size, Digest: digest},
		Layers:        st.layers,
	})
	if err != nil {
		return fmt.Errorf("wrapping signatures of %s: %w", st.subject, err)
	}
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
		open := func() (io.ReadCloser, error) { return s.blob(d.Digest) }
		if data, ok := st.memory[d.Digest]; ok {
			open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
		}
		out = append(out, registry.Blob{Descriptor: d, Open: open})
	}
	return out, nil
}
