package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/collect"
	"github.com/rancher/rke2/airgap/manifest"
	"github.com/rancher/rke2/airgap/mirrors"
	"github.com/rancher/rke2/airgap/registry"
	"github.com/rancher/rke2/images"
)

const defaultLayout = "dist/oci"

// airgapFlags are the flags of bundle airgap.
type airgapFlags struct {
	manifest string
	schema   bool

	layout             string
	sets               []string
	allowUnsigned      bool
	images, imageLists []string
	archives, files    []string
	charts             chartFlags

	platforms           []string
	name, format, split string
	outputDir           string

	lock       string
	updateLock bool
	registries string
	plainHTTP  bool
	offline    bool
	cacheDir   string
	jobs       int
	retries    int

	requireSigned bool
	keys          []string
	trustDir      string
	output        string
}

// chartFlags are about the one chart that is named by flags; more need a manifest.
type chartFlags struct {
	charts         []string
	repo, version  string
	release, space string
	values, set    []string
	kubeVersion    string
	apiVersions    []string
	possible       bool
}

func newBundleAirgapCommand() *cobra.Command {
	var fl airgapFlags
	cmd := &cobra.Command{
		Use:   "airgap",
		Short: "Make bundles of images, charts and files",
		Long: `Makes bundles: of the images of a release, one for each set, from the layout that
rke2-build wrote; or, where more than layout and sets is named, or a name is given, one
bundle of everything:

  NAME.OS-ARCH.tar    images with their signatures, SBOMs and attestations, charts, files
  NAME.OS-ARCH.txt    the images' references, one a line
  sha256sum-ARCH.txt  the sums of these files

Images come from layouts, archives and registries; charts bring the images that they
need, found by rendering them with the values given. Tags are resolved to digests, which
are printed; a lock keeps them, so that the same bundle can be made again after tags have
moved, and without a network. Of an image for several platforms its manifest for the
bundle's platform is taken.

registries.yaml says how registries are reached, as on a node: mirrors, rewrites,
credentials, certificates. What is fetched is kept in a cache; a run that was interrupted
goes on with the byte that comes next.

The same contents give the same bytes. Files appear whole or not at all; a bundle that is
there already is left alone.`,
		Example: `  # the core set, from dist/oci into dist
  rke2 bundle airgap

  # two sets, one bundle each; every image of the release in one
  rke2 bundle airgap --layout dist/oci --set core --set canal --output-dir /media/usb
  rke2 bundle airgap --layout dist/oci --set all

  # images of registries, with a lock of what their tags mean
  rke2 bundle airgap --image docker.io/library/busybox:1.36 --image-list images.txt \
    --name apps --lock apps.lock --update-lock

  # a chart with the images that it needs, for two platforms, in parts that fit a DVD
  rke2 bundle airgap --chart oci://registry.example.com/charts/app --version 1.2.3 \
    --values values.yaml --platform linux/amd64 --platform linux/arm64 --split 4.7GB

  # everything that a file declares
  rke2 bundle airgap --manifest rke2-bundle.yaml --lock rke2-bundle.lock`,
		Args: cobra.NoArgs,
	}
	check := outputFlag(cmd, &fl.output)
	fl.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := check(); err != nil {
			return err
		}
		if fl.schema {
			_, err := cmd.OutOrStdout().Write(manifest.Schema())
			return err
		}
		ctx, stop := bundleContext(cmd)
		defer stop()
		run := &airgapRun{flags: fl, cmd: cmd}
		return run.run(ctx)
	}
	return cmd
}

