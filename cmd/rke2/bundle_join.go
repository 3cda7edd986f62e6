package main

import (
	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

func newBundleJoinCommand() *cobra.Command {
	var opt airgap.AssembleOptions
	cmd := &cobra.Command{
		Use:   "join PART...",
		Short: "Make a bundle of the parts that it was split into",
		Long: `Makes the bundle that was split, byte for byte, and compares its SHA-256 sum before the
file appears. The parts may be in any order, compressed or not; one that is missing, or
belongs to another bundle, is named.

A node needs no join: it reads parts as they are.`,
		Example: `  rke2 bundle join rke2-images-core.linux-amd64.part*.tar -o rke2-images-core.linux-amd64.tar

  # into this folder, under the bundle's own name
  rke2 bundle join /media/usb1/*.part*.tar /media/usb2/*.part*.tar -o .`,
		Args: cobra.MinimumNArgs(1),
	}
	asJSON := assembleFlags(cmd, &opt)
	requireFlags(cmd, "output")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opt.Parts = args
		return assemble(cmd, "join", []airgap.AssembleOptions{opt}, *asJSON)
	}
	return cmd
}
