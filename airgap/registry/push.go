package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Outcome says how a blob came to be in the repository.
type Outcome string

const (
	Present Outcome = "present" // it was there
	Mounted Outcome = "mounted" // the registry took it from another of its repositories
	Sent    Outcome = "sent"
)

// Blob is content that is pushed.
type Blob struct {
	v1.Descriptor
	// Open opens the content; it is called again where a transfer is tried again.
	Open func() (io.ReadCloser, error)
	// From is another repository of the same registry that has the blob; may be "".
	From string
	// Moved is told how many bytes went out; less than zero where they were in vain.
	Moved func(n int64)
}

// HasBlob tells whether the repository has the blob.
func (r *Repository) HasBlob(ctx context.Context, h v1.Hash) (bool, error) {
	var found bool
	err := r.c.retry(ctx, "looking for blob "+short(h), func() (err error) {
		found, err = r.hasBlob(ctx, h)
		return err
	})
	if err != nil {
		return false, r.explain("looking for blob "+short(h)+" in", err)
	}
	return found, nil
}

func (r *Repository) hasBlob(ctx context.Context, h v1.Hash) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, r.url("blobs/%s", h).String(), nil)
	if err != nil {
		return false, err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return false, nil
	}
	return true, check(resp, http.StatusOK)
}

// PushBlob sees to it that the repository has the blob. A transfer whose connection
// breaks goes on with the byte that the registry wants next, where it says so.
func (r *Repository) PushBlob(ctx context.Context, b Blob) (Outcome, error) {
	doing := fmt.Sprintf("pushing blob %s (%d bytes) to", short(b.Digest), b.Size)
	found, err := r.HasBlob(ctx, b.Digest)
	if err != nil {
		return "", err
	}
	if found {
		return Present, nil
	}
	u := &upload{r: r, blob: b}
	if b.From != "" && b.From != r.name.RepositoryStr() {
		mounted, err := u.mount(ctx)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if mounted && err == nil {
			return Mounted, nil
		}
		// A registry need not know how: then the blob is sent.
	}
	most := int64(0) // bytes that the registry ever had: only more is a step forward
	for failed := 0; ; {
		err := u.try(ctx)
		if err == nil {
			return Sent, nil
		}
		if failed++; u.accepted > most {
			failed, most = 1, u.accepted
		}
		if err := r.c.pause(ctx, "sending blob "+short(b.Digest)+" to "+r.name.Name(), failed, err); err != nil {
			u.moved(0)
			return "", r.explain(doing, err)
		}
		if found, err := r.hasBlob(ctx, b.Digest); err == nil && found {
			u.moved(b.Size)
			return Sent, nil // only the answer had been lost
		}
	}
}

// upload is the state of one blob's transfer.
type upload struct {
	r        *Repository
	blob     Blob
	location *url.URL // of the session; nil: there is none
	broken   bool     // how far the registry is in the session must be asked
	accepted int64    // bytes that the registry has

	mu   sync.Mutex
	told int64 // bytes that Moved knows of
}

func (u *upload) moved(to int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.blob.Moved != nil && to != u.told {
		u.blob.Moved(to - u.told)
	}
	u.told = to
}

func (u *upload) mount(ctx context.Context) (bool, error) {
	to := u.r.url("blobs/uploads/")
	to.RawQuery = url.Values{"mount": {u.blob.Digest.String()}, "from": {u.blob.From}}.Encode()
	resp, err := u.send(ctx, http.MethodPost, to, nil, 0, nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated:
		return true, nil
	case http.StatusAccepted: // not there, or not to be had: a session was begun
		return false, u.next(resp)
	}
	return false, check(resp, http.StatusCreated)
}

// try goes on where the last try ended.
func (u *upload) try(ctx context.Context) error {
	if u.location != nil && u.broken {
		if err := u.ask(ctx); err != nil {
			return err
		}
	}
	u.broken = true
	if u.location == nil {
		if err := u.begin(ctx); err != nil {
			return err
		}
	}
	u.moved(u.accepted)
	if u.accepted < u.blob.Size {
		if err := u.patch(ctx); err != nil {
			return err
		}
	}
	return u.finish(ctx)
}

