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
	var layers bool
	var materials sbomFlags
	cmd := &cobra.Command{
		Use:   "inspect FILE...",
		Short: "Show a bundle's images, sizes, digests, signatures and SBOMs",
		Long: `Shows what an image archive holds. It reads the archive's head, manifests,
signatures and attestations, but no layers; rke2 bundle verify reads everything.

With --sbom it prints the SPDX document of an image, exactly as it was signed. Of several
images it shows how many packages and files each has, or with -o json an array with all
documents. --packages lists what the images are made of, a package of an image on each
line. Both print only what a trusted key signed for an image that is verified itself.

Archives of docker save, skopeo and ctr are read too, plain or compressed with zstd,
gzip, lz4 or bzip2.`,
		Example: `  rke2 bundle inspect rke2-images-core.linux-amd64.tar
  rke2 bundle inspect --layers rke2-images-core.linux-amd64.tar
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
	materials.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		if err := errors.Join(check(), materials.check(layers, len(files))); err != nil {
			return err
		}
		policy, _, err := bundleTrust(keys, trustDir)
		if err != nil {
			return err
		}
		if materials.wanted() {
			return materials.print(cmd, files, policy, output == "json")
		}
		var all []airgap.Inspection
		for _, f := range files {
			a, err := airgap.Open(f)
			if err != nil {
				return err
			}
			ins, err := a.Inspect(policy)
			if err := errors.Join(err, a.Close()); err != nil {
				return err
			}
			all = append(all, ins)
		}
		if output == "json" {
			return printJSON(cmd.OutOrStdout(), all)
		}
		for i, ins := range all {
			if i > 0 {
				fmt.Fprintln(cmd.OutOrStdout())
			}
			if err := printInspection(cmd.OutOrStdout(), ins, layers); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func printInspection(w io.Writer, ins airgap.Inspection, layers bool) error {
	kind := "image archive of another tool, " + string(ins.Format)
	if ins.Bundle {
		kind = "bundle"
	}
	fmt.Fprintf(w, "%s: %s, %s", ins.File, kind, humanBytes(ins.Size))
	if ins.Compression != "none" {
		fmt.Fprintf(w, ", %s", ins.Compression)
	}
	fmt.Fprintf(w, ", %s\n", count(len(ins.Images), "image"))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tPLATFORM\tSIZE\tLAYERS\tDIGEST\tSIGNATURE\tATTESTATIONS")
	for _, img := range ins.Images {
		for i, n := range img.Names {
			if i > 0 {
				fmt.Fprintf(t, "%s\t\t\t\t\t\t\n", n)
				continue
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", n, dash(img.Platform), dashBytes(img.Size), len(img.Layers), dash(shortDigest(img.Digest)), signatureText(img.Signature), dash(attestationText(img.Attestations)))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, img := range ins.Images {
		if layers {
			fmt.Fprintf(w, "\n%s\n  manifest  %s\n", img.Names[0], img.Digest)
			for _, l := range img.Layers {
				fmt.Fprintf(w, "  layer     %s  %9s  %s\n", l.Digest, humanBytes(l.Size), l.MediaType)
			}
		}
	}
	for _, img := range ins.Images {
		if img.Signature.Reason != "" {
			fmt.Fprintf(w, "\n%s: %s\n", img.Names[0], img.Signature.Reason)
		}
		for _, att := range img.Attestations {
			if !att.Verified {
				fmt.Fprintf(w, "\n%s: its attestation %s: %s\n", img.Names[0], att.Label(), att.Reason)
			}
		}
	}
	return nil
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
		case airgap.PredicateProvenance:
			name = "provenance"
		}
		if !att.Verified {
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
