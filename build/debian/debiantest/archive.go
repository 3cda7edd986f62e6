// Package debiantest serves small Debian archives for tests, signed with a throw-away
// key.
package debiantest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/rancher/rke2/images"
)

// Suite is the release that archives have.
const Suite = "bookworm"

// Now is when archives of New are made. They expire a week later.
func Now() time.Time { return time.Date(2026, 7, 11, 12, 0, 0, 0, time.UTC) }

// Package is a binary package for an archive.
type Package struct {
	Name, Version, Arch string // Arch "": amd64 and arm64
	Fields              string // more control fields, each line ended
	Files               []File
	Form                string // compression of its data: gz (default), xz, zst
}

// Source is a source package: its files by name, the .dsc among them.
type Source struct {
	Name, Version string
	Files         map[string][]byte
}

// Archive is an archive and a security archive on one server.
type Archive struct {
	Keyring string // path of the public key
	made    time.Time
	mu      sync.Mutex
	server  *httptest.Server
	key     *openpgp.Entity
	files   map[string][]byte // by URL path
	got     []string
	busy    int
	suites  map[string]*suite
}

type suite struct {
	packages []Package
	sources  []Source
}

// New starts an archive with the three suites of a release, all empty.
func New(t testing.TB) *Archive {
	t.Helper()
	return NewAt(t, Now())
}

// NewAt starts an archive that is made at another time: for those that look at the clock.
func NewAt(t testing.TB, made time.Time) *Archive {
	t.Helper()
	a := &Archive{made: made.UTC(), files: map[string][]byte{}, suites: map[string]*suite{}}
	for _, s := range []string{Suite, Suite + "-updates", Suite + "-security"} {
		a.suites[s] = &suite{}
	}
	a.key = newKey(t, a.made)
	a.Keyring = WriteKeyring(t, a.key)
	a.server = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.server.Close)
	return a
}

// NewKey makes a signing key that was there when archives of New are made.
func NewKey(t testing.TB) *openpgp.Entity {
	t.Helper()
	return newKey(t, Now())
}

func newKey(t testing.TB, made time.Time) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Test Archive", "", "archive@example.com", config(made))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// config makes keys a month before the archive, in no time.
func config(made time.Time) *packet.Config {
	return &packet.Config{Time: func() time.Time { return made.Add(-30 * 24 * time.Hour) }, Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519}
}

// WriteKeyring writes public keys to a file.
func WriteKeyring(t testing.TB, keys ...*openpgp.Entity) string {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		if err := k.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "keyring.gpg")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Mirrors names the archive's URLs.
func (a *Archive) Mirrors() images.Mirrors {
	return images.Mirrors{Suite: Suite, Main: a.server.URL + "/debian", Security: a.server.URL + "/debian-security"}
}

// Add puts packages into a suite: "", "updates" or "security". Publish makes them seen.
func (a *Archive) Add(which string, packages ...Package) {
	s := a.suites[name(which)]
	s.packages = append(s.packages, packages...)
}

// AddSource puts source packages into the release.
func (a *Archive) AddSource(sources ...Source) {
	a.suites[Suite].sources = append(a.suites[Suite].sources, sources...)
}

func name(which string) string { return strings.TrimSuffix(Suite+"-"+which, "-") }

// Replace makes the file at a URL path something else; nil removes it.
func (a *Archive) Replace(path string, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if data == nil {
		delete(a.files, path)
		return
	}
	a.files[path] = data
}

// File gives the file at a URL path.
func (a *Archive) File(path string) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return bytes.Clone(a.files[path])
}

// Paths lists the URL paths that contain a text, sorted.
func (a *Archive) Paths(part string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for p := range a.files {
		if strings.Contains(p, part) {
			out = append(out, p)
		}
	}
	sort.Strings(out)
	return out
}

// Requests lists the URL paths that were asked for since the last call.
func (a *Archive) Requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.got
	a.got = nil
	return out
}

// Overload makes the next requests fail in a way that passes.
func (a *Archive) Overload(requests int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy = requests
}

func (a *Archive) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	data, ok := a.files[r.URL.Path]
	a.got = append(a.got, r.URL.Path)
	busy := a.busy > 0
	a.busy--
	a.mu.Unlock()
	if busy {
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(data) // a client that went away is not the server's loss
}

// Publish makes packages, indexes and signed Release files of what was added. Files of
// packages that were added before stay.
func (a *Archive) Publish(t testing.TB) {
	t.Helper()
	for name, s := range a.suites {
		base, pool := "/debian", "pool/main"
		if strings.HasSuffix(name, "-security") {
			base, pool = "/debian-security", "pool/updates/main"
		}
		indexes := map[string][]byte{}
		for _, arch := range []string{"amd64", "arm64"} {
			var index bytes.Buffer
			for _, p := range s.packages {
				if p.Arch != "" && p.Arch != arch && p.Arch != "all" {
					continue
				}
				if p.Arch == "" {
					p.Arch = arch
				}
				deb := p.Build(t)
				file := fmt.Sprintf("%s/%c/%s/%s_%s_%s.deb", pool, p.Name[0], p.Name, p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Arch)
				a.Replace(base+"/"+strings.ReplaceAll(file, "%3a", ":"), deb)
				file = strings.ReplaceAll(file, "%3a", ":")
				fmt.Fprintf(&index, "%sFilename: %s\nSize: %d\nSHA256: %x\n\n", p.Control(), file, len(deb), sha256.Sum256(deb))
			}
			indexes["main/binary-"+arch+"/Packages"] = index.Bytes()
		}
		indexes["main/source/Sources"] = a.sources(base, s)
		a.release(t, base, name, indexes)
	}
}

func (a *Archive) sources(base string, s *suite) []byte {
	var index bytes.Buffer
	for _, src := range s.sources {
		dir := "pool/main/" + src.Name[:1] + "/" + src.Name
		fmt.Fprintf(&index, "Package: %s\nVersion: %s\nDirectory: %s\nChecksums-Sha256:\n", src.Name, src.Version, dir)
		var names []string
		for n := range src.Files {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			data := src.Files[n]
			a.Replace(base+"/"+dir+"/"+n, data)
			fmt.Fprintf(&index, " %x %d %s\n", sha256.Sum256(data), len(data), n)
		}
		index.WriteString("\n")
	}
	return index.Bytes()
}

func (a *Archive) release(t testing.TB, base, name string, indexes map[string][]byte) {
	t.Helper()
	dists := base + "/dists/" + name + "/"
	var sums strings.Builder
	for path, data := range indexes {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(z.Bytes()))
		fmt.Fprintf(&sums, " %s %d %s.gz\n", sum, z.Len(), path)
		a.Replace(dists+path+".gz", z.Bytes())
		a.Replace(dists+path[:strings.LastIndexByte(path, '/')]+"/by-hash/SHA256/"+sum, z.Bytes())
	}
	a.Replace(dists+"InRelease", a.Sign(t, a.key, fmt.Sprintf(`Origin: Debian
Suite: %s
Codename: %s
Date: %s
Valid-Until: %s
Acquire-By-Hash: yes
SHA256:
%s`, name, name, a.made.Format(time.RFC1123), a.made.Add(7*24*time.Hour).Format(time.RFC1123), sums.String())))
}

// Sign clear-signs a text with a key.
func (a *Archive) Sign(t testing.TB, key *openpgp.Entity, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, config(a.made))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.WriteString("\n")
	return b.Bytes()
}

// Key is what Release files are signed with.
func (a *Archive) Key() *openpgp.Entity { return a.key }
