package sbom

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What the SPDX 2.3 JSON schema and specification demand of what we write: which keys an
// object may have, which it must have, and which values are known.
type object struct{ required, allowed []string }

var (
	hash40     = regexp.MustCompile(`^[0-9a-f]{40}$`)
	hash64     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	spdxID     = regexp.MustCompile(`^SPDXRef-[a-zA-Z0-9.-]+$`)
	timestamp  = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)
	actor      = regexp.MustCompile(`^(Tool|Organization|Person): .+`)
	location   = regexp.MustCompile(`^(NOASSERTION|NONE|https?://[^ ]+)$`)
	namespaces = regexp.MustCompile(`^https://[^ #]+$`)
)

func shapes() map[string]object {
	return map[string]object{
		"document": {[]string{"SPDXID", "creationInfo", "dataLicense", "name", "spdxVersion", "documentNamespace"},
			[]string{"packages", "files", "relationships", "comment", "documentDescribes"}},
		"creationInfo": {[]string{"created", "creators"}, []string{"comment", "licenseListVersion"}},
		"package": {[]string{"SPDXID", "downloadLocation", "name", "filesAnalyzed"}, []string{"versionInfo", "supplier", "packageVerificationCode",
			"checksums", "sourceInfo", "licenseConcluded", "licenseDeclared", "copyrightText", "summary", "comment", "externalRefs", "primaryPackagePurpose", "hasFiles"}},
		"file":         {[]string{"SPDXID", "checksums", "fileName"}, []string{"fileTypes", "licenseConcluded", "copyrightText"}},
		"checksum":     {[]string{"algorithm", "checksumValue"}, nil},
		"externalRef":  {[]string{"referenceCategory", "referenceLocator", "referenceType"}, []string{"comment"}},
		"relationship": {[]string{"spdxElementId", "relatedSpdxElement", "relationshipType"}, []string{"comment"}},
	}
}

// checker walks a document.
type checker struct {
	t      *testing.T
	shapes map[string]object
	ids    map[string]string // of elements: their kind
}

func checkSchema(t *testing.T, raw []byte) {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	c := checker{t, shapes(), map[string]string{}}
	c.shape("document", doc)
	c.one(doc, "spdxVersion", "SPDX-2.3")
	c.one(doc, "dataLicense", "CC0-1.0")
	c.one(doc, "SPDXID", "SPDXRef-DOCUMENT")
	c.match(doc, "documentNamespace", namespaces)
	c.id(doc, "document")
	info := doc["creationInfo"].(map[string]any)
	c.shape("creationInfo", info)
	c.match(info, "created", timestamp)
	for _, s := range list(info, "creators") {
		if !actor.MatchString(s.(string)) {
			t.Errorf("creator %q", s)
		}
	}
	analyzed := map[string]bool{}
	for _, p := range list(doc, "packages") {
		p := p.(map[string]any)
		c.pkg(p)
		analyzed[p["SPDXID"].(string)] = p["filesAnalyzed"].(bool)
	}
	for _, f := range list(doc, "files") {
		c.file(f.(map[string]any))
	}
	for _, r := range list(doc, "relationships") {
		r := r.(map[string]any)
		c.shape("relationship", r)
		c.one(r, "relationshipType", "DESCRIBES", "CONTAINS", "GENERATED_FROM", "DEPENDS_ON")
		a, b := r["spdxElementId"].(string), r["relatedSpdxElement"].(string)
		if c.ids[a] == "" || c.ids[b] == "" {
			t.Errorf("%v relates what is not there", r)
		}
		if r["relationshipType"] == "CONTAINS" && c.ids[b] == "file" && !analyzed[a] {
			t.Errorf("%s has files, and filesAnalyzed is false", a)
		}
	}
}

func (c checker) pkg(p map[string]any) {
	c.shape("package", p)
	c.id(p, "package")
	c.match(p, "downloadLocation", location)
	if s := p["supplier"].(string); s != "NOASSERTION" && !actor.MatchString(s) {
		c.t.Errorf("supplier %q", s)
	}
	if code, has := p["packageVerificationCode"]; has != p["filesAnalyzed"].(bool) {
		c.t.Errorf("%s: filesAnalyzed %v, verification code %v", p["SPDXID"], p["filesAnalyzed"], code)
	} else if has {
		c.match(code.(map[string]any), "packageVerificationCodeValue", hash40)
	}
	if _, ok := p["primaryPackagePurpose"]; ok {
		c.one(p, "primaryPackagePurpose", "APPLICATION", "LIBRARY", "CONTAINER", "SOURCE", "INSTALL")
	}
	for _, s := range list(p, "checksums") {
		c.checksum(s.(map[string]any))
	}
	for _, r := range list(p, "externalRefs") {
		r := r.(map[string]any)
		c.shape("externalRef", r)
		c.one(r, "referenceCategory", "PACKAGE-MANAGER", "OTHER")
		if strings.ContainsAny(r["referenceLocator"].(string)+r["referenceType"].(string), " \t\n") {
			c.t.Errorf("external reference %v has spaces", r)
		}
	}
}

func (c checker) file(f map[string]any) {
	c.shape("file", f)
	c.id(f, "file")
	if !strings.HasPrefix(f["fileName"].(string), "./") {
		c.t.Errorf("file %v is not relative to the package's root", f["fileName"])
	}
	var algorithms []string
	for _, s := range list(f, "checksums") {
		s := s.(map[string]any)
		c.checksum(s)
		algorithms = append(algorithms, s["algorithm"].(string))
	}
	if !slices.Contains(algorithms, "SHA1") {
		c.t.Errorf("file %v has no SHA1, which SPDX 2.3 demands", f["fileName"])
	}
}

func (c checker) checksum(s map[string]any) {
	c.shape("checksum", s)
	c.one(s, "algorithm", "SHA1", "SHA256")
	c.match(s, "checksumValue", map[string]*regexp.Regexp{"SHA1": hash40, "SHA256": hash64}[s["algorithm"].(string)])
}

// id notes an element's identifier, which nothing else may have.
func (c checker) id(o map[string]any, kind string) {
	c.match(o, "SPDXID", spdxID)
	id := o["SPDXID"].(string)
	if c.ids[id] != "" {
		c.t.Errorf("two elements are called %s", id)
	}
	c.ids[id] = kind
}

func (c checker) shape(kind string, o map[string]any) {
	s := c.shapes[kind]
	for _, k := range s.required {
		if v, ok := o[k]; !ok || v == "" {
			c.t.Errorf("%s without %s: %v", kind, k, o)
		}
	}
	for k := range o {
		if !slices.Contains(s.required, k) && !slices.Contains(s.allowed, k) {
			c.t.Errorf("%s with %s: %v", kind, k, o)
		}
	}
}

func (c checker) one(o map[string]any, key string, known ...string) {
	if s, _ := o[key].(string); !slices.Contains(known, s) {
		c.t.Errorf("%s is %v, not one of %q", key, o[key], known)
	}
}

func (c checker) match(o map[string]any, key string, r *regexp.Regexp) {
	if s, _ := o[key].(string); !r.MatchString(s) {
		c.t.Errorf("%s is %v, which does not match %s", key, o[key], r)
	}
}

func list(o map[string]any, key string) []any {
	l, _ := o[key].([]any)
	return l
}
