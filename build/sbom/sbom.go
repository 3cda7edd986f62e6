package sbom

import (
	"bytes"
	"fmt"
	"path"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/package-url/packageurl-go"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/spdx/tools-golang/utils"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/inventory"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/statement"
)

const (
	// namespace is what our documents' names in the world begin with.
	namespace   = "https://github.com/rancher/rke2/spdx/"
	noAssertion = "NOASSERTION"
	imageID     = common.ElementID("Image")
)

// Input is what an SBOM is made of.
type Input struct {
	Name      string // registry/repo/name
	Tag       string
	Digest    string // of the platform's manifest: sha256:…
	Platform  artifact.Platform
	Files     []layer.File // the image's final tree
	Materials []artifact.Material
	Product   string       // version of the product, which is that of the tool
	Epoch     time.Time    // SOURCE_DATE_EPOCH
	Cache     *cache.Cache // where what is found out about files is kept; may be nil
}

// Statement gives the SPDX document about an image as an in-toto statement: JSON.
func Statement(in Input) ([]byte, error) {
	doc, err := document(in)
	if err != nil {
		return nil, fmt.Errorf("writing the SBOM of %s: %w", in.Name, err)
	}
	var b bytes.Buffer
	if err := spdxjson.Write(doc, &b, spdxjson.EscapeHTML(false)); err != nil {
		return nil, fmt.Errorf("writing the SBOM of %s: %w", in.Name, err)
	}
	return statement.Encode(statement.SPDX, in.Name, in.Digest, bytes.TrimSpace(b.Bytes()))
}

// writer collects a document.
type writer struct {
	in    Input
	doc   *v2_3.Document
	ids   map[common.ElementID]bool
	go_   map[inventory.Module]common.ElementID // Replaces is not part of the key
	deb   map[string]common.ElementID           // Debian source packages by "name version"
	purls map[string]common.ElementID           // materials by package URL
	parts map[string]bool                       // materials that are part of a source package, by package URL
	pkgs  []*v2_3.Package                       // without the image
}

func document(in Input) (*v2_3.Document, error) {
	manifest, err := v1.NewHash(in.Digest)
	if err != nil {
		return nil, fmt.Errorf("its digest %q: %w", in.Digest, err)
	}
	files, err := inventory.Read(in.Cache, in.Files)
	if err != nil {
		return nil, err
	}
	w := &writer{
		in: in, ids: map[common.ElementID]bool{imageID: true}, go_: map[inventory.Module]common.ElementID{},
		deb: map[string]common.ElementID{}, purls: map[string]common.ElementID{}, parts: map[string]bool{},
		doc: &v2_3.Document{
			SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT",
			DocumentName:      in.Name + ":" + in.Tag + " " + in.Platform.String(),
			DocumentNamespace: namespace + in.Product + "/" + in.Name + "/" + manifest.Algorithm + "-" + manifest.Hex,
			CreationInfo: &v2_3.CreationInfo{
				Created:  in.Epoch.UTC().Format(time.RFC3339),
				Creators: []common.Creator{{CreatorType: "Tool", Creator: "rke2-build-" + in.Product}},
			},
		},
	}
	w.relate("DOCUMENT", common.TypeRelationshipDescribe, imageID)
	if err := w.materials(files); err != nil {
		return nil, err
	}
	if err := w.files(files); err != nil {
		return nil, err
	}
	w.unused(files)
	img, err := w.image(manifest)
	if err != nil {
		return nil, err
	}
	sort.Slice(w.pkgs, func(i, j int) bool { return w.pkgs[i].PackageSPDXIdentifier < w.pkgs[j].PackageSPDXIdentifier })
	w.doc.Packages = append([]*v2_3.Package{img}, w.pkgs...)
	w.sortRelations()
	return w.doc, nil
}

