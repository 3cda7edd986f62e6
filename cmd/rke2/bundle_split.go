package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/manifest"
)

func newBundleSplitCommand() *cobra.Command {
	var opt airgap.SplitOptions
	var size, output string
	cmd := &cobra.Command{
		Use:   "split FILE --size SIZE",
		Short: "Split a bundle into parts for smaller disks",
		Long: `Writes parts NAME.partNofM.tar of at most SIZE bytes. A layer is in one part, never cut, and
each part has all manifests, configs, signatures and SBOMs: it is verified on its own, shows
all images, and says which whole it is of. The same bundle and size give the same parts.

Nodes read parts from agent/images as they are; rke2 bundle join makes the bundle again.
rke2 bundle airgap --split writes parts at once.`,
		Example: `  # for a FAT file system
  rke2 bundle split rke2-images-core.linux-amd64.tar --size 4GB --output-dir /media/usb`,
		Args: cobra.ExactArgs(1),
	}
	check := outputFlag(cmd, &output)
	cmd.Flags().StringVar(&size, "size", "", "`size` of a part at most, such as 4GB or 650MiB")
	cmd.Flags().StringVar(&opt.OutputDir, "output-dir", ".", "`folder` for the parts")
	requireFlags(cmd, "size")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := check(); err != nil {
			return err
		}
		var err error
		if opt.Size, err = manifest.ParseSize(size); err != nil {
			return fmt.Errorf("--size: %w", err)
		}
		opt.File = args[0]
		ctx, stop := bundleContext(cmd)
		defer stop()
		bar := newMeter(cmd.ErrOrStderr(), "split")
		opt.Progress = func(file string, done, total int64) { bar.show(filepath.Base(file), done, total) }
		parts, err := airgap.SplitFile(ctx, opt)
		bar.done()
		if err != nil {
			return err
		}
		if output == "json" {
			return printJSON(cmd.OutOrStdout(), parts)
		}
		for _, p := range parts {
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  sha256:%s\n", p.File, humanBytes(p.Size), p.SHA256)
		}
		return nil
	}
	return cmd
}
