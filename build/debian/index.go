package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/ulikunitz/xz"

	"github.com/rancher/rke2/build/lock"
)

// maxIndex is what an unpacked index may be; bookworm's largest is a fiftieth of it.
const maxIndex = 4 << 30

// binary is a package of an index.
type binary struct {
	lock.Package
	essential bool
	depends   string // Pre-Depends and Depends
	conflicts string // Conflicts and Breaks
	provides  string
}

var binaryFields = fields("package", "version", "architecture", "essential", "source", "filename", "size", "sha256",
	"depends", "pre-depends", "conflicts", "breaks", "provides")

var sourceFields = fields("package", "version", "directory", "checksums-sha256")

func fields(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

// indexes in the forms that we read, the quickest to read first.
var indexForms = []string{".gz", ".xz", ""}

// index reads an index of a release, such as main/binary-amd64/Packages, paragraph by
// paragraph, after all of it was checked against the release.
func (a *Archive) index(ctx context.Context, r *release, name string, wanted map[string]bool, each func(paragraph) error) error {
	for _, form := range indexForms {
		s, ok := r.files[name+form]
		if !ok {
			continue
		}
		file, err := a.indexFile(ctx, r, name+form, s)
		if err != nil {
			return err
		}
		if err := readIndex(file, form, wanted, each); err != nil {
			return fmt.Errorf("reading %s of %s: %w", name+form, r.url, err)
		}
		return nil
	}
	return fmt.Errorf("%s lists no %s: the suite doesn't have it", r.url, name)
}

func (a *Archive) indexFile(ctx context.Context, r *release, name string, s sum) (string, error) {
	dists := strings.TrimSuffix(r.url, "InRelease")
	by := "the signed " + r.url
	if r.byHash {
		file, err := a.file(ctx, dists+path.Dir(name)+"/by-hash/SHA256/"+s.sha256, s.size, s.sha256, by)
		var gone *NotFoundError
		if !errors.As(err, &gone) {
			return file, err
		}
	}
	return a.file(ctx, dists+name, s.size, s.sha256, by)
}

func readIndex(file, form string, wanted map[string]bool, each func(paragraph) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = f
	switch form {
	case ".gz":
		if r, err = gzip.NewReader(f); err != nil {
			return err
		}
	case ".xz":
		if r, err = xz.NewReader(f); err != nil {
			return err
		}
	}
	return paragraphs(&bounded{r: r, left: maxIndex}, wanted, each)
}

// bounded fails when more comes than is allowed, instead of ending early.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

var errTooLarge = errors.New("it unpacks to more than is sensible")

func parseBinary(p paragraph, which lock.Archive) (binary, error) {
	name := p["package"]
	size, err := strconv.ParseInt(p["size"], 10, 64)
	if err != nil {
		return binary{}, fmt.Errorf("package %q: size %q", name, p["size"])
	}
	source, version := p["source"], p["version"]
	if source == "" {
		source = name
	}
	if s, v, ok := strings.Cut(source, " ("); ok {
		source, version = s, strings.TrimSuffix(v, ")")
	}
	depends := p["pre-depends"] + "," + p["depends"]
	return binary{
		Package: lock.Package{
			Name: name, Version: p["version"], Arch: p["architecture"], Source: source + " " + version,
			Archive: which, Path: p["filename"], Size: size, SHA256: p["sha256"],
		},
		essential: p["essential"] == "yes",
		depends:   depends,
		conflicts: p["conflicts"] + "," + p["breaks"],
		provides:  p["provides"],
	}, nil
}
