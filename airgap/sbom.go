package airgap

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap/trust"
)

// SBOMOptions says whose SBOMs to read, and whom to trust for them.
type SBOMOptions struct {
	// Policy's keys and pins; its mode is not looked at.
	Policy trust.Policy
	// Image, if set, takes only that reference's image.
	Image string
	// Unverified takes SBOMs that no trusted key signed, of images that none signed.
	Unverified bool
}

// SBOM is the software bill of materials of an image: an SPDX document (2.x, JSON).
type SBOM struct {
	Names    []string `json:"names"`
	Digest   string   `json:"digest"` // of the image's manifest
	Platform string   `json:"platform,omitempty"`
	// Key is the trusted key that signed the document for this image.
	Key string `json:"key,omitempty"`
	// Unverified says why image or document is not to be trusted. It is set only where
	// unverified ones were asked for.
	Unverified string        `json:"unverified,omitempty"`
	Packages   []SBOMPackage `json:"-"`
	Files      int           `json:"-"`
	// Document is the SPDX document, exactly as it was signed. Nil: the image has none.
	Document json.RawMessage `json:"spdx"`
}

// SBOMPackage is a package that an SBOM lists.
type SBOMPackage struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	PURL    string `json:"purl,omitempty"` // package URL
}

// SBOMs reads the SPDX documents of an archive's images, in the order of the images. An
// image that is not verified, or whose document is not, is an error; so are two different
// documents for one image. An image with no document has no Document.
func (a *Archive) SBOMs(ctx context.Context, opt SBOMOptions) ([]SBOM, error) {
	if err := a.whole(); err != nil {
		return nil, err
	}
	out, err := a.sboms(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("reading SBOMs of %s: %w", a.file, err)
	}
	return out, nil
}

func (a *Archive) sboms(ctx context.Context, opt SBOMOptions) ([]SBOM, error) {
	if a.format == FormatDockerArchive {
		return nil, errors.New("a legacy docker-archive carries no attestations")
	}
	images := a.images
	if opt.Image != "" {
		img, _, err := a.find(opt.Image)
		if err != nil {
			return nil, err
		}
		images = []Image{img}
	}
	opt.Policy.Mode = trust.ModeAll
	out := make([]SBOM, len(images))
	var all []sealed
	owners := map[v1.Hash][]int{} // by subject
	for i, img := range images {
		sig, err := a.sigInfo(img, opt.Policy)
		if err != nil {
			return nil, err
		}
		out[i] = SBOM{Names: img.Names(), Digest: img.Desc.Digest.String()}
		if sig.State != SigVerified {
			if !opt.Unverified {
				return nil, fmt.Errorf("image %s is not verified: %s", img.label(), sig.Reason)
			}
			out[i].Unverified = "the image: " + sig.Reason
		}
		if img.Platform != nil {
			out[i].Platform = img.Platform.String()
		}
		found, err := a.envelopes(img)
		if err != nil {
			return nil, err
		}
		for _, s := range found {
			if _, elsewhere := a.absent[s.desc.Digest]; elsewhere {
				continue
			}
			// One without a label may state anything.
			if s.claimed == PredicateSPDX || s.claimed == "" {
				all = append(all, s)
				if !slices.Contains(owners[s.subject], i) {
					owners[s.subject] = append(owners[s.subject], i)
				}
			}
		}
	}
	return out, a.open(ctx, all, func(s sealed, env []byte, err error) error {
		name := images[owners[s.subject][0]].label()
		var st trust.Statement
		var key, doubt string
		if err == nil {
			st, key, doubt, err = s.statement(opt, env)
		}
		if err != nil {
			return fmt.Errorf("the SBOM of %s is not verified: %w", name, err)
		}
		if st.PredicateType != PredicateSPDX {
			return nil
		}
		doc, err := parseSPDX(st.Predicate)
		if err != nil {
			return fmt.Errorf("the SBOM of %s: %w", name, err)
		}
		for _, i := range owners[s.subject] {
			if out[i].Document != nil && string(out[i].Document) != string(st.Predicate) {
				return fmt.Errorf("%s has two different SPDX documents, and nothing says which one counts", name)
			}
			if doubt != "" {
				out[i].Unverified = doubt
			}
			out[i].Key, out[i].Document, out[i].Packages, out[i].Files = key, st.Predicate, doc.packages(), len(doc.Files)
		}
		return nil
	})
}

// statement opens an envelope, verified, or with what is to be doubted about it if the
// options allow that.
func (s sealed) statement(opt SBOMOptions, env []byte) (st trust.Statement, key, doubt string, err error) {
	att, err := s.verify(opt.Policy, env)
	if err == nil {
		return att.Statement(), att.Key().String(), "", nil
	}
	if !opt.Unverified {
		return st, "", "", err
	}
	doubt = "its SBOM: " + err.Error()
	st, err = trust.UnverifiedStatement(env)
	return st, "", doubt, err
}

// spdx is what is shown of an SPDX document.
type spdx struct {
	Version  string            `json:"spdxVersion"`
	Files    []json.RawMessage `json:"files"`
	Packages []struct {
		Name    string `json:"name"`
		Version string `json:"versionInfo"`
		Refs    []struct {
			Type    string `json:"referenceType"`
			Locator string `json:"referenceLocator"`
		} `json:"externalRefs"`
	} `json:"packages"`
}

func parseSPDX(b []byte) (spdx, error) {
	var d spdx
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("it is no SPDX document: %w", err)
	}
	if !strings.HasPrefix(d.Version, "SPDX-2.") {
		return d, fmt.Errorf("it is of version %.20q, and only SPDX 2 is read", d.Version)
	}
	return d, nil
}

func (d spdx) packages() []SBOMPackage {
	out := make([]SBOMPackage, 0, len(d.Packages))
	for _, p := range d.Packages {
		one := SBOMPackage{Name: p.Name, Version: p.Version}
		for _, r := range p.Refs {
			if r.Type == "purl" {
				one.PURL = r.Locator
			}
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b SBOMPackage) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.PURL, b.PURL))
	})
	return out
}
