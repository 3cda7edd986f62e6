package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

// diffError is how diff(1) ends: 1 says that there are differences and nothing more, 2
// that there was trouble.
type diffError struct {
	code int
	err  error
}

func (e *diffError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *diffError) Unwrap() error { return e.err }
func (e *diffError) ExitCode() int { return e.code }

func newBundleDiffCommand() *cobra.Command {
	var keys []string
	var trustDir, output string
	var opt airgap.DiffOptions
	var quiet bool
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Show what changed from one bundle to another",
		Long: `Compares what two image archives hold: images, their layers, the packages and versions
that their SBOMs list, charts and files. It also says how large the delta is that would
make A into B. --files unpacks the layers of the images that changed, in memory, and
compares the files of their root file systems: type, content, mode, owner and extended
attributes, not times. An image is the same thing before and after if it has the same name,
or else the same repository and platform.

A and B may be archives of any kind that rke2 bundle inspect reads. A and B of several
files, the parts of a split bundle, are given as one argument with commas between them.

Exit code 0: they hold the same; 1: they do not; 2: trouble.`,
		Example: `  rke2 bundle diff old/rke2-images-core.linux-amd64.tar new/rke2-images-core.linux-amd64.tar

  # which files of one image changed
  rke2 bundle diff --files --image rancher/hardened-etcd old.tar new.tar

  # is a rebuilt bundle the same?
  rke2 bundle diff -q first.tar second.tar && echo same`,
		Args: cobra.ExactArgs(2),
	}
	check := outputFlag(cmd, &output)
	trustFlags(cmd, &keys, &trustDir)
	cmd.Flags().BoolVar(&opt.Files, "files", false, "compare the files in images that changed")
	cmd.Flags().StringVar(&opt.Image, "image", "", "compare only images with this `reference`, or in this repository")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing; only the exit code tells")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := func() (airgap.Difference, error) {
			if err := check(); err != nil {
				return airgap.Difference{}, err
			}
			var err error
			if opt.Policy, _, err = bundleTrust(keys, trustDir); err != nil {
				return airgap.Difference{}, err
			}
			ctx, stop := bundleContext(cmd)
			defer stop()
			bar := newMeter(cmd.ErrOrStderr(), "compare")
			defer bar.done()
			opt.Progress = func(done, total int64) { bar.show(filepath.Base(args[1]), done, total) }
			return diffFiles(ctx, args[0], args[1], opt)
		}()
		if err == nil && !quiet {
			if output == "json" {
				err = printJSON(cmd.OutOrStdout(), d)
			} else {
				err = printDifference(cmd.OutOrStdout(), d)
			}
		}
		switch {
		case err != nil:
			return &diffError{2, err}
		case !d.Same:
			return &diffError{1, nil}
		}
		return nil
	}
	return cmd
}

func diffFiles(ctx context.Context, before, after string, opt airgap.DiffOptions) (out airgap.Difference, err error) {
	a, doneA, err := openOne(strings.Split(before, ","))
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, doneA()) }()
	b, doneB, err := openOne(strings.Split(after, ","))
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, doneB()) }()
	return airgap.Diff(ctx, a, b, opt)
}

// sign is a change in one character, as a diff shows it.
func sign(c airgap.Change) string {
	switch c {
	case airgap.Added:
		return "+"
	case airgap.Removed:
		return "-"
	}
	return "~"
}

