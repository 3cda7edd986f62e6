package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap/publish"
	"github.com/rancher/rke2/cmd/internal/push"
)

// publishFlags are publish's own.
type publishFlags struct {
	push.Flags
	layout        string
	allowUnsigned bool
}

func newPublish(f *flags) *cobra.Command {
	p := &publishFlags{}
	cmd := &cobra.Command{
		Use:   "publish REGISTRY[/PREFIX] [IMAGE…]",
		Short: "Push images, signatures and attestations to a registry",
		Long: `Pushes images of the OCI layout (none named: all but those that tests alone need) with
their signatures and attestations, which go under cosign's tags (sha256-<digest>.sig
and .att).

An image keeps its path below PREFIX: with PREFIX mirror, docker.io/rancher/NAME:TAG
becomes REGISTRY/mirror/rancher/NAME:TAG. Manifests and layers are pushed as they are,
so digests stay, and

    cosign verify --key dist/cosign.pub --private-infrastructure REGISTRY/rancher/NAME:TAG

holds under any name: it checks the digest. The repository and tag that a signature
claims (docker-reference) are those of the layout; who checks them too sees them hold
where the destination is the registry and repo that the images were made for (--registry
and --repo of rke2-build all).

Nothing is sent that is there already, and a layer that another repository of the
registry has is mounted from it. A tag is set when all that it leads to is there, so
after an interruption run the same command again. An existing tag that names another
image is moved, which is said; signatures of others on the same digest are kept.

Credentials are those of docker login and its helpers, or --username with
--password-stdin. Connections are HTTPS, unless --plain-http is given.

Exit codes: 0 all is in the registry, 1 failed, 2 wrong usage.`,
		Example: `  rke2-build publish registry.example.com
  rke2-build publish registry.example.com:5000/mirror hardened-etcd rke2-runtime
  rke2-build publish registry.example.com --dry-run -o json
  echo "$PASSWORD" | rke2-build publish registry.example.com --username ci --password-stdin --ca-file ca.pem`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m := push.NewMeter(cmd.ErrOrStderr(), "publish")
			o, err := p.options(cmd, f, args, m)
			if err != nil {
				return err
			}
			res, err := publish.Publish(cmd.Context(), o)
			m.Done()
			if f.asJSON() {
				return errors.Join(printJSON(cmd, res), err)
			}
			return errors.Join(push.Print(cmd.OutOrStdout(), res), err)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return f.completeImages(cmd, args, prefix)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&p.layout, "layout", "", "folder of the OCI layout (default: oci in the products' folder)")
	fs.BoolVar(&p.allowUnsigned, "allow-unsigned", false, "push images that have no signature, too")
	p.Add(fs)
	outputFlag(cmd, f)
	return cmd
}

func (p *publishFlags) options(cmd *cobra.Command, f *flags, args []string, m *push.Meter) (publish.Options, error) {
	to, err := publish.ParseDestination(args[0])
	if err != nil {
		return publish.Options{}, usageError{err}
	}
	client, err := p.Client(cmd.InOrStdin(), m.Retrying)
	var usage push.UsageError
	if errors.As(err, &usage) {
		return publish.Options{}, usageError{err}
	}
	if err != nil {
		return publish.Options{}, err
	}
	layout := p.layout
	if layout == "" {
		dist := f.out
		if dist == "" {
			tree, err := f.tree()
			if err != nil {
				return publish.Options{}, fmt.Errorf("%w (or name the layout with --layout)", err)
			}
			dist = f.outDir(tree)
		}
		layout = filepath.Join(dist, "oci")
	}
	return publish.Options{
		Layout: layout, Images: args[1:], To: to, Client: client, Jobs: p.Jobs, DryRun: p.DryRun,
		AllowUnsigned: p.allowUnsigned, Report: m.Event, Progress: m.Progress,
	}, nil
}
