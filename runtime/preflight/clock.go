package preflight

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// tolerated is by how much a clock may be behind the cluster's certificates and the
	// node still start: an hour, as clocks are that were set in winter, and some more. It
	// comes up when the clock has caught up or was set.
	tolerated = 90 * time.Minute
	// behind is by how much a clock may be behind the release itself.
	behind = 24 * time.Hour
	// renewed: the engine renews a certificate at a start when it has fewer days left.
	renewed = 120 * 24 * time.Hour
	// expires is when it is time to say that a certificate expires.
	expires = 90 * 24 * time.Hour
)

// Certificate is one of the node's.
type Certificate struct {
	Path              string
	Authority         bool
	NotBefore, NotEnd time.Time
	Err               error // it cannot be read
}

// Certificates reads those that the node keeps, sorted by path; none before its first
// start.
func Certificates(dataDir string) []Certificate {
	var out []Certificate
	for _, dir := range []string{"agent", "server/tls", "server/tls/etcd"} {
		files, _ := filepath.Glob(filepath.Join(dataDir, dir, "*.crt")) // the pattern is ours
		for _, file := range files {
			out = append(out, certificate(file))
		}
	}
	slices.SortFunc(out, func(a, b Certificate) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// certificate reads the first of a file: what follows is who signed it.
func certificate(file string) Certificate {
	c := Certificate{Path: file}
	raw, err := os.ReadFile(file)
	if err != nil {
		c.Err = err
		return c
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		c.Err = fmt.Errorf("%s holds no certificate in PEM", file)
		return c
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		c.Err = fmt.Errorf("reading certificate %s: %w", file, err)
		return c
	}
	c.Authority, c.NotBefore, c.NotEnd = parsed.IsCA, parsed.NotBefore, parsed.NotAfter
	return c
}

// Clock compares the clock with what cannot be later: the release, the node's
// certificates; and with when those that are not renewed end.
func Clock(in Input) Check {
	const name = "clock"
	now := in.Machine.Now()
	check := ok(name, "%s", moment(now))
	const todo = "set the clock (timedatectl set-time, or chronyc makestep)"
	if made := in.Machine.Made; now.Before(made) {
		check.Verdict = Warn
		check.Found = fmt.Sprintf("the clock says %s, and this release was made after %s", moment(now), moment(made))
		check.ToDo = todo
		if made.Sub(now) > behind {
			check.Verdict = Fail
			return check
		}
	}
	var early, over *Certificate
	for _, c := range Certificates(in.Config.DataDir) {
		if c.Err != nil {
			continue // Expiry reports it
		}
		// The others are not older than the authority that signed them.
		if now.Before(c.NotBefore) && (early == nil || c.Authority && !early.Authority) {
			early = &c
		}
		if c.Authority && now.After(c.NotEnd) && over == nil {
			over = &c
		}
	}
	switch {
	case early != nil:
		off := early.NotBefore.Sub(now)
		check.Verdict, check.ToDo = Warn, todo+": no component trusts another before that time"
		check.Found = fmt.Sprintf("the clock says %s, and %s is valid from %s (%s later)", moment(now), early.Path, moment(early.NotBefore), off.Round(time.Second))
		if off > tolerated {
			check.Verdict = Fail
		}
	case over != nil:
		check.Verdict = Fail
		check.Found = fmt.Sprintf("the clock says %s, and the authority %s expired at %s", moment(now), over.Path, moment(over.NotEnd))
		check.ToDo = "if the clock is right, rotate the cluster's authorities (rke2 certificate rotate-ca); if not, " + todo
	}
	return check
}

// Expiry says which certificates have expired, or will soon.
func Expiry(in Input) Check {
	const name = "certificates"
	now := in.Machine.Now()
	all := Certificates(in.Config.DataDir)
	if len(all) == 0 {
		return ok(name, "none yet: they are made at the first start")
	}
	check := Check{Name: name, Verdict: OK}
	var first Certificate
	var gone, soon int
	for _, c := range all {
		switch {
		case c.Err != nil:
			check.worse(Warn)
			check.Details = append(check.Details, c.Err.Error())
			continue
		case now.After(c.NotEnd):
			gone++
			check.Details = append(check.Details, fmt.Sprintf("%s expired at %s", c.Path, moment(c.NotEnd)))
			if c.Authority {
				check.worse(Fail)
			}
		case c.NotEnd.Sub(now) < expires:
			soon++
			check.Details = append(check.Details, fmt.Sprintf("%s expires at %s", c.Path, moment(c.NotEnd)))
		}
		if first.Path == "" || c.NotEnd.Before(first.NotEnd) {
			first = c
		}
	}
	check.Found = fmt.Sprintf("%s; the first to expire is %s, at %s", plural(len(all), "certificate"), filepath.Base(first.Path), moment(first.NotEnd))
	if gone+soon > 0 {
		check.worse(Warn)
		check.Found = fmt.Sprintf("%s: %d expired, %d expire within %d days", plural(len(all), "certificate"), gone, soon, int(expires.Hours()/24))
		check.ToDo = fmt.Sprintf("start rke2 again: what is not an authority and has less than %d days left is renewed then; authorities are rotated with rke2 certificate rotate-ca", int(renewed.Hours()/24))
	}
	return check
}

// moment is a time for people, to the second and in UTC.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
