package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

func newBundleApplyCommand() *cobra.Command {
	var opt airgap.AssembleOptions
	cmd := &cobra.Command{
		Use:   "apply --from OLD DELTA...",
		Short: "Make a new bundle of an old one and a delta",
		Long: `Makes the bundle that a delta was made of, byte for byte, and compares its SHA-256 sum
before the file appears. What the delta leaves out is taken from OLD; --from may be
repeated, and names archives, compressed or not, or folders of them. If something is in
none of them, the error names the bundle that the delta was made from. Several deltas make
a bundle each, in the folder that -o names.

An output that ends in .tar.zst or .tar.gz is compressed as rke2 bundle airgap does it.`,
		Example: `  rke2 bundle apply --from rke2-images-core.linux-amd64.tar core.delta.tar -o new.tar

  # into a folder, under the bundle's own name
  rke2 bundle apply --from old/rke2-images-core.linux-amd64.tar core.delta.tar -o new/

  # all of a release's
  rke2 bundle apply --from old/ /media/usb/*.delta.tar -o new/`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.Flags().StringArrayVar(&opt.From, "from", nil, "archive `file`, or folder of archives, with what the delta leaves out (repeatable)")
	asJSON := assembleFlags(cmd, &opt)
	requireFlags(cmd, "from", "output")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if info, err := os.Stat(opt.Output); len(args) > 1 && (err != nil || !info.IsDir()) {
			return fmt.Errorf("--output %s: several deltas make several bundles, for which a folder is needed that is there", opt.Output)
		}
		from, err := archivesIn(opt.From)
		if err != nil {
			return err
		}
		var all []airgap.AssembleOptions
		for i, delta := range args {
			// A delta may follow on another.
			others := slices.Concat(from, args[:i], args[i+1:])
			all = append(all, airgap.AssembleOptions{Parts: []string{delta}, From: others, Output: opt.Output})
		}
		return assemble(cmd, "apply", all, *asJSON)
	}
	return cmd
}

// assembleFlags adds what apply and join have in common.
func assembleFlags(cmd *cobra.Command, opt *airgap.AssembleOptions) (asJSON *bool) {
	cmd.Flags().StringVarP(&opt.Output, "output", "o", "", "`file` to write, or a folder (.tar; .tar.zst and .tar.gz compress it as a whole)")
	return cmd.Flags().Bool("json", false, "print what was made as JSON")
}

func assemble(cmd *cobra.Command, verb string, all []airgap.AssembleOptions, asJSON bool) error {
	ctx, stop := bundleContext(cmd)
	defer stop()
	bar := newMeter(cmd.ErrOrStderr(), verb)
	var made []airgap.Assembled
	for _, opt := range all {
		opt.Progress = func(file string, done, total int64) { bar.show(filepath.Base(file), done, total) }
		one, err := airgap.Assemble(ctx, opt)
		bar.done()
		if err != nil {
			return err
		}
		made = append(made, one)
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), made)
	}
	for _, m := range made {
		fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  sha256:%s\n", m.File, humanBytes(m.Size), m.SHA256)
		fmt.Fprintf(cmd.OutOrStdout(), "the same bytes as %s, sha256:%s\n", m.Tar.Name, m.Tar.SHA256)
	}
	return nil
}