func (u *upload) begin(ctx context.Context) error {
	u.accepted = 0
	resp, err := u.send(ctx, http.MethodPost, u.r.url("blobs/uploads/"), nil, 0, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := check(resp, http.StatusAccepted); err != nil {
		return err
	}
	return u.next(resp)
}

// ask learns how far the registry is. Where it doesn't say the transfer begins anew.
func (u *upload) ask(ctx context.Context) error {
	resp, err := u.send(ctx, http.MethodGet, u.location, nil, 0, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		err := check(resp)
		if temporary(err) {
			return err
		}
		u.location = nil
		return nil
	}
	_, last, ok := strings.Cut(resp.Header.Get("Range"), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 0 || n >= u.blob.Size {
		u.location = nil
		return nil
	}
	// "0-0" is said of nothing and of one byte alike. It is taken for nothing; the
	// registry refuses the next part if it was wrong, and all begins anew.
	if u.accepted = n + 1; n == 0 {
		u.accepted = 0
	}
	return u.next(resp)
}

func (u *upload) patch(ctx context.Context) error {
	from := u.accepted
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var open []*checked
	body := func() (io.ReadCloser, error) {
		c, err := newChecked(u.blob, from, u.moved, u.r.c.s.Stall, func() {
			cancel(fmt.Errorf("no byte went out for %v", u.r.c.s.Stall))
		})
		if err == nil {
			open = append(open, c)
		}
		return c, err
	}
	var header http.Header
	if from > 0 {
		header = http.Header{"Content-Range": {fmt.Sprintf("%d-%d", from, u.blob.Size-1)}}
	}
	resp, err := u.send(ctx, http.MethodPatch, u.location, body, u.blob.Size-from, header)
	for _, c := range open {
		// A registry may answer before it has read all; what is still read tells nothing.
		if damage := c.detach(); damage != nil {
			err = damage
		}
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			return cause
		}
		return err
	}
	defer resp.Body.Close()
	if err := u.lost(check(resp, http.StatusAccepted, http.StatusNoContent, http.StatusCreated)); err != nil {
		return err
	}
	u.accepted = u.blob.Size
	u.moved(u.accepted)
	return u.next(resp)
}

func (u *upload) finish(ctx context.Context) error {
	to := *u.location
	query := to.Query()
	query.Set("digest", u.blob.Digest.String())
	to.RawQuery = query.Encode()
	resp, err := u.send(ctx, http.MethodPut, &to, nil, 0, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return u.lost(check(resp, http.StatusCreated, http.StatusNoContent))
}

// lost lets the transfer begin anew where the registry no longer knows its session, or
// has other bytes than were sent.
func (u *upload) lost(err error) error {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return err
	}
	if answer.StatusCode == http.StatusRequestedRangeNotSatisfiable || answer.StatusCode == http.StatusNotFound || has(answer, transport.DigestInvalidErrorCode) ||
		has(answer, transport.BlobUploadUnknownErrorCode) || has(answer, transport.BlobUploadInvalidErrorCode) {
		u.location, u.accepted = nil, 0
		return &again{err}
	}
	return err
}

// again marks an answer after which a transfer that begins anew may succeed.
type again struct{ cause error }

func (a *again) Error() string { return a.cause.Error() }

// send makes one request to the registry. Where body is nil it has none.
func (u *upload) send(ctx context.Context, method string, to *url.URL, body func() (io.ReadCloser, error), size int64, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, to.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	for k, v := range header {
		req.Header[k] = v
	}
	if body != nil {
		if req.Body, err = body(); err != nil {
			return nil, final{err}
		}
		req.GetBody, req.ContentLength = body, size
	}
	return u.r.http.Do(req)
}

// next notes where the session goes on.
func (u *upload) next(resp *http.Response) error {
	location := resp.Header.Get("Location")
	if location == "" {
		return final{errors.New("the registry does not say where the upload goes on (no Location header)")}
	}
	to, err := resp.Request.URL.Parse(location)
	if err != nil {
		return final{fmt.Errorf("the registry's upload location: %w", err)}
	}
	// Registries behind a proxy that ends TLS often don't know that it does.
	if to.Host == u.r.name.RegistryStr() {
		to.Scheme = u.r.scheme
	}
	u.location = to
	return nil
}

func short(h v1.Hash) string { return h.Algorithm + ":" + h.Hex[:12] }
