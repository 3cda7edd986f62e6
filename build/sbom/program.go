package sbom

import (
	"bytes"
	"fmt"

	"github.com/package-url/packageurl-go"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// Program gives the SPDX document about one Go program that is shipped as a file, without
// an image around it: JSON. Files has just the program; Digest is its own, Name its file
// name, Tag its version. What Go's build info does not know of, such as the C library of
// a program that is linked with one, is not in it.
func Program(in Input) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("writing the SBOM of %s: %w", in.Name, err)
	}
	if len(in.Files) != 1 {
		return fail(fmt.Errorf("%d files are given, not the program alone", len(in.Files)))
	}
	doc, err := document(in)
	if err != nil {
		return fail(err)
	}
	p := doc.Packages[0] // see document: what is described comes first
	purl := packageurl.NewPackageURL(packageurl.TypeGeneric, "", in.Name, in.Tag, packageurl.Qualifiers{
		{Key: "arch", Value: in.Platform.Arch}, {Key: "checksum", Value: in.Digest},
	}, "")
	p.PackageExternalReferences = []*v2_3.PackageExternalReference{purlRef(purl.ToString())}
	p.PrimaryPackagePurpose = "APPLICATION"
	p.PackageComment = "The modules are those of the program's own build info. The C library that it is linked with is not listed."
	var b bytes.Buffer
	if err := spdxjson.Write(doc, &b, spdxjson.EscapeHTML(false)); err != nil {
		return fail(err)
	}
	return b.Bytes(), nil
}
