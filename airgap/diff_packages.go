package airgap

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// PackageChange is a package that the SBOMs of the archives' images list in other
// versions, or in one archive only.
type PackageChange struct {
	Change Change `json:"change"`
	Name   string `json:"name"`
	// Type is the package URL's: golang, deb … Empty if there is none.
	Type string   `json:"type,omitempty"`
	From []string `json:"from,omitempty"` // versions, in order
	To   []string `json:"to,omitempty"`
	// Images that have it in a version that is not in both.
	Images []string `json:"images"`
}

// packageID tells packages apart that may have the same name.
type packageID struct{ name, kind string }

// inventory is which images have which versions of a package.
type inventory map[packageID]map[string][]string

// packages compares what the images' SBOMs list.
func (d *differ) packages(as, bs []Image) error {
	before, err := d.inventory(d.a, as)
	if err != nil {
		return err
	}
	after, err := d.inventory(d.b, bs)
	if err != nil {
		return err
	}
	d.out.Packages = comparePackages(before, after)
	return nil
}

func comparePackages(before, after inventory) []PackageChange {
	var out []PackageChange
	ids := map[packageID]bool{}
	for id := range before {
		ids[id] = true
	}
	for id := range after {
		ids[id] = true
	}
	for _, id := range slices.SortedFunc(maps.Keys(ids), func(x, y packageID) int {
		return cmp.Or(cmp.Compare(x.name, y.name), cmp.Compare(x.kind, y.kind))
	}) {
		c := PackageChange{
			Change: Changed, Name: id.name, Type: id.kind,
			From: slices.Sorted(maps.Keys(before[id])), To: slices.Sorted(maps.Keys(after[id])),
		}
		if slices.Equal(c.From, c.To) {
			continue
		}
		switch {
		case len(c.From) == 0:
			c.Change = Added
		case len(c.To) == 0:
			c.Change = Removed
		}
		for _, side := range []struct{ has, other map[string][]string }{{before[id], after[id]}, {after[id], before[id]}} {
			for v, images := range side.has {
				if _, both := side.other[v]; !both {
					c.Images = append(c.Images, images...)
				}
			}
		}
		slices.Sort(c.Images)
		c.Images = slices.Compact(c.Images)
		out = append(out, c)
	}
	return out
}

// inventory reads the SBOMs of images. What is not verified or can't be read is noted.
func (d *differ) inventory(a *Archive, images []Image) (inventory, error) {
	out := inventory{}
	if a.format == FormatDockerArchive {
		d.note("%s: a legacy docker-archive carries no SBOMs", a.file)
		return out, nil
	}
	wanted := map[string]bool{}
	for _, img := range images {
		wanted[img.Desc.Digest.String()] = true
	}
	all, err := a.SBOMs(d.ctx, SBOMOptions{Policy: d.opt.Policy, Unverified: true})
	if d.ctx.Err() != nil {
		return nil, d.ctx.Err()
	}
	if err != nil {
		if errors.Is(err, ErrTruncated) || errors.Is(err, ErrDamaged) {
			return nil, err
		}
		d.note("packages are not compared: %v", err)
		return out, nil
	}
	missing, unverified := 0, 0
	for _, s := range all {
		if !wanted[s.Digest] {
			continue
		}
		if s.Document == nil {
			missing++
			continue
		}
		if s.Unverified != "" {
			unverified++
		}
		repository, _, _ := strings.Cut(s.Names[0], "@")
		if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
			repository = repository[:i]
		}
		for _, p := range s.Packages {
			if !strings.HasPrefix(p.PURL, "pkg:oci/") { // the image itself
				out.add(p, repository)
			}
		}
	}
	if missing > 0 {
		d.note("%s: %d of %d images have no SBOM: what they are made of is not compared", a.file, missing, len(images))
	}
	if unverified > 0 {
		d.note("%s: NOT VERIFIED: the SBOMs of %d of %d images", a.file, unverified, len(images))
	}
	return out, nil
}

func (d *differ) note(format string, args ...any) {
	d.out.Notes = append(d.out.Notes, fmt.Sprintf(format, args...))
}

func (i inventory) add(p SBOMPackage, image string) {
	kind, _, _ := strings.Cut(strings.TrimPrefix(p.PURL, "pkg:"), "/")
	id := packageID{p.Name, kind}
	if i[id] == nil {
		i[id] = map[string][]string{}
	}
	if !slices.Contains(i[id][p.Version], image) {
		i[id][p.Version] = append(i[id][p.Version], image)
	}
}
