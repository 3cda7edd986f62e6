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
	cmd := &cobra.Command{
		Use:   "inspect FILE...",
		Short: "Show a bundle's images, sizes, digests and signatures",
		Long: `Shows what an image archive holds. It reads the archive's head, manifests and
signatures, but no layers; rke2 bundle verify reads everything.

Archives of docker save, skopeo and ctr are read too, plain or compressed with zstd,
gzip, lz4 or bzip2.`,
		Example: `  rke2 bundle inspect rke2-images-core.linux-amd64.tar
  rke2 bundle inspect --layers rke2-images-core.linux-amd64.tar
  rke2 bundle inspect -o json rke2-images-core.linux-amd64.tar | jq -r '.[].images[].names[]'`,
		Args: cobra.MinimumNArgs(1),
	}
	check := outputFlag(cmd, &output)
	trustFlags(cmd, &keys, &trustDir)
	cmd.Flags().BoolVar(&layers, "layers", false, "list each image's layers")
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		if err := check(); err != nil {
			return err
		}
		policy, _, err := bundleTrust(keys, trustDir)
		if err != nil {
			return err
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
	fmt.Fprintln(t, "IMAGE\tPLATFORM\tSIZE\tLAYERS\tDIGEST\tSIGNATURE")
	for _, img := range ins.Images {
		for i, n := range img.Names {
			if i > 0 {
				fmt.Fprintf(t, "%s\t\t\t\t\t\n", n)
				continue
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\n", n, dash(img.Platform), dashBytes(img.Size), len(img.Layers), dash(shortDigest(img.Digest)), signatureText(img.Signature))
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
