package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/cache"
	"github.com/rancher/rke2/build/csource"
	"github.com/rancher/rke2/build/debian"
	"github.com/rancher/rke2/build/pipeline"
	"github.com/rancher/rke2/build/sign"
	"github.com/rancher/rke2/images"
)

// flags are the options that several commands share.
type flags struct {
	images   string
	out      string
	cache    string
	registry string
	repo     string
	epoch    string
	key      string
	output   string
	platform string
	jobs     int
	verbose  bool

	builder      string
	buildkitAddr string
	plans        bool           // images are planned only: no builder runs
	closers      []func() error // of what commands started
}

func newRoot() *cobra.Command {
	f := &flags{}
	root := &cobra.Command{
		Use:   "rke2-build",
		Short: "Build the distribution's images from declared versions",
		Long: `rke2-build takes the versions declared in images/ to signed images in an OCI layout,
with an SBOM and provenance each.

Go components are compiled from their wrapper modules with the certified Go
Cryptographic Module, Debian packages come from locked, verified archives, and each
result is made once for each set of inputs. Images are made without a daemon from
Dockerfiles (or with BuildKit), one reproducible layer a component, and signed and
attested by digest as cosign does. The same inputs give the same digests.

Environment: REGISTRY, REPO, PLATFORMS, SOURCE_DATE_EPOCH, COSIGN_KEY, COSIGN_PASSWORD,
BUILDKIT_HOST and ` + cache.Env + ` mean what the flags of the same meaning do. Flags win.

Exit codes: 0 done, 1 failed, 2 wrong usage.`,
		Example: `  # everything: components, images, SBOMs, provenance, signatures, the release
  rke2-build all
  rke2-build all --platform linux/amd64,linux/arm64

  # what there is, what was built of it, what could be newer
  rke2-build list
  rke2-build list --outdated

  # one component, one image, what is in it
  rke2-build compile runc
  rke2-build image rke2-runtime
  rke2-build sbom rke2-runtime

  # Debian packages: pin what is declared, move one pin
  rke2-build lock
  rke2-build lock --update iptables

  # is it what the declarations give?
  rke2-build verify-rebuild mirrored-pause

  # with a release key, to a registry
  rke2-build keygen release
  COSIGN_KEY=release.key COSIGN_PASSWORD=… rke2-build all
  rke2-build publish registry.example.com/rke2`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	p := root.PersistentFlags()
	p.StringVar(&f.images, "images", "", "folder of the declarations (default: images/ here or in a folder above)")
	p.StringVar(&f.out, "dist", "", "folder of the products (default: dist/ beside the declarations)")
	p.StringVar(&f.cache, "cache", "", "folder of the build cache (default: $"+cache.Env+", else rke2-build in the user's cache folder)")
	p.StringVar(&f.registry, "registry", os.Getenv("REGISTRY"), "registry in the images' names [REGISTRY] (default: of images/product.yaml)")
	p.StringVar(&f.repo, "repo", os.Getenv("REPO"), "repository prefix in the images' names [REPO] (default: of images/product.yaml)")
	p.StringVar(&f.epoch, "source-date-epoch", os.Getenv("SOURCE_DATE_EPOCH"), "seconds since 1970 that everything made is dated [SOURCE_DATE_EPOCH] (default: 0)")
	p.StringVar(&f.platform, "platform", os.Getenv("PLATFORMS"), "platforms to build for, joined by commas: linux/amd64, linux/arm64 [PLATFORMS] (default: this machine's)")
	p.IntVarP(&f.jobs, "jobs", "j", 0, "layers compressed at a time; the result does not depend on it (default: as many as there are cores)")
	p.BoolVarP(&f.verbose, "verbose", "v", false, "show what compilers say")
	builderFlags(root, f)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newList(f), newCompile(f), newImage(f), newSign(f), newKeygen(), newRelease(f), newAll(f), newPublish(f), newLock(f), newSBOM(f), newVerifyRebuild(f), newBuildxArgs(f), newDropIn(f))
	for _, c := range root.Commands() {
		f.closeBuilder(c)
		if args := c.Args; args != nil {
			c.Args = func(cmd *cobra.Command, a []string) error {
				if err := args(cmd, a); err != nil {
					return usageError{err}
				}
				return nil
			}
		}
	}
	return root
}

// keyFlag adds --key.
func keyFlag(cmd *cobra.Command, f *flags) {
	cmd.Flags().StringVar(&f.key, "key", os.Getenv("COSIGN_KEY"),
		"signing key: a file in cosign's encrypted format or a KMS URI [COSIGN_KEY]; its passphrase is in COSIGN_PASSWORD (default: a development key in the products' folder)")
}