func printDifference(w io.Writer, d airgap.Difference) error {
	fmt.Fprintf(w, "A  %s  %s, %s\nB  %s  %s, %s\n", d.A.File, humanBytes(d.A.Size), count(d.A.Images, "image"), d.B.File, humanBytes(d.B.Size), count(d.B.Images, "image"))
	if d.Same {
		fmt.Fprintln(w, "they hold the same")
	}
	if err := errors.Join(printImageChanges(w, d.Images), printArtifactChanges(w, d.Artifacts), printPackageChanges(w, d.Packages)); err != nil {
		return err
	}
	for _, c := range d.Images {
		if err := printFileChanges(w, c); err != nil {
			return err
		}
	}
	if t := d.Delta; t != nil {
		fmt.Fprintf(w, "\ndelta: %s with %s that A lacks, of %s in B", count(t.Blobs, "blob"), humanBytes(t.Bytes), humanBytes(t.Of))
		if t.File > 0 {
			fmt.Fprintf(w, "; rke2 bundle delta would write %s", humanBytes(t.File))
		}
		fmt.Fprintln(w)
	}
	for _, n := range d.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", n)
	}
	return nil
}

func printImageChanges(w io.Writer, all []airgap.ImageChange) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "  IMAGE\tPLATFORM\tFROM\tTO\tLAYERS\tBYTES IN NEW LAYERS")
	for _, c := range all {
		from, to := beforeAndAfter(c)
		added := int64(0)
		for _, l := range c.Layers.Added {
			added += l.Size
		}
		layers := fmt.Sprintf("%d same", c.Layers.Same)
		if n := len(c.Layers.Removed); n > 0 {
			layers += fmt.Sprintf(", -%d", n)
		}
		if n := len(c.Layers.Added); n > 0 {
			layers += fmt.Sprintf(", +%d", n)
		}
		if c.Attached {
			layers += ", other signatures or attestations"
		}
		fmt.Fprintf(t, "%s %s\t%s\t%s\t%s\t%s\t%s\n", sign(c.Change), c.Name, dash(c.Platform), dash(from), dash(to), layers, dashBytes(added))
	}
	return t.Flush()
}

// beforeAndAfter are the tags before and after, or the digests if the tag is the same.
func beforeAndAfter(c airgap.ImageChange) (from, to string) {
	from, to = strings.TrimPrefix(strings.TrimPrefix(c.From, c.Name), ":"), strings.TrimPrefix(strings.TrimPrefix(c.To, c.Name), ":")
	if from == to && c.FromDigest != c.ToDigest {
		return shortDigest(c.FromDigest), shortDigest(c.ToDigest)
	}
	return from, to
}

func printArtifactChanges(w io.Writer, all []airgap.ArtifactChange) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "  ARTIFACT\tKIND\tFROM\tTO")
	for _, c := range all {
		fmt.Fprintf(t, "%s %s\t%s\t%s\t%s\n", sign(c.Change), c.Ref, c.Kind, dash(shortDigest(c.FromDigest)), dash(shortDigest(c.ToDigest)))
	}
	return t.Flush()
}

func printPackageChanges(w io.Writer, all []airgap.PackageChange) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "  PACKAGE\tTYPE\tFROM\tTO\tIMAGES")
	for _, c := range all {
		images := c.Images[0]
		if n := len(c.Images) - 1; n > 0 {
			images += fmt.Sprintf(" and %d more", n)
		}
		fmt.Fprintf(t, "%s %s\t%s\t%s\t%s\t%s\n", sign(c.Change), plain(c.Name), dash(plain(c.Type)), dash(plain(strings.Join(c.From, " "))), dash(plain(strings.Join(c.To, " "))), images)
	}
	return t.Flush()
}

func printFileChanges(w io.Writer, c airgap.ImageChange) error {
	if len(c.Files) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%s\n", c.Name)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, f := range c.Files {
		what := strings.Join(f.What, ", ")
		if what == "" {
			what = f.Type
		}
		size := ""
		switch {
		case f.Type != "file":
		case f.Change == airgap.Added:
			size = humanBytes(f.To)
		case f.Change == airgap.Removed:
			size = humanBytes(f.From)
		case f.From != f.To:
			size = humanBytes(f.From) + " → " + humanBytes(f.To)
		}
		fmt.Fprintf(t, "%s %s\t%s\t%s\n", sign(f.Change), plain(f.Path), what, size)
	}
	return t.Flush()
}
