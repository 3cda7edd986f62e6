package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/closure"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/engine"
	"github.com/rancher/rke2/runtime/scan"
)

// defaultConfig is a server's configuration file.
const defaultConfig = "/etc/rancher/rke2/config.yaml"

// closureFlags are the options of rke2 bundle closure.
type closureFlags struct {
	config, dataDir, platform, kubeVersion string
	manifests, images, optional            []string
	dataDirSet, allCharts                  bool
}

func newBundleClosureCommand() *cobra.Command {
	var f closureFlags
	var output string
	cmd := &cobra.Command{
		Use:   "closure [BUNDLE|FOLDER]...",
		Short: "Prove that bundles hold every image that a cluster will need",
		Long: `Works out every image that a server and its cluster will ask for, and says why it is
needed and which bundle has it. Nothing is started and nothing is downloaded.

Needed are: what the node itself runs (executables, pod sandbox, static pods); what the
charts in the runtime image make, rendered with the configuration file as the server
would (disable, cni, ingress-controller, system-default-registry, …-image) and with the
HelmChartConfigs among the manifests; the job that installs each chart; and what
the manifests hold: HelmCharts with their content, a chart that is in a bundle, and
plain objects, lists and custom resources with pods in them.

An image that is in no bundle is a gap. It is printed with what needs it and what is
near it (another tag, registry, platform or digest), and the exit code is 1. So it is if
a chart or manifest cannot be rendered. Values that come from Secrets outside of the
manifests, and images that are only spoken of, are noted and are no gap.

That a bundle has an image is read from its index: rke2 bundle verify holds what it has
against digests and signatures.

Without arguments, the bundles are those of this host (<data-dir>/agent/images). Without
--manifests, the manifests are those of this host (<data-dir>/server/manifests and
<data-dir>/agent/pod-manifests), if there are any.

--all-charts proves it for every chart that the runtime image packages, each network and
ingress controller among them: for a release, whose users choose later.

Templates run in a process of their own, for 30 s and in 512 MiB at most.`,
		Example: `  # on a node: will this start with no network?
  rke2 bundle closure

  # before the disk is carried across: these bundles, that configuration, our manifests
  rke2 bundle closure --config config.yaml --manifests deploy/ rke2-images-core.linux-amd64.tar rke2-images-canal.linux-amd64.tar

  # whatever will be chosen
  rke2 bundle closure --all-charts dist/

  # what is needed but in no bundle, for a script
  rke2 bundle closure -o json dist/ | jq -r '.images[] | select(.gap) | .reference'

  # the ping image of our tests need not be there
  rke2 bundle closure --manifests deploy/ --optional 'registry.example.com/tests/*' dist/`,
	}
	check := outputFlag(cmd, &output)
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", "", "the server's configuration `file`, with NAME.d beside it (default "+defaultConfig+" if there is one)")
	flags.StringArrayVar(&f.manifests, "manifests", nil, "`folder` or file of manifests, as in a server's deploy folder (repeatable)")
	flags.StringVar(&f.dataDir, "data-dir", "", "the node's data `folder` (default that of the configuration, or /var/lib/rancher/rke2)")
	flags.StringVar(&f.platform, "platform", "linux/"+runtime.GOARCH, "`platform` that the images are for")
	flags.StringVar(&f.kubeVersion, "kube-version", "", "`version` of Kubernetes that charts are told (default the release's)")
	flags.StringArrayVar(&f.images, "image", nil, "`reference` of an image that is needed, whatever else says so (repeatable)")
	flags.StringArrayVar(&f.optional, "optional", nil, "`pattern` of references that may be absent, such as registry.example.com/tests/* (repeatable)")
	flags.BoolVar(&f.allCharts, "all-charts", false, "prove it for every packaged chart, whatever the configuration chooses")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := check(); err != nil {
			return err
		}
		f.dataDirSet = cmd.Flags().Changed("data-dir")
		return f.run(cmd, args, output == "json")
	}
	return cmd
}

func (f closureFlags) run(cmd *cobra.Command, args []string, asJSON bool) error {
	ctx, stop := bundleContext(cmd)
	defer stop()
	// Little of what is read stays in use, and a node may be small.
	debug.SetGCPercent(25)
	platform, err := v1.ParsePlatform(f.platform)
	if err != nil {
		return fmt.Errorf("--platform %q: %w", f.platform, err)
	}
	settings, err := f.settings()
	if err != nil {
		return err
	}
	release, err := images.EmbeddedRelease()
	if err != nil {
		return err
	}
	bundles, err := openBundles(args, filepath.Join(settings.DataDir, "agent", "images"))
	if err != nil {
		return err
	}
	defer closeBundles(bundles)
	steps := stepLine{w: cmd.ErrOrStderr()}
	report, err := closure.Prove(ctx, closure.Input{
		Release: release, Settings: settings, Bundles: bundles, Manifests: f.manifestPaths(settings),
		Images: f.images, Optional: f.optional, Platform: *platform, KubeVersion: f.kubeVersion, Progress: steps.show,
	})
	steps.end()
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = printClosure(cmd.OutOrStdout(), report)
	}
	if err != nil {
		return err
	}
	return verdict(report)
}

