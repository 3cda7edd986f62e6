package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// What callers branch on; the message says more.
var (
	// ErrUnauthorised: the registry wants credentials, or others than these.
	ErrUnauthorised = errors.New("not authorised")
	// ErrUntrusted: the registry's certificate, or ours, is not accepted.
	ErrUntrusted = errors.New("certificate not accepted")
	// ErrUnreachable: nothing answers as a registry at that address.
	ErrUnreachable = errors.New("no registry answers")
	// ErrFull: the registry has no space left.
	ErrFull = errors.New("the registry is out of space")
	// ErrRefused: the registry does not take this.
	ErrRefused = errors.New("the registry refuses it")
	// ErrNotFound: the registry does not have it.
	ErrNotFound = errors.New("not found")
	// ErrDamaged: bytes are not what their digest says.
	ErrDamaged = errors.New("wrong digest")
)

func (r *Repository) explain(doing string, err error) error {
	return explain(r.c.s.advice(r.name.RegistryStr()), r.name.RepositoryStr(), doing+" "+r.name.Name(), err)
}

// advice is what an operator can change, in the words of where it is set.
type advice struct{ authority, client, plain, login string }

func (s Settings) advice(registry string) advice {
	if s.File == "" {
		return advice{
			authority: "name that authority's certificate with --ca-file",
			client:    "--client-cert and --client-key",
			plain:     "pass --plain-http if that is meant",
			login:     "log in with docker login " + registry + ", or pass --username and --password-stdin",
		}
	}
	at := func(key string) string { return fmt.Sprintf("configs.%q.%s in %s", registry, key, s.File) }
	return advice{
		authority: "name that authority's certificate as " + at("tls.ca_file"),
		client:    at("tls.cert_file") + " and key_file",
		plain:     "pass --plain-http, or give it an endpoint that begins with http:// in " + s.File + ", if that is meant",
		login:     "set " + at("auth") + ", or log in with docker login " + registry,
	}
}

// explain says what an operator can do about an error.
func explain(to advice, repository, doing string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) && !isNet(err) {
		return err
	}
	wrap := func(kind error, advice string, args ...any) error {
		return &explained{doing: doing, kind: kind, cause: err, advice: fmt.Sprintf(advice, args...)}
	}
	var (
		answer  *transport.Error
		dns     *net.DNSError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		record  tls.RecordHeaderError
	)
	switch {
	// Certificates first: where plain HTTP was tried after TLS, that failed for them.
	case errors.As(err, &x509.UnknownAuthorityError{}):
		return wrap(ErrUntrusted, "its certificate is signed by an authority that this machine does not know: %s", to.authority)
	case errors.As(err, &host):
		return wrap(ErrUntrusted, "its certificate is for another name: use the name that is in the certificate")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return wrap(ErrUntrusted, "its certificate has expired or is not valid yet: check this machine's clock, and the certificate")
	case errors.As(err, &answer):
		return explainAnswer(to, repository, doing, err, answer)
	case alert(err):
		return wrap(ErrUntrusted, "it refuses the connection: it may want a client certificate (%s)", to.client)
	case errors.As(err, &record) || strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return wrap(ErrUnreachable, "it does not speak TLS: %s", to.plain)
	case errors.As(err, &dns):
		return wrap(ErrUnreachable, "the name %s can't be looked up: check it and this machine's DNS", dns.Name)
	case unreachable(err):
		return wrap(ErrUnreachable, "nothing answers there: check address and port, and that the registry runs")
	case errors.Is(err, errPlain):
		return wrap(ErrUnreachable, "it was to be reached over plain HTTP: %s", to.plain)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func explainAnswer(to advice, repository, doing string, err error, answer *transport.Error) error {
	wrap := func(kind error, advice string, args ...any) error {
		return &explained{doing: doing, kind: kind, cause: err, advice: fmt.Sprintf(advice, args...)}
	}
	switch {
	case full(answer):
		return wrap(ErrFull, "make space there, then run the same command again: it goes on where it stopped")
	case answer.StatusCode == http.StatusUnauthorized:
		return wrap(ErrUnauthorised, "%s", to.login)
	case answer.StatusCode == http.StatusForbidden || has(answer, transport.DeniedErrorCode):
		return wrap(ErrUnauthorised, "these credentials may not do that in repository %s", repository)
	case answer.StatusCode == http.StatusNotFound && answer.Request != nil && !strings.HasPrefix(answer.Request.URL.Path, "/v2/"+repository+"/"):
		return wrap(ErrUnreachable, "it answers, but not as a registry: check the address")
	case answer.StatusCode == http.StatusNotFound:
		return wrap(ErrNotFound, "the registry has no such image or repository")
	case answer.StatusCode == http.StatusRequestEntityTooLarge:
		return wrap(ErrRefused, "a proxy before the registry, or the registry, limits the size of requests: raise that limit (nginx: client_max_body_size 0)")
	case answer.StatusCode == http.StatusMethodNotAllowed || has(answer, transport.UnsupportedErrorCode):
		return wrap(ErrRefused, "the registry is read-only, or does not support this")
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// explained is an error with what to do about it.
type explained struct {
	doing  string
	kind   error
	cause  error
	advice string
}

func (e *explained) Error() string {
	return fmt.Sprintf("%s: %v: %s (%v)", e.doing, e.kind, e.advice, e.cause)
}

func (e *explained) Unwrap() []error { return []error{e.kind, e.cause} }

func isNet(err error) bool {
	var n net.Error
	return errors.As(err, &n)
}

func has(answer *transport.Error, code transport.ErrorCode) bool {
	for _, d := range answer.Errors {
		if d.Code == code {
			return true
		}
	}
	return false
}

// noSpace matches what registries say when their storage is full. Distribution's file
// system driver gives no text but the system's error number, 28.
var noSpace = regexp.MustCompile(`(?i)no space left|disk (is )?full|out of (disk )?space|insufficient storage|quota|storage ?limit|XMinioStorageFull|"Err":28\b`)

// full tells whether the registry says that it has no space left.
func full(answer *transport.Error) bool {
	if answer.StatusCode == http.StatusInsufficientStorage {
		return true
	}
	for _, d := range answer.Errors {
		detail, err := json.Marshal(d.Detail)
		if err == nil && (noSpace.Match(detail) || noSpace.MatchString(d.Message)) {
			return true
		}
	}
	return answer.StatusCode >= http.StatusInternalServerError && noSpace.MatchString(answer.Error())
}