func (fl *airgapFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&fl.manifest, "manifest", "", "`file` that declares the bundle (rke2-bundle.yaml); flags add to it")
	f.BoolVar(&fl.schema, "schema", false, "print the JSON Schema of --manifest, for editors, and make nothing")
	f.StringVar(&fl.layout, "layout", defaultLayout, "`folder` of an OCI layout with signed images")
	f.StringSliceVar(&fl.sets, "set", nil, "`set` of the layout's images (repeatable), or all, which leaves out what tests alone need; core if nothing else is named")
	f.BoolVar(&fl.allowUnsigned, "allow-unsigned", false, "take images of the layout that have no signature, which nodes refuse by default")
	f.StringArrayVar(&fl.images, "image", nil, "`reference` of an image in a registry, by tag or digest (repeatable)")
	f.StringArrayVar(&fl.imageLists, "image-list", nil, "`file` of such references, one a line (repeatable)")
	f.StringArrayVar(&fl.archives, "archive", nil, "image archive or bundle `file`, all of it (repeatable)")
	f.StringArrayVar(&fl.files, "file", nil, "`[NAME=]path` of a file or folder to carry along (repeatable)")
	f.StringArrayVar(&fl.charts.charts, "chart", nil, "`chart` folder, .tgz, oci:// reference, or name in --repo, with the images that it needs (repeatable)")
	f.StringVar(&fl.charts.repo, "repo", "", "`URL` of the repository that --chart is in")
	f.StringVar(&fl.charts.version, "version", "", "`version` of --chart")
	f.StringVar(&fl.charts.release, "release", "", "`name` that --chart will be installed under (default the chart's)")
	f.StringVar(&fl.charts.space, "namespace", "", "`namespace` that --chart will be installed into (default default)")
	f.StringArrayVar(&fl.charts.values, "values", nil, "`file` of values for --chart (repeatable)")
	f.StringArrayVar(&fl.charts.set, "set-value", nil, "`key=value` for --chart, as helm's --set (repeatable)")
	f.StringVar(&fl.charts.kubeVersion, "kube-version", "", "Kubernetes `version` that charts are rendered for (default this release's)")
	f.StringArrayVar(&fl.charts.apiVersions, "api-version", nil, "further `API` that the cluster will have, such as monitoring.coreos.com/v1 (repeatable)")
	f.BoolVar(&fl.charts.possible, "possible-images", false, "take images too that charts name where they need not be used")
	f.StringSliceVar(&fl.platforms, "platform", []string{"linux/amd64"}, "`os/arch` (repeatable): one bundle each")
	f.StringVar(&fl.name, "name", "", "base `name` of one bundle of everything (default "+collect.DefaultName+")")
	f.StringVar(&fl.format, "format", "", "tar, tar.zst or tar.gz (default tar: layers are compressed already)")
	f.StringVar(&fl.split, "split", "", "make parts of at most this `size`, such as 4GB; each verifies on its own")
	f.StringVar(&fl.outputDir, "output-dir", "dist", "`folder` for the bundles")
	f.StringVar(&fl.lock, "lock", "", "`file` that keeps what tags and versions mean; stale or absent is an error")
	f.BoolVar(&fl.updateLock, "update-lock", false, "resolve everything anew and write --lock")
	f.StringVar(&fl.registries, "registries", "", "registries.yaml `file` (default "+mirrors.DefaultFile+", if it is there)")
	f.BoolVar(&fl.plainHTTP, "plain-http", false, "allow HTTP with registries that do not speak TLS")
	f.BoolVar(&fl.offline, "offline", false, "dial nothing: take what the cache has, as --lock says")
	f.StringVar(&fl.cacheDir, "cache-dir", "", "`folder` for what is fetched (default rke2/bundle in the user's cache folder)")
	f.IntVarP(&fl.jobs, "jobs", "j", 4, "`number` of requests at a time")
	f.IntVar(&fl.retries, "retries", 5, "`times` in a row that a request is tried again")
	f.BoolVar(&fl.requireSigned, "require-signed", false, "take no image without a signature of a trusted key")
	trustFlags(cmd, &fl.keys, &fl.trustDir)
}

// airgapRun is one run of bundle airgap.
type airgapRun struct {
	flags  airgapFlags
	cmd    *cobra.Command
	create airgap.CreateOptions
	fetch  *meter
}

func (r *airgapRun) run(ctx context.Context) error {
	fl := r.flags
	if fl.updateLock && fl.lock == "" {
		return errors.New("--update-lock: name the file with --lock")
	}
	if fl.updateLock && fl.offline {
		return errors.New("--update-lock asks registries, and --offline allows none")
	}
	b, err := fl.bundle(r.cmd)
	if err != nil {
		return err
	}
	r.create = airgap.CreateOptions{OutputDir: fl.outputDir, Format: b.Format}
	if b.Split != "" {
		if r.create.Split, err = manifest.ParseSize(b.Split); err != nil {
			return fmt.Errorf("--split: %w", err)
		}
	}
	if fl.perSet(r.cmd) {
		return r.sets(ctx, b)
	}
	return r.gather(ctx, b)
}

