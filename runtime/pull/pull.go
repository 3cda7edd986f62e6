// Package pull fetches images from registries for a node: through registries.yaml's
// mirrors, with the credentials that the file, the kubelet's credential providers or
// docker's configuration have. What it fetches is a claim until package trust admits it;
// blobs are verified while they are streamed, and a download that broke off goes on.
package pull

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/mirrors"
	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/airgap/trust"
)

// Settings say how registries are reached. The zero value asks each registry itself, with
// docker's credentials.
type Settings struct {
	Registries  string // registries.yaml; it need not be there
	OnlyMirrors bool   // a registry that has mirrors is not asked itself
	// Providers is the kubelet's CredentialProviderConfig, which need not be there, and
	// ProviderBin the folder of the programs that it names.
	Providers, ProviderBin string
	Log                    *slog.Logger
}

// How patient a node is: it is at its start, and somebody waits.
const (
	retries = 3
	stall   = time.Minute
)

// Client pulls images.
type Client struct {
	door *mirrors.Door
	log  *slog.Logger
}

// New reads the settings' files. Nothing is dialled.
func New(s Settings) (*Client, error) {
	config, ignored, err := mirrors.LoadForNode(s.Registries)
	if err != nil {
		return nil, err
	}
	if ignored != nil {
		s.Log.Warn("what is not known in the registries' settings is passed over", "error", ignored)
	}
	config.OnlyMirrors = s.OnlyMirrors
	keys := []authn.Keychain{authn.DefaultKeychain}
	providers, err := loadProviders(s.Providers, s.ProviderBin, s.Log)
	if err != nil {
		return nil, err
	}
	if len(providers.list) > 0 {
		keys = append([]authn.Keychain{providers}, keys...)
	}
	base := registry.Settings{
		Keychain: authn.NewMultiKeychain(keys...), Retries: retries, Stall: stall, File: s.Registries,
		Retrying: func(what string, cause error, pause time.Duration) {
			s.Log.Warn("a registry is asked again", "what", what, "in", pause.Round(time.Millisecond).String(), "error", cause)
		},
	}
	door := mirrors.NewDoor(config, base, func(endpoint string, why error) {
		s.Log.Warn("a registry's endpoint is passed over", "endpoint", endpoint, "error", why)
	})
	return &Client{door: door, log: s.Log}, nil
}

// Remote is an image that a registry has, for this platform.
type Remote struct {
	Ref        name.Reference
	Desc       v1.Descriptor // of its manifest
	Manifest   *v1.Manifest
	From       mirrors.Endpoint // that had it
	Index      trust.Index      // that it was found in, if any
	Signatures []trust.Signature

	repo *mirrors.Repository
	log  *slog.Logger
}

// Find asks for an image, and for its signatures, which are looked for where cosign puts
// them: under the tag sha256-<hex>.sig, and among what refers to it (OCI
// distribution-spec v1.1). What no endpoint has is [registry.ErrNotFound].
func (c *Client) Find(ctx context.Context, ref name.Reference) (*Remote, error) {
	repo, err := c.door.Repository(ref.Context())
	if err != nil {
		return nil, err
	}
	raw, d, from, err := repo.Manifest(ctx, ref.Identifier())
	if err != nil {
		return nil, err
	}
	// What has the image has what belongs to it; the others are asked if it breaks down.
	out := &Remote{Ref: ref, From: from, repo: repo.Prefer(from), log: c.log}
	signatures := func(of v1.Hash) ([]trust.Signature, error) { return signatures(ctx, repo.Only(from), of) }
	if d.MediaType.IsIndex() {
		idx, err := v1.ParseIndexManifest(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("reading the image index %s of %s: %w", d.Digest, ref, err)
		}
		out.Index.Raw = raw
		if out.Index.Signatures, err = signatures(d.Digest); err != nil {
			return nil, err
		}
		one, err := airgap.ForPlatform(idx, v1.Platform{OS: "linux", Architecture: runtime.GOARCH})
		if err != nil {
			return nil, fmt.Errorf("image %s at %s: %w", ref, from, err)
		}
		if raw, d, _, err = out.repo.Manifest(ctx, one.Digest.String()); err != nil {
			return nil, err
		}
	}
	if !d.MediaType.IsImage() {
		return nil, fmt.Errorf("image %s at %s is of type %q: an OCI image or docker's (manifest version 2, schema 2) is needed", ref, from, d.MediaType)
	}
	if out.Manifest, err = v1.ParseManifest(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("reading the manifest %s of %s: %w", d.Digest, ref, err)
	}
	out.Desc = d
	out.Signatures, err = signatures(d.Digest)
	return out, err
}

