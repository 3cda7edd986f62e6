package main

import (
	"fmt"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

func newBundleAirgapCommand() *cobra.Command {
	var opt airgap.CreateOptions
	var layout, platform, output string
	var sets []string
	var unsigned bool
	cmd := &cobra.Command{
		Use:   "airgap",
		Short: "Make the bundles of a release from an OCI layout",
		Long: `Makes one bundle for each set of images from the layout that rke2-build wrote:

  rke2-images-SET.OS-ARCH.tar    the images with their signatures
  rke2-images-SET.OS-ARCH.txt    their references, one a line
  sha256sum-ARCH.txt             the sums of these files

The same images give the same bytes. Files appear whole or not at all; a bundle that is
there already is left alone.`,
		Example: `  # the core set, from dist/oci into dist
  rke2 bundle airgap

  # two sets, compressed as a whole, elsewhere
  rke2 bundle airgap --layout dist/oci --set core --set extra --format tar.zst --output-dir /media/usb`,
		Args: cobra.NoArgs,
	}
	check := outputFlag(cmd, &output)
	f := cmd.Flags()
	f.StringVar(&layout, "layout", "dist/oci", "`folder` of the OCI layout with the signed images")
	f.StringSliceVar(&sets, "set", []string{"core"}, "`set` of images to bundle (repeatable)")
	f.StringVar(&opt.OutputDir, "output-dir", "dist", "`folder` for the bundles")
	f.StringVar(&platform, "platform", "linux/amd64", "`os/arch` of the images")
	f.StringVar(&opt.Format, "format", "tar", "tar, tar.zst or tar.gz (layers are compressed already)")
	f.BoolVar(&unsigned, "allow-unsigned", false, "bundle images without a signature, which nodes refuse by default")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p, err := v1.ParsePlatform(platform)
		if err != nil || p.OS == "" || p.Architecture == "" {
			return fmt.Errorf("--platform %q: an operating system and an architecture are needed, such as linux/amd64", platform)
		}
		if err := check(); err != nil {
			return err
		}
		orders, err := airgap.SetOrders(layout, sets, *p, unsigned)
		if err != nil {
			return err
		}
		ctx, stop := bundleContext(cmd)
		defer stop()
		bar := newMeter(cmd.ErrOrStderr(), "bundle")
		opt.Progress = func(file string, done, total int64) { bar.show(filepath.Base(file), done, total) }
		made, err := airgap.Create(ctx, orders, opt)
		bar.done()
		if err != nil {
			return err
		}
		if output == "json" {
			return printJSON(cmd.OutOrStdout(), made)
		}
		for _, c := range made {
			state := ""
			if c.Kept {
				state = "  (unchanged)"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %s  sha256:%s%s\n", c.File, humanBytes(c.Size), count(len(c.Images), "image"), c.SHA256, state)
		}
		return nil
	}
	return cmd
}
