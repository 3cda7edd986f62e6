package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/pipeline"
)

func newImage(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image [IMAGE…]",
		Short: "Make images in the OCI layout (none named: all)",
		Long: `Compiles what the images need, makes their layers and puts the images into the OCI
layout oci/ in the products' folder. The layout's index is replaced last.`,
		Example:           "  rke2-build image\n  rke2-build image hardened-etcd -o json",
		ValidArgsFunction: f.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			if err := p.CheckImages(args); err != nil {
				return usageError{err}
			}
			built, err := p.Images(cmd.Context(), args)
			if err != nil {
				return err
			}
			if f.asJSON() {
				return printJSON(cmd, built)
			}
			return printBuilt(cmd, built)
		},
	}
	outputFlag(cmd, f)
	return cmd
}

func printBuilt(cmd *cobra.Command, built []pipeline.Built) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tPLATFORM\tSIZE\tLAYERS\tDIGEST")
	for _, b := range built {
		for _, p := range b.Platforms {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", b.Reference, p.Platform, size(p.Size), p.Layers, p.Digest)
		}
	}
	return w.Flush()
}

func newSign(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sign",
		Short: "Sign the images of the OCI layout by digest",
		Long: `Signs every image of the layout, as cosign does, and writes the key's public half to
cosign.pub in the products' folder. A signature that the same key made for the same
digest is kept. With a key file signatures are reproducible.`,
		Example: "  rke2-build sign\n  COSIGN_PASSWORD=… rke2-build sign --key release.key\n  rke2-build sign --key hashivault://release",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			key, err := f.signingKey(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			_, err = p.Sign(cmd.Context(), key)
			return err
		},
	}
	keyFlag(cmd, f)
	return cmd
}

func newRelease(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Write down what the release consists of",
		Long: `Writes release.json (images, digests, public key), cosign.pub, and overlay.json, with
which go build puts release.json into the node binary. Every declared image must be in
the layout and signed by the key.`,
		Example: "  rke2-build release\n  go build -overlay dist/overlay.json ./cmd/rke2",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			key, err := f.signingKey(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			r, err := p.Release(key)
			if err != nil {
				return err
			}
			return printJSON(cmd, r)
		},
	}
	keyFlag(cmd, f)
	return cmd
}

func newAll(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "all",
		Short:   "Make all images, sign them and write down the release",
		Long:    "Does image, sign and release in one go.",
		Example: "  rke2-build all\n  REGISTRY=registry.example.com REPO=rke2 rke2-build all",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			// Before the long part: a wrong passphrase should not be found after it.
			key, err := f.signingKey(ctx, cmd)
			if err != nil {
				return err
			}
			built, err := p.Images(ctx, nil)
			if err != nil {
				return err
			}
			if _, err := p.Sign(ctx, key); err != nil {
				return err
			}
			if _, err := p.Release(key); err != nil {
				return err
			}
			return printBuilt(cmd, built)
		},
	}
	keyFlag(cmd, f)
	return cmd
}

func (f *flags) completeComponents(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if t, err := f.tree(); err == nil {
		for _, c := range t.Components {
			if strings.HasPrefix(c.Name, prefix) {
				out = append(out, c.Name+"\t"+c.Description)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (f *flags) completeImages(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if t, err := f.tree(); err == nil {
		for _, i := range t.Images {
			if strings.HasPrefix(i.Name, prefix) {
				out = append(out, i.Name)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	return nil
}
