package sbom

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/spdx/v2/common"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/inventory"
)

// materials adds the packages that files came from. Go modules among them are those whose
// files, not programs, are in the image: what programs are made of they say themselves.
func (w *writer) materials(files []inventory.File) error {
	used := map[string]bool{}
	for _, f := range files {
		used[f.Package] = true
	}
	all := artifact.SortMaterials(slices.Clone(w.in.Materials))
	for _, m := range all {
		purl, err := packageurl.FromString(m.PURL)
		if err != nil {
			return fmt.Errorf("material %s %s has the package URL %q: %w", m.Name, m.Version, m.PURL, err)
		}
		if purl.Type == packageurl.TypeGolang {
			if used[m.PURL] {
				w.purls[m.PURL] = w.module(inventory.Module{Path: m.Name, Version: m.Version, Sum: m.H1}, "SOURCE")
			}
			continue
		}
		w.purls[m.PURL] = w.material(m, purl)
	}
	// In a second pass, when all sources are known that are materials themselves.
	for _, m := range all {
		if m.Source == "" || w.purls[m.PURL] == "" {
			continue
		}
		src, err := w.source(m)
		if err != nil {
			return err
		}
		switch id := w.purls[m.PURL]; {
		case id == src:
		case strings.HasPrefix(m.PURL, "pkg:deb/"):
			w.relate(id, common.TypeRelationshipGeneratedFrom, src)
		default: // one of the archives that make up the source package
			w.relate(src, common.TypeRelationshipContains, id)
			w.parts[m.PURL] = true
		}
	}
	return nil
}

func (w *writer) material(m artifact.Material, purl packageurl.PackageURL) common.ElementID {
	id := w.id("Package-"+purl.Type+"-", m.Name, m.Version, m.Arch)
	p := newPackage(id, m.Name, m.Version)
	p.PackageExternalReferences = append(p.PackageExternalReferences, purlRef(m.PURL))
	if u, err := url.Parse(m.URI); err == nil && u.Scheme != "" {
		p.PackageDownloadLocation = m.URI
	}
	if m.SHA256 != "" {
		p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: m.SHA256}}
	}
	if m.License != "" {
		p.PackageLicenseDeclared = m.License
	}
	if purl.Type == packageurl.TypeDebian && purl.Namespace == "debian" {
		p.PackageSupplier = &common.Supplier{SupplierType: "Organization", Supplier: "Debian"}
		p.PrimaryPackagePurpose = "INSTALL"
		if isSource(purl) {
			p.PrimaryPackagePurpose = "SOURCE"
			if _, ok := w.deb[m.Name+" "+m.Version]; !ok {
				w.deb[m.Name+" "+m.Version] = id
			}
		}
	}
	w.pkgs = append(w.pkgs, p)
	return id
}

func isSource(purl packageurl.PackageURL) bool {
	return purl.Qualifiers.Map()["arch"] == "source"
}

// source gives the Debian source package of a binary one, adding it when it is new.
func (w *writer) source(m artifact.Material) (common.ElementID, error) {
	name, version, ok := strings.Cut(m.Source, " ")
	if !ok || name == "" || version == "" {
		return "", fmt.Errorf("material %s has the source %q: a name and a version are needed", m.PURL, m.Source)
	}
	if id, ok := w.deb[m.Source]; ok {
		return id, nil
	}
	binary, err := packageurl.FromString(m.PURL)
	if err != nil {
		return "", fmt.Errorf("material %s: %w", m.PURL, err)
	}
	qualifiers := packageurl.Qualifiers{{Key: "arch", Value: "source"}}
	if d := binary.Qualifiers.Map()["distro"]; d != "" {
		qualifiers = append(qualifiers, packageurl.Qualifier{Key: "distro", Value: d})
	}
	// An epoch's colon stays as it is, as in the examples of the purl specification.
	purl := strings.Replace(packageurl.NewPackageURL(binary.Type, binary.Namespace, name, version, qualifiers, "").ToString(), "%3A", ":", 1)
	id := w.id("Package-"+binary.Type+"-", name, version, "source")
	p := newPackage(id, name, version)
	p.PackageExternalReferences = append(p.PackageExternalReferences, purlRef(purl))
	p.PrimaryPackagePurpose = "SOURCE"
	if binary.Namespace == "debian" {
		p.PackageSupplier = &common.Supplier{SupplierType: "Organization", Supplier: "Debian"}
	}
	w.deb[m.Source] = id
	w.pkgs = append(w.pkgs, p)
	return id, nil
}

// unused relates the image to the materials that none of its files came from whole: what
// was linked statically, or compiled.
func (w *writer) unused(files []inventory.File) {
	used := map[string]bool{}
	for _, f := range files {
		used[f.Package] = true
	}
	for purl, id := range w.purls {
		if !used[purl] && !w.parts[purl] {
			w.relate(imageID, common.TypeRelationshipGeneratedFrom, id)
		}
	}
}
