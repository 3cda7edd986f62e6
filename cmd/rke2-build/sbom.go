package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/statement"
)

// newSBOM prints what `image` wrote.
func newSBOM(f *flags) *cobra.Command {
	var whole bool
	cmd := &cobra.Command{
		Use:   "sbom IMAGE",
		Short: "Print an image's software bill of materials (SPDX 2.3 JSON)",
		Long: `Prints the SPDX document of an image that was made: its files, the Go modules of its
programs, the Debian packages and sources that went in. With --statement it prints the
in-toto statement that is signed, which names the image's digest.`,
		Example: `  rke2-build sbom hardened-etcd >etcd.spdx.json
  rke2-build sbom rke2-runtime --platform linux/arm64 | jq -r '.packages[].externalRefs[]?|select(.referenceType=="purl").referenceLocator'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: f.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			if err := p.CheckImages(args); err != nil {
				return usageError{err}
			}
			platforms := p.Platforms()
			if len(platforms) != 1 {
				return usageError{errors.New("--platform: an SBOM is of one platform's image")}
			}
			data, err := readSBOM(p.SBOM(args[0], platforms[0]), args[0], platforms[0])
			if err != nil {
				return err
			}
			s, err := statement.Decode(data)
			if err != nil {
				return fmt.Errorf("reading the SBOM of %s: %w", args[0], err)
			}
			if !whole {
				data = s.Predicate
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", data)
			return err
		},
	}
	cmd.Flags().BoolVar(&whole, "statement", false, "print the in-toto statement with the document in it")
	return cmd
}

func readSBOM(file, image string, p artifact.Platform) ([]byte, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no SBOM of %s for %s (%s); run rke2-build image %s --platform %s", image, p, file, image, p)
	}
	if err != nil {
		return nil, fmt.Errorf("reading an SBOM: %w", err)
	}
	return data, nil
}
