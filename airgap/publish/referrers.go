package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/registry"
)

// referrer is a manifest that names another as its subject, and needs no tag.
type referrer struct {
	subject v1.Hash
	node    *node
}

// referrersOf are those that the source has for a manifest.
func (s *source) referrersOf(subject v1.Hash) ([]referrer, error) {
	nodes, err := s.attached(subject, airgap.KindReferrer)
	if err != nil {
		return nil, err
	}
	var out []referrer
	for _, n := range nodes {
		out = append(out, referrer{subject, n})
	}
	return out, nil
}

// referrers pushes what refers to the image's manifests.
func (p *publisher) referrers(ctx context.Context, repo *registry.Repository, j *job) error {
	bySubject := map[v1.Hash][]*node{}
	for _, r := range j.refer {
		start := time.Now()
		_, found, err := repo.Resolve(ctx, r.node.desc.Digest.String())
		if err != nil {
			return err
		}
		outcome := registry.Present
		if !found {
			outcome = registry.Sent
			if err := p.referrer(ctx, repo, r.node); err != nil {
				return err
			}
		}
		bySubject[r.subject] = append(bySubject[r.subject], r.node)
		p.report(Event{Step: Referrers, Image: j.called, What: r.node.desc.Digest.String(), Outcome: outcome, Size: r.node.desc.Size, Elapsed: time.Since(start)})
	}
	for subject, nodes := range bySubject {
		if p.DryRun {
			continue
		}
		if err := list(ctx, repo, subject, nodes); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) referrer(ctx context.Context, repo *registry.Repository, n *node) error {
	if p.DryRun {
		return nil
	}
	for _, d := range n.blobs {
		open := func() (io.ReadCloser, error) { return p.src.Blob(d.Digest) }
		if _, err := repo.PushBlob(ctx, registry.Blob{Descriptor: d, Open: open}); err != nil {
			return err
		}
	}
	return repo.PutManifest(ctx, n.desc.Digest.String(), mediaType(n.raw), n.raw)
}

// list sees to it that the registry lists referrers of a manifest: one that does not do
// it by itself has an index under a tag that clients keep (distribution-spec v1.1,
// "Referrers Tag Schema").
func list(ctx context.Context, repo *registry.Repository, subject v1.Hash, nodes []*node) error {
	all, err := repo.Referrers(ctx, subject)
	if err != nil {
		return err
	}
	complete := true
	for _, n := range nodes {
		if slices.ContainsFunc(all, func(d v1.Descriptor) bool { return d.Digest == n.desc.Digest }) {
			continue
		}
		d, err := describe(n)
		if err != nil {
			return err
		}
		all, complete = append(all, d), false
	}
	if complete {
		return nil
	}
	raw, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: all})
	if err != nil {
		return err
	}
	return repo.PutManifest(ctx, strings.Replace(subject.String(), ":", "-", 1), types.OCIImageIndex, raw)
}

// describe is a referrer's descriptor in a list.
func describe(n *node) (v1.Descriptor, error) {
	m, err := v1.ParseManifest(bytes.NewReader(n.raw))
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("reading the referrer %s: %w", n.desc.Digest, err)
	}
	var is struct {
		ArtifactType string `json:"artifactType"`
	}
	if err := json.Unmarshal(n.raw, &is); err != nil {
		return v1.Descriptor{}, fmt.Errorf("reading the referrer %s: %w", n.desc.Digest, err)
	}
	if is.ArtifactType == "" {
		is.ArtifactType = string(m.Config.MediaType)
	}
	return v1.Descriptor{
		MediaType: mediaType(n.raw), Size: n.desc.Size, Digest: n.desc.Digest,
		ArtifactType: is.ArtifactType, Annotations: m.Annotations,
	}, nil
}
