package debian

import (
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/lock"
	"github.com/rancher/rke2/images"
)

const (
	// Keyring is where Debian installs its archive's public keys.
	Keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	// KeyringEnv names the variable that moves it.
	KeyringEnv = "DEBIAN_KEYRING"
	// MirrorEnv and SecurityMirrorEnv name the variables that move the archives.
	MirrorEnv         = "DEBIAN_MIRROR"
	SecurityMirrorEnv = "DEBIAN_SECURITY_MIRROR"
)

// Where Debian publishes what mirrors copy.
const (
	publicMain     = "http://deb.debian.org/debian"
	publicSecurity = "http://deb.debian.org/debian-security"
)

// MirrorsFromEnv gives the declared mirrors, with those that the environment names
// instead.
func MirrorsFromEnv(m images.Mirrors) images.Mirrors {
	if v := os.Getenv(MirrorEnv); v != "" {
		m.Main = v
	}
	if v := os.Getenv(SecurityMirrorEnv); v != "" {
		m.Security = v
	}
	return m
}

// Options are what an Archive may be told. The zero value is right for most.
type Options struct {
	Keyring      string           // file of public keys, binary or armoured; "": $DEBIAN_KEYRING, else Keyring
	AllowExpired bool             // take Release files past their Valid-Until: for snapshots of an archive
	HTTP         *http.Client     // nil: one that gives up on a mirror that stays silent
	Now          func() time.Time // nil: time.Now. Release files expire
	// Fetching is called before something is fetched, by one goroutine at a time. size is
	// in bytes, 0 where it is not known. It may be nil.
	Fetching func(what string, size int64)
}

// Archive is a Debian archive and its security archive, of one release. It may be used
// from several goroutines.
type Archive struct {
	mirrors images.Mirrors
	cache   *cache.Cache
	o       Options
}

// NewArchive makes an archive of mirrors. Nothing is fetched yet.
func NewArchive(c *cache.Cache, m images.Mirrors, o Options) *Archive {
	if o.Keyring == "" {
		o.Keyring = os.Getenv(KeyringEnv)
	}
	if o.Keyring == "" {
		o.Keyring = Keyring
	}
	if o.HTTP == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = silence
		o.HTTP = &http.Client{Transport: t}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	var one sync.Mutex
	tell := o.Fetching
	o.Fetching = func(what string, size int64) {
		if tell == nil {
			return
		}
		one.Lock()
		defer one.Unlock()
		tell(what, size)
	}
	m.Main, m.Security = strings.TrimRight(m.Main, "/"), strings.TrimRight(m.Security, "/")
	return &Archive{mirrors: m, cache: c, o: o}
}

// base is where an archive's files are fetched from.
func (a *Archive) base(which lock.Archive) string {
	if which == lock.Security {
		return a.mirrors.Security
	}
	return a.mirrors.Main
}

// public is where a file is published.
func public(which lock.Archive, path string) string {
	if which == lock.Security {
		return publicSecurity + "/" + path
	}
	return publicMain + "/" + path
}

// suite is one folder under dists/.
type suite struct {
	name    string
	archive lock.Archive
}

// suites are what an installed Debian has in its sources.list.
func (a *Archive) suites() []suite {
	return []suite{
		{a.mirrors.Suite, lock.Main},
		{a.mirrors.Suite + "-updates", lock.Main},
		{a.mirrors.Suite + "-security", lock.Security},
	}
}