// What cosign calls its signatures.
const (
	signatureArtifact   = "application/vnd.dev.cosign.artifact.sig.v1+json"
	signaturePayload    = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	maxPayload          = 64 << 10 // real ones have 300 bytes
	maxReferrers        = 16       // signatures of one image that are read
)

// signatures reads what is signed about a manifest; none is no error.
func signatures(ctx context.Context, repo *mirrors.Repository, of v1.Hash) ([]trust.Signature, error) {
	fail := func(err error) error { return fmt.Errorf("looking for signatures of %s: %w", of, err) }
	raw, _, _, err := repo.Manifest(ctx, of.Algorithm+"-"+of.Hex+".sig")
	if err == nil {
		return inManifest(ctx, repo, raw)
	}
	if !errors.Is(err, registry.ErrNotFound) {
		return nil, fail(err)
	}
	referrers, err := repo.Referrers(ctx, of)
	if err != nil {
		return nil, fail(err)
	}
	referrers = slices.DeleteFunc(referrers, func(d v1.Descriptor) bool { return d.ArtifactType != signatureArtifact })
	var out []trust.Signature
	for _, d := range referrers[:min(len(referrers), maxReferrers)] {
		raw, _, _, err := repo.Manifest(ctx, d.Digest.String())
		if errors.Is(err, registry.ErrNotFound) {
			continue // the list outlived it
		}
		if err != nil {
			return nil, fail(err)
		}
		found, err := inManifest(ctx, repo, raw)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// inManifest reads the signatures that a manifest of cosign's lists.
func inManifest(ctx context.Context, repo *mirrors.Repository, raw []byte) ([]trust.Signature, error) {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("reading the signatures of an image: %w", err)
	}
	var out []trust.Signature
	for _, l := range m.Layers {
		if l.MediaType != signaturePayload || l.Size > maxPayload {
			continue
		}
		signature, err := base64.StdEncoding.DecodeString(l.Annotations[signatureAnnotation])
		if err != nil {
			signature = nil // refused, and not overlooked
		}
		payload, err := small(ctx, repo, l)
		if err != nil {
			return nil, fmt.Errorf("reading the signatures of an image: %w", err)
		}
		out = append(out, trust.Signature{Payload: payload, Raw: signature})
	}
	return out, nil
}

// small fetches a blob of a few hundred bytes.
func small(ctx context.Context, repo *mirrors.Repository, d v1.Descriptor) (_ []byte, err error) {
	f, err := os.CreateTemp("", "rke2-signature-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if err := repo.FetchBlob(ctx, d, f, nil); err != nil {
		return nil, err
	}
	return os.ReadFile(f.Name())
}

// Admit asks a policy about the image under the name by which it was found.
func (r *Remote) Admit(policy trust.Policy) (trust.Admitted, error) {
	switch ref := r.Ref.(type) {
	case name.Tag:
		return policy.AdmitOf(ref, r.Desc.Digest, r.Signatures, r.Index)
	case name.Digest:
		return policy.AdmitDigest(ref, r.Desc.Digest, r.Signatures, r.Index)
	}
	return trust.Admitted{}, fmt.Errorf("image reference %s: a tag or a digest is needed", r.Ref)
}

// As is the same image under another name of its repository, such as the tag that a pinned
// digest belongs to.
func (r *Remote) As(ref name.Reference) *Remote {
	out := *r
	out.Ref = ref
	return &out
}

// human is a number of bytes as people read it.
func human(n int64) string {
	units := []string{"B", "kB", "MB", "GB"}
	v, u := float64(n), 0
	for v >= 1000 && u < len(units)-1 {
		v, u = v/1000, u+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + units[u]
}
