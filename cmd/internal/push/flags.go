// Package push has what the commands that push to a registry have in common: their
// options, the meter that shows how far they are, and the table at the end.
package push

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/pflag"

	"github.com/rancher/rke2/airgap/registry"
)

// Flags are the options. The zero value is ready for Add.
type Flags struct {
	Jobs   int
	DryRun bool

	retries       int
	username      string
	passwordStdin bool
	access        registry.Settings
}

// UsageError is a mistake in the command line.
type UsageError struct{ error }

func (u UsageError) Unwrap() error { return u.error }

// Add adds the options to a command's.
func (f *Flags) Add(fs *pflag.FlagSet) {
	fs.IntVarP(&f.Jobs, "jobs", "j", 4, "how many blobs are sent at a time")
	fs.IntVar(&f.retries, "retries", 7, "how often in a row a failed request is tried again (the pauses grow to 15 s)")
	fs.BoolVar(&f.DryRun, "dry-run", false, "look what the registry has and say what would be sent")
	fs.StringVarP(&f.username, "username", "u", "", "user at the registry (default: of docker login)")
	fs.BoolVar(&f.passwordStdin, "password-stdin", false, "read the user's password from standard input")
	fs.StringVar(&f.access.CAFile, "ca-file", "", "PEM file of certificate authorities that are trusted beside the system's")
	fs.StringVar(&f.access.ClientCert, "client-cert", "", "PEM file of a client certificate, for registries that ask for one")
	fs.StringVar(&f.access.ClientKey, "client-key", "", "PEM file of the client certificate's key")
	fs.BoolVar(&f.access.SkipVerify, "insecure-skip-tls-verify", false, "take any certificate of the registry: whoever is on the way can read the credentials")
	fs.BoolVar(&f.access.PlainHTTP, "plain-http", false, "allow HTTP where the registry does not speak TLS")
}

// Client makes the registry's client of the options. A mistake in them is a UsageError.
// retrying is told what is tried again.
func (f *Flags) Client(stdin io.Reader, retrying func(what string, cause error, pause time.Duration)) (*registry.Client, error) {
	if f.Jobs < 1 || f.retries < 0 {
		return nil, UsageError{errors.New("--jobs is at least 1, and --retries at least 0")}
	}
	s := f.access
	var err error
	if s.Keychain, err = f.keychain(stdin); err != nil {
		return nil, err
	}
	s.Retries, s.Retrying = f.retries, retrying
	return registry.New(s)
}

// given is a keychain of one user.
type given authn.AuthConfig

// Resolve implements authn.Keychain.
func (g given) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(g)), nil
}

// keychain is that of the options, or nil for docker's.
func (f *Flags) keychain(stdin io.Reader) (authn.Keychain, error) {
	if f.username == "" && !f.passwordStdin {
		return nil, nil
	}
	if f.username == "" || !f.passwordStdin {
		return nil, UsageError{errors.New("--username and --password-stdin are needed together")}
	}
	line, err := bufio.NewReader(io.LimitReader(stdin, 64<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the password: %w", err)
	}
	password := strings.TrimRight(line, "\r\n")
	if password == "" {
		return nil, UsageError{errors.New("--password-stdin: standard input has no password")}
	}
	return given{Username: f.username, Password: password}, nil
}
