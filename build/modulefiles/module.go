package modulefiles

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/rancher/rke2/build/artifact"
)

// published is where module zips are for everyone, whatever proxy they came through here.
const published = "https://proxy.golang.org/"

// locked is a module at the version that go.mod selects, with its lines of go.sum.
type locked struct {
	module.Version
	h1   string   // sum of the zip: "h1:…"
	sums []string // all lines of go.sum about this version
	file string   // path of go.sum
}

// find looks the module up in the wrapper module in dir.
func find(dir, path string) (locked, error) {
	gomod := filepath.Join(dir, "go.mod")
	data, err := os.ReadFile(gomod)
	if err != nil {
		return locked{}, fmt.Errorf("reading wrapper module: %w", err)
	}
	mod, err := modfile.Parse(gomod, data, nil)
	if err != nil {
		return locked{}, fmt.Errorf("reading wrapper module: %w", err)
	}
	l := locked{file: filepath.Join(dir, "go.sum")}
	for _, r := range mod.Require {
		if r.Mod.Path == path {
			l.Version = r.Mod
		}
	}
	if l.Path == "" {
		return locked{}, fmt.Errorf("%s does not require %s: go get it there", gomod, path)
	}
	for _, r := range mod.Replace {
		if r.Old.Path != path || (r.Old.Version != "" && r.Old.Version != l.Version.Version) {
			continue
		}
		if r.New.Version == "" {
			return locked{}, fmt.Errorf("%s:%d: %s is replaced by a folder, which has no sum", gomod, r.Syntax.Start.Line, path)
		}
		l.Version = r.New
		break
	}
	return l, l.readSums()
}

func (l *locked) readSums() error {
	data, err := os.ReadFile(l.file)
	if err != nil {
		return fmt.Errorf("reading the sum of %s: %w", l, err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != l.Path {
			continue
		}
		switch f[1] {
		case l.Version.Version:
			l.h1 = f[2]
		case l.Version.Version + "/go.mod":
		default:
			continue
		}
		l.sums = append(l.sums, line)
	}
	if !strings.HasPrefix(l.h1, "h1:") {
		return fmt.Errorf("%s has no sum of %s: run go mod tidy in %s", l.file, l, filepath.Dir(l.file))
	}
	return nil
}

// material names the module in SBOM and provenance.
func (l locked) material() artifact.Material {
	m := artifact.Material{
		PURL:    "pkg:golang/" + l.Path + "@" + url.QueryEscape(l.Version.Version),
		Name:    l.Path,
		Version: l.Version.Version,
		H1:      l.h1,
	}
	// go.mod was parsed, so these are a valid path and version.
	p, err := module.EscapePath(l.Path)
	v, verr := module.EscapeVersion(l.Version.Version)
	if err == nil && verr == nil {
		m.URI = published + p + "/@v/" + v + ".zip"
	}
	return m
}

// download gives the path of the module's zip in the module cache, its sum checked. The
// go command runs in an empty module that has the wrapper's sums: it verifies them, and
// the wrapper itself is not touched.
func (m *Maker) download(ctx context.Context, l locked) (string, error) {
	dir, err := m.cache.TempDir()
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }() // the cache's Trim takes what stays
	for name, content := range map[string]string{
		"go.mod": "module files\n",
		"go.sum": strings.Join(l.sums, "\n") + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return "", fmt.Errorf("downloading %s: %w", l, err)
		}
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", l.String())
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GO111MODULE=on", "GOTOOLCHAIN=local", "PWD="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, runErr := cmd.Output()
	var got struct{ Zip, Sum, Error string }
	if err := json.Unmarshal(out, &got); err != nil {
		if runErr == nil {
			runErr = err
		}
		return "", fmt.Errorf("downloading %s: go mod download: %w: %s", l, runErr, strings.TrimSpace(stderr.String()))
	}
	if got.Error != "" {
		return "", fmt.Errorf("downloading %s, whose sum is %s in %s: %w", l, l.h1, l.file, errors.New(strings.TrimSpace(got.Error)))
	}
	if runErr != nil {
		return "", fmt.Errorf("downloading %s: go mod download: %w: %s", l, runErr, strings.TrimSpace(stderr.String()))
	}
	// The go command goes by a note beside the zip; the zip itself may be another since.
	h1, err := dirhash.HashZip(got.Zip, dirhash.Hash1)
	if err != nil {
		return "", fmt.Errorf("checking the sum of %s: %w", l, err)
	}
	if h1 != l.h1 {
		return "", fmt.Errorf("%s has the sum %s, but %s says %s for %s: it was changed; run go clean -modcache and build again", got.Zip, h1, l.file, l.h1, l)
	}
	return got.Zip, nil
}
