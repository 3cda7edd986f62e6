package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	longestPause = 15 * time.Second
	longestAsked = 2 * time.Minute // of what a registry may ask for in Retry-After
	maxErrorBody = 64 << 10
)

// final marks an error that another try would not mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// status is a registry's answer that is an error.
type status struct {
	answer *transport.Error
	after  time.Duration // Retry-After
}

func (s *status) Error() string { return s.answer.Error() }

func (s *status) Unwrap() error { return s.answer }

// check turns an answer that has none of the codes into an error.
func check(resp *http.Response, codes ...int) error {
	body := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, maxErrorBody), body}
	err := transport.CheckError(resp, codes...)
	resp.Body = body
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return err
	}
	s := &status{answer: answer}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		s.after = min(time.Duration(n)*time.Second, longestAsked)
	}
	return s
}

// retry does f until it succeeds, fails for good, or has failed too often.
func (c *Client) retry(ctx context.Context, what string, f func() error) error {
	for failed := 0; ; {
		err := f()
		if err == nil {
			return nil
		}
		failed++
		if err := c.pause(ctx, what, failed, err); err != nil {
			return err
		}
	}
}

// pause waits before another try, or returns the error if there is to be none. failed
// counts the tries in a row that brought nothing.
func (c *Client) pause(ctx context.Context, what string, failed int, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !temporary(err) || failed > c.s.Retries {
		return err
	}
	pause := min(c.s.Pause<<min(failed-1, 10), longestPause)
	pause += time.Duration(rand.Int64N(int64(pause)/4 + 1)) // so that many clients don't come back at once
	var s *status
	if errors.As(err, &s) && s.after > pause {
		pause = s.after
	}
	if c.s.Retrying != nil {
		c.s.Retrying(what, err, pause)
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// temporary tells whether another try may succeed.
func temporary(err error) bool {
	var f final
	if errors.As(err, &f) {
		return false
	}
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch answer.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		case http.StatusInternalServerError:
			return !full(answer)
		}
		return false
	}
	return !misaddressed(err) && !errors.Is(err, errPlain)
}

// misaddressed tells whether the connection can't be made as things are configured.
func misaddressed(err error) bool {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
	)
	return errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) ||
		errors.As(err, &verify) || errors.As(err, &record) || alert(err) ||
		errors.As(err, &dns) && dns.IsNotFound
}

// unreachable tells whether nothing answers at the address.
func unreachable(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// alert tells whether the other side broke the TLS handshake off.
func alert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