// verdict is nil if nothing is missing.
func verdict(r closure.Report) error {
	if r.Complete {
		return nil
	}
	var parts []string
	if n := len(r.Gaps()); n > 0 {
		parts = append(parts, count(n, "image")+" of "+fmt.Sprint(len(r.Images))+" in no bundle")
	}
	if n := len(r.Faults); n > 0 {
		parts = append(parts, count(n, "fault")+" found")
	}
	return errors.New(strings.Join(parts, ", "))
}

func (f closureFlags) settings() (closure.Settings, error) {
	s := closure.Defaults(defaultOf("cni"))
	path := f.config
	if path == "" {
		path = defaultConfig
	}
	read, err := closure.ReadSettings(path, s)
	switch {
	case err == nil:
		s = read
	case f.config != "" || !errors.Is(err, fs.ErrNotExist):
		return s, err
	}
	if f.dataDirSet {
		dir, err := filepath.Abs(f.dataDir)
		if err != nil {
			return s, fmt.Errorf("--data-dir %s: %w", f.dataDir, err)
		}
		s.DataDir = dir
	}
	s.AllCharts = f.allCharts
	return s, nil
}

// defaultOf is what `rke2 server` takes for an option that is not given.
func defaultOf(option string) string {
	for _, f := range engine.Flags(config.Server) {
		if f.Name == option {
			return f.Default
		}
	}
	return ""
}

func (f closureFlags) manifestPaths(s closure.Settings) []string {
	if len(f.manifests) > 0 {
		return f.manifests
	}
	var out []string
	for _, dir := range []string{filepath.Join(s.DataDir, "server", "manifests"), filepath.Join(s.DataDir, "agent", "pod-manifests")} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			out = append(out, dir)
		}
	}
	return out
}

// openBundles opens files, and what folders hold; without any, the folder of a node. A
// file that was named must be a bundle; one that lies in a folder is reported.
func openBundles(args []string, node string) (files []scan.File, err error) {
	defer func() {
		if err != nil {
			closeBundles(files)
		}
	}()
	if len(args) == 0 {
		args = []string{node}
	}
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return files, fmt.Errorf("looking for bundles: %w", err)
		}
		if info.IsDir() && !isLayout(arg) {
			folder, err := scan.Open(arg)
			if err != nil {
				return files, err
			}
			files = append(files, folder.Files...)
			continue
		}
		archive, err := airgap.Open(arg)
		if err != nil {
			return files, err
		}
		files = append(files, scan.File{Path: arg, Archive: archive})
	}
	return files, nil
}

func isLayout(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "oci-layout"))
	return err == nil
}

func closeBundles(files []scan.File) {
	for _, f := range files {
		if f.Archive != nil {
			_ = f.Archive.Close()
		}
	}
}

func printClosure(w io.Writer, r closure.Report) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tBUNDLE\tNEEDED BY")
	for _, image := range r.Images {
		where := filepath.Base(image.Bundle)
		switch {
		case image.Gap != nil && image.Optional:
			where = "none (optional)"
		case image.Gap != nil:
			where = "NONE"
		}
		for i, need := range image.Needs {
			if i == 0 {
				fmt.Fprintf(t, "%s\t%s\t%s\n", image.Reference, where, need)
				continue
			}
			fmt.Fprintf(t, "\t\t%s\n", need)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, gap := range r.Gaps() {
		fmt.Fprintf(w, "\nGAP  %s: %s\n", gap.Reference, gap.Gap.Reason)
		for _, need := range gap.Needs {
			fmt.Fprintf(w, "  needed by: %s\n", need)
			if need.Source != "" {
				fmt.Fprintf(w, "             %s, %s\n", need.Source, need.Path)
			}
		}
		for _, near := range gap.Gap.Near {
			fmt.Fprintf(w, "  %s has: %s %s\n", filepath.Base(near.Bundle), near.Reference, near.Platform)
		}
	}
	for _, fault := range r.Faults {
		fmt.Fprintf(w, "\nFAULT  %s\n", fault)
	}
	for _, b := range r.Bundles {
		if b.Error != "" {
			fmt.Fprintf(w, "\nNOTE  %s is not looked into: %s\n", b.File, b.Error)
		}
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "\nNOTE  %s\n", note)
	}
	said := false
	for _, image := range r.Possible {
		if image.Gap == nil {
			continue
		}
		if !said {
			fmt.Fprintln(w, "\nNOTE  these are spoken of, in no bundle, and may not be needed:")
			said = true
		}
		fmt.Fprintf(w, "  %s (%s)\n", image.Reference, image.Needs[0])
	}
	absent := 0
	for _, image := range r.Images {
		if image.Gap != nil {
			absent++
		}
	}
	fmt.Fprintf(w, "\n%s needed on %s, %d in %s; %s rendered\n",
		count(len(r.Images), "image"), r.Platform, len(r.Images)-absent, count(len(r.Bundles), "bundle"), count(len(r.Charts), "chart"))
	return nil
}

// stepLine shows on a terminal what is being done.
type stepLine struct {
	w     io.Writer
	drawn bool
}

func (s *stepLine) show(step string, done, total int) {
	if f, ok := s.w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return
	}
	s.drawn = true
	if total > 0 {
		step = fmt.Sprintf("%s  %d of %d", step, min(done+1, total), total)
	}
	fmt.Fprintf(s.w, "\r\x1b[K%s", step)
}

func (s *stepLine) end() {
	if s.drawn {
		fmt.Fprint(s.w, "\r\x1b[K")
	}
}
