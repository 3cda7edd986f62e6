package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

func newBundleDeltaCommand() *cobra.Command {
	var opt airgap.DeltaOptions
	var output string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "delta --from OLD NEW...",
		Short: "Make a small file of what a new bundle has and an old one has not",
		Long: `Makes a delta: a bundle with the layers and SBOMs of NEW that OLD lacks, and with all of
NEW's manifests, configs and signatures, so that every image in it is verified without OLD.
rke2 bundle apply makes NEW of it again, byte for byte. A node needs no apply: with the
delta in agent/images it takes the other layers from the other bundles in that folder, or
from the images that it has.

--from may be repeated, and names archives that the receiver has, or folders of them:
bundles, all parts of a split one, an older bundle and the delta that followed. NEW is one
bundle, or all parts of a split one; several bundles give a delta each, in the folder that
-o names. The same bundles give the same bytes.`,
		Example: `  # what changed between two releases
  rke2 bundle delta --from old/rke2-images-core.linux-amd64.tar new/rke2-images-core.linux-amd64.tar -o core.delta.tar

  # on the other side of the gap
  rke2 bundle apply --from rke2-images-core.linux-amd64.tar core.delta.tar -o new.tar

  # of all bundles, against everything that the hosts have
  rke2 bundle delta --from old/ new/rke2-images-*.tar -o /media/usb`,
		Args: cobra.MinimumNArgs(1),
	}
	f := cmd.Flags()
	f.StringArrayVar(&opt.From, "from", nil, "archive `file`, or folder of archives, that the receiver has (repeatable)")
	f.StringVarP(&output, "output", "o", "", "`file` to write, or a folder (.tar; .tar.zst and .tar.gz compress it as a whole)")
	f.BoolVar(&asJSON, "json", false, "print what was made as JSON")
	requireFlags(cmd, "from", "output")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if opt.From, err = archivesIn(opt.From); err != nil {
			return err
		}
		opt.New, opt.Output = args, output
		ctx, stop := bundleContext(cmd)
		defer stop()
		bar := newMeter(cmd.ErrOrStderr(), "delta")
		opt.Progress = func(file string, done, total int64) { bar.show(filepath.Base(file), done, total) }
		made, err := airgap.MakeDeltas(ctx, opt)
		bar.done()
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), made)
		}
		for _, d := range made {
			printDelta(cmd, d)
		}
		return nil
	}
	return cmd
}

// archivesIn replaces each folder by the archives in it, in name order. A folder with an
// OCI layout is an archive of its own.
func archivesIn(paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil || !info.IsDir() {
			out = append(out, p) // whoever opens it says what is wrong
			continue
		}
		if _, err := os.Stat(filepath.Join(p, "oci-layout")); err == nil {
			out = append(out, p)
			continue
		}
		entries, err := os.ReadDir(p)
		if err != nil {
			return nil, err
		}
		found := len(out)
		for _, e := range entries {
			if !e.IsDir() && airgap.HasArchiveName(e.Name()) && !strings.HasPrefix(e.Name(), ".") {
				out = append(out, filepath.Join(p, e.Name()))
			}
		}
		if len(out) == found {
			return nil, fmt.Errorf("no archive of images is in the folder %s", p)
		}
	}
	return out, nil
}

func printDelta(cmd *cobra.Command, made airgap.Delta) {
	var bases []string
	for _, b := range made.Bases {
		bases = append(bases, b.Name)
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "%s  %s  sha256:%s\n", made.File, humanBytes(made.Size), made.SHA256)
	fmt.Fprintf(w, "for %s (%s): %s of %s; %s of %s left out, which %s has\n",
		made.Whole.Name, humanBytes(made.Whole.Size), count(made.Layers, "layer"), humanBytes(made.LayerBytes),
		count(made.LeftOut, "blob"), humanBytes(made.LeftOutBytes), strings.Join(bases, " or "))
}

// requireFlags marks flags of the command as required.
func requireFlags(cmd *cobra.Command, names ...string) {
	for _, n := range names {
		if err := cmd.MarkFlagRequired(n); err != nil {
			panic(err) // no such flag: a fault of the program
		}
	}
}
