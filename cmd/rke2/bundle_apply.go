package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

func newBundleApplyCommand() *cobra.Command {
	var opt airgap.AssembleOptions
	cmd := &cobra.Command{
		Use:   "apply --from OLD DELTA",
		Short: "Make a new bundle of an old one and a delta",
		Long: `Makes the bundle that a delta was made of, byte for byte, and compares its SHA-256 sum
before the file appears. What the delta leaves out is taken from OLD; --from may be
repeated, and names any archives, compressed or not. If something is in none of them, the
error names the bundle that the delta was made from.

An output that ends in .tar.zst or .tar.gz is compressed as rke2 bundle airgap does it.`,
		Example: `  rke2 bundle apply --from rke2-images-core.linux-amd64.tar core.delta.tar -o new.tar

  # into a folder, under the bundle's own name
  rke2 bundle apply --from old/rke2-images-core.linux-amd64.tar core.delta.tar -o new/`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringArrayVar(&opt.From, "from", nil, "archive `file` with what the delta leaves out (repeatable)")
	asJSON := assembleFlags(cmd, &opt)
	requireFlags(cmd, "from", "output")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opt.Parts = args
		return assemble(cmd, "apply", opt, *asJSON)
	}
	return cmd
}

// assembleFlags adds what apply and join have in common.
func assembleFlags(cmd *cobra.Command, opt *airgap.AssembleOptions) (asJSON *bool) {
	cmd.Flags().StringVarP(&opt.Output, "output", "o", "", "`file` to write, or a folder (.tar; .tar.zst and .tar.gz compress it as a whole)")
	return cmd.Flags().Bool("json", false, "print what was made as JSON")
}

func assemble(cmd *cobra.Command, verb string, opt airgap.AssembleOptions, asJSON bool) error {
	ctx, stop := bundleContext(cmd)
	defer stop()
	bar := newMeter(cmd.ErrOrStderr(), verb)
	opt.Progress = func(file string, done, total int64) { bar.show(filepath.Base(file), done, total) }
	made, err := airgap.Assemble(ctx, opt)
	bar.done()
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), made)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  sha256:%s\n", made.File, humanBytes(made.Size), made.SHA256)
	fmt.Fprintf(cmd.OutOrStdout(), "the same bytes as %s, sha256:%s\n", made.Tar.Name, made.Tar.SHA256)
	return nil
}
