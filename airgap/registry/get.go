package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Get opens an http or https URL that is no registry's, such as a chart repository's
// index, with the same certificates, credentials (those of its host, as a name and a
// password) and patience. The caller closes it, and bounds and verifies what it reads.
func (c *Client) Get(ctx context.Context, from string) (io.ReadCloser, error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", from, err)
	}
	auth, err := authn.Resolve(ctx, c.s.Keychain, host(u.Host))
	if err != nil {
		return nil, fmt.Errorf("looking up credentials for %s: %w", u.Host, err)
	}
	login, err := authn.Authorization(ctx, auth)
	if err != nil {
		return nil, fmt.Errorf("looking up credentials for %s: %w", u.Host, err)
	}
	client := &http.Client{Transport: c.inner}
	var body io.ReadCloser
	err = c.retry(ctx, "fetching "+u.Redacted(), func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
		if err != nil {
			return final{err}
		}
		switch {
		case login.Username != "":
			req.SetBasicAuth(login.Username, login.Password)
		case login.Auth != "":
			req.Header.Set("Authorization", "Basic "+login.Auth)
		}
		resp, err := client.Do(req)
		if err != nil {
			if unreachable(err) {
				return final{err} // a wrong name or address should be told at once
			}
			return err
		}
		if err := check(resp, http.StatusOK); err != nil {
			_ = resp.Body.Close() // its answer is the error
			return err
		}
		body = resp.Body
		return nil
	})
	if err != nil {
		return nil, explain(c.s.advice(u.Host), "", "fetching "+u.Redacted(), err)
	}
	return body, nil
}

// host is what credentials are looked up for.
type host string

var _ authn.Resource = host("")

// String implements authn.Resource.
func (h host) String() string { return string(h) }

// RegistryStr implements authn.Resource.
func (h host) RegistryStr() string { return string(h) }
