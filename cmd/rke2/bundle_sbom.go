package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
)

// sbomFlags ask what images are made of, instead of what is in a bundle.
type sbomFlags struct {
	sbom, packages, unverified bool
	image                      string
}

func (s *sbomFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&s.sbom, "sbom", false, "print the image's SBOM (SPDX 2.3 JSON), or a table of them")
	f.BoolVar(&s.packages, "packages", false, "list the packages that the images are made of")
	f.StringVar(&s.image, "image", "", "with --sbom or --packages: only the image with this `reference`")
	f.BoolVar(&s.unverified, "insecure-unverified", false, "with --sbom or --packages: print also what nobody who is trusted has signed")
}

func (s *sbomFlags) wanted() bool { return s.sbom || s.packages }

func (s *sbomFlags) check(layers bool, files int) error {
	switch {
	case s.sbom && s.packages:
		return errors.New("--sbom and --packages: one at a time")
	case s.wanted() && layers:
		return errors.New("--layers is not for --sbom or --packages")
	case !s.wanted() && (s.image != "" || s.unverified):
		return errors.New("--image and --insecure-unverified are for --sbom and --packages")
	case s.image != "" && files > 1:
		return errors.New("--image needs exactly one FILE")
	}
	return nil
}

func (s *sbomFlags) print(cmd *cobra.Command, files []string, policy trust.Policy, asJSON bool) error {
	ctx, stop := bundleContext(cmd)
	defer stop()
	var all []airgap.SBOM
	err := eachArchive(files, func(a *airgap.Archive) error {
		found, err := a.SBOMs(ctx, airgap.SBOMOptions{Policy: policy, Image: s.image, Unverified: s.unverified})
		all = append(all, found...)
		return err
	})
	if err != nil {
		return err
	}
	for _, b := range all {
		if b.Unverified != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "WARNING: NOT VERIFIED: %s: %s\n", b.Names[0], b.Unverified)
		}
	}
	out := cmd.OutOrStdout()
	if s.packages || asJSON {
		warnMissing(cmd.ErrOrStderr(), all)
	}
	switch {
	case s.packages && asJSON:
		return printJSON(out, packagesOf(all))
	case s.packages:
		return printPackages(out, packagesOf(all))
	case asJSON:
		return printJSON(out, all)
	case len(all) == 1:
		if all[0].Document == nil {
			return fmt.Errorf("%s: image %s has no SBOM", files[0], all[0].Names[0])
		}
		_, err := fmt.Fprintf(out, "%s\n", all[0].Document)
		return err
	}
	return printSBOMs(out, cmd.ErrOrStderr(), all)
}

// warnMissing names the images of which nothing is known: what is not listed for them may
// be in them.
func warnMissing(w io.Writer, all []airgap.SBOM) {
	for _, b := range all {
		if b.Document == nil {
			fmt.Fprintf(w, "WARNING: %s has no SBOM: what it is made of is not known\n", b.Names[0])
		}
	}
}

// printSBOMs shows how large the SBOMs of several images are.
func printSBOMs(out, hint io.Writer, all []airgap.SBOM) error {
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tPLATFORM\tPACKAGES\tFILES\tSIZE\tSIGNED BY")
	for _, b := range all {
		if b.Document == nil {
			fmt.Fprintf(t, "%s\t%s\t-\t-\t-\tno SBOM\n", b.Names[0], dash(b.Platform))
			continue
		}
		by := b.Key
		if b.Unverified != "" {
			by = "NOT VERIFIED"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\n", b.Names[0], dash(b.Platform), len(b.Packages), b.Files, humanBytes(int64(len(b.Document))), by)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(hint, "\none SPDX document: --image REFERENCE; all of them: -o json; their packages: --packages")
	return nil
}

// packageOf is a package that an image has.
type packageOf struct {
	airgap.SBOMPackage
	Image  string `json:"image"`
	Digest string `json:"digest"` // of the image's manifest
}

func packagesOf(all []airgap.SBOM) []packageOf {
	out := []packageOf{}
	for _, b := range all {
		for _, p := range b.Packages {
			out = append(out, packageOf{p, b.Names[0], b.Digest})
		}
	}
	return out
}

func printPackages(w io.Writer, all []packageOf) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PACKAGE\tVERSION\tIMAGE\tPURL")
	for _, p := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", plain(p.Name), dash(plain(p.Version)), p.Image, dash(plain(p.PURL)))
	}
	return t.Flush()
}

// plain keeps what others wrote from steering a terminal or a table.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
