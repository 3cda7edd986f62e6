package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/buildkit"
)

// newBuildxArgs prints how docker buildx builds an image.
func newBuildxArgs(f *flags) *cobra.Command {
	var export, output string
	cmd := &cobra.Command{
		Use:   "buildx-args IMAGE",
		Short: "Print the docker buildx command that builds an image",
		Long: `Makes what an image is built from, writes its build contexts to folders, and prints the
docker buildx command that builds the image of them: ready to be pasted into a shell, or
as JSON. It is what --builder buildkit does without docker, and gives the same bytes with
the same version of BuildKit.

The folders are replaced by the next export. Building from them needs no network, and
nothing of this project.`,
		Example: `  rke2-build buildx-args rke2-runtime
  rke2-build buildx-args hardened-etcd --export /srv/etcd --archive etcd.tar | sh
  rke2-build buildx-args rke2-runtime -o json | jq -r '.contexts | keys[]'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: f.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			// As BuildKit reads Dockerfiles, but none is started.
			f.builder, f.plans = builderBuildKit, true
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			if err := p.CheckImages(args); err != nil {
				return usageError{err}
			}
			platforms := p.Platforms()
			if len(platforms) != 1 {
				return usageError{errors.New("the contexts of one platform are exported at a time: choose it with --platform")}
			}
			r, err := p.Recipe(cmd.Context(), args[0], platforms[0])
			if err != nil {
				return err
			}
			name := fmt.Sprintf("%s.%s-%s", r.Image.Name, r.Platform.OS, r.Platform.Arch)
			if export == "" {
				export = filepath.Join(filepath.Dir(p.Layout()), "buildx", name)
			}
			if output == "" {
				output = filepath.Join(filepath.Dir(p.Layout()), "buildx", name+".tar")
			}
			x, err := buildkit.Export(cmd.Context(), request(r), export, r.Reference, output)
			if err != nil {
				return err
			}
			if f.asJSON() {
				return printJSON(cmd, x)
			}
			fmt.Fprint(cmd.OutOrStdout(), x.Shell())
			return nil
		},
	}
	cmd.Flags().StringVar(&export, "export", "", "folder to write build contexts to (default: buildx/IMAGE.PLATFORM in the products' folder)")
	cmd.Flags().StringVar(&output, "archive", "", "OCI archive that docker buildx is to write (default: beside the folder)")
	outputFlag(cmd, f)
	return cmd
}
