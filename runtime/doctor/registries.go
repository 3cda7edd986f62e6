package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/rancher/rke2/airgap/mirrors"
	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/runtime/preflight"
)

// Pull says where an image would be pulled from if no bundle had it.
type Pull struct {
	Image     string     `json:"image"`
	Endpoints []Endpoint `json:"endpoints"` // in the order in which they are asked
}

// Endpoint is one address that is asked for an image, and with what.
type Endpoint struct {
	URL        string `json:"url"`
	Repository string `json:"repository"`       // what the image is called there
	Mirror     bool   `json:"mirror"`           // it stands for the image's own registry
	User       string `json:"user,omitempty"`   // or the kind of token
	CAFile     string `json:"caFile,omitempty"` // its authority, beside the system's
	ClientCert string `json:"clientCert,omitempty"`
	SkipVerify bool   `json:"skipVerify,omitempty"` // any certificate is taken
	Fault      string `json:"fault,omitempty"`      // of the files that are named
	Answer     string `json:"answer,omitempty"`     // what it said when it was asked
	answered   bool
}

// String is the endpoint in one line.
func (e Endpoint) String() string {
	s := e.URL + " as " + e.Repository
	if !e.Mirror {
		s += " (the registry itself)"
	}
	if e.User != "" {
		s += ", as user " + e.User
	} else {
		s += ", without credentials of registries.yaml"
	}
	if e.CAFile != "" {
		s += ", authority " + e.CAFile
	}
	if e.ClientCert != "" {
		s += ", client certificate " + e.ClientCert
	}
	if e.SkipVerify {
		s += ", ANY certificate is taken"
	}
	if e.Fault != "" {
		s += ": FAULT: " + e.Fault
	}
	if e.Answer != "" {
		s += ": " + e.Answer
	}
	return s
}

// registries explains registries.yaml for each image that the node itself needs.
func registries(ctx context.Context, o Options) ([]Pull, preflight.Check) {
	c := preflight.Check{Name: "registries", Verdict: preflight.OK}
	file := o.Config.PrivateRegistry
	conf, ignored, err := mirrors.LoadForNode(file)
	switch _, missing := os.Stat(file); {
	case err == nil && errors.Is(missing, os.ErrNotExist):
		c.Found = "no " + file + ": images are asked of their own registries"
	case err != nil:
		c.Verdict, c.Found, c.ToDo = preflight.Warn, err.Error(), "correct "+file
		if !o.Config.Offline {
			c.Verdict = preflight.Fail
		}
		return nil, c
	default:
		c.Found = fmt.Sprintf("%s: mirrors for %d, settings of %s", file, len(conf.Mirrors), count(len(conf.Configs), "host"))
	}
	if ignored != nil {
		c.Verdict, c.ToDo = preflight.Warn, "correct "+file+": the node passes over what it does not know there"
		c.Details = append(c.Details, ignored.Error())
	}
	if o.Config.Offline {
		c.Found += "; offline is set, so none is asked"
		if len(conf.Mirrors)+len(conf.Configs) == 0 {
			return nil, c
		}
	}
	door := mirrors.NewDoor(conf, registry.Settings{Stall: o.Patience}, nil)
	var pulls []Pull
	faults := map[string]bool{}
	for _, n := range preflight.Needs(o.Config) {
		pull := Pull{Image: n.Ref.String()}
		endpoints, err := conf.Endpoints(n.Ref.Context())
		if err != nil {
			c.Verdict, c.Found, c.ToDo = preflight.Fail, err.Error(), "correct "+file
			return pulls, c
		}
		has := false
		for _, e := range endpoints {
			one := explain(e)
			if one.Fault != "" {
				faults[one.Fault] = true
			}
			if o.Dial && !o.Config.Offline && one.Fault == "" {
				one.Answer, one.answered = ask(ctx, o, door, n, e)
				has = has || one.answered
			}
			pull.Endpoints = append(pull.Endpoints, one)
		}
		if o.Dial && !o.Config.Offline && !has {
			c.Verdict, c.ToDo = preflight.Warn, "make one of the endpoints answer, or bring the bundle; the endpoints' answers are below"
			c.Details = append(c.Details, "no endpoint has "+n.Ref.String())
		}
		pulls = append(pulls, pull)
	}
	for fault := range faults {
		c.Details = append(c.Details, fault)
	}
	if len(faults) > 0 {
		c.Verdict, c.ToDo = preflight.Warn, "correct the files that "+file+" names"
	}
	return pulls, c
}

// explain tells what would be used at an endpoint, and whether it can be.
func explain(e mirrors.Endpoint) Endpoint {
	out := Endpoint{URL: e.String(), Repository: e.Repository, Mirror: e.Namespace != ""}
	if a := e.Auth; a != nil {
		switch {
		case a.Username != "":
			out.User = a.Username
		case a.Auth != "":
			out.User = "(in auth)"
		case a.IdentityToken != "":
			out.User = "(a token)"
		}
	}
	if t := e.TLS; t != nil {
		out.CAFile, out.ClientCert, out.SkipVerify = t.CAFile, t.CertFile, t.InsecureSkipVerify
		if err := certificates(*t); err != nil {
			out.Fault = err.Error()
		}
	}
	return out
}

// certificates reads the files that an endpoint's TLS settings name.
func certificates(t mirrors.TLS) error {
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return err
		}
		if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s holds no certificate in PEM", t.CAFile)
		}
	}
	if t.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			return fmt.Errorf("the client certificate %s with key %s: %w", t.CertFile, t.KeyFile, err)
		}
	}
	return nil
}

// ask asks one endpoint for an image's manifest, for as long as there is patience.
func ask(ctx context.Context, o Options, door *mirrors.Door, n preflight.Need, e mirrors.Endpoint) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, o.Patience)
	defer cancel()
	repo, err := door.Repository(n.Ref.Context())
	if err != nil {
		return err.Error(), false
	}
	_, desc, _, err := repo.Only(e).Manifest(ctx, n.Ref.Identifier())
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %s", o.Patience), false
	case err != nil:
		return strings.ReplaceAll(err.Error(), "\n", " "), false
	}
	return "has it, " + desc.Digest.String(), true
}