// perSet tells whether each set is a bundle of its own: where nothing but a layout and
// its sets is named.
func (fl airgapFlags) perSet(cmd *cobra.Command) bool {
	for _, f := range []string{"manifest", "image", "image-list", "archive", "chart", "file", "name", "lock"} {
		if cmd.Flags().Changed(f) {
			return false
		}
	}
	return !fl.requireSigned
}

// bundle is what the manifest and the flags declare together.
func (fl airgapFlags) bundle(cmd *cobra.Command) (*manifest.Bundle, error) {
	b := &manifest.Bundle{}
	set := cmd.Flags().Changed
	if fl.manifest != "" {
		var err error
		if b, err = manifest.Load(fl.manifest); err != nil {
			return nil, err
		}
	}
	layout := set("layout") || set("set") || fl.perSet(cmd)
	if !layout && fl.manifest == "" && len(fl.images)+len(fl.imageLists)+len(fl.archives)+len(fl.charts.charts)+len(fl.files) == 0 {
		layout = true
	}
	if layout {
		if len(fl.sets) == 0 && (fl.perSet(cmd) || !set("layout")) {
			fl.sets = []string{"core"}
		}
		b.Layouts = append(b.Layouts, manifest.Layout{Path: fl.layout, Sets: fl.sets, AllowUnsigned: fl.allowUnsigned})
	}
	b.Images = append(b.Images, fl.images...)
	b.ImageLists = append(b.ImageLists, fl.imageLists...)
	for _, a := range fl.archives {
		b.Archives = append(b.Archives, manifest.Archive{Path: a})
	}
	for _, f := range fl.files {
		b.Files = append(b.Files, manifest.ParseFile(f))
	}
	more, err := fl.charts.declared()
	if err != nil {
		return nil, err
	}
	b.Charts = append(b.Charts, more...)
	if set("platform") || len(b.Platforms) == 0 {
		b.Platforms = fl.platforms
	}
	for flag, to := range map[string]*string{"name": &b.Name, "format": &b.Format, "split": &b.Split} {
		if set(flag) {
			*to = cmd.Flags().Lookup(flag).Value.String()
		}
	}
	b.RequireSigned = b.RequireSigned || fl.requireSigned
	b.Keys = append(b.Keys, fl.keys...)
	return b, b.Check()
}

func (c chartFlags) declared() ([]manifest.Chart, error) {
	if len(c.charts) != 1 && (c.repo != "" || c.version != "" || c.release != "" || len(c.values)+len(c.set) > 0) {
		return nil, errors.New("--repo, --version, --release, --values and --set-value are about one --chart: declare several charts in a --manifest")
	}
	var out []manifest.Chart
	for _, chart := range c.charts {
		out = append(out, manifest.Chart{
			Chart: chart, Repo: c.repo, Version: c.version, Release: c.release, Namespace: c.space,
			ValuesFiles: c.values, Set: c.set, KubeVersion: c.kubeVersion, APIVersions: c.apiVersions, PossibleImages: c.possible,
		})
	}
	return out, nil
}

// sets makes a bundle of each set.
func (r *airgapRun) sets(ctx context.Context, b *manifest.Bundle) error {
	var orders []airgap.Order
	for _, s := range b.Platforms {
		p, err := manifest.ParsePlatform(s)
		if err != nil {
			return fmt.Errorf("--%w", err)
		}
		more, err := airgap.SetOrders(b.Layouts[0].Path, b.Layouts[0].Sets, p, b.Layouts[0].AllowUnsigned)
		if err != nil {
			return err
		}
		orders = append(orders, more...)
	}
	made, err := r.write(ctx, orders)
	if err != nil {
		return err
	}
	return printMade(r.cmd, r.flags.output, airgapResult{Bundles: made})
}

func (r *airgapRun) write(ctx context.Context, orders []airgap.Order) ([]airgap.Created, error) {
	bar := newMeter(r.cmd.ErrOrStderr(), "bundle")
	defer bar.done()
	r.create.Progress = func(file string, done, total int64) { bar.show(filepath.Base(file), done, total) }
	return airgap.Create(ctx, orders, r.create)
}