// outputFlag adds -o.
func outputFlag(cmd *cobra.Command, f *flags) {
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "table or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if f.output != "table" && f.output != "json" {
			return usageError{fmt.Errorf("--output %q is neither table nor json", f.output)}
		}
		return nil
	}
}

func (f *flags) asJSON() bool { return f.output == "json" }

func (f *flags) tree() (*images.Tree, error) {
	dir := f.images
	if dir == "" {
		here, err := os.Getwd()
		if err != nil {
			return nil, fmt.Errorf("finding the declarations: %w", err)
		}
		for at := here; ; at = filepath.Dir(at) {
			candidate := filepath.Join(at, "images")
			if _, err := os.Stat(filepath.Join(candidate, "product.yaml")); err == nil {
				dir = candidate
				break
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("finding the declarations: %w", err)
			}
			if at == filepath.Dir(at) {
				return nil, fmt.Errorf("no images/product.yaml in %s or a folder above; name the folder with --images", here)
			}
		}
	}
	return images.Load(dir)
}

// pipeline makes the pipeline of these flags.
func (f *flags) pipeline(cmd *cobra.Command) (*pipeline.Pipeline, error) {
	tree, err := f.tree()
	if err != nil {
		return nil, err
	}
	dir := f.cache
	if dir == "" {
		if dir, err = cache.DefaultDir(); err != nil {
			return nil, err
		}
	}
	c, err := cache.Open(dir)
	if err != nil {
		return nil, err
	}
	seconds := int64(0)
	if f.epoch != "" {
		if seconds, err = strconv.ParseInt(f.epoch, 10, 64); err != nil || seconds < 0 {
			return nil, usageError{fmt.Errorf("--source-date-epoch %q is not a number of seconds since 1970", f.epoch)}
		}
	}
	list := f.platform
	if list == "" {
		list = "linux/" + runtime.GOARCH
	}
	platforms, err := artifact.ParsePlatforms(list)
	if err != nil {
		return nil, usageError{err}
	}
	if f.jobs <= 0 {
		f.jobs = runtime.GOMAXPROCS(0)
	}
	s := pipeline.Settings{
		Tree:      tree,
		Cache:     c,
		Out:       f.outDir(tree),
		Naming:    f.naming(tree),
		Epoch:     time.Unix(seconds, 0).UTC(),
		Platforms: platforms,
		Jobs:      f.jobs,
		Report:    newProgress(cmd.ErrOrStderr()).event,
	}
	archive, err := f.archive(cmd, tree, false)
	if err != nil {
		return nil, err
	}
	s.Sysroots = archive
	if f.verbose {
		s.Verbose = cmd.ErrOrStderr()
	}
	up, err := f.upstream(cmd, tree, c)
	if err != nil {
		return nil, err
	}
	s.Upstream = up
	s.Makers = map[images.Kind]artifact.Maker{
		images.KindUpstream: up,
		images.KindDebian:   debian.New(archive),
		images.KindSource:   csource.New(c, archive, debian.MirrorsFromEnv(tree.Product.Debian), s.Verbose),
	}
	if err := f.chooseBuilder(cmd, &s); err != nil {
		return nil, err
	}
	return pipeline.New(cmd.Context(), s)
}

// naming is where images are named after.
func (f *flags) naming(tree *images.Tree) images.Naming {
	n := images.Naming{Registry: tree.Product.Registry, Repo: tree.Product.Repo}
	if f.registry != "" {
		n.Registry = strings.Trim(f.registry, "/")
	}
	if f.repo != "" {
		n.Repo = strings.Trim(f.repo, "/")
	}
	return n
}

func (f *flags) outDir(tree *images.Tree) string {
	if f.out != "" {
		return f.out
	}
	return filepath.Join(filepath.Dir(tree.Dir), "dist")
}

// signingKey opens --key, or the development key.
func (f *flags) signingKey(ctx context.Context, cmd *cobra.Command) (*sign.Key, error) {
	if f.key != "" {
		return sign.Load(ctx, f.key, func() ([]byte, error) { return passphrase(cmd, false) })
	}
	tree, err := f.tree()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(f.outDir(tree), "development.key")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making a development key: %w", err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "no --key or COSIGN_KEY: signing with the development key %s\n", path)
	return sign.LoadDevelopment(ctx, path)
}
