package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

func newBundleInspectCommand() *cobra.Command {
	var keys []string
	var trustDir, output string
	var layers, tree bool
	var materials sbomFlags
	cmd := &cobra.Command{
		Use:   "inspect BUNDLE...",
		Short: "Show a bundle's images, sizes, digests, signatures and SBOMs",
		Long: `Shows what image archives hold: images, charts, files, which layers images share,
signatures, and how many packages the SBOMs list. It reads the archive's head, manifests,
signatures and attestations, but no layers; rke2 bundle verify reads everything.

With --tree it shows each image's layers and what is attached to it. With --sbom it
prints the SPDX document of an image, exactly as it was signed. Of several images it shows
how many packages and files each has, or with -o json an array with all documents.
--packages lists what the images are made of, a package of an image on each line. Both
print only what a trusted key signed for an image that is verified itself.

Archives of docker save, skopeo, ctr and k0s are read too, plain or compressed with zstd,
gzip, lz4, bzip2 or xz, and folders with an OCI layout. The parts of a split bundle are shown
as the bundle they make, if all are given; else each, with what it lacks.`,
		Example: `  rke2 bundle inspect rke2-images-core.linux-amd64.tar
  rke2 bundle inspect --tree rke2-images-core.linux-amd64.tar
  rke2 bundle inspect -o json rke2-images-core.linux-amd64.tar | jq -r '.[].images[].names[]'

  # what one image is made of, for a scanner
  rke2 bundle inspect --sbom --image rancher/hardened-etcd:TAG rke2-images-core.linux-amd64.tar >etcd.spdx.json

  # which images have a module
  rke2 bundle inspect --packages rke2-images-*.linux-amd64.tar | grep golang.org/x/crypto`,
		Args: cobra.MinimumNArgs(1),
	}
	check := outputFlag(cmd, &output)
	trustFlags(cmd, &keys, &trustDir)
	cmd.Flags().BoolVar(&layers, "layers", false, "list each image's layers")
	cmd.Flags().BoolVar(&tree, "tree", false, "show images, their layers and what is attached to them as a tree")
	materials.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		if layers && tree {
			return errors.New("--layers and --tree: one at a time")
		}
		if err := errors.Join(check(), materials.check(layers || tree, len(files))); err != nil {
			return err
		}
		policy, _, err := bundleTrust(keys, trustDir)
		if err != nil {
			return err
		}
		if materials.wanted() {
			return materials.print(cmd, files, policy, output == "json")
		}
		all := []airgap.Inspection{}
		err = eachArchive(files, func(a *airgap.Archive) error {
			ins, err := a.Inspect(policy)
			all = append(all, ins)
			return err
		})
		if err != nil {
			return err
		}
		if output == "json" {
			return printJSON(cmd.OutOrStdout(), all)
		}
		for i, ins := range all {
			if i > 0 {
				fmt.Fprintln(cmd.OutOrStdout())
			}
			if tree {
				printTree(cmd.OutOrStdout(), ins)
				continue
			}
			if err := printInspection(cmd.OutOrStdout(), ins, layers); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// headline says what an archive is.
func headline(ins airgap.Inspection) string {
	kind := "image archive of another tool, " + string(ins.Format)
	if ins.Bundle {
		kind = "bundle"
	}
	if ins.Partial != nil {
		kind = ins.Partial.String()
	}
	out := fmt.Sprintf("%s: %s, %s", ins.File, kind, humanBytes(ins.Size))
	if ins.Compression != "none" {
		out += ", " + ins.Compression
	}
	out += ", " + count(len(ins.Images), "image")
	for _, kind := range []string{"chart", "files"} {
		n := 0
		for _, art := range ins.Artifacts {
			if art.Kind == kind {
				n++
			}
		}
		switch {
		case n > 0 && kind == "chart":
			out += ", " + count(n, "chart")
		case n > 0:
			out += ", " + count(n, "set") + " of files"
		}
	}
	return out
}

func printInspection(w io.Writer, ins airgap.Inspection, layers bool) error {
	fmt.Fprintln(w, headline(ins))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if len(ins.Images) > 0 {
		fmt.Fprintln(t, "IMAGE\tPLATFORM\tSIZE\tSHARED\tLAYERS\tDIGEST\tSIGNATURE\tATTESTATIONS")
	}
	for _, img := range ins.Images {
		for i, n := range img.Names {
			if i > 0 {
				fmt.Fprintf(t, "%s\t\t\t\t\t\t\t\n", n)
				continue
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", n, dash(img.Platform), dashBytes(img.Size), dashBytes(img.Shared), len(img.Layers),
				dash(shortDigest(img.Digest)), signatureText(img.Signature), dash(attestationText(img.Attestations)))
		}
	}
	if err := errors.Join(t.Flush(), printArtifacts(w, ins.Artifacts)); err != nil {
		return err
	}
	printTotals(w, ins)
	for _, img := range ins.Images {
		if layers {
			fmt.Fprintf(w, "\n%s\n  manifest  %s\n", img.Names[0], dash(img.Digest))
			for _, l := range img.Layers {
				fmt.Fprintf(w, "  layer     %s  %9s  %s\n", layerName(l), humanBytes(l.Size), dash(l.MediaType))
			}
		}
	}
	printDoubts(w, ins)
	return nil
}

func printArtifacts(w io.Writer, all []airgap.ArtifactInfo) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ARTIFACT\tKIND\tSIZE\tFILES\tDIGEST\tSIGNATURE")
	for _, art := range all {
		files := "-"
		if art.Kind == "files" {
			files = fmt.Sprint(len(art.Files))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", art.Ref, art.Kind, humanBytes(art.Size), files, shortDigest(art.Digest), signatureText(art.Signature))
	}
	return t.Flush()
}

// printTotals says what layers have in common, and what is not here.
func printTotals(w io.Writer, ins airgap.Inspection) {
	t := ins.Layers
	if t.Shared > 0 {
		fmt.Fprintf(w, "\n%s in images, %d stored, %s; %d of them shared, which saves %s\n", count(t.Count, "layer"), t.Unique, humanBytes(t.Bytes), t.Shared, humanBytes(t.Saved))
	}
	if t.Absent > 0 {
		where := "the bundles that it was made from"
		if ins.Partial != nil && !ins.Partial.IsDelta() {
			where = "other parts"
		}
		fmt.Fprintf(w, "\nnot in this file: %s, %s, which %s have\n", count(t.Absent, "layer"), humanBytes(t.AbsentBytes), where)
	}
}

// printDoubts gives the reasons for what is not verified.
func printDoubts(w io.Writer, ins airgap.Inspection) {
	for _, img := range ins.Images {
		if img.Signature.Reason != "" {
			fmt.Fprintf(w, "\n%s: %s\n", img.Names[0], img.Signature.Reason)
		}
		for _, att := range img.Attestations {
			if !att.Verified && !att.Absent {
				fmt.Fprintf(w, "\n%s: its attestation %s: %s\n", img.Names[0], att.Label(), att.Reason)
			}
		}
	}
	for _, art := range ins.Artifacts {
		if art.Signature.Reason != "" {
			fmt.Fprintf(w, "\n%s: %s\n", art.Ref, art.Signature.Reason)
		}
	}
}

func layerName(l airgap.LayerInfo) string {
	if l.Digest == "" {
		return dash(l.DiffID)
	}
	return l.Digest
}

// signatureText is a signature's state in one or two words.
func signatureText(s airgap.SigInfo) string {
	switch {
	case s.State == airgap.SigVerified && s.Development:
		return s.Key + ", DEVELOPMENT"
	case s.State == airgap.SigVerified:
		return s.Key
	case s.Development:
		return string(s.State) + " (says: development key)"
	}
	return string(s.State)
}

// attestationText names what is attested; what is not verified is said to be.
func attestationText(all []airgap.AttestationInfo) string {
	var out []string
	for _, att := range all {
		name := att.Label()
		switch att.PredicateType {
		case airgap.PredicateSPDX:
			name = "sbom"
			if att.Packages > 0 {
				name = fmt.Sprintf("sbom (%s)", count(att.Packages, "package"))
			}
		case airgap.PredicateProvenance:
			name = "provenance"
		}
		switch {
		case att.Absent:
			name = "one not here"
		case !att.Verified:
			name += " (untrusted)"
		}
		out = append(out, name)
	}
	return strings.Join(out, ", ")
}

func shortDigest(d string) string {
	if len(d) > 19 {
		return d[:19]
	}
	return d
}

func dash(s string) string {
	if strings.TrimSpace(s) == "" {
		return "-"
	}
	return s
}

func dashBytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return humanBytes(n)
}
