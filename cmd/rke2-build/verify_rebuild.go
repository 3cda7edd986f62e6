package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/pipeline"
	"github.com/rancher/rke2/build/rebuild"
	"github.com/rancher/rke2/images"
)

// rebuildFlags are those of verify-rebuild alone.
type rebuildFlags struct {
	cold bool
	keep bool
	work string
	with string // a products' folder that is compared with, instead of a rebuild
}

func newVerifyRebuild(f *flags) *cobra.Command {
	r := &rebuildFlags{}
	cmd := &cobra.Command{
		Use:   "verify-rebuild [IMAGE…]",
		Short: "Rebuild images from nothing and compare them with those in the layout",
		Long: `Builds the images (none named: all) once more, in a folder where nothing of an earlier
build is seen: with an empty build cache, an empty GOCACHE and an empty dist/. Then it
compares digests with those of the layout oci/ in the products' folder, and explains
the first difference of each image: the layer and the instruction that made it, the
file, the attribute or the bytes. SBOMs and provenance are compared too, and the blobs
of the layout are hashed, so that a damaged file is found as well.

Shared with earlier builds is only what others published, each file checked by its sum:
Go's module cache (go.sum), Debian packages (sources.lock) and upstream images (digest).
With --cold these are fetched again.

With --with nothing is built: the products are compared with those that another machine
made of the same sources, in whole or in part (its oci/, sbom/ and provenance/). The
keys may differ: signatures are not compared.

Images are rebuilt for the platforms that the layout has them for, or those of
--platform. All images take as long as a first build, and about 8 GB of disk.

Exit codes: 0 the same, 1 different (or failed), 2 wrong usage.`,
		Example: `  # one small image, a matter of seconds
  rke2-build verify-rebuild mirrored-pause

  # everything, the report for a machine
  rke2-build verify-rebuild -o json > rebuild.json

  # hold what somebody else built against what was built here
  rke2-build verify-rebuild --with /media/usb/their-dist

  # keep both for a closer look when they differ
  rke2-build verify-rebuild hardened-etcd --keep --work /var/tmp/rebuild`,
		ValidArgsFunction: f.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := f.verifyRebuild(cmd, r, args)
			if err != nil {
				return err
			}
			if f.asJSON() {
				err = printJSON(cmd, report)
			} else {
				err = report.print(cmd)
			}
			if err == nil && report.Different > 0 {
				err = fmt.Errorf("%d of %d came out different", report.Different, len(report.Results))
			}
			return err
		},
	}
	outputFlag(cmd, f)
	cmd.Flags().BoolVar(&r.cold, "cold", false, "fetch Go modules, Debian packages and upstream images again")
	cmd.Flags().BoolVar(&r.keep, "keep", false, "keep the rebuild, and say where it is")
	cmd.Flags().StringVar(&r.work, "work", "", "folder to rebuild in, empty or not there (default: a temporary one)")
	cmd.Flags().StringVar(&r.with, "with", "", "compare with this products' folder of another build instead of building again")
	return cmd
}

// rebuildReport is what verify-rebuild found.
type rebuildReport struct {
	Results   []rebuild.Result `json:"results"`
	Different int              `json:"different"`
	Cold      bool             `json:"cold"`
	Elapsed   time.Duration    `json:"elapsed"`        // nanoseconds, of the rebuild
	Kept      string           `json:"kept,omitempty"` // folder of the rebuild
	With      string           `json:"with,omitempty"` // folder of the other build, where nothing was rebuilt
}

func (f *flags) verifyRebuild(cmd *cobra.Command, r *rebuildFlags, names []string) (report rebuildReport, err error) {
	if r.with != "" && (r.cold || r.keep || r.work != "") {
		return report, usageError{errors.New("--with builds nothing: leave out --cold, --keep and --work")}
	}
	tree, err := f.tree()
	if err != nil {
		return report, err
	}
	refs, err := f.references(tree, names)
	if err != nil {
		return report, err
	}
	built := f.outDir(tree)
	if f.platform == "" {
		platforms, err := rebuild.Platforms(filepath.Join(built, "oci"), refs)
		if err != nil {
			return report, err
		}
		f.platform = joined(platforms)
	}
	if r.with != "" {
		if same(built, r.with) {
			return report, usageError{fmt.Errorf("--with %s: that is the folder of the products themselves", r.with)}
		}
		platforms, err := artifact.ParsePlatforms(f.platform)
		if err != nil {
			return report, usageError{err}
		}
		report.With = r.with
		err = report.compare(built, r.with, refs, platforms)
		return report, err
	}
	w, err := rebuild.NewWorkspace(r.work, r.cold)
	if err != nil {
		return report, err
	}
	defer func() {
		if r.keep {
			report.Kept = w.Dir
			fmt.Fprintf(cmd.ErrOrStderr(), "the rebuild stays in %s\n", w.Dir)
			return
		}
		if rerr := w.Remove(); err == nil {
			err = rerr
		}
	}()
	start := time.Now()
	restore, err := setEnviron(w.Environ())
	defer restore()
	if err != nil {
		return report, err
	}
	p, err := f.elsewhere(cmd, w)
	if err != nil {
		return report, err
	}
	if _, err := p.Images(cmd.Context(), names); err != nil {
		return report, fmt.Errorf("rebuilding: %w", err)
	}
	report.Elapsed, report.Cold = time.Since(start), r.cold
	err = report.compare(built, w.Out(), refs, p.Platforms())
	return report, err
}