// gather makes one bundle of everything, for each platform.
func (r *airgapRun) gather(ctx context.Context, b *manifest.Bundle) error {
	opt, err := r.options(b)
	if err != nil {
		return err
	}
	r.fetch = newMeter(r.cmd.ErrOrStderr(), "fetch")
	opt.Fetched = func(done, total int64) { r.fetch.show("blobs", done, total) }
	opt.Resolved = func(done, total int) {
		if r.fetch.terminal {
			fmt.Fprintf(r.cmd.ErrOrStderr(), "\r\x1b[Kresolve  %d of %s", done, count(total, "image"))
		}
	}
	c, err := collect.Gather(ctx, b, opt)
	if r.fetch.terminal {
		fmt.Fprint(r.cmd.ErrOrStderr(), "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	defer c.Close()
	name := b.Name
	if name == "" {
		name = collect.DefaultName
	}
	made, err := r.fetchAndWrite(ctx, c, opt, name)
	if err != nil {
		return err
	}
	result := airgapResult{Bundles: made, Images: c.Images, Charts: c.Charts}
	if r.flags.updateLock {
		if result.LockChanges, err = writeLock(c.Lock, r.flags.lock); err != nil {
			return err
		}
		result.Lock = r.flags.lock
	}
	return printMade(r.cmd, r.flags.output, result)
}

// fetchAndWrite tries twice where the cache was damaged: what was is then fetched anew.
func (r *airgapRun) fetchAndWrite(ctx context.Context, c *collect.Collection, opt collect.Options, name string) ([]airgap.Created, error) {
	for again := false; ; again = true {
		err := c.Fetch(ctx, opt)
		r.fetch.done()
		if err != nil {
			return nil, err
		}
		made, err := r.write(ctx, c.Orders(name))
		if again || !errors.Is(err, airgap.ErrDamaged) && !errors.Is(err, airgap.ErrTruncated) {
			return made, err
		}
		bad, scrubbed := c.Scrub(ctx)
		if scrubbed != nil || len(bad) == 0 {
			return made, errors.Join(err, scrubbed)
		}
		fmt.Fprintf(r.cmd.ErrOrStderr(), "%s in the cache %s damaged: fetched again\n", count(len(bad), "blob"), opt.Cache.Dir())
	}
}

func (r *airgapRun) options(b *manifest.Bundle) (opt collect.Options, err error) {
	fl := r.flags
	release, err := images.EmbeddedRelease()
	if err != nil {
		return opt, err
	}
	opt = collect.Options{Jobs: fl.jobs, LockFile: fl.lock, RequireSigned: b.RequireSigned, KubeVersion: release.Kubernetes}
	if fl.cacheDir == "" {
		if fl.cacheDir, err = collect.DefaultCacheDir(); err != nil {
			return opt, err
		}
	}
	if opt.Cache, err = collect.OpenCache(fl.cacheDir); err != nil {
		return opt, err
	}
	if !fl.offline {
		if opt.Door, err = r.door(); err != nil {
			return opt, err
		}
	}
	if fl.lock != "" && !fl.updateLock {
		if opt.Lock, err = manifest.ReadLock(fl.lock); err != nil {
			return opt, err
		}
	}
	if b.RequireSigned {
		if opt.Trust, _, err = bundleTrust(b.Keys, fl.trustDir); err != nil {
			return opt, err
		}
		if len(opt.Trust.ReleaseKeys)+len(opt.Trust.OperatorKeys) == 0 {
			return opt, fmt.Errorf("signatures are required, and no key is trusted: name one with --key, or put it into %s", fl.trustDir)
		}
	}
	return opt, nil
}

func (r *airgapRun) door() (*mirrors.Door, error) {
	config, err := mirrors.LoadDefault()
	if r.flags.registries != "" {
		config, err = mirrors.Load(r.flags.registries)
	}
	if err != nil {
		return nil, err
	}
	out := r.cmd.ErrOrStderr()
	settings := registry.Settings{
		PlainHTTP: r.flags.plainHTTP, Retries: r.flags.retries,
		Retrying: func(what string, cause error, pause time.Duration) {
			fmt.Fprintf(out, "%s: %v: again in %v\n", what, cause, pause.Round(100*time.Millisecond))
		},
	}
	return mirrors.NewDoor(config, settings, func(endpoint string, why error) {
		fmt.Fprintf(out, "endpoint %s is passed over: %v\n", endpoint, why)
	}), nil
}

// writeLock writes a lock and tells what is another than it was.
func writeLock(l *manifest.Lock, file string) ([]string, error) {
	var changes []string
	if was, err := manifest.ReadLock(file); err == nil {
		changes = was.Changes(l)
	}
	return changes, l.Write(file)
}
