package collect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/manifest"
	"github.com/rancher/rke2/airgap/mirrors"
	"github.com/rancher/rke2/airgap/registry"
)

// resolver finds out what references mean: manifests, what is attached to them, and which
// blobs they need. Everything small is in the cache when it is done.
type resolver struct {
	pool      *pool
	door      *mirrors.Door // nil: offline
	platforms []v1.Platform
}

// image resolves one reference by asking registries.
func (r *resolver) image(ctx context.Context, w *wanted) (_ manifest.LockedImage, from mirrors.Endpoint, err error) {
	out := manifest.LockedImage{Image: w.ref, Manifests: map[string]v1.Descriptor{}}
	repo, err := r.door.Repository(w.repo)
	if err != nil {
		return out, from, err
	}
	data, root, from, err := repo.Manifest(ctx, w.reference())
	if err != nil {
		return out, from, err
	}
	if _, err := r.pool.cache.Put(data); err != nil {
		return out, from, err
	}
	// What has the image has what belongs to it; the others are asked if it breaks down.
	repo = repo.Prefer(from)
	out.Root = v1.Descriptor{MediaType: root.MediaType, Size: root.Size, Digest: root.Digest}
	if err := r.manifests(ctx, w.ref, repo, data, &out); err != nil {
		return out, from, err
	}
	subjects := []v1.Hash{out.Root.Digest}
	for _, m := range out.Manifests {
		if !slices.Contains(subjects, m.Digest) {
			subjects = append(subjects, m.Digest)
		}
	}
	for _, s := range subjects {
		found, err := r.attached(ctx, w.ref, repo.Only(from), s)
		if err != nil {
			return out, from, err
		}
		out.Attached = append(out.Attached, found...)
	}
	return out, from, r.note(ctx, repo, w.ref, out)
}

// manifests finds the manifest of each platform.
func (r *resolver) manifests(ctx context.Context, ref string, repo *mirrors.Repository, data []byte, out *manifest.LockedImage) error {
	switch root := out.Root; {
	case root.MediaType.IsIndex():
		idx, err := v1.ParseIndexManifest(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("its image index %s: %w", root.Digest, err)
		}
		for _, p := range r.platforms {
			m, err := airgap.ForPlatform(idx, p)
			if err != nil {
				return err
			}
			out.Manifests[p.String()] = v1.Descriptor{MediaType: m.MediaType, Size: m.Size, Digest: m.Digest}
			out.Attached = append(out.Attached, inIndex(idx, m.Digest)...)
		}
		return nil
	case root.MediaType.IsImage():
		p, err := r.platform(ctx, repo, ref, data)
		if err != nil {
			return err
		}
		for _, want := range r.platforms {
			if !p.Satisfies(want) {
				return fmt.Errorf("it is not made for %s; it has %s", want, p)
			}
			out.Manifests[want.String()] = root
		}
		return nil
	}
	return fmt.Errorf("it is of type %q: only OCI images and docker's (manifest version 2, schema 2) can be bundled", out.Root.MediaType)
}

// inIndex finds BuildKit's attestations of a manifest: it keeps them beside it in the
// image index (https://docs.docker.com/build/metadata/attestations/attestation-storage).
func inIndex(idx *v1.IndexManifest, of v1.Hash) []manifest.LockedAttachment {
	var out []manifest.LockedAttachment
	for _, d := range idx.Manifests {
		if d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" && d.Annotations["vnd.docker.reference.digest"] == of.String() {
			out = append(out, manifest.LockedAttachment{
				Kind: airgap.KindReferrer, Subject: of,
				Descriptor: v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest},
			})
		}
	}
	return out
}

// platform reads what an image without an index is for.
func (r *resolver) platform(ctx context.Context, repo *mirrors.Repository, ref string, data []byte) (*v1.Platform, error) {
	m, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("its manifest: %w", err)
	}
	if m.Config.MediaType != types.OCIConfigJSON && m.Config.MediaType != types.DockerConfigJSON {
		return nil, fmt.Errorf("it is no container image: its config is of type %q", m.Config.MediaType)
	}
	r.pool.known(remote{repo, m.Config, ref})
	b, err := r.pool.small(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	cfg, err := v1.ParseConfigFile(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("its config: %w", err)
	}
	return cfg.Platform(), nil
}

