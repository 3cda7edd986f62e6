package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

func newBundleVerifyCommand() *cobra.Command {
	var keys, require []string
	var trustDir, output string
	var opt airgap.VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify BUNDLE...",
		Short: "Check every signature, attestation and byte of a bundle",
		Long: `Reads image archives whole and checks their structure, the digest of each blob, the
signature of each image, chart and set of files, and the signatures of attestations (SBOM,
provenance), which must be about that image. Keys are those of this rke2's release and the
host's trusted keys, or only those named with --key. An image that this release has under
the same name must be the same image, whoever signed it.

--require says what else each image must come with: attestations (an SBOM and provenance,
or one of them by name). --unsigned accepts what nobody signed, and archives of docker
save, of which then the bytes are checked. --contents also unpacks every layer, in memory,
and holds it against what its image's config says.

Archives of docker save, skopeo, ctr and k0s and folders with an OCI layout are read too.
The parts of a split bundle, or a delta and what it was made from, are checked as the
bundle they make, if all are given; else each on its own.

Prints one line for each fault. Exit code 0: everything is right; 1: it is not, or
could not be checked.`,
		Example: `  rke2 bundle verify rke2-images-core.linux-amd64.tar

  # with a key that came another way; each image must have SBOM and provenance
  rke2 bundle verify --key rke2.pub --require attestations rke2-images-core.linux-amd64.tar

  # everything that a node would find
  rke2 bundle verify /var/lib/rancher/rke2/agent/images/*.tar*

  # did what docker saved arrive whole?
  rke2 bundle verify --unsigned --contents saved.tar`,
		Args: cobra.MinimumNArgs(1),
	}
	check := outputFlag(cmd, &output)
	trustFlags(cmd, &keys, &trustDir)
	f := cmd.Flags()
	f.StringSliceVar(&require, "require", nil, "`what` each image must come with beside its signature: attestations, sbom or provenance (repeatable)")
	f.BoolVar(&opt.Unsigned, "unsigned", false, "accept what has no signature at all")
	f.BoolVar(&opt.Contents, "contents", false, "unpack every layer, in memory, and check what is in it")
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		if err := check(); err != nil {
			return err
		}
		var err error
		if opt.Require, err = requirements(require, opt.Unsigned); err != nil {
			return err
		}
		if opt.Policy, opt.Release, err = bundleTrust(keys, trustDir); err != nil {
			return err
		}
		ctx, stop := bundleContext(cmd)
		defer stop()
		all, err := verifyAll(ctx, cmd, files, opt, output == "text")
		if err != nil {
			return err
		}
		if output == "json" {
			if err := printJSON(cmd.OutOrStdout(), all); err != nil {
				return err
			}
		}
		faults := 0
		for _, v := range all {
			faults += len(v.Faults)
		}
		if faults > 0 {
			return fmt.Errorf("%s found: do not use what is at fault", count(faults, "fault"))
		}
		return nil
	}
	return cmd
}

// requirements reads --require.
func requirements(names []string, unsigned bool) ([]airgap.Requirement, error) {
	out := []airgap.Requirement{}
	if !unsigned {
		out = append(out, airgap.RequireSignature)
	}
	for _, n := range names {
		switch n {
		case "attestations":
			out = append(out, airgap.RequireSBOM, airgap.RequireProvenance)
		case "sbom":
			out = append(out, airgap.RequireSBOM)
		case "provenance":
			out = append(out, airgap.RequireProvenance)
		default:
			return nil, fmt.Errorf("--require %q is not known: use attestations, sbom or provenance", n)
		}
	}
	return out, nil
}

// verifyAll verifies archives and tells of each when it is done.
func verifyAll(ctx context.Context, cmd *cobra.Command, files []string, opt airgap.VerifyOptions, tell bool) ([]airgap.Verification, error) {
	all := []airgap.Verification{}
	take := func(v airgap.Verification) {
		all = append(all, v)
		if tell {
			printVerification(cmd.OutOrStdout(), v)
		}
	}
	// A file that can't be opened is a fault, and no reason not to look at the others.
	var sound []string
	for _, f := range files {
		a, err := airgap.Open(f)
		if err != nil {
			v, err := airgap.Verify(ctx, f, opt)
			if err != nil {
				return nil, err
			}
			take(v)
			continue
		}
		if err := a.Close(); err != nil {
			return nil, err
		}
		sound = append(sound, f)
	}
	if len(sound) == 0 {
		return all, nil
	}
	bar := newMeter(cmd.ErrOrStderr(), "verify")
	return all, eachArchive(sound, func(a *airgap.Archive) error {
		opt.Progress = func(done, total int64) { bar.show(filepath.Base(a.Path()), done, total) }
		v, err := a.Verify(ctx, opt)
		bar.done()
		if err != nil {
			return fmt.Errorf("verifying %s: %w", a.Path(), err)
		}
		take(v)
		return nil
	})
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
	for _, art := range v.Artifacts {
		fmt.Fprintf(w, "ok  %s  %s  %s\n", art.Ref, shortDigest(art.Digest), signatureText(art.Signature))
	}
	what := v.File
	if v.Partial != nil {
		what += " (" + v.Partial.String() + ")"
	}
	fmt.Fprintf(w, "ok  %s: %s, %s, %s, %s", what, count(len(v.Images), "image"), count(attestations, "attestation"), count(v.Blobs, "blob"), humanBytes(v.Bytes))
	if v.Layers > 0 {
		fmt.Fprintf(w, ", %s unpacked", count(v.Layers, "layer"))
	}
	fmt.Fprintln(w)
}
