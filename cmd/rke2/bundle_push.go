package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap/catalog"
	"github.com/rancher/rke2/airgap/publish"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/cmd/internal/push"
)

// pushFlags are bundle push's own.
type pushFlags struct {
	push.Flags
	prefix   string
	rewrites []string
	images   []string
	trust    trustOptions
	output   string
}

// trustOptions say which images are passed on.
type trustOptions struct {
	keys       []string
	dir        string
	mode       string
	unverified bool
}

func (o *trustOptions) add(cmd *cobra.Command) {
	trustFlags(cmd, &o.keys, &o.dir)
	cmd.Flags().StringVar(&o.mode, "image-verification", string(trust.ModeAll), "which images must have a trusted signature: all, or system (those of this release, as nodes have it)")
	cmd.Flags().BoolVar(&o.unverified, "insecure-unverified", false, "check no signature")
}

func (o *trustOptions) policy() (trust.Policy, error) {
	p, _, err := bundleTrust(o.keys, o.dir)
	if err != nil {
		return p, err
	}
	switch p.Mode = trust.Mode(o.mode); {
	case o.unverified:
		p.Mode = trust.ModeOff
	case p.Mode != trust.ModeAll && p.Mode != trust.ModeSystem:
		return p, fmt.Errorf("--image-verification %q is not known: use all or system, or pass --insecure-unverified", o.mode)
	}
	return p, nil
}

func newBundlePushCommand() *cobra.Command {
	p := &pushFlags{}
	cmd := &cobra.Command{
		Use:   "push BUNDLE... REGISTRY[/PREFIX]",
		Short: "Push bundles to a registry",
		Long: `Pushes what bundles hold to a registry: images, charts and sets of files, with their
signatures and attestations, which go under cosign's tags (sha256-<digest>.sig and .att).
BUNDLE is a bundle, another tool's OCI archive, an OCI layout, or a folder of such.
Nothing is unpacked to disk, also not of a compressed bundle, which is read once.

An image keeps its path below PREFIX: docker.io/rancher/NAME:TAG becomes
REGISTRY/PREFIX/rancher/NAME:TAG. --rewrite FROM=TO replaces the start of the path first:
with --rewrite docker.io/rancher=rke2 it becomes REGISTRY/PREFIX/rke2/NAME:TAG. FROM may
have a registry or not; of several the longest that fits is taken. Digests stay, and so
cosign verifies what was pushed under any name.

Signatures are checked before anything is sent. Keys are those of this rke2's release
and the host's, or only those named with --key. An image that no trusted key signed is
an error that names it; --image-verification system asks for signatures on this
release's images only, as nodes do.

Bundles of several platforms of one image make an image index. Where the bundles have
all the manifests of the index that the image came from, it is that index, with its
signature; else an index is made of those that are there. Parts and deltas are given
together with the rest.

Nothing is sent that is there already, and a layer that another repository of the
registry has is mounted from it. A tag is set when all that it leads to is there, so
after an interruption run the same command again. An existing tag that names another
image is moved, which is said; signatures of others on the same digest are kept.

Credentials are those of docker login and its helpers, or --username with
--password-stdin. Connections are HTTPS, unless --plain-http is given.

Exit code 0: all is in the registry; 1: it is not.`,
		Example: `  rke2 bundle push rke2-images-core.linux-amd64.tar registry.example.com

  # what would be sent, and what it would be called
  rke2 bundle push /media/usb registry.example.com/mirror --dry-run

  # both platforms, below another path
  rke2 bundle push rke2-images-core.linux-{amd64,arm64}.tar registry.example.com --rewrite docker.io/rancher=rke2

  # one's own bundle, with one's own key
  echo "$PASSWORD" | rke2 bundle push apps.tar registry.example.com --key ops.pub --username ci --password-stdin --ca-file ca.pem`,
		Args: cobra.MinimumNArgs(2),
	}
	check := outputFlag(cmd, &p.output)
	p.Add(cmd.Flags())
	p.trust.add(cmd)
	f := cmd.Flags()
	f.StringVar(&p.prefix, "prefix", "", "`path` that all repositories are put below (or REGISTRY/PREFIX)")
	f.StringArrayVar(&p.rewrites, "rewrite", nil, "`FROM=TO`: replace the start of repositories' paths (repeatable)")
	f.StringArrayVar(&p.images, "image", nil, "push only the image with this `reference` or name (repeatable)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := check(); err != nil {
			return err
		}
		return p.run(cmd, args[:len(args)-1], args[len(args)-1])
	}
	return cmd
}

// pushed is what -o json prints.
type pushed struct {
	Bundles []string `json:"bundles"`
	publish.Result
}

func (p *pushFlags) run(cmd *cobra.Command, bundles []string, registry string) error {
	ctx, stop := bundleContext(cmd)
	defer stop()
	to, err := p.destination(registry)
	if err != nil {
		return err
	}
	policy, err := p.trust.policy()
	if err != nil {
		return err
	}
	m := push.NewMeter(cmd.ErrOrStderr(), "push")
	client, err := p.Client(cmd.InOrStdin(), m.Retrying)
	if err != nil {
		return err
	}
	files, err := catalog.Files(bundles)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s: no bundles are there", strings.Join(bundles, ", "))
	}
	bar := newMeter(cmd.ErrOrStderr(), "read")
	c, err := catalog.Open(ctx, files, catalog.Options{
		Policy: policy, Whole: true,
		Progress: func(_, file string, done, total int64) { bar.show(filepath.Base(file), done, total) },
	})
	bar.done()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := refused(cmd.ErrOrStderr(), c.Refused()); err != nil {
		return err
	}
	out := pushed{}
	for _, f := range files {
		out.Bundles = append(out.Bundles, f.Path)
	}
	opt := publish.Options{
		Source: c, Images: p.images, To: to, Client: client, Jobs: p.Jobs, DryRun: p.DryRun,
		AllowUnsigned: true, // the policy has decided
		Report:        m.Event, Progress: m.Progress,
	}
	if p.DryRun {
		opt.Report = nil // the table says all that there is to say
	}
	out.Result, err = publish.Publish(ctx, opt)
	m.Done()
	if p.output == "json" {
		return errors.Join(printJSON(cmd.OutOrStdout(), out), err)
	}
	return errors.Join(push.Print(cmd.OutOrStdout(), out.Result), err)
}

func (p *pushFlags) destination(registry string) (publish.Destination, error) {
	if p.prefix != "" {
		if strings.Contains(strings.Trim(registry, "/"), "/") {
			return publish.Destination{}, fmt.Errorf("%s has a prefix already: leave --prefix %s out, or put both there", registry, p.prefix)
		}
		registry = strings.Trim(registry, "/") + "/" + strings.Trim(p.prefix, "/")
	}
	to, err := publish.ParseDestination(registry)
	if err != nil {
		return to, err
	}
	var rewrites []publish.Rewrite
	for _, s := range p.rewrites {
		r, err := publish.ParseRewrite(s)
		if err != nil {
			return to, fmt.Errorf("--rewrite: %w", err)
		}
		rewrites = append(rewrites, r)
	}
	return to.With(rewrites...)
}

// refused prints what is not to be pushed and makes an error of it.
func refused(w io.Writer, all []catalog.Refusal) error {
	if len(all) == 0 {
		return nil
	}
	for _, r := range all {
		fmt.Fprintf(w, "FAULT  %s (%s): %v\n", r.Subject, strings.Join(r.Files, ", "), r.Err)
	}
	return fmt.Errorf("%s found, nothing was pushed: mend or leave out what is at fault", count(len(all), "fault"))
}
