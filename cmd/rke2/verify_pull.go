package main

import (
	"flag"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/node"
)

// newVerifyPullCommand is what containerd asks before it pulls an image. It speaks
// containerd's protocol for image verifiers: -name, -digest, the descriptor on standard
// input; the exit status is the verdict and standard output the reason.
func newVerifyPullCommand() *cobra.Command {
	var mode, trustDir string
	var system []string
	cmd := &cobra.Command{
		Use:    "verify-pull --mode MODE --trust-dir DIR -- -name IMAGE -digest DIGEST",
		Short:  "Judge an image that containerd is about to pull",
		Long:   "Judge an image that containerd is about to pull.\n\nThe node sets it up where the trust policy needs it; there is no use in running it.",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			theirs := flag.NewFlagSet("verify-pull", flag.ContinueOnError)
			theirs.SetOutput(io.Discard)
			reference, digest := theirs.String("name", "", ""), theirs.String("digest", "", "")
			theirs.String("stdin-media-type", "", "")
			if err := theirs.Parse(args); err != nil {
				return err
			}
			parsed, err := trust.ParseMode(mode)
			if err != nil {
				return err
			}
			release, err := images.EmbeddedRelease()
			if err != nil {
				return err
			}
			c := config.Config{Verification: parsed, TrustDir: trustDir, Release: release, ImageOverrides: map[string]string{}}
			for _, image := range system {
				c.ImageOverrides[image] = image
			}
			grounds, err := node.AdmitPull(c, *reference, *digest)
			if err != nil {
				grounds = err.Error()
			}
			fmt.Fprintln(cmd.OutOrStdout(), grounds)
			return err
		},
	}
	cmd.Flags().StringVar(&mode, "mode", "", "which images must be verified: system, all or off")
	cmd.Flags().StringVar(&trustDir, "trust-dir", "", "folder of the operator's public keys")
	cmd.Flags().StringArrayVar(&system, "system", nil, "image that counts as the system's")
	return cmd
}
