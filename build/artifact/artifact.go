// Package artifact is what a component becomes before it is part of an image: named
// trees of files for one platform, and the list of what they were made from.
package artifact

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/images"
)

// Platform is a build's target, in the terms of the OCI image-spec (and of Go).
type Platform struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
}

func (p Platform) String() string { return p.OS + "/" + p.Arch }

// Platforms that images are made for.
var known = []Platform{{OS: "linux", Arch: "amd64"}, {OS: "linux", Arch: "arm64"}}

// ParsePlatforms reads a list such as linux/amd64,linux/arm64. The result is sorted and
// has each platform once.
func ParsePlatforms(list string) ([]Platform, error) {
	seen := map[Platform]bool{}
	for _, s := range strings.Split(list, ",") {
		os, arch, _ := strings.Cut(strings.TrimSpace(s), "/")
		p := Platform{OS: os, Arch: arch}
		found := false
		for _, k := range known {
			found = found || k == p
		}
		if !found {
			return nil, fmt.Errorf("platform %q is not one of linux/amd64 and linux/arm64", s)
		}
		seen[p] = true
	}
	var out []Platform
	for _, k := range known {
		if seen[k] {
			out = append(out, k)
		}
	}
	return out, nil
}

// Artifact is a component made for one platform.
type Artifact struct {
	Component string
	Version   string
	Platform  Platform
	Contexts  map[string][]layer.File // by the name that Dockerfiles know
	Materials []Material              // sorted by PURL
	Compiler  string                  // the C compiler that took part, by what it says it is; "": none
	Cached    bool                    // nothing had to be done
	Elapsed   time.Duration
	Size      int64 // bytes of what was made
}

// Material is something that an artifact was made from, as SBOMs and provenance name it.
type Material struct {
	PURL    string `json:"purl"`              // package URL: what it is, for every tool
	URI     string `json:"uri,omitempty"`     // where it is published, not the mirror that it came from
	SHA256  string `json:"sha256,omitempty"`  // hex, of the file that was fetched
	H1      string `json:"h1,omitempty"`      // go.sum's hash of a module: "h1:…"
	Name    string `json:"name"`              // module path or package name
	Version string `json:"version"`           //
	Arch    string `json:"arch,omitempty"`    // Debian's name of it
	Source  string `json:"source,omitempty"`  // Debian source package and version: "iptables 1.8.9-2"
	License string `json:"license,omitempty"` // SPDX expression, where it is known
}

// SortMaterials puts materials in order and drops repetitions.
func SortMaterials(in []Material) []Material {
	sort.Slice(in, func(i, j int) bool { return in[i].PURL < in[j].PURL })
	var out []Material
	for _, m := range in {
		if len(out) == 0 || out[len(out)-1].PURL != m.PURL {
			out = append(out, m)
		}
	}
	return out
}

// Maker makes components of one kind.
type Maker interface {
	// Make gives the component for a platform. building, which may be nil, is called
	// with what is about to be made before a long step.
	Make(ctx context.Context, c images.Component, p Platform, building func(what []string)) (Artifact, error)
}
