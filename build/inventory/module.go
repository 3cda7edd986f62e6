package inventory

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/package-url/packageurl-go"
	"golang.org/x/mod/modfile"
	modpath "golang.org/x/mod/module"
)

func module(m *debug.Module) Module {
	r := m.Replace
	switch {
	case r == nil, r.Path == m.Path && r.Version == m.Version: // or replaced by itself
		if r != nil {
			m = r // which has the sum
		}
		return Module{Path: m.Path, Version: m.Version, Sum: m.Sum}
	case modfile.IsDirectoryPath(r.Path): // a folder: code of nobody's version, under the name of m
		return Module{Path: m.Path, Replaces: m.Path + "@" + m.Version, Folder: r.Path}
	}
	return Module{Path: r.Path, Version: r.Version, Sum: r.Sum, Replaces: m.Path + "@" + m.Version}
}

// PURL is the module's package URL, "" for a folder: it is in no registry. Without a
// version where there is none, as of the main module of a folder.
func (m Module) PURL() string {
	if m.Folder != "" {
		return ""
	}
	version := m.Version
	if version == "(devel)" {
		version = ""
	}
	return GoPURL(m.Path, version)
}

// GoPURL is the package URL of a Go module, in the form of the purl specification: the
// path in lower case, version escaped.
func GoPURL(path, version string) string {
	space, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		space, name = path[:i], path[i+1:]
	}
	p := packageurl.NewPackageURL(packageurl.TypeGolang, strings.ToLower(space), strings.ToLower(name), version, nil, "")
	return p.ToString()
}

// Location is where the module's zip is published, "" where it isn't known to be: only
// what has a sum in go.sum was checked against what is published.
func (m Module) Location() string {
	path, err := modpath.EscapePath(m.Path)
	if err != nil || m.Sum == "" {
		return ""
	}
	version, err := modpath.EscapeVersion(m.Version)
	if err != nil {
		return ""
	}
	return "https://proxy.golang.org/" + path + "/@v/" + version + ".zip"
}

// DirHash is the module's sum as in-toto writes it (digest_set.md, dirHash): the same
// SHA-256 as go.sum's "h1:…", in hex. "" where there is none.
func (m Module) DirHash() (string, error) { return DirHash(m.Sum) }

// DirHash turns an "h1:…" of go.sum into hex.
func DirHash(h1 string) (string, error) {
	if h1 == "" {
		return "", nil
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(h1, "h1:"))
	if err != nil || !strings.HasPrefix(h1, "h1:") || len(raw) != 32 {
		return "", fmt.Errorf("%q is not a go.sum hash (h1:…)", h1)
	}
	return hex.EncodeToString(raw), nil
}

// Standard is the standard library that the program has, as a module: the Go version
// without "go" and experiments.
func (p Program) Standard() Module {
	v, _, _ := strings.Cut(strings.TrimPrefix(p.GoVersion, "go"), " ")
	return Module{Path: "stdlib", Version: v}
}

// CryptoModule is the certified Go Cryptographic Module that the program has in the place
// of its standard library's cryptography, under the name that the go command gives it.
func (p Program) CryptoModule() (Module, bool) {
	v := p.Settings["GOFIPS140"]
	if v == "" || v == "off" || v == "latest" {
		return Module{}, false
	}
	return Module{Path: "golang.org/fips140", Version: v}, true
}
