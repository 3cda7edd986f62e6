package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/layer"
	"github.com/rancher/rke2/build/provenance"
	"github.com/rancher/rke2/build/sbom"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/install"
)

func newDropIn(f *flags) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "drop-in",
		Short: "Lay out what an isolated host is installed from: tarballs, bundles, signed sums, install.sh",
		Long: `Lays out the release's artifacts in one folder, under the names that RKE2's installer and
its users' scripts know. For each platform:

  rke2.linux-ARCH                     the node binary
  rke2.linux-ARCH.tar.gz              it, rke2-killall.sh, rke2-uninstall.sh, systemd units
  rke2-images-SET.linux-ARCH.tar|txt  each set's bundle, and the images in it
  rke2-images.linux-ARCH.tar|txt      core and canal in one
  NAME.linux-ARCH.spdx.json           SBOM of each image, and of rke2
  NAME.linux-ARCH.provenance.json     SLSA provenance of each image, and of rke2
  sha256sum-ARCH.txt, .sig            the sums of all of it, signed as cosign sign-blob does
  install.sh, cosign.pub              the installer, with the release's public key inside

It takes what ` + "`make airgap`" + ` made, and refuses a node binary or a bundle of another release.
The folder is replaced as a whole; the same products give the same bytes.`,
		Example: `  rke2-build drop-in
  rke2-build drop-in --out /media/usb/rke2 --platform linux/amd64,linux/arm64

  # what an operator checks before carrying it across
  cd dist/release && cosign verify-blob --key cosign.pub --private-infrastructure=true \
    --signature sha256sum-amd64.txt.sig sha256sum-amd64.txt && sha256sum -c sha256sum-amd64.txt

  # and on the isolated host
  INSTALL_RKE2_ARTIFACT_PATH=/media/usb/rke2 sh /media/usb/rke2/install.sh`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			made, err := f.dropIn(cmd, out)
			if err != nil {
				return err
			}
			if f.asJSON() {
				return printJSON(cmd, made)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, a := range made {
				fmt.Fprintf(w, "%s\t%s\tsha256:%s\n", a.Name, size(a.Size), a.SHA256)
			}
			return w.Flush()
		},
	}
	keyFlag(cmd, f)
	outputFlag(cmd, f)
	cmd.Flags().StringVar(&out, "out", "", "`folder` to lay out, replaced as a whole (default: release in the products' folder)")
	return cmd
}

func (f *flags) dropIn(cmd *cobra.Command, out string) ([]install.Artifact, error) {
	tree, err := f.tree()
	if err != nil {
		return nil, err
	}
	dist := f.outDir(tree)
	if out == "" {
		out = filepath.Join(dist, "release")
	}
	if out, err = filepath.Abs(out); err != nil {
		return nil, err
	}
	epoch, err := f.date()
	if err != nil {
		return nil, err
	}
	list := f.platform
	if list == "" {
		list = "linux/" + runtime.GOARCH
	}
	platforms, err := artifact.ParsePlatforms(list)
	if err != nil {
		return nil, usageError{err}
	}
	release, err := os.ReadFile(filepath.Join(dist, "release.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no release.json: run make airgap", dist)
	}
	if err != nil {
		return nil, err
	}
	parsed, err := images.ParseRelease(release)
	if err != nil {
		return nil, err
	}
	key, err := f.signingKey(cmd.Context(), cmd)
	if err != nil {
		return nil, err
	}
	public, err := key.PublicPEM()
	if err != nil {
		return nil, err
	}
	known, err := f.openCache()
	if err != nil {
		return nil, err
	}
	s := install.Settings{
		Dist: dist, Out: out, Licence: filepath.Join(filepath.Dir(tree.Dir), "LICENSE"),
		Release: release, Host: runtime.GOARCH, Epoch: epoch, PublicKey: public, Sign: key.SignBlob,
		Describe: func(file string, p v1.Platform, digest string) (install.Description, error) {
			return describe(known, file, digest, artifact.Platform{OS: p.OS, Arch: p.Architecture}, parsed.Version, epoch)
		},
		Report: func(a install.Artifact) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%-8s %s\n", "laid out", a.Name)
		},
	}
	for _, p := range platforms {
		s.Platforms = append(s.Platforms, v1.Platform{OS: p.OS, Architecture: p.Arch})
	}
	return install.Lay(cmd.Context(), s)
}

// describe gives SBOM and provenance of a node binary, which is read once for both.
func describe(known *cache.Cache, file, digest string, p artifact.Platform, version string, epoch time.Time) (out install.Description, err error) {
	program := []layer.File{{Path: "rke2", Mode: 0o755, Source: file, SHA256: digest}}
	out.SBOM, err = sbom.Program(sbom.Input{
		Name: "rke2", Tag: version, Digest: "sha256:" + digest, Platform: p, Files: program, Product: version, Epoch: epoch, Cache: known,
	})
	if err != nil {
		return out, err
	}
	sources, err := provenance.Recorded(file, digest)
	if err != nil {
		return out, err
	}
	out.Provenance, err = provenance.Program(provenance.Input{
		Name: "rke2." + p.OS + "-" + p.Arch, Digest: "sha256:" + digest, Platform: p, Product: version, Sources: sources, Files: program, Cache: known,
	})
	return out, err
}

// date is --source-date-epoch.
func (f *flags) date() (time.Time, error) {
	seconds := int64(0)
	if f.epoch != "" {
		var err error
		if seconds, err = strconv.ParseInt(strings.TrimSpace(f.epoch), 10, 64); err != nil || seconds < 0 {
			return time.Time{}, usageError{fmt.Errorf("--source-date-epoch %q is not a number of seconds since 1970", f.epoch)}
		}
	}
	return time.Unix(seconds, 0).UTC(), nil
}
