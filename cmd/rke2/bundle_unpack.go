package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

func newBundleUnpackCommand() *cobra.Command {
	var opt airgap.UnpackOptions
	cmd := &cobra.Command{
		Use:   "unpack FILE... DIR",
		Short: "Unpack a bundle into an OCI layout",
		Long: `Writes a bundle's images, signatures and attestations as an OCI image layout. Every
blob is verified; the folder appears whole or not at all. With --image only that image is
unpacked, in the form of cosign save, so that cosign verifies it without rke2.

Several files are all parts of one bundle, or a delta and the bundles it was made from.`,
		Example: `  rke2 bundle unpack rke2-images-core.linux-amd64.tar layout

  # let cosign check one image
  rke2 bundle unpack rke2-images-core.linux-amd64.tar etcd --image rancher/hardened-etcd:TAG
  cosign verify --key rke2.pub --private-infrastructure=true --local-image etcd
  cosign verify-attestation --key rke2.pub --private-infrastructure=true --type spdxjson --local-image etcd
  cosign verify-attestation --key rke2.pub --private-infrastructure=true --type slsaprovenance1 --local-image etcd`,
		Args: cobra.MinimumNArgs(2),
	}
	cmd.Flags().StringVar(&opt.Image, "image", "", "unpack only the image with this `reference`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := bundleContext(cmd)
		defer stop()
		last := len(args) - 1
		set, err := airgap.OpenSet(args[:last]...)
		if err != nil {
			return err
		}
		defer set.Close()
		archive, err := set.One()
		if err != nil {
			return err
		}
		opt.Dir = args[last]
		bar := newMeter(cmd.ErrOrStderr(), "unpack")
		opt.Progress = func(done, total int64) { bar.show(filepath.Base(archive.Path()), done, total) }
		err = archive.Unpack(ctx, opt)
		bar.done()
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s unpacked into %s\n", archive.Path(), opt.Dir)
		return nil
	}
	return cmd
}
