package compile

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/mod/modfile"

	"github.com/rancher/rke2/images"
)

// What the go command says when modules or space are missing.
var (
	mismatch    = regexp.MustCompile(`verifying (\S+)@(\S+?)(/go\.mod)?: checksum mismatch`)
	noSum       = regexp.MustCompile(`missing go\.sum entry for (?:module providing package|go\.mod file)[^\n]*`)
	sumPackage  = regexp.MustCompile(`providing package (\S+)`)
	notServed   = regexp.MustCompile(`(?m)(?:^|[\s:])([A-Za-z0-9][\w./~!+-]*)@(v[\w.+-]+): (reading |Get "|invalid version|unrecognized import path|module lookup|zip: |unzip |create zip)`)
	proxyOff    = regexp.MustCompile(`module lookup disabled by GOPROXY=off`)
	downloading = regexp.MustCompile(`(?m)^go: downloading (\S+) (\S+)$`)
	unreachable = regexp.MustCompile(`dial tcp|connection refused|no such host|i/o timeout|TLS handshake|network is unreachable|x509:`)
	noSpace     = regexp.MustCompile(`(\S*/\S*): no space left on device`)
)

// explain says what an operator can do about a go command that failed.
func explain(comp images.Component, err error, said []byte) error {
	wrap := func(format string, args ...any) error {
		return fmt.Errorf("component %s: %s: %w:\n%s", comp.Name, fmt.Sprintf(format, args...), err, tail(said))
	}
	if m := noSpace.FindSubmatch(said); m != nil {
		full := &fs.PathError{Op: "write", Path: strings.TrimSuffix(string(m[1]), ":"), Err: syscall.ENOSPC}
		return fmt.Errorf("compiling %s: %w:\n%s", comp.Name, full, tail(said))
	}
	if m := mismatch.FindSubmatch(said); m != nil {
		return wrap("%s: %s@%s is not what is locked: what the module proxy (GOPROXY) serves has another checksum. Find out why before you change go.sum",
			at(filepath.Join(comp.Dir, "go.sum"), string(m[1])+" "+string(m[2])+string(m[3])+" "), m[1], m[2])
	}
	if m := noSum.Find(said); m != nil {
		path := ""
		if p := sumPackage.FindSubmatch(m); p != nil {
			path = string(p[1])
		}
		return wrap("%s: go.sum has no checksum for it; lock it with: cd %s && go mod tidy", required(comp.Dir, path, ""), comp.Dir)
	}
	path, version := "", ""
	if m := notServed.FindSubmatch(said); m != nil {
		path, version = string(m[1]), string(m[2])
	} else if all := downloading.FindAllSubmatch(said, -1); len(all) > 0 && proxyOff.Match(said) {
		path, version = string(all[len(all)-1][1]), string(all[len(all)-1][2])
	}
	switch {
	case path == "":
		return fmt.Errorf("compiling %s: %w:\n%s", comp.Name, err, tail(said))
	case unreachable.Match(said):
		return wrap("%s: module %s@%s can't be fetched: the module proxy can't be reached; check the network, or name another proxy in GOPROXY", required(comp.Dir, path, version), path, version)
	}
	return wrap("%s: module %s@%s is not served by the module proxy; choose a version that is, in that line or with (cd %s && go get %s@VERSION), or name a proxy that serves it in GOPROXY",
		required(comp.Dir, path, version), path, version, comp.Dir, path)
}

// at is a file with the line that begins with the text, if there is one.
func at(file, text string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return file
	}
	for i, line := range bytes.Split(data, []byte("\n")) {
		if bytes.HasPrefix(line, []byte(text)) {
			return fmt.Sprintf("%s:%d", file, i+1)
		}
	}
	return file
}

// required is where go.mod requires a module, or the one that a package is in. What
// another module requires has no line there.
func required(dir, path, version string) string {
	file := filepath.Join(dir, "go.mod")
	data, err := os.ReadFile(file)
	if err != nil {
		return file
	}
	mod, err := modfile.Parse(file, data, nil)
	if err != nil {
		return file
	}
	for _, r := range mod.Replace {
		if r.New.Path == path && r.New.Version == version && r.Syntax != nil {
			return fmt.Sprintf("%s:%d", file, r.Syntax.Start.Line)
		}
	}
	line, best := 0, ""
	for _, r := range mod.Require {
		if (path == r.Mod.Path || strings.HasPrefix(path, r.Mod.Path+"/")) && len(r.Mod.Path) > len(best) && r.Syntax != nil {
			line, best = r.Syntax.Start.Line, r.Mod.Path
		}
	}
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}
