package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

const (
	maxRelease = 32 << 20
	// skew is how far the clocks of the archive and of this machine may be apart.
	skew = 24 * time.Hour
)

// release is a Release file whose signature verified.
type release struct {
	suite  suite
	url    string
	byHash bool
	files  map[string]sum // by path under dists/<suite>/
}

type sum struct {
	sha256 string
	size   int64
}

func (a *Archive) keys() (openpgp.EntityList, error) {
	data, err := os.ReadFile(a.o.Keyring)
	if err != nil {
		return nil, fmt.Errorf("reading the Debian archive's keys: %w; on Debian: apt-get install debian-archive-keyring, elsewhere name the file in %s", err, KeyringEnv)
	}
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN PGP")) {
		read = openpgp.ReadArmoredKeyRing
	}
	ring, err := read(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("reading the Debian archive's keys in %s: %w", a.o.Keyring, err)
	}
	return ring, nil
}

// release fetches a suite's InRelease and verifies it.
func (a *Archive) release(ctx context.Context, ring openpgp.EntityList, s suite) (*release, error) {
	url := a.base(s.archive) + "/dists/" + s.name + "/InRelease"
	var data []byte
	a.o.Fetching(url, 0)
	err := a.get(ctx, url, func(r io.Reader) (err error) {
		data, err = io.ReadAll(io.LimitReader(r, maxRelease+1))
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(data) > maxRelease {
		return nil, fmt.Errorf("%s is larger than %d bytes", url, maxRelease)
	}
	text, err := a.verify(ring, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	r, err := a.parseRelease(text, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	r.url = url
	return r, nil
}

// verify gives what a clear-signed message says, and only that.
func (a *Archive) verify(ring openpgp.EntityList, data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, errors.New("this is no signed Release file (the mirror may be a captive portal or incomplete)")
	}
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, errors.New("the signed Release file is damaged or truncated")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("there is text behind the signature")
	}
	_, err := block.VerifySignature(ring, &packet.Config{Time: a.o.Now})
	if errors.Is(err, pgperrors.ErrKeyExpired) || errors.Is(err, pgperrors.ErrSignatureExpired) {
		return nil, fmt.Errorf("the signature does not hold at %s, which this machine's clock says it is: %w (keys of %s)", a.o.Now().UTC().Format(time.RFC3339), err, a.o.Keyring)
	}
	if err != nil {
		return nil, fmt.Errorf("the signature does not verify with the keys of %s: %w", a.o.Keyring, err)
	}
	return block.Plaintext, nil
}

func (a *Archive) parseRelease(text []byte, s suite) (*release, error) {
	var p paragraph
	err := paragraphs(bytes.NewReader(text), nil, func(q paragraph) error {
		if p != nil {
			return errors.New("a second paragraph")
		}
		p = q
		return nil
	})
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, errors.New("the Release file is empty")
	}
	if p["suite"] != s.name && p["codename"] != s.name {
		return nil, fmt.Errorf("this is the Release file of %s (%s), not of %s", p["codename"], p["suite"], s.name)
	}
	if err := a.checkDates(p); err != nil {
		return nil, err
	}
	r := &release{suite: s, byHash: p["acquire-by-hash"] == "yes", files: map[string]sum{}}
	for _, line := range strings.Split(p["sha256"], "\n") {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		size, err := strconv.ParseInt(f[1%len(f)], 10, 64)
		if len(f) != 3 || err != nil || size < 0 || len(f[0]) != 64 || path.Clean("/"+f[2]) != "/"+f[2] {
			return nil, fmt.Errorf("%.80q is no line of hash, size and path", line)
		}
		r.files[f[2]] = sum{sha256: f[0], size: size}
	}
	if len(r.files) == 0 {
		return nil, errors.New("the Release file has no SHA256 sums")
	}
	return r, nil
}

// checkDates refuses a Release file that somebody may have kept back to hide updates.
func (a *Archive) checkDates(p paragraph) error {
	now := a.o.Now()
	date, err := releaseTime(p["date"])
	if err != nil {
		return fmt.Errorf("date: %w", err)
	}
	if date.After(now.Add(skew)) {
		return fmt.Errorf("it was made in the future, %s, by this machine's clock (%s): set the clock", date.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if p["valid-until"] == "" || a.o.AllowExpired {
		return nil // a suite that doesn't change any more doesn't expire
	}
	until, err := releaseTime(p["valid-until"])
	if err != nil {
		return fmt.Errorf("valid-until: %w", err)
	}
	if now.After(until) {
		return fmt.Errorf("it expired at %s (this machine's clock says %s): the mirror is out of date, or keeps updates back. "+
			"Use another mirror (%s, %s); for a snapshot that is meant to be old: --allow-expired",
			until.Format(time.RFC3339), now.UTC().Format(time.RFC3339), MirrorEnv, SecurityMirrorEnv)
	}
	return nil
}

func releaseTime(s string) (time.Time, error) {
	for _, form := range []string{"Mon, _2 Jan 2006 15:04:05 MST", time.RFC1123, time.RFC1123Z} {
		if t, err := time.Parse(form, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as Sat, 11 Jul 2026 10:16:37 UTC", s)
}
