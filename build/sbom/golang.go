package sbom

import (
	"slices"
	"strings"

	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/rancher/rke2/build/inventory"
)

// goSum is the type of the external reference that carries a module's go.sum hash. It is
// no checksum: "h1:" is the SHA-256 of a list of the module's files and their digests
// (https://go.dev/ref/mod#go-sum-files), and SPDX 2.3 has no name for that.
const goSum = "https://go.dev/ref/mod#go-sum-files"

// program says what a Go program was made from: its main module, and what it was linked
// with.
func (w *writer) program(file common.ElementID, f inventory.File) {
	w.relate(file, common.TypeRelationshipGeneratedFrom, w.module(f.Go.Main, "APPLICATION"))
	linked := append([]inventory.Module{f.Go.Standard()}, f.Go.Modules...)
	if m, ok := f.Go.CryptoModule(); ok {
		linked = append(linked, m)
	}
	for _, m := range linked {
		w.relate(file, common.TypeRelationshipDependsOn, w.module(m, "LIBRARY"))
	}
}

// module gives the package of a module, adding it when it is new.
func (w *writer) module(m inventory.Module, purpose string) common.ElementID {
	key := m
	key.Replaces = ""
	if m.Folder != "" {
		key.Replaces = m.Replaces // or folders of different modules would be one
	}
	id, ok := w.go_[key]
	if !ok {
		id = w.id("Package-golang-", strings.Trim(m.Path+"-"+m.Version, "-"))
		w.go_[key] = id
		w.pkgs = append(w.pkgs, goPackage(id, m, purpose))
	}
	if m.Replaces != "" {
		w.note(id, replacement(m))
	}
	return id
}

func goPackage(id common.ElementID, m inventory.Module, purpose string) *v2_3.Package {
	p := newPackage(id, m.Path, m.Version)
	p.PrimaryPackagePurpose = purpose
	if at := m.Location(); at != "" {
		p.PackageDownloadLocation = at
	}
	if purl := m.PURL(); purl != "" {
		p.PackageExternalReferences = append(p.PackageExternalReferences, purlRef(purl))
	}
	if m.Sum != "" {
		p.PackageExternalReferences = append(p.PackageExternalReferences, &v2_3.PackageExternalReference{
			Category: common.CategoryOther, RefType: goSum, Locator: m.Sum,
		})
	}
	switch m.Path {
	case "stdlib":
		p.PackageSummary = "The Go standard library and runtime"
	case "golang.org/fips140":
		p.PackageSummary = "The Go Cryptographic Module, in the place of the standard library's cryptography"
	}
	return p
}

func replacement(m inventory.Module) string {
	if m.Folder != "" {
		return "The folder " + m.Folder + " beside go.mod, built in the place of " + m.Replaces + "."
	}
	return "Built in the place of " + m.Replaces + ", which go.mod replaces."
}

// note adds a sentence to what is known of a package's source, once.
func (w *writer) note(id common.ElementID, sentence string) {
	for _, p := range w.pkgs {
		if p.PackageSPDXIdentifier != id {
			continue
		}
		notes := strings.Split(p.PackageSourceInfo, "\n")
		if p.PackageSourceInfo == "" {
			notes = nil
		}
		if !slices.Contains(notes, sentence) {
			notes = append(notes, sentence)
			slices.Sort(notes)
			p.PackageSourceInfo = strings.Join(notes, "\n")
		}
	}
}
