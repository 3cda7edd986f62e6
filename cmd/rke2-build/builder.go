package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/buildkit"
	"github.com/rancher/rke2/build/compile"
	"github.com/rancher/rke2/build/image"
	"github.com/rancher/rke2/build/pipeline"
)

// What --builder takes.
const (
	builderDaemonless = "daemonless"
	builderBuildKit   = "buildkit"
)

// builderFlags adds the choice of the builder to all commands.
func builderFlags(root *cobra.Command, f *flags) {
	p := root.PersistentFlags()
	p.StringVar(&f.builder, "builder", builderDaemonless,
		"what makes images of Dockerfiles: daemonless (a subset without RUN, the same bytes everywhere) or buildkit (every instruction; as root, or with --buildkit-addr)")
	p.StringVar(&f.buildkitAddr, "buildkit-addr", os.Getenv("BUILDKIT_HOST"),
		"daemon that --builder buildkit uses, such as unix:///run/buildkit/buildkitd.sock [BUILDKIT_HOST] (default: one is built, started without a network, and stopped)")
	_ = root.RegisterFlagCompletionFunc("builder", cobra.FixedCompletions([]string{builderDaemonless, builderBuildKit}, cobra.ShellCompDirectiveNoFileComp))
}

// chooseBuilder sets the builder that the flags ask for. closeBuilder ends it.
func (f *flags) chooseBuilder(cmd *cobra.Command, s *pipeline.Settings) error {
	switch f.builder {
	case builderDaemonless:
		return nil
	case builderBuildKit:
	default:
		return usageError{fmt.Errorf("--builder %q is neither %s nor %s", f.builder, builderDaemonless, builderBuildKit)}
	}
	o := buildkit.Options{Cache: s.Cache, Addr: f.buildkitAddr}
	if f.verbose {
		o.Log = cmd.ErrOrStderr()
	}
	if o.Addr == "" {
		if os.Geteuid() != 0 && !f.plans {
			return errors.New("--builder buildkit starts a daemon, which needs root: become root, name a running one with --buildkit-addr, or use --builder daemonless")
		}
		// The daemon's parts may be compiled while images are made.
		var mu sync.Mutex
		report := s.Report
		s.Report = func(e pipeline.Event) {
			mu.Lock()
			defer mu.Unlock()
			report(e)
		}
		settings := *s
		o.Programs = func(ctx context.Context) (buildkit.Programs, error) { return programs(ctx, settings) }
	}
	b := buildkit.New(o)
	f.closers = append(f.closers, b.Close)
	s.Builder = withBuildKit{b}
	return nil
}

// closeBuilder ends what chooseBuilder may have started, after the command of its flags.
func (f *flags) closeBuilder(cmd *cobra.Command) {
	run := cmd.RunE
	if run == nil {
		return
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		errs := []error{run(cmd, args)}
		for _, c := range f.closers {
			errs = append(errs, c())
		}
		f.closers = nil
		return errors.Join(errs...)
	}
}

// programs makes what a daemon is started from, for this machine.
func programs(ctx context.Context, s pipeline.Settings) (buildkit.Programs, error) {
	c, err := compile.New(ctx, s.Cache, s.Tree.Product.FIPS140, s.Sysroots)
	if err != nil {
		return buildkit.Programs{}, err
	}
	found := map[string]string{}
	for _, name := range []string{"buildkitd", "runc"} {
		component, ok := s.Tree.Maker(name)
		if !ok {
			return buildkit.Programs{}, fmt.Errorf("no component makes %s; name a running daemon with --buildkit-addr", name)
		}
		a, err := c.Compile(ctx, component, artifact.Platform{OS: "linux", Arch: runtime.GOARCH}, compile.Hooks{
			Verbose: s.Verbose,
			Building: func(binaries []string) {
				s.Report(pipeline.Event{Step: pipeline.Compile, Name: component.Name, Detail: component.Version, Making: binaries})
			},
		})
		if err != nil {
			return buildkit.Programs{}, err
		}
		for _, b := range a.Binaries {
			found[b.Name] = b.Path
		}
	}
	return buildkit.Programs{Buildkitd: found["buildkitd"], Runc: found["runc"]}, nil
}

// withBuildKit makes images with BuildKit.
type withBuildKit struct{ *buildkit.Builder }

var _ pipeline.Builder = withBuildKit{}

func (withBuildKit) Name() string { return "buildkit" }

func (withBuildKit) Contexts(dockerfile string, args map[string]string) ([]image.Use, error) {
	return buildkit.Contexts(dockerfile, args)
}

func (b withBuildKit) Build(ctx context.Context, r pipeline.Recipe) (image.Image, error) {
	return b.Builder.Build(ctx, request(r))
}

func request(r pipeline.Recipe) buildkit.Request {
	return buildkit.Request{
		Dockerfile: r.Dockerfile,
		Args:       r.Args,
		Contexts:   r.Contexts,
		Local:      image.Dir(filepath.Dir(r.Dockerfile)),
		Platform:   v1.Platform{OS: r.Platform.OS, Architecture: r.Platform.Arch},
		Epoch:      r.Epoch,
	}
}