// image is the package of the image itself. Its verification code covers every file.
func (w *writer) image(manifest v1.Hash) (*v2_3.Package, error) {
	code, err := utils.GetVerificationCode(w.doc.Files, "")
	if err != nil {
		return nil, fmt.Errorf("computing the verification code: %w", err)
	}
	purl := packageurl.NewPackageURL(packageurl.TypeOCI, "", strings.ToLower(path.Base(w.in.Name)), manifest.String(), packageurl.Qualifiers{
		{Key: "arch", Value: w.in.Platform.Arch}, {Key: "repository_url", Value: w.in.Name}, {Key: "tag", Value: w.in.Tag},
	}, "")
	p := newPackage(imageID, w.in.Name, w.in.Tag)
	p.FilesAnalyzed = true
	p.PackageVerificationCode = &code
	p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: manifest.Hex}}
	p.PackageComment = "The checksum is the digest of the image's manifest. The files are the image's regular files; its folders and symbolic links, which have no content, are not listed."
	p.PrimaryPackagePurpose = "CONTAINER"
	p.PackageExternalReferences = []*v2_3.PackageExternalReference{purlRef(purl.ToString())}
	return p, nil
}

// files lists the files and says where each came from.
func (w *writer) files(files []inventory.File) error {
	for _, f := range files {
		id := w.id("File-", f.Path)
		file := &v2_3.File{
			FileName: "./" + f.Path, FileSPDXIdentifier: id,
			Checksums:        []common.Checksum{{Algorithm: common.SHA1, Value: f.SHA1}, {Algorithm: common.SHA256, Value: f.SHA256}},
			LicenseConcluded: noAssertion, FileCopyrightText: noAssertion,
		}
		if f.ELF {
			file.FileTypes = []string{"BINARY"}
		}
		w.doc.Files = append(w.doc.Files, file)
		w.relate(imageID, common.TypeRelationshipContains, id)
		if f.Package != "" {
			from, ok := w.purls[f.Package]
			if !ok {
				return fmt.Errorf("/%s is said to come from %s, which is none of the image's materials", f.Path, f.Package)
			}
			w.relate(id, common.TypeRelationshipGeneratedFrom, from)
		}
		switch {
		case f.Go != nil:
			w.program(id, f)
		case f.ELF && f.Package == "":
			return fmt.Errorf("/%s is a program that neither carries Go's build info nor comes from a declared package: nothing says what it was made from", f.Path)
		}
	}
	return nil
}

// newPackage has what every package must have, and asserts nothing else.
func newPackage(id common.ElementID, name, version string) *v2_3.Package {
	return &v2_3.Package{
		PackageName: name, PackageSPDXIdentifier: id, PackageVersion: version,
		PackageSupplier:         &common.Supplier{Supplier: noAssertion},
		PackageDownloadLocation: noAssertion,
		// Without it in the text, readers take true for granted.
		IsFilesAnalyzedTagPresent: true,
		PackageLicenseConcluded:   noAssertion, PackageLicenseDeclared: noAssertion, PackageCopyrightText: noAssertion,
	}
}

func purlRef(purl string) *v2_3.PackageExternalReference {
	return &v2_3.PackageExternalReference{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl}
}

func (w *writer) relate(a common.ElementID, how string, b common.ElementID) {
	w.doc.Relationships = append(w.doc.Relationships, &v2_3.Relationship{
		RefA: common.MakeDocElementID("", string(a)), RefB: common.MakeDocElementID("", string(b)), Relationship: how,
	})
}

// sortRelations puts relationships in order and drops repetitions.
func (w *writer) sortRelations() {
	key := func(r *v2_3.Relationship) string {
		return string(r.RefA.ElementRefID) + "\x00" + r.Relationship + "\x00" + string(r.RefB.ElementRefID)
	}
	all := w.doc.Relationships
	sort.SliceStable(all, func(i, j int) bool {
		// The document's own first, for those who read it.
		if a, b := all[i].RefA.ElementRefID == "DOCUMENT", all[j].RefA.ElementRefID == "DOCUMENT"; a != b {
			return a
		}
		return key(all[i]) < key(all[j])
	})
	var out []*v2_3.Relationship
	for _, r := range all {
		if len(out) == 0 || key(out[len(out)-1]) != key(r) {
			out = append(out, r)
		}
	}
	w.doc.Relationships = out
}

// id makes an identifier that a person recognises (letters, digits, "." and "-" are
// allowed) and that nothing else has.
func (w *writer) id(kind string, parts ...string) common.ElementID {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, strings.Join(parts, "-"))
	id := common.ElementID(kind + clean)
	for n := 2; w.ids[id]; n++ {
		id = common.ElementID(fmt.Sprintf("%s%s-%d", kind, clean, n))
	}
	w.ids[id] = true
	return id
}
