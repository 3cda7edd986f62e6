package main

import (
	"github.com/spf13/cobra"

	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
)

// newCommand is the whole command line.
func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "rke2",
		Short: "Kubernetes for hosts with no network",
		Long: `rke2 runs a Kubernetes node on a host that can download nothing.

Copy the bundle rke2-images-core.linux-amd64.tar into
/var/lib/rancher/rke2/agent/images and run ` + "`rke2 server`" + `. The node checks the
signature and the digest of everything before it runs it.`,
		Example: `  # first server of a cluster
  rke2 server --offline --cni none

  # what is in a bundle, and whether it can be trusted
  rke2 bundle inspect rke2-images-core.linux-amd64.tar
  rke2 bundle verify rke2-images-core.linux-amd64.tar`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	release, err := images.EmbeddedRelease()
	version := versionText(release)
	if err != nil {
		version = err.Error() + "\n"
	}
	root.Version = release.Version
	if root.Version == "" {
		root.Version = "without a release"
	}
	root.SetVersionTemplate(version)
	root.AddCommand(
		newNodeCommand(config.Server),
		newNodeCommand(config.Agent),
		newBundleCommand(),
		newImagesCommand(),
		newDoctorCommand(),
		newEtcdSnapshotCommand(),
		newCertificateCommand(),
		newSecretsEncryptCommand(),
		newTokenCommand(),
		newVerifyPullCommand(),
		newVersionCommand(),
	)
	return root
}
