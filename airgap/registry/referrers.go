package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxPages bounds a list of referrers; one page has hundreds.
const maxPages = 64

// Referrers lists the manifests whose subject is a digest (OCI image-spec v1.1), in the
// registry's order; their ArtifactType says what they are. A
// registry without that API is asked for the tag that clients keep such a list under
// (distribution-spec v1.1, "Referrers Tag Schema"). Where there are none the list is empty.
func (r *Repository) Referrers(ctx context.Context, subject v1.Hash) ([]v1.Descriptor, error) {
	out, supported, err := r.referrers(ctx, subject)
	if err != nil {
		return nil, r.explain("listing what refers to "+short(subject)+" in", err)
	}
	if supported {
		return out, nil
	}
	data, d, err := r.Manifest(ctx, strings.Replace(subject.String(), ":", "-", 1))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if d.MediaType != types.OCIImageIndex {
		return nil, nil // somebody's image that happens to have that tag
	}
	return parseReferrers(data)
}

func (r *Repository) referrers(ctx context.Context, subject v1.Hash) (out []v1.Descriptor, supported bool, err error) {
	next := r.url("referrers/%s", subject)
	for range maxPages {
		var page []v1.Descriptor
		err := r.c.retry(ctx, "listing what refers to "+short(subject), func() error {
			page, next, supported, err = r.referrersPage(ctx, next)
			return err
		})
		if err != nil || !supported {
			return nil, false, err
		}
		if out = append(out, page...); next == nil {
			return out, true, nil
		}
	}
	return nil, false, fmt.Errorf("more than %d pages of referrers", maxPages)
}

// nextPage is the part of a Link header that says where the list goes on (RFC 5988).
var nextPage = regexp.MustCompile(`<([^>]*)>\s*;\s*rel="?next"?`)

func (r *Repository) referrersPage(ctx context.Context, at *url.URL) ([]v1.Descriptor, *url.URL, bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, nil, false, err
	}
	req.Header.Set("Accept", string(types.OCIImageIndex))
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, nil, false, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return nil, at, false, nil // what registries answer that don't know the API
	}
	if err := check(resp, http.StatusOK); err != nil {
		var answer *transport.Error
		if errors.As(err, &answer) && has(answer, transport.UnsupportedErrorCode) {
			return nil, at, false, nil
		}
		return nil, at, false, err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, at, false, err
	}
	if len(data) > maxManifest {
		return nil, at, false, final{fmt.Errorf("the list of referrers has more than %d bytes", maxManifest)}
	}
	page, err := parseReferrers(data)
	if err != nil {
		return nil, at, false, nil // some answer anything with a page of theirs
	}
	next, err := following(resp)
	if err != nil {
		return nil, at, false, err
	}
	return page, next, true, nil
}

// following is where a list goes on; nil at its end.
func following(resp *http.Response) (*url.URL, error) {
	m := nextPage.FindStringSubmatch(resp.Header.Get("Link"))
	if m == nil {
		return nil, nil
	}
	next, err := resp.Request.URL.Parse(m[1])
	if err != nil {
		return nil, final{fmt.Errorf("where the list goes on: %w", err)}
	}
	return next, nil
}

func parseReferrers(data []byte) ([]v1.Descriptor, error) {
	var list struct {
		SchemaVersion int             `json:"schemaVersion"`
		Manifests     []v1.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%w: the list of referrers: %w", ErrDamaged, err)
	}
	if list.SchemaVersion != 2 {
		return nil, fmt.Errorf("%w: the list of referrers has schema version %d, not 2", ErrDamaged, list.SchemaVersion)
	}
	for _, m := range list.Manifests {
		if m.Digest.Algorithm != "sha256" || len(m.Digest.Hex) != 64 || m.Size <= 0 {
			return nil, fmt.Errorf("%w: the list of referrers has an entry without digest or size", ErrDamaged)
		}
	}
	return list.Manifests, nil
}
