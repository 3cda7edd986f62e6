package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os/signal"
	"slices"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/images"
)

// defaultTrustDir is where an operator's public keys are on a host.
const defaultTrustDir = "/etc/rancher/rke2/trust"

func newBundleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Make, prove, read, compare, split and move bundles of images",
		Long: `A bundle is one tar of container images with their signatures, to be carried to
hosts with no network. It is an OCI layout and a docker-archive at once, so other
tools read it too.`,
		Example: `  # make one, and prove that nothing is missing
  rke2 bundle airgap --manifest rke2-bundle.yaml
  rke2 bundle closure --config config.yaml --manifests deploy/ *.tar

  # look into it, check every byte and signature
  rke2 bundle inspect rke2-images-core.linux-amd64.tar
  rke2 bundle verify rke2-images-core.linux-amd64.tar

  # carry only what is new
  rke2 bundle delta --from old/rke2-images-core.linux-amd64.tar new/rke2-images-core.linux-amd64.tar -o core.delta.tar

  # bring it to others
  rke2 bundle push rke2-images-core.linux-amd64.tar registry.example.com/mirror
  rke2 bundle serve /media/usb`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(
		newBundleAirgapCommand(), newBundleClosureCommand(),
		newBundleInspectCommand(), newBundleListCommand(), newBundleVerifyCommand(), newBundleDiffCommand(),
		newBundleExtractCommand(), newBundleUnpackCommand(),
		newBundleDeltaCommand(), newBundleApplyCommand(), newBundleSplitCommand(), newBundleJoinCommand(),
		newBundlePushCommand(), newBundleServeCommand(),
	)
	return cmd
}

// bundleContext ends with an interrupt, so that nothing half-written is left.
func bundleContext(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
}

// bundleTrust is what bundles are held against: key files that were named, or else
// the release's keys and the host's; and the release's pins in any case.
func bundleTrust(keyFiles []string, trustDir string) (trust.Policy, map[string][]string, error) {
	policy := trust.Policy{Mode: trust.ModeAll, Pins: map[string][]v1.Hash{}}
	release, err := images.EmbeddedRelease()
	if err != nil {
		return policy, nil, err
	}
	sets := map[string][]string{}
	for _, img := range release.Images {
		// Bundles of every platform can be read on any.
		for _, platform := range slices.Sorted(maps.Keys(img.Digests)) {
			h, err := v1.NewHash(img.Digests[platform])
			if err != nil {
				return policy, nil, fmt.Errorf("the release's image %s: %w", img.Reference, err)
			}
			policy.Pins[img.Reference] = append(policy.Pins[img.Reference], h)
		}
		for _, s := range img.Sets {
			sets[s] = append(sets[s], img.Reference)
		}
	}
	if len(keyFiles) > 0 {
		for _, f := range keyFiles {
			k, err := trust.LoadKey(f)
			if err != nil {
				return policy, nil, err
			}
			policy.OperatorKeys = append(policy.OperatorKeys, k)
		}
		return policy, sets, nil
	}
	for _, pem := range release.PublicKeys {
		k, err := trust.ParseKey([]byte(pem), trust.ReleaseSource)
		if err != nil {
			return policy, nil, err
		}
		policy.ReleaseKeys = append(policy.ReleaseKeys, k)
	}
	policy.OperatorKeys, err = trust.LoadKeys(trustDir)
	return policy, sets, err
}

// trustFlags adds the flags that bundleTrust reads.
func trustFlags(cmd *cobra.Command, keys *[]string, trustDir *string) {
	cmd.Flags().StringArrayVar(keys, "key", nil, "public key `file` to trust instead of the release's and the host's (repeatable)")
	cmd.Flags().StringVar(trustDir, "trust-dir", defaultTrustDir, "`folder` with the host's trusted keys, *.pub")
}

// outputFlag adds -o and returns a check of its value.
func outputFlag(cmd *cobra.Command, output *string) func() error {
	cmd.Flags().StringVarP(output, "output", "o", "text", "`format`: text or json")
	return func() error {
		if *output != "text" && *output != "json" {
			return fmt.Errorf("--output %q is not known: use text or json", *output)
		}
		return nil
	}
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
