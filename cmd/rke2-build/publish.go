package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap/publish"
	"github.com/rancher/rke2/airgap/registry"
)

// publishFlags are publish's own.
type publishFlags struct {
	layout        string
	jobs          int
	retries       int
	dryRun        bool
	allowUnsigned bool
	username      string
	passwordStdin bool
	access        registry.Settings
}

func newPublish(f *flags) *cobra.Command {
	p := &publishFlags{}
	cmd := &cobra.Command{
		Use:   "publish REGISTRY[/PREFIX] [IMAGE…]",
		Short: "Push images, signatures and attestations to a registry",
		Long: `Pushes images of the OCI layout (none named: all) with their signatures and
attestations, which go under cosign's tags (sha256-<digest>.sig and .att).

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
			asJSON, err := f.json()
			if err != nil {
				return err
			}
			m := newPushMeter(cmd.ErrOrStderr())
			o, err := p.options(cmd, f, args, m)
			if err != nil {
				return err
			}
			res, err := publish.Publish(cmd.Context(), o)
			m.done()
			if asJSON {
				return errors.Join(printJSON(cmd, res), err)
			}
			return errors.Join(printPublished(cmd, res), err)
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
	fs.IntVarP(&p.jobs, "jobs", "j", 4, "how many blobs are sent at a time")
	fs.IntVar(&p.retries, "retries", 7, "how often in a row a failed request is tried again (the pauses grow to 15 s)")
	fs.BoolVar(&p.dryRun, "dry-run", false, "look what the registry has and say what would be sent")
	fs.BoolVar(&p.allowUnsigned, "allow-unsigned", false, "push images that have no signature, too")
	fs.StringVarP(&p.username, "username", "u", "", "user at the registry (default: of docker login)")
	fs.BoolVar(&p.passwordStdin, "password-stdin", false, "read the user's password from standard input")
	fs.StringVar(&p.access.CAFile, "ca-file", "", "PEM file of certificate authorities that are trusted beside the system's")
	fs.StringVar(&p.access.ClientCert, "client-cert", "", "PEM file of a client certificate, for registries that ask for one")
	fs.StringVar(&p.access.ClientKey, "client-key", "", "PEM file of the client certificate's key")
	fs.BoolVar(&p.access.SkipVerify, "insecure-skip-tls-verify", false, "take any certificate of the registry: whoever is on the way can read the credentials")
	fs.BoolVar(&p.access.PlainHTTP, "plain-http", false, "allow HTTP where the registry does not speak TLS")
	outputFlag(cmd, f)
	return cmd
}

func (p *publishFlags) options(cmd *cobra.Command, f *flags, args []string, m *pushMeter) (publish.Options, error) {
	to, err := publish.ParseDestination(args[0])
	if err != nil {
		return publish.Options{}, usageError{err}
	}
	if p.jobs < 1 || p.retries < 0 {
		return publish.Options{}, usageError{errors.New("--jobs is at least 1, and --retries at least 0")}
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
	if p.access.Keychain, err = p.keychain(cmd.InOrStdin()); err != nil {
		return publish.Options{}, err
	}
	p.access.Retries = p.retries
	p.access.Retrying = m.retrying
	client, err := registry.New(p.access)
	if err != nil {
		return publish.Options{}, err
	}
	return publish.Options{
		Layout: layout, Images: args[1:], To: to, Client: client, Jobs: p.jobs, DryRun: p.dryRun,
		AllowUnsigned: p.allowUnsigned, Report: m.event, Progress: m.progress,
	}, nil
}

// given is a keychain of one user.
type given authn.AuthConfig

// Resolve implements authn.Keychain.
func (g given) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(g)), nil
}

// keychain is that of the options, or nil for docker's.
func (p *publishFlags) keychain(stdin io.Reader) (authn.Keychain, error) {
	if p.username == "" && !p.passwordStdin {
		return nil, nil
	}
	if p.username == "" || !p.passwordStdin {
		return nil, usageError{errors.New("--username and --password-stdin are needed together")}
	}
	line, err := bufio.NewReader(io.LimitReader(stdin, 64<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the password: %w", err)
	}
	password := strings.TrimRight(line, "\r\n")
	if password == "" {
		return nil, usageError{errors.New("--password-stdin: standard input has no password")}
	}
	return given{Username: p.username, Password: password}, nil
}

func printPublished(cmd *cobra.Command, res publish.Result) error {
	if len(res.Images) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tSTATE\tSENT\tBLOBS SENT/MOUNTED/PRESENT\tSIGNATURES\tATTESTATIONS\tDIGEST")
	for _, i := range res.Images {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d/%d/%d\t%d\t%d\t%s\n", i.Reference, state(i, res.DryRun), size(i.Sent),
			i.Blobs.Sent, i.Blobs.Mounted, i.Blobs.Present, i.Signatures, i.Attestations, i.Digest)
	}
	return w.Flush()
}

func state(i publish.Published, dryRun bool) string {
	switch {
	case i.Outcome == registry.Present:
		return "present"
	case dryRun && i.Replaced != "":
		return "would replace"
	case dryRun:
		return "would push"
	case i.Replaced != "":
		return "replaced"
	}
	return "pushed"
}
