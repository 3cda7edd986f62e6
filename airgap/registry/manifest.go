package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxManifest bounds what is read of a manifest; registries take 4 MiB.
const maxManifest = 4 << 20

var acceptable = strings.Join([]string{
	string(types.OCIImageIndex), string(types.OCIManifestSchema1),
	string(types.DockerManifestList), string(types.DockerManifestSchema2),
}, ", ")

func (r *Repository) url(format string, args ...any) *url.URL {
	return &url.URL{Scheme: r.scheme, Host: r.name.RegistryStr(), Path: "/v2/" + r.name.RepositoryStr() + "/" + fmt.Sprintf(format, args...)}
}

// askManifest asks once for a manifest. The caller closes the answer's body.
func (r *Repository) askManifest(ctx context.Context, method, reference string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.url("manifests/%s", reference).String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", acceptable)
	return r.http.Do(req)
}

// Resolve asks what a tag or digest names in the repository. A descriptor's Annotations
// and Platform are not known to registries. A tag that is not there gives false.
func (r *Repository) Resolve(ctx context.Context, reference string) (d v1.Descriptor, found bool, err error) {
	err = r.c.retry(ctx, "looking for "+r.at(reference), func() error {
		resp, err := r.askManifest(ctx, http.MethodHead, reference)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			found = false
			return nil
		}
		if err := check(resp, http.StatusOK); err != nil {
			return err
		}
		found = true
		d = v1.Descriptor{MediaType: types.MediaType(resp.Header.Get("Content-Type")), Size: resp.ContentLength}
		// A registry need not say the digest: then it is computed.
		d.Digest, _ = v1.NewHash(resp.Header.Get("Docker-Content-Digest"))
		return nil
	})
	if err != nil {
		return d, false, r.explain("looking for "+reference+" in", err)
	}
	if found && d.Digest.Hex == "" {
		_, d, err = r.Manifest(ctx, reference)
	}
	return d, found, err
}

// Manifest fetches the manifest that a tag or digest names; where it is a digest, the
// bytes have it. What is not there gives ErrNotFound.
func (r *Repository) Manifest(ctx context.Context, reference string) (data []byte, d v1.Descriptor, err error) {
	err = r.c.retry(ctx, "fetching "+r.at(reference), func() error {
		resp, err := r.askManifest(ctx, http.MethodGet, reference)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := check(resp, http.StatusOK); err != nil {
			return err
		}
		if data, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1)); err != nil {
			return err
		}
		if len(data) > maxManifest {
			return final{fmt.Errorf("the manifest has more than %d bytes", maxManifest)}
		}
		d = v1.Descriptor{MediaType: types.MediaType(resp.Header.Get("Content-Type")), Size: int64(len(data)), Digest: digest(data)}
		if want, err := v1.NewHash(reference); err == nil && want != d.Digest {
			return final{fmt.Errorf("%w: the registry gave bytes of %s for %s", ErrDamaged, d.Digest, want)}
		}
		return nil
	})
	if err != nil {
		return nil, d, r.explain("fetching "+reference+" from", err)
	}
	return data, d, nil
}

// PutManifest stores a manifest under a tag or its digest. Everything that it names must
// be in the repository.
func (r *Repository) PutManifest(ctx context.Context, reference string, mediaType types.MediaType, data []byte) error {
	err := r.c.retry(ctx, "storing "+r.at(reference), func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.url("manifests/%s", reference).String(), bytes.NewReader(data))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", string(mediaType))
		resp, err := r.http.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := check(resp, http.StatusOK, http.StatusCreated, http.StatusAccepted); err != nil {
			return err
		}
		if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != digest(data).String() {
			return final{fmt.Errorf("%w: the registry stored it as %s, not %s", ErrDamaged, got, digest(data))}
		}
		return nil
	})
	if err == nil {
		return nil
	}
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode >= 400 && answer.StatusCode < 500 && (has(answer, transport.ManifestInvalidErrorCode) ||
		has(answer, transport.UnsupportedErrorCode) || answer.StatusCode == http.StatusUnsupportedMediaType || answer.StatusCode == http.StatusBadRequest) {
		return &explained{doing: "storing " + reference + " in " + r.name.Name(), kind: ErrRefused, cause: err, advice: suspect(mediaType, data)}
	}
	return r.explain("storing "+reference+" in", err)
}

// suspect names what older registries don't take.
func suspect(mediaType types.MediaType, data []byte) string {
	switch {
	case mediaType == types.OCIImageIndex:
		return "it may not take OCI image indexes (one image for several platforms, image-spec v1.0): a newer registry is needed"
	case bytes.Contains(data, []byte(types.OCILayerZStd)):
		return "it may not take layers compressed with zstd (image-spec v1.1): a newer registry is needed"
	}
	return "it may not take OCI images: a newer registry is needed"
}

func (r *Repository) at(reference string) string {
	if strings.Contains(reference, ":") {
		return r.name.Name() + "@" + reference
	}
	return r.name.Name() + ":" + reference
}

func digest(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// Tags lists the repository's tags, in the registry's order.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	var out []string
	next := r.url("tags/list")
	for range maxPages {
		var page struct {
			Tags []string `json:"tags"`
		}
		err := r.c.retry(ctx, "listing the tags of "+r.name.Name(), func() (err error) {
			next, err = r.page(ctx, next, &page)
			return err
		})
		if err != nil {
			return nil, r.explain("listing the tags of", err)
		}
		if out = append(out, page.Tags...); next == nil {
			return out, nil
		}
	}
	return nil, fmt.Errorf("listing the tags of %s: more than %d pages", r.name.Name(), maxPages)
}

// page reads one page of a list, and tells where it goes on; at is returned with an error.
func (r *Repository) page(ctx context.Context, at *url.URL, into any) (*url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return at, err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return at, err
	}
	defer resp.Body.Close()
	if err := check(resp, http.StatusOK); err != nil {
		return at, err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return at, err
	}
	if len(data) > maxManifest {
		return at, final{fmt.Errorf("the list has more than %d bytes", maxManifest)}
	}
	if err := json.Unmarshal(data, into); err != nil {
		return at, final{fmt.Errorf("the list: %w", err)}
	}
	next, err := following(resp)
	if err != nil {
		return at, err
	}
	return next, nil
}