// attached finds what is attached to a manifest in a registry: under cosign's tags
// (sha256-DIGEST.SUFFIX; cosign's signature specification, "tag-based discovery"), and
// what the referrers API lists.
func (r *resolver) attached(ctx context.Context, ref string, repo *mirrors.Repository, subject v1.Hash) ([]manifest.LockedAttachment, error) {
	var out []manifest.LockedAttachment
	add := func(d v1.Descriptor, data []byte) error {
		if slices.ContainsFunc(out, func(a manifest.LockedAttachment) bool { return a.Descriptor.Digest == d.Digest }) {
			return nil
		}
		kind, ok := classify(d, data)
		if !ok {
			return nil
		}
		if _, err := r.pool.cache.Put(data); err != nil {
			return err
		}
		out = append(out, manifest.LockedAttachment{
			Kind: kind, Subject: subject, Descriptor: v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest},
		})
		return nil
	}
	for _, suffix := range []string{"sig", "att", "sbom"} {
		data, d, _, err := repo.Manifest(ctx, strings.Replace(subject.String(), ":", "-", 1)+"."+suffix)
		if errors.Is(err, registry.ErrNotFound) {
			continue
		}
		if err == nil {
			err = add(d, data)
		}
		if err != nil {
			return nil, fmt.Errorf("what is attached to %s: %w", subject, err)
		}
	}
	referrers, err := repo.Referrers(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("what is attached to %s: %w", subject, err)
	}
	for _, l := range referrers {
		data, d, _, err := repo.Manifest(ctx, l.Digest.String())
		if errors.Is(err, registry.ErrNotFound) {
			continue // the list outlived it
		}
		if err == nil {
			err = add(d, data)
		}
		if err != nil {
			return nil, fmt.Errorf("what is attached to %s: %w", subject, err)
		}
	}
	return out, nil
}

// classify tells by its layers what an attached manifest is; ok is false for what is no
// manifest of blobs.
func classify(d v1.Descriptor, data []byte) (kind string, ok bool) {
	m, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil || d.MediaType.IsIndex() || m.Config.Digest.Hex == "" {
		return "", false
	}
	kind = airgap.KindReferrer
	for _, l := range m.Layers {
		switch l.MediaType {
		case "application/vnd.dev.cosign.simplesigning.v1+json":
			return airgap.KindSignatures, true
		case "application/vnd.dsse.envelope.v1+json":
			kind = airgap.KindAttestations
		}
	}
	return kind, true
}

// locked takes what a lock says of a reference.
func (r *resolver) locked(ctx context.Context, w *wanted, l manifest.LockedImage) error {
	for _, p := range r.platforms {
		if _, ok := l.Manifests[p.String()]; !ok {
			return fmt.Errorf("the lock has no manifest of it for %s: run the same command with --update-lock", p)
		}
	}
	var repo *mirrors.Repository
	if r.door != nil {
		var err error
		if repo, err = r.door.Repository(w.repo); err != nil {
			return err
		}
	}
	r.pool.known(remote{repo, l.Root, w.ref})
	return r.note(ctx, repo, w.ref, l)
}

// note reads the manifests and configs of an image and tells the pool of their blobs.
func (r *resolver) note(ctx context.Context, repo *mirrors.Repository, ref string, l manifest.LockedImage) error {
	manifests := []v1.Descriptor{}
	for _, m := range l.Manifests {
		manifests = append(manifests, m)
	}
	for _, a := range l.Attached {
		manifests = append(manifests, a.Descriptor)
	}
	for _, d := range manifests {
		r.pool.known(remote{repo, d, ref})
		b, err := r.pool.small(ctx, d)
		if err != nil {
			return err
		}
		m, err := v1.ParseManifest(bytes.NewReader(b))
		if err != nil {
			return fmt.Errorf("its manifest %s: %w", d.Digest, err)
		}
		for _, blob := range append([]v1.Descriptor{m.Config}, m.Layers...) {
			r.pool.known(remote{repo, blob, ref})
		}
		if m.Config.MediaType.IsConfig() {
			if _, err := r.pool.small(ctx, m.Config); err != nil {
				return err
			}
		}
	}
	return nil
}

// entries list an image for one platform, as a bundle is planned from.
func entries(w *wanted, l manifest.LockedImage, platform string) []v1.Descriptor {
	var out []v1.Descriptor
	for _, n := range w.names() {
		d := l.Manifests[platform]
		d.Annotations = map[string]string{airgap.AnnotationKind: airgap.KindImage, airgap.AnnotationImageName: n, airgap.AnnotationRefName: n}
		if l.Root.MediaType.IsIndex() {
			d.Annotations[airgap.AnnotationIndex] = l.Root.Digest.String()
		}
		out = append(out, d)
	}
	return append(out, attachments(l.Attached)...)
}

func attachments(all []manifest.LockedAttachment) []v1.Descriptor {
	var out []v1.Descriptor
	for _, a := range all {
		d := a.Descriptor
		d.Annotations = map[string]string{airgap.AnnotationKind: a.Kind, airgap.AnnotationSigns: a.Subject.String()}
		out = append(out, d)
	}
	return out
}

// parallel does f for each number below n, at most jobs at a time, and gives the first
// error by number: the same one whatever the order in which they end.
func parallel(ctx context.Context, n, jobs int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(jobs, 1))
	for i := range n {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if errs[i] = f(ctx, i); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	var first error
	for _, err := range errs {
		switch {
		case err == nil:
		case first == nil, errors.Is(first, context.Canceled) && !errors.Is(err, context.Canceled):
			first = err // what was cancelled because of another is not the reason
		}
	}
	if first == nil {
		return ctx.Err()
	}
	return first
}
