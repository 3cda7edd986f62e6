package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

func newBundleExtractCommand() *cobra.Command {
	var opt airgap.ExtractOptions
	var output string
	cmd := &cobra.Command{
		Use:   "extract BUNDLE... [--ref REFERENCE] --to DIR",
		Short: "Take files out of an image, a chart or a set of files",
		Long: `Writes the files of one image's root file system (its layers put together, with what
upper layers delete gone), of one Helm chart, or of one set of plain files. --ref says
whose, unless there is only one in the bundle.

Without --path everything is written to DIR, which must be empty or not exist. With it,
only those files and folders are, each under its last part; --to - prints one file.

Every layer is held against its digest, and against what the image's config says that it
unpacks to, before anything appears. Nothing can be written outside of DIR. Owners,
setuid bits, devices and named pipes are left out; --owners keeps all but the last two.
Signatures are not looked at: rke2 bundle verify does.

The parts of a split bundle are given together.`,
		Example: `  # what an image holds
  rke2 bundle extract rke2-images-core.linux-amd64.tar --ref rancher/hardened-etcd:TAG --to etcd

  # one program of it
  rke2 bundle extract rke2-images-core.linux-amd64.tar --ref rancher/rke2-runtime:TAG --path /bin/kubectl --to .

  # print a file
  rke2 bundle extract saved.tar --path /etc/os-release --to -

  # a chart
  rke2 bundle extract extras.linux-amd64.tar --ref oci://registry.example.com/charts/web:1.2.3 --to web`,
		Args: cobra.MinimumNArgs(1),
	}
	check := outputFlag(cmd, &output)
	f := cmd.Flags()
	f.StringVar(&opt.Ref, "ref", "", "`reference` or digest of an image, chart or set of files")
	f.StringVar(&opt.Platform, "platform", "", "`os/arch` of the image, if there are several by the reference")
	f.StringArrayVar(&opt.Paths, "path", nil, "only this `file` or folder (repeatable)")
	f.StringVar(&opt.Dir, "to", "", "`folder` to write to, or - for standard output")
	f.BoolVar(&opt.Owners, "owners", false, "keep owners, groups and setuid bits (as root)")
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		switch {
		case opt.Dir == "":
			return errors.New("--to DIR is needed, or --to - with one --path")
		case opt.Dir == "-" && (len(opt.Paths) != 1 || output == "json"):
			return errors.New("--to - prints one file: give it with --path, and no -o json")
		}
		if err := check(); err != nil {
			return err
		}
		ctx, stop := bundleContext(cmd)
		defer stop()
		a, done, err := openOne(files)
		if err != nil {
			return err
		}
		return errors.Join(extract(ctx, cmd, a, opt, output), done())
	}
	return cmd
}

func extract(ctx context.Context, cmd *cobra.Command, a *airgap.Archive, opt airgap.ExtractOptions, output string) error {
	if opt.Dir == "-" {
		return airgap.ExtractFile(ctx, a, opt.Ref, opt.Platform, opt.Paths[0], cmd.OutOrStdout())
	}
	bar := newMeter(cmd.ErrOrStderr(), "extract")
	opt.Progress = func(done, total int64) { bar.show(filepath.Base(a.Path()), done, total) }
	out, err := airgap.Extract(ctx, a, opt)
	bar.done()
	if err != nil {
		return err
	}
	if output == "json" {
		return printJSON(cmd.OutOrStdout(), out)
	}
	for _, name := range out.LeftOut {
		fmt.Fprintf(cmd.ErrOrStderr(), "left out %s: it is a device or a named pipe\n", plain(name))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s, %s, %s in %s\n", out.Name, count(out.Files, "file"), count(out.Folders, "folder"), count(out.Links, "link"), humanBytes(out.Bytes), out.Dir)
	return nil
}