// same tells whether two names are of one folder, whose lock cannot be had twice.
func same(a, b string) bool {
	x, xerr := os.Stat(a)
	y, yerr := os.Stat(b)
	return xerr == nil && yerr == nil && os.SameFile(x, y)
}

// compare holds two products' folders against each other.
func (r *rebuildReport) compare(built, rebuilt string, refs []string, platforms []artifact.Platform) (err error) {
	if r.Results, err = rebuild.Compare(filepath.Join(built, "oci"), filepath.Join(rebuilt, "oci"), refs, platforms); err != nil {
		return err
	}
	statements, err := statementsIn(rebuilt)
	if err != nil {
		return err
	}
	more, err := rebuild.CompareFiles(built, rebuilt, statements)
	if err != nil {
		return err
	}
	r.Results = append(r.Results, more...)
	for _, x := range r.Results {
		if !x.Equal {
			r.Different++
		}
	}
	return nil
}

// references are the full names of the images (none named: of all).
func (f *flags) references(tree *images.Tree, names []string) ([]string, error) {
	naming := f.naming(tree)
	wanted := tree.Images
	if len(names) > 0 {
		wanted = nil
	}
	for _, n := range names {
		i, ok := tree.Image(n)
		if !ok {
			var known []string
			for _, i := range tree.Images {
				known = append(known, i.Name)
			}
			return nil, usageError{fmt.Errorf("there is no image %q; known are: %s", n, strings.Join(known, ", "))}
		}
		wanted = append(wanted, i)
	}
	var refs []string
	for _, i := range wanted {
		tag, err := naming.Tag(i)
		if err != nil {
			return nil, err
		}
		refs = append(refs, tag.String())
	}
	return refs, nil
}

func joined(platforms []artifact.Platform) string {
	var names []string
	for _, p := range platforms {
		names = append(names, p.String())
	}
	return strings.Join(names, ",")
}

// elsewhere makes a pipeline that builds in the workspace. The go command takes its
// folders from this process's environment.
func (f *flags) elsewhere(cmd *cobra.Command, w *rebuild.Workspace) (*pipeline.Pipeline, error) {
	shared := f.cache
	if shared == "" {
		var err error
		if shared, err = cache.DefaultDir(); err != nil {
			return nil, err
		}
	}
	n, err := w.Share(shared)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%-8s in %s, with %d fetched files shared\n", "rebuild", w.Dir, n)
	f.cache, f.out = w.Cache(), w.Out()
	return f.pipeline(cmd)
}

// setEnviron sets variables for the go command; restore puts back what was.
func setEnviron(vars map[string]string) (restore func(), err error) {
	var undo []func() error
	restore = func() {
		for _, f := range undo {
			_ = f() // the same name was set before
		}
	}
	for k, v := range vars {
		if was, ok := os.LookupEnv(k); ok {
			undo = append(undo, func() error { return os.Setenv(k, was) })
		} else {
			undo = append(undo, func() error { return os.Unsetenv(k) })
		}
		if err := os.Setenv(k, v); err != nil {
			return restore, fmt.Errorf("setting %s for the go command: %w", k, err)
		}
	}
	return restore, nil
}

// statementsIn lists the SBOMs and provenance statements of a products' folder.
func statementsIn(out string) ([]string, error) {
	var files []string
	for _, pattern := range []string{"sbom/*.json", "provenance/*.json"} {
		found, err := filepath.Glob(filepath.Join(out, pattern))
		if err != nil {
			return nil, fmt.Errorf("looking for statements: %w", err)
		}
		for _, p := range found {
			rel, err := filepath.Rel(out, p)
			if err != nil {
				return nil, fmt.Errorf("looking for statements: %w", err)
			}
			files = append(files, rel)
		}
	}
	return files, nil
}

func (r rebuildReport) print(cmd *cobra.Command) error {
	out := cmd.OutOrStdout()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COMPARED\tPLATFORM\tBUILT\tRESULT")
	for _, x := range r.Results {
		result := "the same"
		if !x.Equal {
			result = "different"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", x.Reference, dash(x.Platform), dash(x.Built), result)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, x := range r.Results {
		if x.Difference != nil {
			fmt.Fprintf(out, "\n%s %s\n  built   %s\n  rebuilt %s\n%s\n", x.Reference, x.Platform, dash(x.Built), dash(x.Rebuilt), x.Difference)
		}
	}
	how := "rebuilt in " + r.Elapsed.Round(100*time.Millisecond).String()
	if r.With != "" {
		how = "with " + r.With
	}
	fmt.Fprintf(out, "\n%d compared, %d different; %s\n", len(r.Results), r.Different, how)
	return nil
}
