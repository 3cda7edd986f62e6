package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

func newBundleVerifyCommand() *cobra.Command {
	var keys []string
	var trustDir, output string
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Check every signature, attestation and byte of a bundle",
		Long: `Reads an image archive whole and checks its structure, the digest of each blob, the
signature of each image and the signatures of its attestations (SBOM, provenance), which
must be about that image. Keys are those of this rke2's release and the host's
trusted keys, or only those named with --key. An image that this release has under
the same name must be the same image, whoever signed it.

Prints one line for each fault. Exit code 0: everything is right; 1: it is not, or
could not be checked.`,
		Example: `  rke2 bundle verify rke2-images-core.linux-amd64.tar

  # with a key that came another way
  rke2 bundle verify --key rke2.pub rke2-images-core.linux-amd64.tar

  # everything that a node would find
  rke2 bundle verify /var/lib/rancher/rke2/agent/images/*.tar*`,
		Args: cobra.MinimumNArgs(1),
	}
	check := outputFlag(cmd, &output)
	trustFlags(cmd, &keys, &trustDir)
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		if err := check(); err != nil {
			return err
		}
		policy, release, err := bundleTrust(keys, trustDir)
		if err != nil {
			return err
		}
		ctx, stop := bundleContext(cmd)
		defer stop()
		var all []airgap.Verification
		faults := 0
		for _, f := range files {
			bar := newMeter(cmd.ErrOrStderr(), "verify")
			v, err := airgap.Verify(ctx, f, airgap.VerifyOptions{
				Policy: policy, Release: release,
				Progress: func(done, total int64) { bar.show(filepath.Base(f), done, total) },
			})
			bar.done()
			if err != nil {
				return fmt.Errorf("verifying %s: %w", f, err)
			}
			faults += len(v.Faults)
			all = append(all, v)
			if output == "text" {
				printVerification(cmd.OutOrStdout(), v)
			}
		}
		if output == "json" {
			if err := printJSON(cmd.OutOrStdout(), all); err != nil {
				return err
			}
		}
		if faults > 0 {
			return fmt.Errorf("%s found: do not use what is at fault", count(faults, "fault"))
		}
		return nil
	}
	return cmd
}

// count is a number of things in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func printVerification(w io.Writer, v airgap.Verification) {
	for _, f := range v.Faults {
		fmt.Fprintf(w, "FAULT  %s\n", f)
	}
	if !v.OK {
		return
	}
	attestations := 0
	for _, img := range v.Images {
		for _, n := range img.Names {
			fmt.Fprintf(w, "ok  %s  %s  %s  %s\n", n, shortDigest(img.Digest), signatureText(img.Signature), dash(attestationText(img.Attestations)))
		}
		attestations += len(img.Attestations)
	}
	fmt.Fprintf(w, "ok  %s: %s, %s, %s, %s\n", v.File, count(len(v.Images), "image"), count(attestations, "attestation"), count(v.Blobs, "blob"), humanBytes(v.Bytes))
}
